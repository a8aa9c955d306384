"""What goes to a cluster with a command, and what is refused; no cluster is asked."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import recipe_file

from raypose import config
from raypose.captions import taxonomy
from raypose.cli import jobs, parcels
from raypose.cli.main import VERBS, main
from raypose.cli.verbs import arrange
from raypose.config import Config
from raypose.console import JOB, RESULT, answer
from raypose.errors import UsageError
from raypose.runtime.jobs import Parcel, token

BUCKET = "s3://my-bucket"
CARDS = "name: two\nclasses:\n- {id: up, names: [up]}\n- {id: down, names: [down]}\n"


def parcel(name: str, *words: str) -> Parcel:
    verb = VERBS[name]
    call = arrange(verb, words, json=False, verbose=False)
    recipe = words[0] if "a recipe" in verb.sections else None
    made: Parcel = parcels.parcel(verb, call, call.config(recipe))
    return made


@pytest.fixture
def path(tmp_path: Path, document: dict[str, Any]) -> str:
    made = config.parse_config({**document, "storage": BUCKET, "cluster": {"num_cpus": 4}})
    return recipe_file(tmp_path, made)


def test_a_recipe_goes_as_one_document(path: str, tmp_path: Path) -> None:
    cards = tmp_path / "poses.yaml"
    cards.write_text(CARDS)
    pairs = ["optim.epochs=7", "baselines=false", f"data.taxonomy={cards}"]
    pairs += ["cluster.jobs=http://head:8265", "cluster.address=1.2.3.4:6379"]
    sent = parcel("train", path, *pairs)
    assert sent.command == ("raypose", "train", "recipe.yaml", "baselines=false")
    there = tmp_path / "there"
    there.mkdir()
    (there / "recipe.yaml").write_bytes(sent.files["recipe.yaml"])
    cards.unlink()
    made = config.load(str(there / "recipe.yaml"))
    assert made.optim.epochs == 7
    assert made.cluster == Config().cluster
    assert made.run_id == sent.metadata["run"]
    assert sent.metadata["storage"] == BUCKET
    assert sent.id == f"train-tiny-{sent.id[-8:]}"


def test_the_same_command_is_the_same_job(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parcel("train", path).id == parcel("train", path, "cluster.num_cpus=6").id
    assert parcel("train", path).id != parcel("train", path, "seed=1").id
    assert parcel("train", path).id != parcel("search", path).id
    monkeypatch.setenv("WORD", "secret-1")
    first = parcel("train", path, "cluster.env=WORD")
    monkeypatch.setenv("WORD", "secret-2")
    second = parcel("train", path, "cluster.env=WORD")
    assert (first.id, first.env["WORD"]) == (second.id, "secret-1")
    assert "secret-1" not in str(first.metadata) + str(first.files) + str(first.command)


def test_a_job_works_for_who_handed_it_over(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYPOSE_OWNER", "anna")
    sent = parcel("train", path)
    assert (sent.metadata["user"], sent.env) == ("anna", {"RAYPOSE_OWNER": "anna"})
    monkeypatch.setenv("RAYPOSE_OWNER", "bert")
    assert parcel("train", path).id == sent.id


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        (("storage=place",), "storage: "),
        (("data.val=/data/val",), "data.val: /data/val"),
        (("model.image_weights=w.safetensors",), "model.image_weights: "),
        (("model.backbone=local-dir:w",), "model.backbone: local-dir:"),
        (('search.space={"data.train": {"choice": ["/a", "/b"]}}',), "search.space"),
        (('search.space={"model.image_weights": {"choice": ["a.bin", "b"]}}',), "search.space"),
        (("model.kept=kept",), "model.kept: kept"),
    ],
)
def test_what_only_this_machine_has_is_refused_by_name(
    path: str, pairs: tuple[str, ...], named: str
) -> None:
    with pytest.raises(UsageError, match="only this machine has it") as refused:
        parcel("train", path, *pairs)
    assert str(refused.value).startswith(named)


def test_folders_that_all_nodes_have_may_be_named(path: str, tmp_path: Path) -> None:
    place = tmp_path / "nfs"
    sent = parcel("train", path, f"storage={place}/runs", f"cluster.shared={place}")
    document = yaml.safe_load(sent.files["recipe.yaml"])
    assert document["storage"] == f"{place}/runs"
    with pytest.raises(UsageError, match="only this machine"):  # a name that begins alike
        parcel("train", path, f"storage={place}-2", f"cluster.shared={place}")
    with pytest.raises(UsageError, match="only this machine"):
        parcel("train", path, f"storage={place}/../else", f"cluster.shared={place}")


def test_small_files_go_along_and_large_ones_are_named(tmp_path: Path) -> None:
    cards = tmp_path / "poses.yaml"
    (tmp_path / "base.yaml").write_text(CARDS)
    cards.write_text(f"name: one\nbase: {tmp_path}/base.yaml\nclasses: [up, down]\n")
    source = ["s3://pictures", f"{BUCKET}/train"]
    sent = parcel("shards build", *source, f"taxonomy={cards}", "num_workers=4")
    assert sent.command == (
        "raypose", "shards", "build", *source, "taxonomy=taxonomy.yaml", "num_workers=4",
    )  # fmt: skip
    (tmp_path / "there.yaml").write_bytes(sent.files["taxonomy.yaml"])
    cards.unlink()
    (tmp_path / "base.yaml").unlink()
    assert taxonomy.load(str(tmp_path / "there.yaml")).ids == ("up", "down")
    (tmp_path / "list.csv").write_bytes(b"x" * (9 << 20))
    with pytest.raises(UsageError, match=r"list.csv: 9 MB; all that goes along .* may be 8 MB"):
        parcel("shards build", str(tmp_path / "list.csv"), f"{BUCKET}/train")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UsageError, match="pictures: only this machine has it"):
        parcel("shards build", str(tmp_path / "pictures"), f"{BUCKET}/train")


@pytest.mark.parametrize(
    "command",
    [
        "shards build s3://a/raw out",
        "shards split s3://a/x parts",
        "shards build s3://a/raw s3://a/x pictures=nosuch/folder",
        "shards build ~/raw s3://a/x",
        "evaluate ./release s3://a/val storage=s3://a",
        "compare postures store/x s3://a/val storage=s3://a",
        "evaluate postures val storage=s3://a",
    ],
)
def test_places_that_are_not_there_yet_are_of_this_machine_too(command: str) -> None:
    name = next(name for name in VERBS if command.startswith(f"{name} "))
    with pytest.raises(UsageError, match="only this machine has it"):
        parcel(name, *command.removeprefix(f"{name} ").split())
    assert parcel("evaluate", "postures@production", "s3://a/val", "storage=s3://a").files == {}


def test_a_file_whose_name_looks_like_an_option_stays_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-rf.csv", "a=b.csv"):
        (tmp_path / name).write_text("path,label\n")
        sent = parcel("shards build", f"./{name}", f"{BUCKET}/x", "pictures=s3://a/raw")
        assert sent.command[3] == f"./{name}"
        assert sent.files.keys() == {name}


def test_a_variable_that_is_not_set_is_named(path: str) -> None:
    with pytest.raises(UsageError, match="RAYPOSE_NO_SUCH: is not set"):
        parcel("train", path, "cluster.env=RAYPOSE_NO_SUCH")


def test_within_a_job_nothing_is_handed_over(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = VERBS["train"]
    call = arrange(verb, [path, "cluster.jobs=http://127.0.0.1:1"], json=False, verbose=False)
    for name in jobs.IN_A_JOB:
        with monkeypatch.context() as patch:
            patch.setenv(name, "{}")
            assert jobs.handed_over(verb, call) is None


def test_results_and_progress_come_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOB, "train-1")
    answer("one\ntwo")
    marked = capsys.readouterr().out
    assert marked == f"{RESULT}one\n{RESULT}two\n"
    splitter = jobs._Splitter()
    for piece in ("begin", f"ning\n{marked[:5]}", f"{marked[5:]}last", " words\n", "\x1b[31mred"):
        splitter.write(piece)
    splitter.close()
    out, err = capsys.readouterr()
    assert (out, err) == ("one\ntwo\n", "beginning\nlast words\n\\x1b[31mred\n")


@pytest.mark.parametrize(
    "address",
    ["head:8265", "ftp://head", "os://x", "http://a/b", "http://u:pw@a", "http://a:x", "http://["],
)
def test_addresses_of_another_kind_are_refused(address: str) -> None:
    from raypose.runtime.jobs import Client

    with pytest.raises(UsageError, match="wants http://host:port") as refused:
        Client(address)
    assert "pw" not in str(refused.value)


def test_an_address_of_another_kind_is_refused_before_ray_is_loaded(raypose: str) -> None:
    done = subprocess.run(
        [raypose, "endpoint", "status", "cluster.jobs=nonsense"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "cluster.jobs: nonsense: wants http://host:port" in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.endswith("| ray")]


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server that is no job server; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Keep silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b""), (500, b""), (200, b"<html>"), (200, b"{}"), (200, b"[]")],
)
def test_a_server_of_another_kind_is_said_so(
    status: int, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(status, body) as address:
        assert main(["jobs", "list", f"cluster.jobs={address} "]) == 5
    assert f"ResourceError: {address}: no job server of Ray's" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["two words", "curly”", "a\nb"])
def test_what_is_no_token_is_not_sent(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", text)
    with pytest.raises(UsageError, match="RAY_AUTH_TOKEN: holds no token"):
        token()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / "token").write_bytes(b"\xff\x00")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UsageError, match="token: holds no token"):
        token()
