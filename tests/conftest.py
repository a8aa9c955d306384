"""Shared parts, all real: one Ray cluster and one S3 server a session, small data and model."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from support.models import TINY

from raypose import config, storage, synthesis
from raypose.captions import taxonomy
from raypose.data import packing

if TYPE_CHECKING:
    from raypose.runtime.jobs import Client
    from raypose.runtime.nodes import Nodes

# no test asks the network; set before anything imports the hub, so what is heavy comes later
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray's workers would give way to whatever else runs, other tests included, and hardly come to run
os.environ.setdefault("RAY_worker_niceness", "0")

# who starts tests in the background has them and theirs ignore Ctrl-C, which some of them send
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("raypose", deadline=None)  # a busy machine is no failure
settings.load_profile("raypose")

SHARED = Path(__file__).parents[2] / "shared"
ROUNDS = int(os.environ.get("RAYPOSE_ROUNDS", "1"))
"""Of each campaign."""
PER_CLASS = {"train": 8, "val": 3}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make each round of a campaign a test."""
    if "campaign_round" in metafunc.fixturenames:
        metafunc.parametrize("campaign_round", range(ROUNDS))


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark what needs a Ray cluster and has no mark of where it runs, and campaigns."""
    for item in items:
        if "cluster" in item.fixturenames and not item.get_closest_marker("own"):
            item.add_marker("ray")
        if "campaign_round" in item.fixturenames:
            item.add_marker("campaign")
        if item.get_closest_marker("soak"):
            item.add_marker("campaign")
            skipped = pytest.mark.skipif(ROUNDS < 2, reason="takes minutes: see make soak")
            item.add_marker(skipped)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server; the standard variables point at it."""
    from raypose.testing import embedded_s3

    with embedded_s3() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3: str) -> str:
    """A bucket of a test's own."""
    url = f"s3://test-{uuid.uuid4().hex[:12]}"
    storage.make_bucket(url)
    return url


@pytest.fixture(scope="session")
def cluster(s3: str) -> Iterator[None]:
    """A Ray cluster; started after S3, so that its workers inherit the variables."""
    from raypose import runtime
    from raypose.inference import pool

    with runtime.connect(config.ClusterConfig(num_cpus=8)), pool.kept():
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ImageFolders train/ and val/ of drawn postures."""
    root = tmp_path_factory.mktemp("pictures")
    labels = taxonomy.load("synthetic12").ids
    for number, (split, per_class) in enumerate(PER_CLASS.items()):
        synthesis.synthesize(
            root / split, dict.fromkeys(labels, per_class), size=48, seed=1000 * number
        )
    return root


@pytest.fixture(scope="session")
def dataset(s3: str, pictures: Path) -> str:
    """The location of shards train/ and val/ on S3."""
    url = "s3://test-data"
    storage.make_bucket(url)
    for split in PER_CLASS:
        packing.build(str(pictures / split), f"{url}/{split}", packing.Packing(rows_per_shard=20))
    return url


@pytest.fixture(scope="session")
def document(dataset: str) -> dict[str, Any]:
    """A recipe that trains in seconds."""
    return {
        "name": "tiny",
        "data": {
            "train": f"{dataset}/train",
            "val": f"{dataset}/val",
            "taxonomy": "synthetic12",
        },
        "model": {"backbone": "tiny", "architectures": {"tiny": TINY}},
        "optim": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 32},
    }


@pytest.fixture
def recipe(document: dict[str, Any], bucket: str) -> config.Config:
    """The recipe, with storage of the test's own."""
    return config.parse_config({**document, "storage": bucket})


@pytest.fixture(scope="session")
def trained(document: dict[str, Any], cluster: None) -> config.Config:
    """The recipe of a finished run whose release is in production, for tests that only read."""
    from raypose import evaluation, training
    from raypose.releases import registry

    storage.make_bucket("s3://test-trained")
    made = config.parse_config({**document, "storage": "s3://test-trained"})
    training.train(made, in_process=True)
    registry.promote(made.storage, str(evaluation.publish(made)))
    return made


@pytest.fixture(scope="session")
def searched(document: dict[str, Any], cluster: None) -> tuple[config.Config, dict[str, Any]]:
    """The recipe of a finished search, and what the command answered."""
    from raypose.cli.main import main

    storage.make_bucket("s3://test-searched")
    search = {"space": {"optim.learning_rate": {"choice": [1e-3, 2e-3]}}, "num_trials": 2}
    made = config.override(
        config.parse_config({**document, "storage": "s3://test-searched"}),
        {"search": {**search, "finalists": 0, "max_concurrent": 1}, "optim.epochs": 1},
    )
    place = storage.join(made.storage, "recipe.json")
    storage.write_json(place, config.sparse(made))
    with redirect_stdout(io.StringIO()) as answered:
        assert main(["search", place, "--json"]) == 0
    return made, json.loads(answered.getvalue())


@pytest.fixture(scope="module")
def own(trained: config.Config, tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    """The same in a registry of a module's own, whose aliases its tests may move."""
    from raypose.releases import registry

    bucket = f"s3://own-{uuid.uuid4().hex[:12]}"
    storage.make_bucket(bucket)
    first = registry.resolve(trained.storage, "tiny@production")
    registry.publish(bucket, "tiny", registry.fetch(first, tmp_path_factory.mktemp("own")))
    registry.promote(bucket, "tiny:v1")
    return config.override(trained, {"storage": bucket})


@pytest.fixture(scope="module")
def nodes(s3: str, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head, to which nodes may come; after S3, so that workers inherit the variables."""
    from raypose.runtime.nodes import Nodes

    made = Nodes(tmp_path_factory.mktemp("nodes"))
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    command = str(Path(sys.executable).parent / "raypose")
    up = [command, "cluster", "up", "num_cpus=2", f"folder={made.folder}"]
    done = subprocess.run(up, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"export RAYPOSE_JOBS={made.show()['jobs']}" in done.stdout
    yield made
    made.down()


@pytest.fixture
def environment(nodes: Nodes) -> dict[str, str]:
    return {**os.environ, **nodes.environment()}


@pytest.fixture
def client(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Client:
    from raypose.runtime.jobs import Client

    for name, value in nodes.environment().items():
        monkeypatch.setenv(name, value)
    return Client(nodes.show()["jobs"])


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told on stderr is lines of JSON."""
    from support.commands import tell_as_json

    tell_as_json(monkeypatch)


@pytest.fixture
def shared() -> Path:
    """The folder of real photographs and weights beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: real photographs and weights are not at hand")
    return SHARED


@pytest.fixture
def raypose() -> str:
    """The installed command."""
    found = shutil.which("raypose", path=os.path.dirname(os.sys.executable))
    assert found, "the raypose command is not installed beside this Python"
    return found


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked into a folder as an installer does."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    zipfile.ZipFile(made).extractall(folder / "site")
    return folder / "site"
