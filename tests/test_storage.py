from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from raypose import objects, storage
from raypose.errors import DataError, StorageError


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


def test_write_read_list_delete(root: str) -> None:
    assert storage.list_files(storage.join(root, "none")) == []
    storage.write_bytes(storage.join(root, "a/b.bin"), b"one")
    storage.write_bytes(storage.join(root, "a/c d/é'().bin"), b"two")
    assert storage.read_bytes(storage.join(root, "a/b.bin")) == b"one"
    assert storage.list_files(storage.join(root, "a")) == ["b.bin"]
    assert storage.list_files(storage.join(root, "a"), recursive=True) == ["b.bin", "c d/é'().bin"]
    assert storage.list_folders(storage.join(root, "a")) == ["c d"]
    storage.delete_file(storage.join(root, "a/b.bin"))
    assert not storage.exists(storage.join(root, "a/b.bin"))
    storage.delete_folder(storage.join(root, "a"))
    storage.delete_folder(storage.join(root, "a"))
    assert storage.list_files(root, recursive=True) == []


def test_folders_travel(root: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "x").mkdir(parents=True)
    (source / "x/1").write_bytes(b"1")
    (source / "last").write_bytes(b"2")
    storage.upload_folder(source, storage.join(root, "up"), last="last")
    back = storage.download_folder(storage.join(root, "up"), tmp_path / "back")
    assert (back / "x/1").read_bytes() == b"1"
    assert (back / "last").read_bytes() == b"2"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "f"
    storage.write_bytes(str(target), b"old")
    with pytest.raises(TypeError):
        storage.write_bytes(str(target), "not bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def interrupted(url: str, size: int) -> None:
    with storage.new_file(url) as file:
        for _ in range(4):
            file.write(b"x" * size)
        raise KeyboardInterrupt


def test_a_file_is_written_piece_by_piece_whole_or_not_at_all(root: str) -> None:
    url = storage.join(root, "a/big.bin")
    pieces = [bytes([k]) * (5 << 20) for k in range(8)]  # an upload in three parts
    with storage.new_file(url) as file:
        for piece in pieces:
            file.write(piece)
        assert not storage.exists(url)
    assert storage.read_bytes(url) == b"".join(pieces)
    for size in (3, 5 << 20):
        with pytest.raises(KeyboardInterrupt):
            interrupted(url, size)
    assert storage.read_bytes(url) == b"".join(pieces)
    with storage.new_file(url) as file:
        file.write(b"small")
    assert storage.read_bytes(url) == b"small"
    if storage.is_s3(url):
        import boto3

        found = boto3.client("s3").list_multipart_uploads(Bucket=root.removeprefix("s3://"))
        assert not found.get("Uploads")
    else:
        assert os.listdir(Path(root) / "a") == ["big.bin"]


def test_errors_name_the_place(root: str) -> None:
    url = storage.join(root, "missing")
    with pytest.raises(DataError, match=r"missing: not found; check the path"):
        storage.read_bytes(url)
    storage.write_bytes(url, b"{")
    with pytest.raises(DataError, match="not JSON"):
        storage.read_json(url)


def test_unknown_places(s3: str) -> None:
    with pytest.raises(DataError, match="unknown scheme"):
        storage.read_bytes("gs://bucket/key")
    with pytest.raises(DataError, match="names no bucket"):
        storage.read_bytes("s3://")
    with pytest.raises(DataError, match="s3://no-such-bucket-here/key"):
        storage.read_bytes("s3://no-such-bucket-here/key")


def test_a_server_that_does_not_answer_is_asked_a_few_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody listens there: it is tried again, said, and given up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(objects, "TRIES", 5)
    monkeypatch.setattr(objects, "FIRST_PAUSE_S", 0.001)
    for work in (storage.read_bytes, storage.list_files, storage.exists):
        with pytest.raises(StorageError, match=r"no answer in 5 tries \(.*\); check the network"):
            work("s3://bucket/key")
    assert "no answer (EndpointConnectionError): try 4 of 5" in capsys.readouterr().err
