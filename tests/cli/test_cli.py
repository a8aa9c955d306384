from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import yaml
from support.commands import recipe_file, run, told
from support.patience import PATIENCE_S
from support.processes import marked, none_left

from raypose import config
from raypose.config import Config


def test_nothing_heavy_is_loaded_to_parse() -> None:
    code = (
        "import sys, raypose.cli; "
        "print(sorted({'torch', 'ray', 'open_clip', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_and_version(raypose: str) -> None:
    done = run(raypose, "--help")
    assert done.returncode == 0
    for name in ("train RECIPE", "shards …", "build, split, dedupe, show, verify", "demo"):
        assert name in done.stdout
    assert run(raypose, "train", "--help").stdout.startswith("usage: raypose train RECIPE")
    assert run(raypose, "--version").stdout == "0.1.0\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "UsageError: no command given"),
        (["trian", "r.yaml"], 2, 'UsageError: trian: no such command; did you mean "train"?'),
        (["shards", "bulid"], 2, 'shards bulid: no such command; did you mean "shards build"?'),
        (["train"], 2, "UsageError: train: RECIPE is missing, a YAML file"),
        (
            ["train", "{recipe}", "--epochs", "3"],
            2,
            "--epochs: no such option; write optim.epochs=3",
        ),
        (["train", "{recipe}", "--optim.epochs=3"], 2, "no such option; write optim.epochs=3"),
        (["evaluate", "a", "b", "--storage", "x"], 2, "no such option; write storage=x"),
        (["serve", "a", "port=3"], 2, 'port: unknown key; did you mean "serve.port"?'),
        (["shards", "build", "a", "b", "rows_per_shard=-1"], 2, "rows_per_shard: input should be"),
        (["shards", "build", "a", "b", "quality=900"], 2, "quality: input should be less"),
        (["shards", "build", "a", "b", "seed=1", "seed=2"], 2, "seed is given twice"),
        (["config", "serve.port=8000"], 2, "config: serve.port=: this takes no keys; usage: "),
        (["config", "nothing"], 2, "config: no key speaks of 'nothing'"),
        (["check", "{recipe}", "model.backbone=ViT-B-33"], 3, "open_clip has no model 'ViT-B-33'"),
        (["check", "{recipe}", "model.image_weights=/no.st"], 3, "/no.st: not found"),
        (["classify", "a", "b", "out=x.txt"], 3, 'RegistryError: a: no release "a"'),
        (["train", "{recipe}", "more"], 2, "'more' is too much, or lacks key="),
        (["train", "{recipe}", "--jsn"], 2, "train: --jsn: no such option"),
        (["shards", "build", "a", "b", "max_sid=3"], 2, 'unknown key; did you mean "max_side"?'),
        (
            ["shards", "build", "a", "b", "max_side=x"],
            2,
            "max_side: input should be a valid integer",
        ),
        (
            ["train", "{recipe}", "optim.learning_rat=1"],
            3,
            'ConfigError: {recipe}: optim.learning_rat: unknown key; did you mean "learning_rate"?',
        ),
        (["check", "none.yaml"], 3, "ConfigError: none.yaml: not found; check the path"),
        (["train", "{recipe}", "data.train=/none"], 3, "DataError: data.train: /none: no data set"),
        (
            ["train", "{recipe}", "data.taxonomy=yoga83"],
            3,
            'TaxonomyError: data.taxonomy: yoga83: no such taxonomy; did you mean "yoga82"?',
        ),
        (["check", "{recipe}", "captions.grammar=<nam>"], 3, "CaptionError: captions: column 1"),
        (["evaluate", "yoga:v9", "x"], 3, 'RegistryError: yoga:v9: no release "yoga" in'),
        (["serve", "../yoga"], 3, 'RegistryError: "../yoga": not a name'),
        (["classify", "none", "a.jpg"], 3, 'RegistryError: none: no release "none"'),
        (["shards", "verify", "/none"], 3, "DataError: /none: no data set here"),
        (["taxonomy", "init", "/none"], 3, "TaxonomyError: /none: not a folder"),
    ],
)
def test_mistakes_get_one_line_and_a_code(
    raypose: str, tmp_path: Path, recipe: Config, words: list[str], code: int, message: str
) -> None:
    path = recipe_file(tmp_path, recipe)
    done = run(raypose, *(word.format(recipe=path) for word in words), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    (line,) = told(done.stderr)
    assert message.format(recipe=path) in line
    assert "Traceback" not in done.stderr


@pytest.mark.own
def test_resources_and_absent_classes(raypose: str, tmp_path: Path, recipe: Config) -> None:
    path = recipe_file(tmp_path, recipe)
    done = run(raypose, "train", path, "train.num_workers=64")
    assert done.returncode == 5, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ResourceError: train.num_workers=64 needs 65 CPUs at once where")
    assert "the cluster has 8; lower it" in last
    few = tmp_path / "few.yaml"
    ids = ["Boat_Pose_or_Paripurna_Navasana_", "Corpse_Pose_or_Savasana_"]
    few.write_text(yaml.safe_dump({"name": "few", "base": "synthetic12", "classes": ids}))
    done = run(raypose, "train", path, f"data.taxonomy={few}")
    assert done.returncode == 3, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('TaxonomyError: s3://test-data/train: "Bridge_Pose')
    assert 'and 7 more not in taxonomy "few" of 2 classes; add a card, or choose another' in last


def test_verbose_shows_the_traceback(raypose: str) -> None:
    done = run(raypose, "check", "none.yaml", "--verbose")
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_check_prints_the_document_that_travels(
    raypose: str, tmp_path: Path, recipe: Config
) -> None:
    path = recipe_file(tmp_path, recipe)
    done = run(raypose, "check", path, "optim.epochs=7", "--json")
    made = config.parse_config(json.loads(done.stdout))
    assert made == config.override(recipe, {"optim.epochs": 7})
    text = run(raypose, "check", path, "optim.epochs=7").stdout
    assert text.startswith(f"# {made.run_id}\n")
    assert config.parse_config(yaml.safe_load(text)) == made


def test_relative_places_are_made_absolute(raypose: str, tmp_path: Path, recipe: Config) -> None:
    recipe_file(tmp_path, recipe)
    (tmp_path / "w").touch()
    (tmp_path / "m").mkdir()
    (tmp_path / "m/open_clip_config.json").touch()
    words = ["storage=runs", "data.train=d", "model.image_weights=w", "model.backbone=local-dir:m"]
    document = json.loads(run(raypose, "check", "r.yaml", *words, "--json", cwd=tmp_path).stdout)
    assert document["storage"] == f"{tmp_path}/runs"
    assert document["data"]["train"] == f"{tmp_path}/d"
    assert document["model"]["image_weights"] == f"{tmp_path}/w"
    assert document["model"]["backbone"] == f"local-dir:{tmp_path}/m"


def test_from_pictures_to_shards(raypose: str, tmp_path: Path) -> None:
    words = ["per_class=1", "size=32", "taxonomy=synthetic12"]
    assert run(raypose, "synthesize", "p", *words, cwd=tmp_path).returncode == 0
    (tmp_path / "p/Tree_Pose_or_Vrksasana_/bad.jpg").write_bytes(b"<html>")
    done = run(raypose, "shards", "build", "p", "d", "--json", cwd=tmp_path)
    assert done.returncode == 3
    assert (
        "1 of 13 pictures cannot be used, over max_bad_fraction=0.01; the first is" in done.stderr
    )
    lenient = "max_bad_fraction=0.1"
    done = run(raypose, "shards", "build", "p", "d", lenient, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["num_rows"] == 12
    assert "left out Tree_Pose_or_Vrksasana_/bad.jpg: not a picture" in done.stderr
    done = run(raypose, "shards", "verify", "d", cwd=tmp_path)
    assert done.stdout == "d: whole; 12 pictures, 12 classes\n"
    done = run(raypose, "taxonomy", "init", "p", cwd=tmp_path)
    (tmp_path / "t.yaml").write_text(done.stdout)
    done = run(raypose, "taxonomy", "show", "t.yaml", cwd=tmp_path)
    assert done.stdout.startswith("p: 12 classes\n  0  boat pose  (")


def test_captions_are_shown_and_proven(raypose: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a photo of {}\n{} outdoors\n")
    shown = run(raypose, "captions", "show", "list.txt", cwd=tmp_path).stdout.strip()
    assert shown == "{ensemble:a photo of <name>|<name> outdoors}"
    done = run(raypose, "captions", "show", shown, "form=templates")
    assert done.stdout == "a photo of {}\n{} outdoors\n"
    (tmp_path / "g.json").write_text(run(raypose, "captions", "show", shown, "form=json").stdout)
    assert run(raypose, "captions", "show", "g.json", cwd=tmp_path).stdout.strip() == shown
    done = run(raypose, "captions", "count", "words", "taxonomy=work", "--json")
    assert json.loads(done.stdout)["total"] == 7 * 3 * 3 * 4 * 2
    done = run(raypose, "captions", "check", "{a|A} left <name>[, <sanskrit>]", "taxonomy=work")
    assert done.stdout.splitlines()[0] == "holds for 7 classes of work: 14 captions"
    assert "tells left from right" in done.stdout
    assert "says the same as the shorter: a left <name>[sample:, <sanskrit>]" in done.stdout
    done = run(raypose, "captions", "sample", "words", "taxonomy=work", "num=2", "seed=3")
    assert len(done.stdout.splitlines()) == 14
    assert done.stdout == run(
        raypose, "captions", "sample", "words", "taxonomy=work", "num=2", "seed=3"
    ).stdout  # fmt: skip
    assert run(raypose, "captions", "show", "name", "form=yaml").returncode == 2
    done = run(raypose, "captions", "show", "name", "form=controls")
    names = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert names == ["name", "photo", "domain", "random words"]


def test_captions_are_proven_by_a_tokenizer(raypose: str) -> None:
    done = run(raypose, "captions", "check", "{a|A} <name>", "tokenizer=ViT-B-32")
    assert "says the same as the shorter: a <name>" in done.stdout
    long = " ".join(["word"] * 80)
    done = run(raypose, "captions", "check", f"<name> {long}", "tokenizer=ViT-B-32")
    assert done.returncode == 3
    assert "tokens where the text tower takes 77; shorten the grammar" in done.stderr


def test_shards_are_looked_over_and_split(raypose: str, tmp_path: Path) -> None:
    words = ["form=shards", "per_class=4", "size=64", "taxonomy=synthetic12"]
    done = run(raypose, "synthesize", "d", *words, cwd=tmp_path)
    assert done.stdout == "drew 48 pictures of 12 postures in d\n"
    words = ["per_class=6", "size=64", "taxonomy=synthetic12", "fill=d", "seed=90"]
    done = run(raypose, "synthesize", "more", *words, cwd=tmp_path)
    assert done.stdout == "drew 24 pictures of 12 postures in more\n"
    done = run(raypose, "shards", "split", "d", "s", "val=0.25", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["parts"] == {"train": 36, "val": 12}
    done = run(raypose, "shards", "dedupe", "d", "s/val", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "12 of 12 pictures of s/val have a twin in d"
    done = run(raypose, "shards", "show", "d", "out=look.html", cwd=tmp_path)
    assert done.stdout.startswith("48 pictures of 12 classes, 4 to 4 each; longer side 64 to 64 px")
    assert (tmp_path / "look.html").stat().st_size > 10_000


def test_releases_and_classify(raypose: str, trained: Config, pictures: Path) -> None:
    place = f"storage={trained.storage}"
    listed = run(raypose, "releases", place).stdout
    assert listed.startswith("tiny:v1-")
    assert "← production" in listed
    path = next((pictures / "val").glob("*/*.jpg"))
    done = run(raypose, "classify", "tiny", str(path), str(path), place, "--json")
    answers = json.loads(done.stdout)["pictures"]
    assert len(answers) == 2
    assert len(answers[0]["top"]) == 5
    done = run(raypose, "rollback", "tiny", place)
    assert done.returncode == 3
    assert "has no earlier version to go back to" in done.stderr


@pytest.mark.own
@pytest.mark.parametrize("seconds", [4, 25])
def test_an_interrupted_demo_leaves_no_process(raypose: str, tmp_path: Path, seconds: int) -> None:
    mark = f"RAYPOSE_TEST={uuid.uuid4().hex}"
    process = subprocess.Popen(
        [raypose, "demo", f"folder={tmp_path}", "per_class=20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | dict([mark.split("=")]),
        start_new_session=True,
    )
    time.sleep(seconds)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr
    assert stderr.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr
    assert none_left(mark), marked(mark)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_leaves_while_a_cluster_works_is_told_where_to_look(
    raypose: str, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = subprocess.Popen(
            [
                raypose,
                "endpoint",
                "delete",
                f"cluster.jobs=http://127.0.0.1:{silent.getsockname()[1]}",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)
            process.send_signal(number)
            told = process.communicate(timeout=PATIENCE_S)[1].strip().splitlines()[-1]
    assert process.returncode == 128 + number
    how = "interrupted" if number == signal.SIGINT else "terminated"
    assert told == f"{how}; the cluster may go on with it: see raypose endpoint status"


@pytest.mark.own
def test_a_small_demo_runs_the_whole_chain(raypose: str, wheel: Path, tmp_path: Path) -> None:
    """From the wheel, not from the checkout."""
    mark = f"RAYPOSE_TEST={uuid.uuid4().hex}"
    process = subprocess.Popen(
        [raypose, "demo", "--keep", f"folder={tmp_path}", "per_class=10", "epochs=1", "trials=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | dict([mark.split("=")]) | {"PYTHONPATH": str(wheel)},
    )
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("{"):
            break
    outcome = json.loads(lines[-1])
    assert outcome.keys() == {"top1", "release", "trials", "seconds", "predicted", "truth"}
    assert outcome["release"].startswith("demo:v1-")
    assert outcome["trials"] == 1
    assert (tmp_path / "release/MANIFEST.json").exists() or (tmp_path / "release").is_dir()
    curl = next(line for line in lines if line.startswith("use it")).split()
    import httpx

    picture = Path(curl[4].removeprefix("@"))
    answer = httpx.post(curl[5], content=picture.read_bytes(), timeout=60).json()
    assert answer["release"] == outcome["release"]
    assert answer["label"] == outcome["predicted"]
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert none_left(mark), marked(mark)
    first, second = told.splitlines()[-2:]
    assert second.strip() == f"raypose serve {tmp_path}/release serve.port=8000"
    words = shlex.split(first.removeprefix("next: "))
    assert words[:3] == ["raypose", "classify", f"{tmp_path}/release"]
    done = run(raypose, *words[1:], "--json", cwd=tmp_path.parent)
    assert json.loads(done.stdout)["pictures"][0]["label"] == outcome["predicted"]
