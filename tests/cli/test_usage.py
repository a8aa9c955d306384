"""Every verb: its help, its examples, its keys, its completion."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import run

from raypose import config
from raypose.cli.main import VERBS, main
from raypose.cli.verbs import ANY, arrange, key_rows
from raypose.config import Config
from raypose.errors import UsageError
from raypose.releases import registry

GROUPS = sorted({name.partition(" ")[0] for name in VERBS if " " in name})


@pytest.mark.parametrize("name", VERBS)
def test_help_shows_words_keys_and_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    verb = VERBS[name]
    assert shown.startswith(f"usage: raypose {name}")
    for key, default, text in key_rows(verb):
        assert f"  {key}={default}" in shown
        assert text.split()[0] in shown
    for word in verb.words:
        assert f"  {word}" in shown
    for section in Config.model_fields if ANY in verb.sections else verb.sections:
        assert f"  {section}" in shown
    assert verb.examples
    assert all(f"  {example}" in shown for example in verb.examples)
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("  raypose"))
    assert "\x1b" not in shown


@pytest.mark.parametrize("name", VERBS)
def test_examples_parse(name: str) -> None:
    verb = VERBS[name]
    for example in verb.examples:
        words = shlex.split(example.split(" > ")[0])
        assert " ".join(words[1:]).startswith(name)
        call = arrange(verb, words[1 + len(name.split()) :])
        if ANY in verb.sections:
            config.override(Config(), call.overrides)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("flag", [[], ["--help"]])
def test_a_group_lists_its_verbs(
    group: str, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lists = not flag and group in ("jobs", "releases", "runs", "searches")
    assert main([group, *flag]) == (2 if lists and group == "jobs" else 0)  # no cluster is named
    shown = capsys.readouterr().out
    if not lists:
        assert all(f"  {name} " in shown for name in VERBS if name.startswith(f"{group} "))


def test_every_key_of_a_recipe_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    shown = capsys.readouterr().out
    for section, values in config.dump(Config()).items():
        for key in values if isinstance(values, dict) else ():
            assert f"  {section}.{key}" in shown
    assert main(["config", "optim", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["key"] for row in rows} == {f"optim.{key}" for key in Config().optim.model_dump()}
    assert all(row["help"] for row in rows)
    for word in (".learning_rate", "learning-rate", "LEARNING"):
        assert main(["config", word, "--json"]) == 0
        found = {row["key"] for row in json.loads(capsys.readouterr().out)}
        assert "optim.learning_rate" in found, word
    assert main(["config", "serve", "--json"]) == 0  # nor data.preserve_order
    assert {row["key"].split(".")[0] for row in json.loads(capsys.readouterr().out)} == {"serve"}


def completed(shell: str, line: str, cwd: Path) -> list[str]:
    """What TAB offers at the end of a line, asked as the shells' own scripts ask."""
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [Path(sys.executable).with_name("raypose")],
        env={**os.environ, "_RAYPOSE_COMPLETE": f"complete_{shell}", **asked},
        capture_output=True, text=True, cwd=cwd, check=False,
    )  # fmt: skip
    return done.stdout.replace('"', " ").split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell: str, tmp_path: Path) -> None:
    assert "train" in completed(shell, "raypose tra", tmp_path)
    keys = completed(shell, "raypose train recipe.yaml optim.le", tmp_path)
    assert "optim.learning_rate=" in keys
    assert "optim.epochs=" not in keys
    assert "build" in completed(shell, "raypose shards bu", tmp_path)
    assert "max_side=" in completed(shell, "raypose shards build a b max_s", tmp_path)
    release = tmp_path / "files"
    release.mkdir()
    (release / "a").write_text("a")
    registry.publish(str(tmp_path / "raypose-data"), "yoga", release)
    assert "yoga" in completed(shell, "raypose classify yo", tmp_path)


def test_values_are_completed(tmp_path: Path) -> None:
    found = completed("zsh", "raypose train r.yaml optim.method=lo", tmp_path)
    assert {"optim.method=locked_text", "optim.method=lora"} <= set(found)
    found = completed("zsh", "raypose shards build a b kind=", tmp_path)
    assert "kind=webdataset" in found


