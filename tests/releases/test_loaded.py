from __future__ import annotations

import io
import json
import math
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pictures import bomb, encoded, photo

from raypose import storage
from raypose.config import Config
from raypose.errors import CheckpointError, RegistryError, UsageError
from raypose.releases import Model, Predicted, Prediction, Predictions, registry
from raypose.releases.predictor import Predictor


@pytest.fixture(scope="module")
def model(trained: Config) -> Model:
    return Model.load("tiny", storage=trained.storage, device="cpu")


@pytest.fixture
def paths(pictures: Path) -> list[Path]:
    return sorted((pictures / "val").glob("*/*.jpg"))


def test_it_is_loaded_by_name_place_or_release(
    model: Model, trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = registry.resolve(trained.storage, "tiny")
    folder = registry.fetch(release, tmp_path / "here")
    monkeypatch.setenv("RAYPOSE_STORAGE", trained.storage)
    monkeypatch.chdir(tmp_path)
    for reference in ("tiny@production", "tiny:v1", release, release.url, folder, "./here", "here"):
        found = Model.load(reference)
        assert found.release == model.release == str(release)
        assert found.captions == model.captions
    assert model.classes == model.taxonomy.ids
    assert len(model.classes) == 12
    assert model.config.name == "tiny"
    assert model.captions[model.classes[0]][0].startswith("a photo of a person in ")
    assert repr(model) == f"Model({release}, 12 classes of synthetic12, tiny)"


def test_what_is_no_release(trained: Config, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r'no release "tini".*did you mean "tiny"'):
        Model.load("tini", storage=trained.storage)
    folder = registry.fetch(registry.resolve(trained.storage, "tiny"), tmp_path / "release")
    (folder / "MANIFEST.json").unlink()
    assert Model.load(folder).release == "tiny:local"
    for broken in ("{}", "[]", "{"):
        (folder / "captions.json").write_text(broken)
        with pytest.raises(CheckpointError, match="not the captions of a release"):
            Model.load(folder)


def test_all_forms_of_a_picture_get_one_answer(
    model: Model, paths: list[Path], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = paths[0].read_bytes()
    storage.write_bytes(f"{bucket}/a.jpg", content)
    monkeypatch.setenv("HOME", str(paths[0].parent))
    image = Image.open(paths[0])
    array = np.asarray(Image.open(paths[0]))  # may not be written to
    unnamed = Image.open(io.BytesIO(content))
    forms = {
        str(paths[0]): str(paths[0]),
        f"~/{paths[0].name}": f"~/{paths[0].name}",
        f"{bucket}/a.jpg": f"{bucket}/a.jpg",
        "[3]": content,
        "[4]": array,
        "[5]": array[:, ::-1][:, ::-1],
        "[6]": unnamed,
    }
    found = model.predict([*forms.values(), paths[0], image])
    assert [one.source for one in found] == [*forms, str(paths[0]), str(paths[0])]
    (expected,) = model.predictor.predict([content])
    for one in found:
        assert one.error == ""
        assert [p.label for p in one.top] == [p.label for p in expected]
        assert one.probability == pytest.approx(expected[0].probability, abs=1e-6)
        assert (one.label, one.name) == (expected[0].label, expected[0].name)


def test_one_picture_is_a_list_of_one(model: Model, paths: list[Path]) -> None:
    for picture in (paths[0], str(paths[0]), paths[0].read_bytes(), photo(), np.array(photo())):
        found = model.predict(picture)
        assert isinstance(found, Predictions)
        assert len(found) == 1
        assert found[0].label in model.classes
    assert len(model.predict([])) == 0
    with pytest.raises(TypeError, match="takes many pictures"):
        model.predict_stream(str(paths[0]))  # not letter by letter
    for how in ({"level": "1"}, {"level": True}, {"top_k": 2.0}, {"abstain_below": "0.5"}):
        with pytest.raises(TypeError, match=rf"^{next(iter(how))}: found .* number is wanted"):
            model.predict(paths[:1], **how)


def test_grey_is_grey_in_three_channels(model: Model) -> None:
    grey = np.array(photo().convert("L"))
    found = model.predict([grey, np.stack([grey] * 3, axis=2), Image.fromarray(grey)])
    probabilities = [one.probability for one in found]
    assert probabilities == pytest.approx([probabilities[0]] * 3, abs=1e-6)


def test_pictures_of_pillow_are_turned_upright(model: Model) -> None:
    upright = photo(90, 40)
    tag = Image.Exif()
    tag[0x0112] = 6  # turn by 90 degrees to see it upright
    lying = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=tag)
    expected = model.predict(upright)[0]
    for form in (lying, Image.open(io.BytesIO(lying))):
        assert model.predict(form)[0].probability == pytest.approx(expected.probability, abs=1e-6)
    plain = model.predict(encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG"))[0]
    assert plain.probability != pytest.approx(expected.probability, abs=1e-6)


def test_bad_pictures_have_errors_and_end_nothing(
    model: Model, paths: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("<html>")
    cut = Image.open(io.BytesIO(encoded(photo())[:700]))
    bad = {
        "not a picture in a known format": [text, b"<html>", b""],
        "damaged picture": [encoded(photo())[:700], cut],
        "header claims 144 megapixels": [bomb(12_000, 12_000)],
        "not found; check the path": [str(tmp_path / "none.jpg"), Path("none.jpg")],
        "a folder, not a picture": [tmp_path],
        "array of float32 (48, 48, 3): expected uint8": [np.zeros((48, 48, 3), np.float32)],
        "array of uint8 (48, 48, 4): expected uint8": [np.zeros((48, 48, 4), np.uint8)],
        "array of uint8 (2, 48, 48, 3): expected": [np.zeros((2, 48, 48, 3), np.uint8)],
        "picture without pixels": [np.zeros((0, 9, 3), np.uint8), Image.new("RGB", (0, 9))],
    }
    for message, forms in bad.items():
        for form in forms:
            found = model.predict([paths[0], form, paths[1]], batch_size=2)
            assert [bool(one.error) for one in found] == [False, True, False]
            assert message in found[1].error
            assert "\n" not in found[1].error
            assert found[1].source not in found[1].error
            assert found[1] == Predicted(found[1].source, error=found[1].error)
            assert found[2].label == model.predict(paths[1])[0].label
    with pytest.raises(TypeError, match="NoneType is no picture: give a path"):
        model.predict([paths[0], None])


def test_the_size_of_a_batch_changes_nothing(model: Model, paths: list[Path]) -> None:
    every = [*paths[:9], b"no", *paths[9:20]]
    whole = model.predict(every, batch_size=64, top_k=12)
    for batch_size in (1, 3):
        parts = model.predict(every, batch_size=batch_size, top_k=12)
        assert [one.label for one in parts] == [one.label for one in whole]
        assert [one.error for one in parts] == [one.error for one in whole]
    assert sum(one.probability for one in whole[0].top) == pytest.approx(1, abs=1e-5)
    assert [len(one.top) for one in model.predict(paths[:2], top_k=3)] == [3, 3]


def test_a_stream_holds_a_batch_at_a_time(model: Model, paths: list[Path]) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield paths[taken % len(paths)]

    before = threading.active_count()
    answers = model.predict_stream(endless(), batch_size=4)
    assert taken == 0
    found = [next(answers) for _ in range(6)]
    assert taken == 8
    assert [one.label for one in found] == [model.predict(paths[k])[0].label for k in range(1, 7)]
    answers.close()
    assert threading.active_count() == before


def test_parents_have_the_sums_of_their_classes(model: Model, paths: list[Path]) -> None:
    classes = model.predict(paths[:6], top_k=12)
    cards = {card.id: card for card in model.taxonomy.cards}
    for level, names in enumerate(model.taxonomy.levels, start=1):
        parents = model.predict(paths[:6], top_k=99, level=level)
        for of_classes, of_parents in zip(classes, parents, strict=True):
            sums = dict.fromkeys(names, 0.0)
            for one in of_classes.top:
                sums[cards[one.label].parents[level - 1]] += one.probability
            assert {one.label: one.probability for one in of_parents.top} == pytest.approx(
                sums, abs=1e-5
            )
            odds = [one.probability for one in of_parents.top]
            assert odds == sorted(odds, reverse=True)
            best = of_parents.top[0]
            assert of_parents.label == of_parents.name == best.label == best.name
            assert of_parents.probability == best.probability == pytest.approx(max(sums.values()))


def test_it_abstains_below(model: Model, paths: list[Path]) -> None:
    plain = model.predict(paths)
    odds = sorted(one.probability for one in plain)
    limit = odds[len(odds) // 2]
    found = model.predict(paths, abstain_below=limit)
    assert sum(one.label is None for one in found) == len(odds) // 2
    for one, before in zip(found, plain, strict=True):
        named = before.probability >= limit
        assert (one.label, one.name) == ((before.label, before.name) if named else (None, None))
        assert one.top == before.top
        assert one.probability == before.probability
        assert one.error == ""


def test_what_cannot_be_asked(model: Model, paths: list[Path]) -> None:
    for how, message in (
        ({"level": 3}, "level: found 3 where synthetic12 has 0 for classes, 1 to 2 for parents"),
        ({"level": -1}, "level: found -1"),
        ({"abstain_below": 1.5}, r"abstain_below: found 1\.5; it is a probability"),
        ({"abstain_below": math.nan}, "abstain_below: found nan"),
        ({"top_k": 0}, "top_k: found 0; at least 1"),
        ({"batch_size": 0}, "batch_size: found 0"),
    ):
        with pytest.raises(UsageError, match=message):
            model.predict_stream(paths, **how)  # before any picture is read


A = Predicted(
    "a.jpg", "Tree", "tree pose", 0.75, (Prediction("Tree", "tree pose", 0.75),
                                         Prediction("Boat", "boat pose", 0.25))
)  # fmt: skip
B = Predicted("photos/of/b.jpg", None, None, 0.5, (Prediction("Boat", "boat pose", 0.5),))
C = Predicted("[2]", error="damaged picture (cut off)")


def test_predictions_read_well() -> None:
    found = Predictions([A, B, C])
    assert repr(found).splitlines() == [
        "picture          name                              probability",
        "a.jpg            tree pose                               0.750",
        "photos/of/b.jpg  (abstains)                              0.500",
        "[2]              error: damaged picture (cut off)            –",
    ]
    assert repr(Predictions([])) == "no pictures"
    many = repr(Predictions([A] * 25)).splitlines()
    assert len(many) == 12
    assert many[-1] == "… 15 more"
    long = Predicted("x" * 300 + ".jpg", error="y" * 300)
    assert all(len(line) < 80 for line in repr(Predictions([long])).splitlines())
    assert found[-1] is C
    assert isinstance(found[1:], Predictions)
    assert list(found[1:]) == [B, C]


def test_predictions_become_dictionaries() -> None:
    first, second, third = Predictions([A, B, C]).to_dicts()
    assert json.loads(json.dumps(first)) == {
        "picture": "a.jpg",
        "label": "Tree",
        "name": "tree pose",
        "probability": 0.75,
        "error": "",
        "top": [
            {"label": "Tree", "name": "tree pose", "probability": 0.75},
            {"label": "Boat", "name": "boat pose", "probability": 0.25},
        ],
    }
    assert second["label"] is None
    assert third["top"] == []
    assert third["error"] == "damaged picture (cut off)"


def test_predictions_become_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Predictions([A, B, C]).to_pandas()
    assert list(table.columns) == [
        "picture", "label", "name", "probability", "error",
        "top1", "top1_probability", "top2", "top2_probability",
    ]  # fmt: skip
    assert table["label"].tolist()[0] == "Tree"
    assert table["label"].isna().tolist() == [False, True, True]
    assert table["top1"].tolist()[:2] == ["Tree", "Boat"]
    assert table["top2_probability"].isna().tolist() == [False, True, True]
    assert table["top2_probability"].tolist()[0] == 0.25
    assert list(Predictions([]).to_pandas().columns) == [
        "picture", "label", "name", "probability", "error",
    ]  # fmt: skip
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="to_pandas needs pandas: pip install pandas"):
        Predictions([A]).to_pandas()


def test_a_predictor_of_one_release_is_used_as_it_is(trained: Config, tmp_path: Path) -> None:
    """The model hands on what was loaded: nothing of the release stays on disk."""
    folder = registry.fetch(registry.resolve(trained.storage, "tiny"), tmp_path / "release")
    model = Model.load(folder)
    for path in folder.iterdir():
        path.unlink()
    assert isinstance(model.predictor, Predictor)
    assert model.predict(photo())[0].label in model.classes
