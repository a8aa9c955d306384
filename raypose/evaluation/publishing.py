"""From a finished run to a release."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypose import storage, training
from raypose.config import Config
from raypose.console import bar, plural
from raypose.errors import TrainError
from raypose.releases import documents, gate, golden, registry
from raypose.releases.predictor import Predictor, write_release
from raypose.training import finish, runs, sinks

__all__ = ["publish", "with_same_weights"]

WEIGHTS = ("open_clip_model.safetensors", "classifier.safetensors")


CARD = "README.md"
MODELS = {"run": "this release", "probe": "probe", "zero_shot": "zero-shot"}
"""Key of `verdict.hold_up` → its name, in the order of the card."""


def publish(config: Config, *, backends: bool | None = None) -> registry.Release:
    """Make a release of a finished run's final model.

    What the run was held against, where it was, goes into its metrics and its model card. The same
    again is the same version.

    Args:
        config: of the run.
        backends: whether to find on validation pictures by which backends it may be served: see
            `gate`. By default where its image tower is large, as of a small one torch is fast.

    Raises:
        TrainError: where the run is not finished.
        CheckpointError: where its model is of no use.
    """
    result = training.finished(config)
    if result is None:
        raise TrainError(f"{config.run_id}: not finished; run: raypose train with the same recipe")
    origin = storage.read_json(storage.join(result.url, runs.PROVENANCE))
    end = storage.read_json(storage.join(finish.url_of(result.url), finish.FINAL))
    held = runs.baselines(result)
    figures = {**result.metrics, "baselines": held} if held else result.metrics
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = storage.download_folder(result.checkpoint, folder / "final")
        write_release(source, folder / "release", config, figures, {**origin, "final": end})
        if held:
            card = folder / "release" / CARD
            text = card.read_text(encoding="utf-8")
            card.write_text(_with_baselines(text, held), encoding="utf-8")
        _prove(folder / "release", config.data.val, backends=backends)
        release = registry.publish(config.storage, config.name, folder / "release")
    about = {"name": release.name, "version": release.version, "url": release.url}
    sinks.register(config, result.url, metrics=result.metrics, **about)
    return release


def _prove(folder: Path, url: str, *, backends: bool | None) -> None:
    """Write what a release is proven by where it is loaded, and by which backends it may be."""
    predictor = Predictor.load(folder, device="cpu")
    golden.write(predictor, folder, side=predictor.clip.image_size)
    with bar("holding backends against torch") as progress:
        found = gate.open_to(predictor, url, asked=backends, progress=progress)
    gate.write(found, folder)


def with_same_weights(root: str, release: registry.Release) -> list[registry.Release]:
    """Return the other versions of a release that hold the same model and classifier."""

    def digests(one: registry.Release) -> list[str | None]:
        url = storage.join(one.url, registry.MANIFEST)
        files = documents.read(documents.Manifest, url, mend="publish it again").files
        return [files.get(name) for name in WEIGHTS]

    prefix = f"{release.name}:"
    names = [row["release"] for row in registry.overview(root)]
    others = [registry.resolve(root, name) for name in names if name.startswith(prefix)]
    return [one for one in others if one != release and digests(one) == digests(release)]


def _with_baselines(card: str, held: Mapping[str, Any]) -> str:
    """Return a model card with a section on baselines before its first section."""
    rows = "\n".join(
        f"| {name} | {held[key]['top1']:.4f} | {held[key]['balanced_accuracy']:.4f} |"
        for key, name in MODELS.items()
    )
    line = held["verdict"]
    told = f"This release is **{line}**." if line else "It is worse than neither."
    section = (
        "## Beside what it came from\n\n"
        f"On {plural(held['run']['num_examples'], 'picture')} of `{held['data']}`:\n\n"
        f"| model | top-1 | balanced accuracy |\n|---|---|---|\n{rows}\n\n{told}\n\n"
    )
    before, heading, after = card.partition("\n## ")
    return f"{before}\n{section}{heading.lstrip()}{after}"