def test_help_is_quick_and_light(raypose: str) -> None:
    code = (
        "import sys; from raypose.cli.main import main; main(['--help']); "
        "assert not {'torch', 'ray', 'open_clip', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_word_that_is_there_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verb = VERBS["shards build"]
    with pytest.raises(UsageError, match="DEST is missing"):
        arrange(verb, ["v=1", "e"])
    (tmp_path / "v=1").mkdir()
    assert arrange(verb, ["v=1", "e"]).words == ["v=1", "e"]


def test_values_are_text_where_text_is_wanted() -> None:
    call = arrange(VERBS["shards build"], ["a", "b", "pictures=/data/photos #2", "max_side=32"])
    assert (call.keys.pictures, call.keys.max_side) == ("/data/photos #2", 32)
    call = arrange(VERBS["train"], ["r.yaml", "name=2024", "data.train=no", "baselines=no"])
    assert call.overrides == {"name": "2024", "data.train": "no"}
    assert call.keys.baselines is False
    call = arrange(VERBS["few-shot"], ["r.yaml", "per_class=5,10", "classes=no,Boat #2"])
    assert (call.keys.per_class, call.keys.classes) == ((5, 10), ("no", "Boat #2"))


def test_a_verbs_own_keys_may_be_written_as_options() -> None:
    assert arrange(VERBS["demo"], ["--keep"]).keys.keep is True
    assert arrange(VERBS["demo"], ["--epochs", "3"]).keys.epochs == 3
    found = arrange(VERBS["search"], ["--then", "train,publish", "r.yaml", "seed=3"])
    assert (found.words, found.keys.then) == (["r.yaml"], ("train", "publish"))
    assert arrange(VERBS["search"], ["r.yaml", "--then=train"]).keys.then == ("train",)
    with pytest.raises(
        UsageError, match=r"--num-trials: no such option; write search.num_trials=3"
    ):
        arrange(VERBS["search"], ["r.yaml", "--num-trials", "3"])
    with pytest.raises(UsageError, match=r"--epochs: no such option; write epochs=…"):
        arrange(VERBS["demo"], ["--epochs"])


@pytest.mark.parametrize("words", [["--json", "taxonomy", "list"], ["taxonomy", "list", "--json"]])
def test_flags_may_stand_anywhere(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["taxonomies"]["yoga82"] == 82


def test_a_reader_that_has_enough_is_no_failure(raypose: str) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{raypose} config | head -1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_quiet_is_quiet(raypose: str, pictures: Path, tmp_path: Path) -> None:
    done = run(raypose, "shards", "build", str(pictures / "val"), "v", "--quiet", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("packed 36 pictures of 12 classes")
    done = run(raypose, "shards", "build", str(pictures / "val"), "w", cwd=tmp_path)
    assert "next: raypose shards show w" in done.stderr


@pytest.mark.parametrize("words", [["-h"], ["shards", "-h"], ["train", "-h"]])
def test_the_short_flag_helps_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out


def test_what_the_system_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["synthesize", "file", "per_class=1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("OSError: file/")


def test_next_lines_can_be_pasted(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["shards", "build", str(pictures / "val"), "sh ards"]) == 0
    line = capsys.readouterr().err.splitlines()[-1].removeprefix("next: raypose ")
    assert shlex.split(line) == ["shards", "show", "sh ards"]


def test_what_is_stated_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYPOSE_STORAGE", "/elsewhere")
    verb = VERBS["check"]
    (tmp_path / "r.yaml").write_text("storage: raypose-data\n")
    assert arrange(verb, ["r.yaml"]).config("r.yaml").storage == f"{tmp_path}/raypose-data"
    (tmp_path / "r.yaml").write_text("name: x\n")
    assert arrange(verb, ["r.yaml"]).config("r.yaml").storage == "/elsewhere"
    call = arrange(verb, ["r.yaml", "storage=raypose-data"])
    assert call.config("r.yaml").storage == f"{tmp_path}/raypose-data"


def test_an_out_that_cannot_be_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o.html").mkdir()
    assert main(["shards", "show", "none", "out=o.html"]) == 2
    assert "out: o.html: is a folder" in capsys.readouterr().err
