"""What verbs answer: JSON and nothing else where it is asked for, and what comes next."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml
from support.commands import recipe_file
from support.patience import PATIENCE_S
from support.pictures import encoded, pack, photo

from raypose import storage, training
from raypose.cli.main import VERBS, main
from raypose.config import Config
from raypose.errors import RegistryError
from raypose.releases import registry

Ask = Callable[..., Any]
ASKED: set[str] = set()


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """Run a verb with --json in a folder of its own, and return what it answers."""
    monkeypatch.chdir(tmp_path)

    def run(line: str, code: int = 0) -> Any:
        words = shlex.split(line)
        ASKED.update(name for name in VERBS if f"{line} ".startswith(f"{name} "))
        capsys.readouterr()
        assert main([*words, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_pictures_and_classes(ask: Ask, pictures: Path, tmp_path: Path) -> None:
    assert ask(f"shards build {pictures}/val v max_side=40")["num_rows"] == 36
    assert ask("shards verify v")["whole"] is True
    assert ask("shards dedupe v")["num_rows"] == 36
    assert ask("shards show v out=p.html")["page"] == "p.html"
    assert sum(ask("shards split v parts val=0.2")["parts"].values()) == 36
    assert ask("synthesize d taxonomy=synthetic12 per_class=1")["num_pictures"] == 12
    made = ask(f"taxonomy init {pictures}/val")
    assert len(made["classes"]) == 12
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(made))
    assert ask("taxonomy list")["taxonomies"]["work"] > 0
    assert ask("taxonomy show t.yaml") == made
    assert ask("taxonomy check t.yaml")["classes"] == 12
    assert "photo" in ask("captions list")["presets"]
    assert ask("captions show words")["hash"]
    assert ask("captions check words taxonomy=work")["captions"] > 0
    assert ask("captions count words taxonomy=work")["total"] > 0
    assert len(ask("captions sample words taxonomy=synthetic12 num=2")["captions"]) == 24
    assert ask("config seed")[0]["key"] == "seed"


def test_runs_and_releases(
    ask: Ask, trained: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the session's cluster, as one who is connected already."""
    recipe, root = recipe_file(tmp_path, trained), f"storage={trained.storage}"
    assert ask(f"check {recipe}")["name"] == "tiny"
    found = ask(f"train {recipe}")
    assert found["run_id"] == trained.run_id
    before = ask(f"publish {recipe}")
    again = ask(f"publish {recipe} optim.epochs=2")
    assert (again["release"], again["again"]) == (before["release"], True)
    first = str(registry.resolve(trained.storage, "tiny:v1"))
    assert first in [*again["same_weights"], again["release"]]
    assert ask(f"releases {root}")["releases"][0]["release"].startswith("tiny:v1")
    assert ask(f"releases list {root}")["storage"] == trained.storage
    assert ask(f"releases show tiny {root}")["config"]["name"] == "tiny"
    data = trained.data.val
    assert 0 <= ask(f"evaluate tiny {data} {root} baselines=false")["top1"] <= 1
    assert ask(f"compare tiny tiny {data} {root}")["only_a"] == 0
    assert ask(f"report tiny {data} {root} baselines=false")["page"] == "report.html"
    few = f"few-shot {recipe} per_class=2 draws=2 out={tmp_path}/few"
    assert ask(few)["methods"]["probe"][0]["per_class"] == 2


