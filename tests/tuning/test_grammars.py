from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.contexts import CLASSES, batch
from support.models import TINY
from support.pictures import encoded

from raypose import captions, config, storage, tuning
from raypose.captions.grammar import format_grammar, parse
from raypose.captions.nodes import bind
from raypose.clip import model, text, zeroshot
from raypose.config import Config, ModelConfig
from raypose.data import packing
from raypose.data.manifests import read_manifest
from raypose.errors import DataError
from raypose.inference import embedding
from raypose.tuning import grammars, zero_shot
from raypose.tuning.zero_shot import ZeroShot

TINY_MODEL = ModelConfig(backbone="tiny", architectures={"tiny": TINY})
PLANTED = "a person who does <name>"
WRONG = ("<name>", "a drawing of <name>", "{ensemble:<name>, seen|look, <name>|<name>}")


def tiny(seed: int = 0) -> model.Clip:
    clip = model.build(TINY_MODEL, seed=seed)
    clip.model.eval()
    return clip


def plant(clip: model.Clip, features: torch.Tensor, targets: torch.Tensor) -> None:
    """Teach the text tower that one grammar names classes as pictures show them, others amiss."""
    spoken = [captions.evaluation_captions(parse(PLANTED), card)[0] for card in CLASSES.cards]
    amiss = [
        [captions.evaluation_captions(parse(one), card)[0] for card in CLASSES.cards]
        for one in WRONG
    ]
    tokens = [clip.tokenize(each) for each in (spoken, *amiss)]
    clip.model.visual.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in clip.model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(100):
        right, *wrong = (text.encode(clip.model, each) for each in tokens)
        loss = F.cross_entropy(100 * features @ right.T, targets)
        shifted = (targets + 1) % len(CLASSES)
        loss = loss + sum(F.cross_entropy(100 * features @ each.T, shifted) for each in wrong)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight pictures of each class, in a colour of its own with noise."""
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    contents = {}
    for number in range(8 * len(CLASSES)):
        card = CLASSES.cards[number % len(CLASSES)]
        hue = number % len(CLASSES) / len(CLASSES)
        pixels = 200 * np.array(colorsys.hsv_to_rgb(hue, 1, 1)) + rng.normal(0, 20, (32, 32, 3))
        made = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        contents[f"{card.id}/{number}.png"] = encoded(made, "PNG")
    for name, content in contents.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    packing.build(f"{folder}/files", f"{folder}/train", packing.Packing(rows_per_shard=20))
    return f"{folder}/train"


@pytest.fixture(scope="module")
def planted(
    shards: str, document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, cluster: None
) -> Config:
    """A recipe whose backbone is a saved model with a grammar that is known to be the best."""
    folder = tmp_path_factory.mktemp("planted")
    clip = tiny()
    rows = embedding.encode(
        clip, shards, CLASSES.index(), config.DataConfig(), config.ModelConfig()
    )
    plant(clip, torch.from_numpy(rows.features), torch.from_numpy(rows.targets))
    model.save(clip, folder)
    changes = {
        "model": {"backbone": f"local-dir:{folder}"},
        "storage": f"{folder}/storage",
        "data": {**document["data"], "train": shards},
        "captions.grammar": WRONG[1],
    }
    return config.override(config.parse_config(document), changes)


def test_the_planted_grammar_comes_first(planted: Config, tmp_path: Path) -> None:
    given = {"planted": PLANTED, **dict(zip("abc", WRONG, strict=True))}
    found = tuning.rank(planted, given)
    assert found.note == ""
    assert found.left_out == {}
    assert found.num_pictures == read_manifest(planted.data.train).num_rows
    best = found.rows[0]
    assert (best, best.label) == (found.best, "planted")
    assert best.score > 0.6
    assert best.interval is not None
    assert best.interval[0] <= best.score <= best.interval[1]
    (own,) = [row for row in found.rows if row.label == grammars.OWN]
    assert format_grammar(own.candidate.grammar) == WRONG[1]
    assert own.difference is None
    assert best.difference is not None
    assert best.difference["difference"] == pytest.approx(best.score - own.score)
    assert best.difference["interval"][0] > 0
    assert found.verdict.startswith("captions make a difference on 96 pictures: the best of 5 gram")
    controls = {row.label.removeprefix("control: ") for row in found.rows if row.is_control}
    assert controls == {"name", "photo", "domain", "random words"}
    assert "planted: a person who does <name>" in str(found)
    storage.write_json(f"{tmp_path}/grammars.json", found.to_dict())
    read = storage.read_json(f"{tmp_path}/grammars.json")
    assert read == json.loads(json.dumps(found.to_dict()))
    assert read["grammars"][0]["grammar"] == PLANTED
    assert tuning.rank(planted, given) == found


def test_an_ensemble_of_random_words_is_as_large_as_the_best(planted: Config) -> None:
    several = "{ensemble:" + PLANTED + "|a person who does <name>.|a person who does the <name>}"
    rankings = [tuning.rank(planted, {"several": several}) for _ in range(2)]
    assert rankings[0] == rankings[1]
    assert rankings[0].best is not None
    assert rankings[0].best.label == "several"
    (words,) = [row for row in rankings[0].rows if row.label == "control: random words"]
    spoken = captions.evaluation_captions(words.candidate.grammar, CLASSES.cards[0])
    assert len(spoken) == 3


def test_grammars_that_do_not_hold_are_named(planted: Config) -> None:
    given = {
        "lacking": "<name>, <sanskrit> <also> <torso>",
        "long": "very " * 40 + "<name>",
        "shared": "someone",
        "planted": PLANTED,
    }
    found = tuning.rank(planted, given)
    assert found.best is not None
    assert found.best.label == "planted"
    assert found.left_out.keys() == {"lacking", "long", "shared"}
    assert "its card lacks" in found.left_out["lacking"]
    assert "tokens where the text tower takes 32" in found.left_out["long"]
    assert 'captions: "someone" stands for' in found.left_out["shared"]
    assert found.to_dict()["left_out"] == found.left_out


def test_pictures_are_encoded_once(planted: Config, tmp_path: Path) -> None:
    data = tmp_path / "shards"
    storage.download_folder(planted.data.train, data)
    changes = {"data.train": str(data), "storage": str(tmp_path / "storage")}
    recipe = config.override(planted, changes)
    seen: list[tuple[int, int]] = []
    first = tuning.rank(recipe, {"planted": PLANTED}, progress=lambda *done: seen.append(done))
    assert seen[-1] == (96, 96)
    kept = list((tmp_path / "storage" / zero_shot.FEATURES).iterdir())
    assert [path.suffix for path in kept] == [".safetensors"]
    for path in data.glob("*.parquet"):
        path.unlink()
    assert tuning.rank(recipe, {"planted": PLANTED}) == first  # no picture is there any more
    folder = tmp_path / "other"
    model.save(tiny(seed=1), folder)
    for key, value in (
        ("model.backbone", f"local-dir:{folder}"),
        ("model.inference", "bf16"),
        ("model.image_mean", [0.4, 0.5, 0.5]),
    ):
        with pytest.raises(DataError, match="not found"):
            tuning.rank(config.override(recipe, {key: value}), {})
    manifest = storage.read_json(str(data / "MANIFEST.json"))
    storage.write_json(str(data / "MANIFEST.json"), {**manifest, "source": "elsewhere"})
    with pytest.raises(DataError, match="not found"):
        tuning.rank(recipe, {})


def test_without_a_trained_text_tower_nothing_is_ranked() -> None:
    recipe = config.parse_config({"model": TINY_MODEL.model_dump()})
    found = tuning.rank(recipe, {"a": "<name>"})
    assert (found.rows, found.best, found.num_pictures) == ((), None, 0)
    assert "its text tower was not trained" in found.note
    assert str(found) == found.to_dict()["note"] == found.note


def test_hits_are_those_of_the_zero_shot_classifier() -> None:
    clip, pictures = tiny(), batch(list(range(60)))
    features = zeroshot.embed(clip, pictures.pixels, TINY_MODEL)
    scorer = ZeroShot(clip, CLASSES, features, pictures.targets.numpy())
    texts = [
        "<name>",
        "a photo of a person in <name>[fixed:, <sanskrit>]",
        "{ensemble:<name>|a <name>|<name>, <parent>|the {ensemble:pose|posture} <name>}",
        "[ensemble:someone in ]<name>[ensemble:, legs <legs>]",
        *(f"{word} <name>" for word in ["amber", "basket", "canyon", "drizzle", "ember"]),
    ]
    nodes = [parse(one) for one in texts]
    found = scorer.hits(nodes)
    assert found.shape == (len(nodes), 60)
    for node, hits in zip(nodes, found, strict=True):
        classifier = zeroshot.build_classifier(clip, node, CLASSES)
        guesses = (features @ classifier.T).argmax(1)
        assert hits.tolist() == (guesses == pictures.targets).tolist()
    assert len({hits.tobytes() for hits in found}) > 4
    np.testing.assert_array_equal(scorer.hits(nodes[::-1]), found[::-1])  # from what is known
    assert scorer.hits([]).shape == (0, 60)


def searching(**space: Any) -> Config:
    ways = {f"captions.{key}": {"choice": choice} for key, choice in space.items()}
    return config.override(config.Config(), {"data.taxonomy": "yoga82", "search": {"space": ways}})


def test_candidates_are_what_a_search_may_draw() -> None:
    found = grammars.candidates(searching(preset=["photo", "name", "searched"]), limit=100)
    assert next(iter(found)) == grammars.OWN
    assert found[grammars.OWN].values == {"captions.preset": "photo"}
    assert found["name"].values == {"captions.preset": "name"}
    assert format_grammar(found["name"].grammar) == "<name>"
    open_node = captions.load(config.CaptionConfig(preset="searched"))
    settled = [one for one in found.values() if one.chosen]
    assert len(settled) == 3 * 2 * 4 - 2  # two read as the presets do
    for one in settled:
        chosen = dict(one.chosen)
        again = bind(open_node, lambda at, ways: chosen.pop(at), place="searched")  # noqa: B023
        assert (again, chosen) == (one.grammar, {})
    assert found["searched 0=2 2=0 3=1"].chosen == {
        "searched.0": 2,
        "searched.2": 0,
        "searched.3": 1,
    }


def test_candidates_of_grammars_spelled_out() -> None:
    texts = ["<name>", "a {search:photo|picture} of <name>", None]
    found = grammars.candidates(searching(grammar=texts), limit=100)
    written = {format_grammar(one.grammar) for one in found.values()}
    photo = captions.PRESETS["photo"]
    assert written == {photo, "<name>", "a photo of <name>", "a picture of <name>"}
    assert found["a picture of <name>"].chosen == {"grammar.1": 1}
    assert found[grammars.OWN].values == {"captions.grammar": None}
    own = config.override(config.Config(), {"captions.grammar": texts[1]})
    alone = grammars.candidates(own, limit=100)
    assert [one.chosen for one in alone.values()] == [{"grammar.1": 0}, {"grammar.1": 1}]
    elsewhere = config.override(searching(grammar=["<name>"]), {"captions.grammar": "<name>!"})
    assert grammars.candidates(elsewhere, limit=9)[grammars.OWN].values == {}


def test_more_forms_than_wanted_are_drawn() -> None:
    recipe = searching(preset=["searched"])
    draws = [grammars.candidates(recipe, limit=10, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    for drawn in draws:
        assert 10 <= len(drawn) <= 11
        assert len({format_grammar(one.grammar) for one in drawn.values()}) == len(drawn)
    words = "".join(f"[search:{number} ]" for number in range(80))
    huge = config.override(config.Config(), {"captions.grammar": f"{words}<name>"})
    assert len(grammars.candidates(huge, limit=50)) == 50


def told(
    rng: np.random.Generator, targets: Any, rates: Mapping[str, float]
) -> list[grammars.Scored]:
    weights = grammars._weights(targets)
    rows = []
    for label, rate in rates.items():
        hits = rng.random(len(targets)) < rate
        candidate = grammars.Candidate(parse("<name>"))
        rows.append((grammars.Ranked(label, candidate, weights[hits].sum(), 0.0, False), hits))
    return rows


def test_the_best_of_many_that_are_alike_is_no_better() -> None:
    """Chosen on the pictures it is judged by, it would be called better nearly every time."""
    targets = np.arange(240) % 12
    verdicts = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ours = told(rng, targets, {str(k): 0.5 for k in range(200)})
        verdicts.append(grammars.verdict(ours, told(rng, targets, {"c": 0.5}), targets))
    claims = sum("make no difference that 240 pictures" not in each for each in verdicts)
    assert claims <= 8  # 3 are to be expected
    rng = np.random.default_rng(0)
    ours, control = told(rng, targets, {"a": 0.4, "b": 0.7}), told(rng, targets, {"c": 0.5})
    assert "make a difference on 240 pictures" in grammars.verdict(ours, control, targets)
    assert "do worse than a control" in grammars.verdict(control, ours, targets)
    assert grammars.verdict([], control, targets) == grammars.verdict(ours, [], targets) == ""


def test_of_a_large_set_some_shards_are_taken_evenly(shards: str, cluster: None) -> None:
    manifest = read_manifest(shards)
    sizes = [shard.num_rows for shard in manifest.shards]
    assert [number for number, _ in embedding.spread(manifest, 0)] == list(range(len(sizes)))
    assert [number for number, _ in embedding.spread(manifest, 50)] == [0, len(sizes) // 2]
    assert [number for number, _ in embedding.spread(manifest, 1)] == [0]
    settings = config.DataConfig(), config.ModelConfig()
    some = embedding.encode(tiny(), shards, CLASSES.index(), *settings, max_pictures=50)
    everything = embedding.encode(tiny(), shards, CLASSES.index(), *settings)
    second = sum(sizes[: len(sizes) // 2])
    rows = [*range(sizes[0]), *range(second, second + sizes[len(sizes) // 2])]
    assert some.ids == [everything.ids[row] for row in rows]
    np.testing.assert_array_equal(some.targets, everything.targets[rows])
