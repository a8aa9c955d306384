"""How long a picture takes by each backbone of a search: measured on the serving path, here."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from raypose import storage, synthesis
from raypose.config import Config
from raypose.console import status, waiting
from raypose.errors import RayposeError
from raypose.releases.predictor import Predictor, write_release
from raypose.synthesis.poses import POSES
from raypose.training import finish, runs
from raypose.tuning.course import point_of
from raypose.tuning.records import Trial, best

__all__ = ["LATENCY", "measure"]

LATENCY = "latency.json"
"""In a search's folder: backbone → ms, the median of a picture from its bytes to its posture."""
WARM, ROUNDS, SIDE = 3, 15, 480


def measure(config: Config, trials: Iterable[Trial], url: str) -> None:
    """Measure each backbone that a search over several has finished a trial of, once.

    Args:
        config: the search's recipe.
        trials: of the search.
        url: of the search.
    """
    if "model.backbone" not in config.search.space:
        return
    place = storage.join(url, LATENCY)
    known = storage.read_json(place) if storage.exists(place) else {}
    finished = best(trial for trial in trials if trial.state == "finished")
    for trial in finished:
        name = str(trial.values["model.backbone"])
        if name in known:
            continue
        try:
            with waiting(f"timing {name}"):
                known[name] = {"ms": _median_ms(point_of(config, trial.values, url))}
        except Exception as error:  # no figure beside it is worth a search
            status(f"latency of {name} is not known: {type(error).__name__}: {error}")
    storage.write_json(place, known)


def _median_ms(config: Config) -> float:
    """Return the milliseconds of a picture by a finished run's final model."""
    result = runs.finished(config)
    if result is None:
        raise RayposeError(f"{config.run_id}: not finished")
    buffer = io.BytesIO()
    synthesis.render(next(iter(POSES)), seed=0, size=SIDE).save(buffer, "JPEG")
    picture = buffer.getvalue()
    with tempfile.TemporaryDirectory() as name:
        final = storage.download_folder(result.checkpoint, Path(name) / "final")
        end = storage.read_json(str(final / finish.FINAL))
        write_release(final, Path(name) / "release", config, result.metrics, {"final": end})
        predictor = Predictor.load(Path(name) / "release")
        spent = []
        for _ in range(WARM + ROUNDS):
            began = time.perf_counter()
            predictor.predict([picture])
            spent.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(spent[WARM:]), 3)
