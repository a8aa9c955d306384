"""Caption grammars ranked without training: by the model a recipe starts from, on its pictures.

Nothing was trained on these pictures so far, so that they rank without favour, and the validation
set stays unseen. The best of many grammars is flattered by having been chosen: what is claimed of
it comes from pictures that did not choose it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from raypose import captions, metrics
from raypose.captions import taxonomy
from raypose.captions.grammar import format_grammar, parse
from raypose.captions.nodes import Node, settled
from raypose.captions.taxonomy import Taxonomy
from raypose.clip import model
from raypose.config import Config, override, space
from raypose.console import plural
from raypose.errors import CaptionError
from raypose.inference.embedding import Progress
from raypose.metrics.figures import Counts, Floats
from raypose.tuning.zero_shot import Hits, ZeroShot

__all__ = [
    "OWN",
    "Candidate",
    "Ranked",
    "Ranking",
    "candidates",
    "rank",
    "verdict",
]

OWN = "recipe"
"""Label of the recipe's own grammar."""
SHOWN = 20
"""Of the best grammars, those that have intervals; the recipe's own and the controls have too."""
KEYS = ("captions.preset", "captions.grammar")
UNTRAINED = "not ranked before training, as its text tower was not trained"


@dataclass(frozen=True)
class Candidate:
    """A grammar that a search may draw.

    Attributes:
        grammar: with nothing left to choose.
        chosen: place in the grammar as it was → the way taken there: see `nodes.bind`.
        values: dotted key of the search space → its choice, where that is how it is drawn.
    """

    grammar: Node
    chosen: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranked:
    """How a grammar does.

    Attributes:
        label: its name.
        candidate: the grammar, and how a search draws it.
        score: balanced accuracy in 0..1.
        top1: share of pictures in 0..1.
        is_control: it is there to be beaten.
        interval: of the score at 95 %; None for grammars far from the best.
        difference: the score less that of the recipe's own grammar on the same pictures, and the
            95 % interval of that; None likewise.
    """

    label: str
    candidate: Candidate
    score: float
    top1: float
    is_control: bool
    interval: list[float] | None = None
    difference: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return its JSON form."""
        return {
            "label": self.label,
            "grammar": format_grammar(self.candidate.grammar),
            "score": self.score,
            "top1": self.top1,
            "interval": self.interval,
            "difference": self.difference,
            "chosen": dict(self.candidate.chosen),
            "values": dict(self.candidate.values),
            "is_control": self.is_control,
        }


Scored = tuple[Ranked, Hits]


@dataclass(frozen=True)
class Ranking:
    """Grammars and controls, the best first.

    Attributes:
        backbone: whose towers scored them.
        num_pictures: that they were scored on; 0 where none were.
        rows: of each grammar.
        left_out: label → why a grammar could not be scored.
        verdict: the best grammar against the best control, in one line.
        note: why there are no rows; empty where there are.
    """

    backbone: str
    num_pictures: int = 0
    rows: tuple[Ranked, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    verdict: str = ""
    note: str = ""

    @property
    def best(self) -> Ranked | None:
        """The best grammar that is no control."""
        return next((row for row in self.rows if not row.is_control), None)

    def to_dict(self) -> dict[str, Any]:
        """Return its JSON form."""
        return {
            "backbone": self.backbone,
            "num_pictures": self.num_pictures,
            "verdict": self.verdict,
            "note": self.note,
            "grammars": [row.to_dict() for row in self.rows],
            "left_out": dict(self.left_out),
        }

    def __str__(self) -> str:
        """Return lines for a terminal: those that have intervals, then what is to be known."""
        lines = [
            f"{row.score:.4f} ({row.interval[0]:.4f} to {row.interval[1]:.4f})  {row.label}: "
            f"{format_grammar(row.candidate.grammar)}"
            for row in self.rows
            if row.interval
        ]
        reasons = [f"left out: {label}: {reason}" for label, reason in self.left_out.items()]
        return "\n".join([*lines, *reasons, *filter(None, [self.verdict, self.note])])


def candidates(config: Config, *, limit: int, seed: int = 0) -> dict[str, Candidate]:
    """Return label → grammar that a search over a recipe may draw, the recipe's own first.

    They are the choices of ``captions.preset`` and ``captions.grammar`` in `search.space`, or the
    recipe's grammar where these are not searched, each with its ``search:`` nodes settled. Of
    grammars that read alike the first stays.

    Args:
        config: the recipe.
        limit: of the settled forms of each grammar: see `nodes.settled`.
        seed: of the draws where there are more.

    Raises:
        CaptionError: for a preset that there is not, or a grammar that cannot be read.
        TaxonomyError: for the cards.
    """
    classes = taxonomy.load(config.data.taxonomy)
    _, own = next(_forms(config, {}, classes, limit=1, seed=seed))
    found = {format_grammar(own.grammar): (OWN, own)}
    for values in _values(config):
        for label, candidate in _forms(config, values, classes, limit=limit, seed=seed):
            written = format_grammar(candidate.grammar)
            first, held = found.setdefault(written, (label, candidate))
            if held is own:  # it can be drawn, in this way
                found[written] = (first, candidate)
    return dict(found.values())


def _values(config: Config) -> Iterator[dict[str, Any]]:
    """Yield what a search may set of `KEYS`: all combinations of the choices."""
    found = [(key, space.values(config.search.space, key)) for key in KEYS]
    ways = [(key, choices) for key, choices in found if choices]
    for values in itertools.product(*(choice for _, choice in ways)):
        yield dict(zip([key for key, _ in ways], values, strict=True))


def _forms(
    config: Config, values: Mapping[str, Any], classes: Taxonomy, *, limit: int, seed: int
) -> Iterator[tuple[str, Candidate]]:
    """Yield the settled forms of a grammar, each with a label."""
    given = override(config, values).captions
    place = given.preset if given.grammar is None else "grammar"
    node = captions.prune(captions.load(given), classes)
    for form, chosen in settled(node, limit=limit, seed=seed, place=place):
        ways = [f" {at.removeprefix(place)[1:] or '0'}={way}" for at, way in chosen.items()]
        label = place + "".join(ways) if given.grammar is None else format_grammar(form)
        yield label, Candidate(form, chosen, values)


def rank(
    config: Config,
    grammars: Mapping[str, Candidate | Node | str],
    *,
    progress: Progress = lambda done, total: None,
) -> Ranking:
    """Rank grammars by how the model that a recipe starts from does with them; Ray is connected.

    The recipe's own grammar is ranked with them, and four controls: see `captions.controls`.

    Args:
        config: the recipe; its training pictures are scored, `zero_shot.MAX_PICTURES` at most: see
            `embedding.spread`.
        grammars: label → grammar, or its text.
        progress: called with (pictures done, in all) where they are not encoded yet.

    Returns:
        The ranking; without rows, and with a note, where the text tower was not trained.

    Raises:
        CaptionError: where a text is no grammar. One that a class has no caption by, that says the
            same of two classes, or is longer than the text tower takes, is left out and named.
        RayposeError: where the model or the training set is out of reach.
    """
    if not model.has_weights(config.model):
        return Ranking(config.model.backbone, note=UNTRAINED)
    given = {OWN: captions.load(config.captions), **grammars}
    read = {label: _candidate(one) for label, one in given.items()}
    scorer = ZeroShot.load(config, progress=progress)
    rows, left_out = _scored(scorer, read, is_control=False)
    best = max(rows, key=lambda each: each[0].score, default=None)
    like = best[0].candidate.grammar if best else parse("<name>")
    beside = captions.controls(like, scorer.classes)
    named = {f"control: {name}": Candidate(node) for name, node in beside.items()}
    controls, out = _scored(scorer, named, is_control=True)
    return Ranking(
        config.model.backbone,
        len(scorer.targets),
        tuple(_detailed([*rows, *controls], scorer.targets)),
        {**left_out, **out},
        verdict(rows, controls, scorer.targets),
    )


def _candidate(given: Candidate | Node | str) -> Candidate:
    if isinstance(given, Candidate):
        return given
    return Candidate(parse(given) if isinstance(given, str) else given)


def _scored(
    scorer: ZeroShot, given: Mapping[str, Candidate], *, is_control: bool
) -> tuple[list[Scored], dict[str, str]]:
    """Score grammars; return label → reason of those that do not hold."""
    held: dict[str, Candidate] = {}
    left_out: dict[str, str] = {}
    for label, candidate in given.items():
        try:
            scorer.check(candidate.grammar)
            held[label] = candidate
        except CaptionError as error:
            left_out[label] = str(error)
    weights = _weights(scorer.targets)
    every = scorer.hits([candidate.grammar for candidate in held.values()])
    rows = [
        (Ranked(label, one, float(weights[hits].sum()), float(hits.mean()), is_control), hits)
        for (label, one), hits in zip(held.items(), every, strict=True)
    ]
    return rows, left_out


def _detailed(rows: Sequence[Scored], targets: Counts) -> Iterator[Ranked]:
    """Yield rows, the best first, with intervals where they are shown."""
    own = next((hits.astype(float) for row, hits in rows if row.label == OWN), None)
    ordered = sorted(rows, key=lambda each: -each[0].score)
    for place, (row, hits) in enumerate(ordered):
        if place >= SHOWN and not row.is_control and row.label != OWN:
            yield row
            continue
        hit, difference = hits.astype(float), None
        if own is not None and row.label != OWN:
            difference = metrics.of_difference(hit, own, targets)
        yield replace(row, interval=metrics.of_recalls(hit, targets), difference=difference)


def verdict(ours: Sequence[Scored], controls: Sequence[Scored], targets: Counts) -> str:
    """Hold the best grammar against the best control, in one line; empty where either is absent.

    Each half of the pictures is told by the grammar that is best on the other half: the best of
    many on the same pictures would be ahead by chance.

    Args:
        ours: grammars, and which pictures (N,) they tell right.
        controls: the same of controls.
        targets: (N,), class numbers.
    """
    if not ours or not controls:
        return ""
    half = _half(targets)
    one, other = (_best(ours, targets, side) for side in (half, ~half))
    rival, theirs = max(controls, key=lambda each: each[0].score)
    found = metrics.of_difference(
        np.where(half, other, one).astype(float), theirs.astype(float), targets
    )
    low, high = found["interval"]
    pictures = plural(len(targets), "picture")
    head = f"captions make no difference that {pictures} can show"
    if low > 0:
        head = f"captions make a difference on {pictures}"
    elif high < 0:
        head = f"captions do worse than a control on {pictures}"
    return (
        f"{head}: the best of {plural(len(ours), 'grammar')}, chosen on one half and held on the "
        f'other, against "{rival.label}": {found["difference"]:+.4f} balanced accuracy '
        f"({low:+.4f} to {high:+.4f})"
    )


def _best(rows: Sequence[Scored], targets: Counts, side: Hits) -> Hits:
    """Return what the grammar tells right that is best on some of the pictures."""
    weights = _weights(targets[side])
    return max((hits for _, hits in rows), key=lambda hits: float(weights[hits[side]].sum()))


def _half(targets: Counts) -> Hits:
    """Return every other picture of each class, as a mask (N,)."""
    half = np.empty(len(targets), dtype=np.bool_)
    half[np.argsort(targets, kind="stable")] = np.arange(len(targets)) % 2 == 0
    return half


def _weights(targets: Counts) -> Floats:
    """Return what each picture (N,) adds to the balanced accuracy where it is told right."""
    held = np.bincount(targets)
    weights: Floats = 1 / (held[targets] * max(1, int(np.count_nonzero(held))))
    return weights
