"""The release that a replica answers with: pinned, or following an alias from one to the next.

A new release is fetched once a node, held against its manifest, loaded beside the one in use, and
has to give its own golden answers; only then does it take requests. One that fails in any of this
is refused by name, and what was in use stays. Here is no Ray.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypose.config import ServeConfig
from raypose.console import status
from raypose.errors import NotFoundError, RayposeError, RegistryError, StorageError
from raypose.releases import golden, registry, shelf
from raypose.releases.predictor import Predictor
from raypose.releases.registry import LOCAL, REPUBLISH, Release
from raypose.serving.figures import UNPROVEN

__all__ = ["Held", "Holder", "loaded", "proven"]


@dataclass(frozen=True)
class Held:
    """A release in use.

    Attributes:
        release: its name and version.
        predictor: what it classifies by.
        since: seconds since 1970.
        proven: whether it gave its golden answers; not where it was published before there were
            any.
    """

    release: str
    predictor: Predictor
    since: float
    proven: bool = True


def proven(release: Release, **how: Any) -> tuple[Predictor, bool]:
    """Fetch, check, load and try a release.

    Args:
        release: to load.
        how: see `Predictor.load`.

    Returns:
        What it classifies by, and whether it has golden pictures that proved it.

    Raises:
        RegistryError: naming a file that is not what was published.
        CheckpointError: where it does not load, or does not give its golden answers.
        StorageError: where it cannot be read.
    """
    with tempfile.TemporaryDirectory() as name, _without(release.url):
        if release.version == LOCAL:  # it has no manifest to be known by
            folder, kept = registry.fetch(release, Path(name)), None
        else:
            folder = shelf.fetched(release)
            kept = shelf.beside(folder)
        with _without(str(folder)):
            predictor = Predictor.load(folder, kept=kept, **how)
            has_golden = golden.prove(predictor, folder)
            if not has_golden:
                golden.check(predictor, side=predictor.clip.image_size)
    return predictor, has_golden


@contextmanager
def _without(place: str) -> Iterator[None]:
    """Name what lies at a place by its own name: where that is says nothing to who asks for it."""
    try:
        yield
    except RayposeError as error:
        text = str(error).replace(f"{place}/", "").replace(f"{place}: ", "")
        raise type(error)(text) from error


def loaded(release: Release, settings: ServeConfig) -> Held:
    """Return a release, tried and warm: see `proven`."""
    device = None if settings.gpus_per_replica else "cpu"
    threads = max(1, int(settings.cpus_per_replica))
    predictor, has_golden = proven(
        release, device=device, backend=settings.backend, threads=threads
    )
    _warm(predictor, settings.max_batch_size)
    return Held(str(release), predictor, time.time(), has_golden)


def _warm(predictor: Predictor, most: int) -> None:
    """Make what the first passes of the smallest and the largest batch would wait for."""
    side = predictor.clip.image_size
    for count in (1, most):
        predictor.probabilities(np.zeros((count, 3, side, side), dtype=np.uint8))


class Holder:
    """Holds one release, or what an alias points at.

    Args:
        storage: where releases/ lies.
        settings: of the endpoint.
        load: a release → ready to use.
        tell: takes a line about what is taken or refused.

    Attributes:
        held: what is in use; None before the first.
        refused: name and version → why it was not taken; it is not tried again, unless it lacked
            a file, which may yet come.
        trouble: why the alias or a release could not be read when it was last looked at.
    """

    def __init__(
        self,
        storage: str,
        settings: ServeConfig,
        *,
        load: Callable[[Release, ServeConfig], Held] = loaded,
        tell: Callable[[str], None] = status,
    ) -> None:
        self.storage, self.settings, self._tell = storage, settings, tell
        self.held: Held | None = None
        self.refused: dict[str, str] = {}
        self.trouble = ""
        self._load = load
        self._lacking: set[str] = set()
        self._followed: tuple[str, str] | None = None

    @property
    def awaited(self) -> list[str]:
        """What is refused for lack of a file, and looked at again."""
        return sorted(self._lacking & self.refused.keys())

    @property
    def follows(self) -> str:
        """The alias that is followed, as NAME@ALIAS; empty where a release is pinned."""
        return "@".join(self._followed) if self._followed else ""

    def point(self, reference: str) -> None:
        """Take what a reference means from now on; what is in use stays where that fails.

        Raises:
            RayposeError: where nothing is in use, and nothing can be.
        """
        self._followed = registry.followed(self.storage, reference)
        wanted = registry.resolve(self.storage, reference)
        self.refused.pop(str(wanted), None)  # who asks by name asks again
        self._take(wanted)
        if self.held is None and self._followed:
            self._take_earlier(wanted)
        if self.held is None:
            raise RegistryError(f"{wanted}: {self.refused.get(str(wanted)) or self.trouble}")

    def _take_earlier(self, wanted: Release) -> None:
        """Start with the last that is good of those that the alias pointed at before."""
        assert self._followed is not None
        tried, too = wanted, ""
        for earlier in registry.earlier(self.storage, *self._followed):
            why = f"{tried} is refused{too}" if str(tried) in self.refused else self.trouble
            self._tell(f"{why}; starting with {earlier}, which was there before")
            self._take(earlier)
            if self.held is not None:
                return
            tried, too = earlier, ", too"

    def look(self) -> None:
        """Take what the alias points at by now, where that is new and was not refused."""
        if not self._followed:
            return
        try:
            wanted = registry.pointed(self.storage, *self._followed)
        except RayposeError as error:
            self._note(str(error))
            return
        if self.held is None or str(wanted) != self.held.release:
            self._take(wanted)
        else:
            self.trouble = ""

    def _take(self, release: Release) -> None:
        """Load a release and answer with it, or note why not."""
        if str(release) in self.refused and str(release) not in self._lacking:
            self.trouble = ""
            return
        try:
            self.held = self._load(release, self.settings)
        except (StorageError, OSError, MemoryError) as error:  # it may do the next time
            self._note(f"{release}: {error or type(error).__name__}")
            return
        except NotFoundError as error:  # a store that is mirrored gets one file after another
            self._refuse(release, str(error))
            self._lacking.add(str(release))
        except RayposeError as error:
            self._refuse(release, str(error))
        except Exception as error:  # what a broken release may raise is without end
            self._refuse(release, f"does not load ({type(error).__name__}: {error}); {REPUBLISH}")
        else:
            self.refused.pop(str(release), None)
            unproven = "" if self.held.proven else f", {UNPROVEN}"
            self._tell(f"{release} is answered with{unproven}")
        self.trouble = ""

    def _refuse(self, release: Release, why: str) -> None:
        line = self._line(why.removeprefix(f"{release}: "))
        if line != self.refused.get(str(release)):
            self._tell(f"{release} is refused: {line}")
        self.refused[str(release)] = line
        self._lacking.discard(str(release))

    def _line(self, text: str) -> str:
        """Return a text as it may be told to anyone: short, and without where the storage is."""
        root = self.storage.rstrip("/")
        return " ".join((text.replace(f"{root}/", "") if root else text).split())[:300]

    def _note(self, trouble: str) -> None:
        line = self._line(trouble)
        if line != self.trouble:
            self._tell(line)
        self.trouble = line
