"""Shared parts, all real: one Ray cluster and one S3 server a session, small data and model."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypose import config, shards, storage, synthesis, taxonomy

# no test asks the network; set before anything imports the hub, so what is heavy comes later
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED = Path(__file__).parents[2] / "shared"
PER_CLASS = {"train": 8, "val": 3}

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server; the standard variables point at it."""
    from raypose.demo import embedded_s3

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

    with runtime.connect(config.ClusterConfig(num_cpus=8)):
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
        shards.build(str(pictures / split), f"{url}/{split}", shards.Packing(rows_per_shard=20))
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
    from raypose import evaluate, registry, train

    storage.make_bucket("s3://test-trained")
    made = config.parse_config({**document, "storage": "s3://test-trained"})
    train.run(made, alone=True)
    registry.promote(made.storage, str(evaluate.publish(made)))
    return made


def pack(contents: dict[str, bytes], dest: str, folder: Path) -> None:
    """Pack pictures, the bad ones too, as they are: id → bytes, where ids are class/name."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    shards.build(str(folder), dest, shards.Packing(check=False))


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
