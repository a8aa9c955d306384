"""LitServe with batches: python benchmarks/serve_litserve.py NAME RELEASE_FOLDER PORT.

Annotations are kept as objects in this module: LitServe hands them to FastAPI.
"""

import sys
from typing import Annotated, Any

import litserve as ls
import numpy as np
from fastapi import Body
from serve_peers import MOST, PATH, load


class Api(ls.LitAPI):  # type: ignore[misc]
    """Decodes and classifies in one worker."""

    def __init__(self, folder: str) -> None:
        super().__init__(max_batch_size=MOST, batch_timeout=0.005, api_path=PATH)
        self.folder = folder

    def setup(self, device: str) -> None:
        """Load the release in the worker."""
        self.predictor = load(self.folder)

    def decode_request(self, request: Annotated[bytes, Body()]) -> Any:
        """Decode one picture."""
        return self.predictor.pixels(request)

    def batch(self, inputs: list[Any]) -> Any:
        """Put pictures together."""
        return np.stack(inputs)

    def predict(self, pixels: Any) -> Any:
        """Classify a batch (B, 3, S, S)."""
        return [self.predictor.rank(row) for row in self.predictor.probabilities(pixels)]

    def unbatch(self, output: Any) -> Any:
        """Hand on the answers one by one."""
        return output

    def encode_response(self, top: Any) -> dict[str, Any]:
        """Return what becomes JSON."""
        return {"label": top[0].label, "probability": top[0].probability}


def main(folder: str, port: str) -> None:
    """Serve with one worker and one process for HTTP."""
    server = ls.LitServer(Api(folder), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(port),
        log_level="warning",
        generate_client_file=False,
        num_api_servers=1,
    )


if __name__ == "__main__":
    main(sys.argv[2], sys.argv[3])
