"""Lines on stderr: as a person reads them, and as JSON."""

from __future__ import annotations

import json
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.commands import read, run

from raypose import console, runtime
from raypose.cli import main as cli
from raypose.console import JOB, LOG, about, bar, in_context, status, waiting

KEYS = {"at", "level", "message"}


def test_plain_lines_are_the_message_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(LOG, raising=False)
    monkeypatch.setenv(JOB, "train-1")
    with about(run="r"):
        status("a\nb", level="warning")
    assert capsys.readouterr().err == "a\\nb\n"
    assert console.inherited() == {}


@pytest.mark.usefixtures("as_json")
def test_a_line_says_when_and_what_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status("before")
    monkeypatch.setenv(JOB, "train-1")
    with about(search="s-1"):
        with about(run="r-1", trial=3, rank=0):
            status("größe\x1b[1m\n", level="warning")
        status("after")
    first, second, third = read(capsys)
    assert first.keys() == KEYS
    assert abs((datetime.now(UTC) - datetime.fromisoformat(first["at"])).total_seconds()) < 3600
    assert datetime.fromisoformat(first["at"]).utcoffset() == datetime.now(UTC).utcoffset()
    del second["at"]
    assert second == {
        "level": "warning", "message": "größe\\x1b[1m\\n", "job": "train-1", "search": "s-1",
        "run": "r-1", "trial": 3, "rank": 0,
    }  # fmt: skip
    assert third.keys() == KEYS | {"job", "search"}


@pytest.mark.usefixtures("as_json")
def test_counts_and_waits_are_lines_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SHORT_S", 0.0)
    monkeypatch.setattr(console, "WORTH_TELLING_S", 0.0)
    with about(run="r-1"):
        with bar("packing") as update:
            update(5, 5, "note")
        told = threading.Event()
        monkeypatch.setattr(
            console, "status", lambda text, s=console.status: (s(text), told.set())[0]
        )
        with waiting("loading"):
            assert told.wait(60)
    lines = read(capsys)
    messages = [line["message"] for line in lines]
    assert messages[:2] == ["packing 5/5  note", "loading …"]
    assert re.fullmatch(r"loading: [\d.]+ s", messages[2])
    assert {line["run"] for line in lines} == {"r-1"}  # those of a thread too


@pytest.mark.usefixtures("as_json")
def test_what_lines_are_about_goes_into_threads(capsys: pytest.CaptureFixture[str]) -> None:
    with about(run="r-1"):
        runtime.interruptible(lambda: status("within"))
        thread = threading.Thread(target=in_context(lambda: status("beside")))
        thread.start()
        thread.join()
    assert [line["run"] for line in read(capsys)] == ["r-1", "r-1"]


@pytest.mark.parametrize("form", ["json", "plain"])
def test_passwords_of_addresses_are_left_out(
    form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYPOSE_LOG", form)
    status("handing over to http://me:secret@head:8265/x, s3://bucket/a@b")
    line = capsys.readouterr().err.strip()
    said = json.loads(line)["message"] if form == "json" else line
    assert said == "handing over to http://head:8265/x, s3://bucket/a@b"


@pytest.mark.parametrize(
    "words", [["--log-format=json", "train", "absent.yaml"],
              ["train", "absent.yaml", "--log-format", "json", "--quiet"]],
)  # fmt: skip
def test_errors_are_lines_whatever_their_place(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LOG, raising=False)
    assert cli.main(words) == 3
    line = read(capsys)[-1]
    assert line["level"] == "error"
    assert line["message"].startswith("ConfigError: absent.yaml: ")
    assert LOG not in os.environ


@pytest.mark.usefixtures("as_json")
def test_a_mistake_of_ours_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(call: Any) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(cli, "_carry_out", lambda verb, call: broken(call))
    assert cli.main(["runs", "list"]) == 1
    (line,) = read(capsys)
    assert line["message"] == "ZeroDivisionError: division by zero; --verbose shows everything"
    with pytest.raises(ZeroDivisionError):
        cli.main(["runs", "list", "--verbose"])
    monkeypatch.setenv(LOG, "plain")
    with pytest.raises(ZeroDivisionError):
        cli.main(["runs", "list"])


def test_other_forms_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(LOG, raising=False)
    for words in (["--log-format=xml", "runs", "list"], ["runs", "list", "--log-format"]):
        assert cli.main(words) == 2
        assert "UsageError: --log-format: '" in capsys.readouterr().err
    monkeypatch.setenv(LOG, "yaml")
    assert cli.main(["runs", "list"]) == 2
    assert capsys.readouterr().err == "UsageError: RAYPOSE_LOG: 'yaml': wants plain or json\n"


def test_all_that_a_command_says_is_json(
    raypose: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(pictures / "val")
    done = run(raypose, "shards", "build", source, "val", "--log-format=json", cwd=tmp_path)
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines
    assert all(line.keys() >= KEYS for line in lines)
    monkeypatch.setenv(LOG, "json")
    done = run(raypose, "shards", "build", "absent", "val", cwd=tmp_path)
    assert done.returncode
    assert json.loads(done.stderr.splitlines()[-1])["level"] == "error"
