"""What the endpoint is measured against, each a process of its own: see serve.py.

    python benchmarks/serve_peers.py NAME RELEASE_FOLDER PORT

bare       no HTTP: for each line `NUM SECONDS` on stdin, pictures from a file (PORT is its path) in
           batches of NUM, and a line of JSON
bare_auto  the same by the fastest backend that the release admits
fastapi    FastAPI, and the predictor in a thread
ray_serve  Ray Serve as its pages show it: FastAPI and @serve.batch in one deployment, defaults

All hold raypose's Predictor and nothing else of raypose, with one thread of torch. LitServe is in
serve_litserve.py: its workers must find its class in a module.
"""

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request

from raypose.releases.predictor import Predictor

PATH = "/v1/classify"
MOST = 16
"""Pictures of a batch."""


def load(folder: str, backend: str = "torch") -> Predictor:
    """Load a release, for one thread."""
    torch.set_num_threads(1)
    return Predictor.load(Path(folder), device="cpu", backend=backend, threads=1)


def answers(predictor: Predictor, contents: list[bytes]) -> list[dict[str, Any]]:
    """Classify pictures in one pass."""
    found = predictor.predict(contents)
    return [{"label": top[0].label, "probability": top[0].probability} for top in found]


def bare(folder: str, picture: str, backend: str = "torch") -> None:
    """Go through pictures without HTTP, as often as asked."""
    predictor, content = load(folder, backend), Path(picture).read_bytes()
    print(json.dumps(answers(predictor, [content])[0]), flush=True)
    for line in sys.stdin:
        num, seconds = (float(word) for word in line.split())
        batch = [content] * min(MOST, int(num))
        spent: list[float] = []
        began, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            at = time.perf_counter()
            answers(predictor, batch)
            spent.append(time.perf_counter() - at)
        whole, used = time.perf_counter() - began, time.process_time() - cpu
        done = len(spent) * len(batch)
        ranks = statistics.quantiles([*spent, *spent], n=100)
        found = {
            "requests_s": done / whole,
            "p50_ms": 1e3 * ranks[49],
            "p99_ms": 1e3 * ranks[98],
            "cpu_ms": 1e3 * used / done,
            "failed": 0,
        }
        print(json.dumps(found), flush=True)


def fastapi(folder: str, port: str) -> None:
    """Serve by FastAPI alone."""
    import uvicorn

    predictor, app = load(folder), FastAPI()

    @app.post(PATH)
    async def classify(request: Request) -> dict[str, Any]:
        content = await request.body()
        return (await asyncio.to_thread(answers, predictor, [content]))[0]

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


def ray_serve(folder: str, port: str) -> None:
    """Serve by Ray Serve with nothing set."""
    import signal

    import ray
    from ray import serve

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    app = FastAPI()

    @serve.deployment
    @serve.ingress(app)
    class Stock:
        """FastAPI and batches in one deployment."""

        def __init__(self) -> None:
            self.predictor = load(folder)

        @serve.batch  # type: ignore[untyped-decorator]
        async def predict(self, contents: list[bytes]) -> list[dict[str, Any]]:
            """Classify those that came together."""
            return answers(self.predictor, contents)

        @app.post(PATH)
        async def classify(self, request: Request) -> Any:
            """Classify one picture."""
            return await self.predict(await request.body())

    serve.run(Stock.bind(), logging_config={"log_level": "ERROR", "enable_access_log": False})
    signal.pause()


def bare_auto(folder: str, picture: str) -> None:
    """Do the same by the fastest backend that the release admits."""
    bare(folder, picture, "auto")


PEERS = {"bare": bare, "bare_auto": bare_auto, "fastapi": fastapi, "ray_serve": ray_serve}

if __name__ == "__main__":
    PEERS[sys.argv[1]](sys.argv[2], sys.argv[3])