def test_a_search_that_is_finished_answers_at_once(
    ask: Ask,
    searched: tuple[Config, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, first = searched
    path = recipe_file(tmp_path, made)
    again = ask(f"search {path}")
    assert again == first
    assert again["recipe"].endswith("winner.yaml")
    assert main(["search", path]) == 0
    told = capsys.readouterr().err
    assert f"{made.search_id} is finished already" in told
    assert f"next: raypose train {first['recipe']}" in told


def test_aliases_move(ask: Ask, tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    releases = []
    for text in ("one", "two"):
        folder = tmp_path / text
        folder.mkdir()
        (folder / "a.txt").write_text(text)
        releases.append(str(registry.publish(root, "yoga", folder)))
    for release in releases:
        assert ask(f"promote {release} storage={root}")["release"] == release
    assert ask(f"rollback yoga storage={root}")["release"] == releases[0]
    assert ask(f"promote {releases[1]} storage={root} alias=canary")["alias"] == "canary"
    assert str(registry.resolve(root, "yoga@canary")) == releases[1]
    with pytest.raises(RegistryError, match=r"run: raypose promote yoga:v2-\w+ alias=beta"):
        registry.resolve(root, "yoga@beta")


def test_classify_takes_files_folders_and_patterns(
    ask: Ask, trained: Config, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad picture is named, the others are answered, and the code is that of a data error."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = sorted((pictures / "val").glob("*/*.jpg"))[:3]
    for number, path in enumerate(good):
        (folder / f"{number}.jpg").write_bytes(path.read_bytes())
    root = f"storage={trained.storage}"
    assert len(ask(f"classify tiny mixed {root}")["pictures"]) == 3
    assert len(ask(f"classify tiny 'mixed/*.jpg' mixed/0.jpg {root}")["pictures"]) == 4
    (folder / "1.jpg").write_bytes(b"<html>")
    found = ask(f"classify tiny mixed {root} top_k=2 abstain_below=1.0", code=3)
    rows = {Path(row["picture"]).name: row for row in found["pictures"]}
    assert "not a picture" in rows["1.jpg"]["error"]
    assert rows["0.jpg"]["label"] is None  # none is that sure
    assert len(rows["0.jpg"]["top"]) == 2
    assert main(["classify", "tiny", "mixed", root, "out=r.csv"]) == 3
    assert "DataError: 1 of 3 pictures cannot be read; first mixed/1.jpg" in capsys.readouterr().err
    table = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [bool(row["error"]) for row in table] == [False, True, False]
    assert main(["classify", "tiny", "mixed/0.jpg", "mixed/2.jpg", root, "out=r.parquet"]) == 0
    assert pq.read_table(tmp_path / "r.parquet").num_rows == 2
    assert main(["classify", "tiny", "mixed/0.jpg", root, "out=r.jsonl"]) == 0
    assert json.loads((tmp_path / "r.jsonl").read_text())["label"]
    for line, message in (
        ("classify tiny none.jpg", "none.jpg: not found"),
        ("classify tiny 'none*.jpg'", "none*.jpg: no file matches"),
        (f"classify tiny {tmp_path}/empty", "holds no picture"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        capsys.readouterr()
        assert main([*shlex.split(line), root]) == 3
        assert message in capsys.readouterr().err


def test_a_folder_is_classified_as_it_would_be_packed(
    ask: Ask, trained: Config, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links are followed, pipes passed over, and what may be a picture is said to be left."""
    (content, *_) = [path.read_bytes() for path in (pictures / "val").glob("*/*.jpg")]
    folder, beside = tmp_path / "some", tmp_path / "beside"
    names = ["1.jpg", "sub/2.PNG", "sub/.hidden/3.jpg", "__MACOSX/4.jpg", "5.heic", "6.txt"]
    for place in (*(folder / name for name in names), beside / "7.jpg", folder / "\udcff.jpg"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    (folder / "linked").symlink_to(beside)
    os.mkfifo(folder / "8.jpg")
    root = f"storage={trained.storage}"
    for out in ("r.csv", "r.jsonl", "r.parquet"):
        assert main(["classify", "tiny", "some", root, f"out={out}", "--json"]) == 0
        answer = capsys.readouterr()
        found = json.loads(answer.out)["pictures"]
        assert "some: passed over 1 file of other names, as 5.heic" in answer.err
        seen = {str(Path(row["picture"]).relative_to("some")) for row in found}
        assert seen == {"1.jpg", "sub/2.PNG", "linked/7.jpg", "\\xff.jpg"}
        assert (tmp_path / out).exists()
    assert len(ask(f"classify tiny 'some/*.jpg' {root}")["pictures"]) == 2


def test_parents_are_named_by_level(ask: Ask, trained: Config, pictures: Path) -> None:
    picture = min((pictures / "val").glob("*/*.jpg"))
    found = ask(f"classify tiny {shlex.quote(str(picture))} storage={trained.storage} level=1")
    parents = {parent for row in found["pictures"][0]["top"] for parent in [row["name"]]}
    from raypose.captions import taxonomy

    assert parents <= set(taxonomy.load("synthetic12").levels[0])


def test_classify_labels_a_data_set(
    ask: Ask, trained: Config, dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, data = f"storage={trained.storage}", f"{dataset}/val"
    assert main(["classify", "tiny", data, root]) == 2
    assert "is a data set; name a table by out=FILE.parquet" in capsys.readouterr().err
    assert main(["classify", "tiny", data, root, "out=t.csv"]) == 2
    assert "ends in none of .parquet" in capsys.readouterr().err
    assert main(["classify", "tiny", data, data, root, "out=t.parquet"]) == 2
    assert "give one data set at a time" in capsys.readouterr().err
    found = ask(f"classify tiny {data} {root} out=t.parquet num_workers=2 top_k=3")
    assert (found["num_rows"], found["num_bad"], found["out"]) == (36, 0, "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.num_rows == 36
    assert {len(row) for row in table["top_labels"].to_pylist()} == {3}
    assert main(["classify", "tiny", data, root, "out=t.parquet"]) == 3
    assert "is there already; name another file, or overwrite=true" in capsys.readouterr().err
    again = ask(f"classify tiny {data} {root} out=t.parquet top_k=1 --overwrite")
    assert again["num_rows"] == 36
    (tmp_path / "other.parquet").write_bytes(b"PAR1 of somebody PAR1")
    assert main(["classify", "tiny", data, root, "out=other.parquet"]) == 2
    assert "nothing of raypose's" in capsys.readouterr().err


def test_a_data_set_with_a_bad_picture_is_labelled_and_said_so(
    ask: Ask, trained: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = "Boat_Pose_or_Paripurna_Navasana_"
    contents = {f"{label}/good.jpg": encoded(photo()), f"{label}/bad.jpg": b"<html>"}
    pack(contents, str(tmp_path / "some"), tmp_path / "files")
    words = ["classify", "tiny", "some", f"storage={trained.storage}", "out=t.parquet"]
    assert main(words) == 3
    told = f"DataError: 1 of 2 pictures cannot be read; first {label}/bad.jpg: "
    assert told in capsys.readouterr().err
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "t.parquet").to_pylist()}
    assert "not a picture" in rows[f"{label}/bad.jpg"]["error"]
    assert rows[f"{label}/bad.jpg"]["predicted"] is None
    assert rows[f"{label}/good.jpg"]["predicted"]


def test_stdin_is_a_picture(trained: Config, raypose: str) -> None:
    done = subprocess.run(
        [raypose, "classify", "tiny", "-", f"storage={trained.storage}", "--json"],
        input=encoded(photo()), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pictures"][0]["picture"] == "-"


@pytest.mark.soak  # as a release is, by tests/serving, and a folder is one, by tests/releases
def test_a_folder_is_served(trained: Config, raypose: str, tmp_path: Path) -> None:
    """A copy of a release stands where a release does."""
    registry.fetch(registry.resolve(trained.storage, "tiny"), tmp_path / "copy")
    process = subprocess.Popen(
        [raypose, "serve", "copy", "serve.port=0", "cluster.num_cpus=4", "--json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
    )  # fmt: skip
    assert process.stdout
    document = json.loads(process.stdout.readline())
    answer = httpx.post(f"{document['url']}/v1/classify", content=encoded(photo()), timeout=60)
    assert answer.json()["release"] == document["release"]
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, told


def test_a_finished_run_answers_without_ray(trained: Config, raypose: str, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, trained)
    began = time.monotonic()
    done = subprocess.run(
        [raypose, "train", path, "--verbose"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )  # fmt: skip
    assert done.returncode == 0
    assert f"{trained.run_id} is finished already" in done.stderr
    heavy = [line for line in done.stderr.splitlines() if line.endswith(("| torch", "| ray"))]
    assert heavy == [], time.monotonic() - began
    assert f"next: raypose publish {path}" in done.stderr


def test_storage_is_found_from_below(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raypose-data").mkdir()
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert ask("releases")["storage"] == str(tmp_path / "raypose-data")
    monkeypatch.setenv("RAYPOSE_STORAGE", str(tmp_path / "other"))
    assert ask("releases")["storage"] == str(tmp_path / "other")
    assert storage.default_root() == str(tmp_path / "other")


def test_a_cluster_is_not_given_what_it_cannot_see(
    trained: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.fetch(registry.resolve(trained.storage, "tiny"), tmp_path / "copy")
    assert main(["serve", f"{tmp_path}/copy", "cluster.address=10.0.0.1:6379"]) == 2
    assert "other nodes of the cluster cannot see it" in capsys.readouterr().err
    assert training.locate(trained).id == trained.run_id
