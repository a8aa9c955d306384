from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml
from support.patience import until
from support.pictures import bomb, encoded, photo

from raypose import config, evaluation, serving, storage, training
from raypose.config import Config
from raypose.errors import EndpointError, RegistryError
from raypose.releases import registry
from raypose.serving import app

ROOT = Path(__file__).parents[2]
SETTINGS = {"serve.port": 0, "serve.cpus_per_replica": 0.5, "serve.max_body_bytes": 200_000}


@pytest.fixture(scope="module")
def served(trained: Config) -> Iterator[serving.Endpoint]:
    with serving.running(config.override(trained, SETTINGS), "tiny@production") as endpoint:
        yield endpoint


def post(endpoint: serving.Endpoint, content: bytes) -> httpx.Response:
    return httpx.post(f"{endpoint.url}/v1/classify", content=content, timeout=60)


def test_an_answer_names_classes_and_release(
    served: serving.Endpoint, trained: Config, pictures: Path, tmp_path: Path
) -> None:
    release = registry.resolve(trained.storage, "tiny")
    from raypose.releases.predictor import Predictor

    predictor = Predictor.load(registry.fetch(release, tmp_path))
    for path in sorted((pictures / "val").glob("*/*.jpg"))[::9]:
        answer = post(served, path.read_bytes())
        assert answer.status_code == 200
        document = answer.json()
        (expected,) = predictor.predict([path.read_bytes()])
        assert document["release"] == str(release) == served.release
        assert document["label"] == expected[0].label
        assert document["name"] == expected[0].name
        assert document["probability"] == pytest.approx(expected[0].probability, abs=1e-4)
        assert len(document["top"]) == 5


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "body is empty; send the bytes of one picture"),
        (b"<html>", 400, "not a picture in a known format"),
        (encoded(photo())[:700], 400, "damaged picture"),
        (bomb(12_000, 12_000), 400, "header claims 144 megapixels"),
        (b"x" * 200_001, 413, "picture is larger than 200000 bytes"),
    ],
)
def test_bad_bodies_get_one_line(
    served: serving.Endpoint, content: bytes, status: int, message: str
) -> None:
    answer = post(served, content)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert post(served, encoded(photo())).status_code == 200


def test_other_paths(served: serving.Endpoint) -> None:
    health = httpx.get(f"{served.url}/healthz").json()
    assert health == {"status": "ok", "release": served.release}
    assert httpx.head(f"{served.url}/healthz").status_code == 200
    for path, status in (("/v1/classify", 405), ("/v1/classify/", 404), ("/none", 404)):
        answer = httpx.get(f"{served.url}{path}")
        assert answer.status_code == status
        assert "POST /v1/classify" in answer.json()["error"]
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert set(paths) == {"/healthz", "/v1/classify"}


def test_another_does_not_take_its_place(served: serving.Endpoint, trained: Config) -> None:
    with (
        pytest.raises(EndpointError, match="runs on this cluster already, and would be replaced"),
        serving.running(config.override(trained, SETTINGS), "tiny"),
    ):
        pass
    assert httpx.get(f"{served.url}/healthz").json()["release"] == served.release


def test_it_listens_on_the_loopback_alone(served: serving.Endpoint) -> None:
    assert served.url.startswith("http://127.0.0.1:")
    port = int(served.url.rsplit(":", 1)[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address would be used
        outer = probe.getsockname()[0]
    if not outer.startswith("127."):
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection((outer, port), timeout=2)


def test_a_new_release_is_taken_without_a_restart(
    served: serving.Endpoint, trained: Config, document: dict[str, object], tmp_path: Path
) -> None:
    """A release of another picture size: the ingress learns of it from the classifier."""
    from ray import serve as ray_serve

    other = config.parse_config({**document, "name": "tiny", "storage": trained.storage, "seed": 5})
    vision = {**other.model.architectures["tiny"]["vision_cfg"], "image_size": 40}
    other = config.override(
        other, {"model.architectures.tiny.vision_cfg": vision, "optim.epochs": 1}
    )
    training.train(other, in_process=True)
    first = registry.resolve(trained.storage, served.release)
    copy = str(registry.fetch(first, tmp_path / "copy"))
    there = str(evaluation.publish(other))
    # there, and for the tests that follow back, by a copy in a folder that no registry knows
    for root, reference, release in (
        (trained.storage, there, registry.resolve(trained.storage, there)),
        (str(tmp_path), copy, first),
    ):
        settings = config.override(trained, SETTINGS).serve
        application = app.build(app.Arguments(storage=root, release=reference, serve=settings))
        ray_serve.run(application, name=app.APP, route_prefix="/")
        until(partial(_is_answered_by, served, release), every_s=0.0)


def _is_answered_by(endpoint: serving.Endpoint, release: object) -> bool:
    answer = post(endpoint, encoded(photo()))
    assert answer.status_code == 200
    return bool(answer.json()["release"] == str(release))


def test_what_cannot_be_served(trained: Config, bucket: str) -> None:
    with pytest.raises(RegistryError, match='no release "tini"'):
        with serving.running(trained, "tini"):
            pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = config.override(trained, {"serve.port": port})
        with pytest.raises(EndpointError, match=rf"127\.0\.0\.1:{port}: cannot be bound"):
            with serving.running(busy, "tiny"):
                pass
    assert storage.list_folders(bucket) == []


def test_the_configuration_is_what_serve_deploys() -> None:
    """Serve's own schema takes it; its arguments are those of the application it names."""
    from ray._common.utils import import_attr
    from ray.serve.schema import ServeDeploySchema

    document = yaml.safe_load((ROOT / "serve/config.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(document).applications
    assert import_attr(application.import_path) is app.build
    arguments = app.Arguments.model_validate(application.args)
    assert arguments.serve == config.ServeConfig()
    assert document["http_options"]["host"] == config.ServeConfig().host


def test_the_application_is_built_from_the_environment(
    trained: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import runpy

    monkeypatch.setenv("RAYPOSE_STORAGE", trained.storage)
    monkeypatch.setenv("RAYPOSE_RELEASE", "tiny@production")
    found = runpy.run_path(str(ROOT / "serve/app.py"))
    assert found["application"].__class__.__name__ == "Application"
