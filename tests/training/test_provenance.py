from __future__ import annotations

from pathlib import Path

from raypose import config, storage, training
from raypose.config import Config
from raypose.releases import registry
from raypose.training import provenance


def test_a_release_tells_what_it_is_made_of(trained: Config, tmp_path: Path) -> None:
    folder = registry.fetch(registry.resolve(trained.storage, "tiny"), tmp_path / "release")
    document = storage.read_json(str(folder / "provenance.json"))
    now = provenance.gather(trained)
    assert document["began"] <= now.pop("began")
    assert {key: document[key] for key in now} == now
    manifest = storage.read_bytes(f"{trained.data.train}/MANIFEST.json")
    assert document["data"]["train"]["manifest"] == storage.sha256(manifest)
    assert len(document["final"]["captions_identity"]) == 64
    assert document["final"]["alpha"] == 1.0
    card = (folder / "README.md").read_text()
    assert "`provenance.json` holds" in card
    assert "mixing weight 1 of the trained weights" in card


def test_hashes_follow_what_they_are_of(trained: Config) -> None:
    before = provenance.gather(trained)
    assert provenance.changed(before, before) == []
    changed = config.override(trained, {"captions.preset": "name", "data.train": trained.data.val})
    now = provenance.gather(changed)
    assert now["config"] != before["config"]
    assert provenance.changed(before, now) == ["captions", "data.train"]
    assert provenance.changed({**before, "code": "another"}, before) == ["code"]


def test_a_run_says_what_changed_since_it_began(
    recipe: Config, cluster: None, capsys: object
) -> None:
    url = training.locate(recipe).url
    origin = provenance.gather(recipe)
    storage.write_json(f"{url}/provenance.json", {**origin, "code": "earlier"})
    training.train(config.override(recipe, {}), in_process=True)
    assert storage.read_json(f"{url}/provenance.json")["code"] == "earlier"
    assert f"changed since {recipe.run_id} began: code" in capsys.readouterr().err  # type: ignore
