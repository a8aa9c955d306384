"""Records of trials: written by one driver, read by anybody meanwhile."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from support import searches

from raypose import config, storage
from raypose.cli.main import main
from raypose.errors import ConflictError, DataError
from raypose.testing import Faults, embedded_s3
from raypose.tuning import records
from raypose.tuning.records import Records, Trial


def ended(count: int) -> list[Trial]:
    return [
        Trial(number=k, state="finished", values={"k": k}, scores={1: k / count}, seconds=1.5)
        for k in range(count)
    ]


def packed(url: str, trials: list[Trial]) -> None:
    """Write records as blocks, as a driver that has compacted leaves them."""
    made = Records(url)
    made.trials.update({trial.number: trial for trial in trials})
    folder = Path(url, "trials")
    folder.mkdir(parents=True, exist_ok=True)
    for trial in trials:
        (folder / f"{trial.number:06d}.json").write_text(trial.model_dump_json())
    made.compact()


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_what_is_written_is_read(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if where == "disk" else request.getfixturevalue("bucket")
    url = searches.search(root)
    trials = [searches.trial(k) for k in range(12)]
    made = searches.write(url, trials)
    again = made.write(trials[3], state="finished", scores={1: 0.25, 2: 0.5})
    assert records.read_trials(url) == {t.number: t for t in (*trials[:3], again, *trials[4:])}
    assert records.read_search(url).name == "postures"
    assert records.read_outcome(url) is None
    result = searches.outcome(url, trials)
    assert records.read_outcome(url) == result
    assert records.locate(root, "postures") == url == records.locate(root, "postures-1a2b3c4d")


def test_a_thousand_that_have_ended_become_one_file(tmp_path: Path) -> None:
    url = searches.search(str(tmp_path))
    trials = ended(2500)
    packed(url, trials)
    names = storage.list_files(f"{url}/trials")
    assert [name for name in names if name.endswith(".jsonl")] == [
        "000000-000999.jsonl",
        "001000-001999.jsonl",
    ]
    assert len(names) == 502
    assert records.read_trials(url) == {trial.number: trial for trial in trials}
    assert Records(url).trials[1999].scores == {1: 1999 / 2500}


def test_a_block_waits_for_trials_that_run(tmp_path: Path) -> None:
    url = searches.search(str(tmp_path))
    trials = ended(1000)
    trials[7] = trials[7].model_copy(update={"state": "running"})
    packed(url, trials)
    assert len(storage.list_files(f"{url}/trials")) == 1000


def test_a_reader_loses_nothing_while_blocks_are_made(tmp_path: Path) -> None:
    url = searches.search(str(tmp_path))
    packed(url, [])
    trials = ended(1000)
    folder = Path(url, "trials")
    for trial in trials:
        (folder / f"{trial.number:06d}.json").write_text(trial.model_dump_json())
    seen: list[int] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.append(len(records.read_trials(url)))

    reader = threading.Thread(target=read)
    reader.start()
    Records(url).compact()
    over.set()
    reader.join()
    assert storage.list_files(str(folder)) == ["000000-000999.jsonl"]
    assert {*seen, len(records.read_trials(url))} == {1000}


def test_two_drivers_do_not_write_one_record(tmp_path: Path) -> None:
    url = searches.search(str(tmp_path))
    first = Records(url)
    running = first.write(Trial(number=0, values={}))
    with pytest.raises(ConflictError, match="another search of the same recipe"):
        searches.write(url, [Trial(number=0, values={"other": 1})])
    second = Records(url)
    assert second.claim(0).attempt == 2
    with pytest.raises(ConflictError, match=r"000000\.json: was taken over"):
        first.write(running, state="finished", scores={1: 0.5})
    assert second.write(second.trials[0], state="stopped").attempt == 2
    assert records.read_trials(url)[0].state == "stopped"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("000001.json", "{"),
        ("000001.json", '{"number": 1, "values": {}, "state": "lost"}'),
        ("000001.json", '{"number": 1, "values": {}, "scores": {"1": NaN}}'),
        ("000000-000999.jsonl", '{"number": 1}\n'),
    ],
)
def test_a_damaged_record_is_named_in_one_line(tmp_path: Path, name: str, content: str) -> None:
    url = searches.search(str(tmp_path))
    searches.write(url, ended(1))
    Path(url, "trials", name).write_text(content)
    with pytest.raises(DataError) as caught:
        records.read_trials(url)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "delete it, and give the search again" in str(caught.value)


def test_a_record_waits_for_a_disk_to_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = searches.search(str(tmp_path))
    made = Records(url)
    Path(url, "trials").touch()  # where a folder is meant
    late = made.write(Trial(number=0, values={}))
    assert "is kept, and written with the next" in capsys.readouterr().err
    Path(url, "trials").unlink()
    made.write(late, state="finished", scores={1: 0.5})
    made.write(Trial(number=1, values={}))
    assert [trial.state for trial in records.read_trials(url).values()] == ["finished", "running"]


def test_a_record_waits_for_s3_to_answer(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    faults = Faults()
    with embedded_s3(faults):
        url = searches.search(bucket)
        made = Records(url)
        first = made.write(Trial(number=0, values={"a": 1}))
        faults.denied_after = 0
        made.write(first, state="finished", scores={1: 0.75})
        assert "is kept, and written with the next" in capsys.readouterr().err
        faults.denied_after = None
        assert records.read_trials(url)[0].state == "running"
        made.write(Trial(number=1, values={"a": 2}))
        found = records.read_trials(url)
    assert found[0].scores == {1: 0.75}
    assert found[1].values == {"a": 2}


def test_names_that_are_not_there_suggest_others(tmp_path: Path) -> None:
    searches.search(str(tmp_path))
    with pytest.raises(DataError, match='did you mean "postures-1a2b3c4d"'):
        records.locate(str(tmp_path), "posture-1a2b3c4d")
    other = Path(tmp_path, "searches", "postures-99999999")
    other.mkdir()
    (other / "search.json").write_text(json.dumps({}))  # a damaged one hides no other
    first = records.locate(str(tmp_path), "postures")
    assert first.endswith("postures-1a2b3c4d")
    known = json.loads(Path(first, "search.json").read_text())
    later = {**known, "id": "postures-99999999", "began": known.get("began", 0) + 60}
    (other / "search.json").write_text(json.dumps(later))
    assert records.locate(str(tmp_path), "postures").endswith("postures-99999999")


def test_a_search_is_finished_only_as_far_as_it_was_asked(tmp_path: Path) -> None:
    space = {"optim.learning_rate": {"loguniform": [1e-5, 1e-3]}}
    asked = config.parse_config(
        {"storage": str(tmp_path), "search": {"space": space, "num_trials": 2, "finalists": 0}}
    )
    url = f"{asked.storage}/searches/{asked.search_id}"
    storage.write_bytes(f"{url}/{records.WINNER}", b"optim: {learning_rate: 1.0e-4}\n")

    def ended(over: str = "", **changes: object) -> bool:
        outcome = records.Outcome(number=0, values={}, score=0.5, num_trials=2, over=over)
        storage.write_json(f"{url}/{records.OUTCOME}", outcome.model_dump(mode="json"))
        made = config.override(asked, {f"search.{key}": value for key, value in changes.items()})
        return records.finished(made) is not None

    assert ended()
    assert not ended(num_trials=3)
    assert not ended(finalists=1)  # none were held
    assert ended("search.stop_at=0.4", stop_at=0.4)
    assert not ended("search.stop_at=0.4", stop_at=0.6)
    assert not ended("search.stop_at=0.4")
    assert ended("search.max_hours=1.0", max_hours=1.0, finalists=3)
    assert not ended("search.max_hours=1.0", max_hours=2.0)


def test_what_strangers_write_steers_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = searches.search(str(tmp_path), notes=["a\x1b[31m note\nof two lines"])
    values = {"captions.grammar": "\x1b]0;title\x07 <name>"}
    found = [searches.trial(0, values=values, state="failed", error="no\x1b[2J\nerror")]
    searches.write(url, found)
    assert main(["searches", "show", "postures", f"storage={tmp_path}"]) == 0
    assert main(["searches", "report", "postures", f"storage={tmp_path}"]) == 0
    told = capsys.readouterr().out + Path(url, "report.html").read_text()
    assert not {letter for letter in told if ord(letter) < 32} - {"\n"}
    assert "\x1b" not in told
