"""HAProxy's files: whose they are, and that none are left; what a deploy would hand over."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from raypose.cli.main import main
from raypose.config import ServeConfig
from raypose.errors import StorageError
from raypose.serving import described

NAMED = """
from ray.serve._private import constants
for name, value in vars(constants).items():
    if "HAPROXY" in name and str(value).startswith("/"):
        print(value)
"""


@pytest.fixture
def environment() -> Iterator[None]:
    kept = {name: value for name, value in os.environ.items() if "RAY_SERVE" not in name}
    with patch.dict(os.environ, kept, clear=True):
        yield


def interrupted() -> tuple[Path, list[Path]]:
    """Return the folder of one that was interrupted, and the places that Ray knew meanwhile."""
    with described.proxied(ServeConfig(proxy="haproxy")):
        folder = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        found = subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True)
        with suppress(KeyboardInterrupt), described.proxied(ServeConfig(proxy="haproxy")):
            raise KeyboardInterrupt
    return folder, [Path(line) for line in found.stdout.splitlines()]


@pytest.mark.usefixtures("environment")
def test_every_file_of_haproxy_lies_in_a_folder_of_ones_own_that_goes() -> None:
    before = set(Path("/tmp").glob("rp-*"))
    folder, places = interrupted()
    assert len(places) >= 5
    assert all(place.is_relative_to(folder) for place in places), places
    assert set(Path("/tmp").glob("rp-*")) <= before


@pytest.mark.usefixtures("environment")
def test_serves_own_proxy_needs_none() -> None:
    before = dict(os.environ)
    with described.proxied(ServeConfig()):
        assert os.environ == before


@pytest.mark.usefixtures("environment")
def test_a_folder_that_others_reach_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(StorageError, match="is not this user's alone"):
        described.haproxy_in(tmp_path / "open")


def test_what_is_printed_can_be_read_elsewhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["deploy", "./rel", "storage=./store", "--print"]) == 0
    (application,) = yaml.safe_load(capsys.readouterr().out)["applications"]
    assert application["args"]["release"] == str(tmp_path / "rel")
    assert main(["deploy", "kept/rel", "storage=./store", "--print"]) == 0
    (application,) = yaml.safe_load(capsys.readouterr().out)["applications"]
    assert application["args"]["release"] == str(tmp_path / "kept/rel")
    assert application["args"]["storage"] == str(tmp_path / "store")


@pytest.mark.parametrize("reference", ["gold@a;b", "gold@", "gold:", "gold:3", "a b", "gold:v1-x"])
def test_what_is_no_reference_is_not_printed(
    reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", reference, "storage=s3://my-bucket", "--print"]) != 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f'"{reference}": no reference of a release; give NAME' in said.err
    assert len(said.err.strip().splitlines()) == 1
