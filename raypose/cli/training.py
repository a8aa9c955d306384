"""From a recipe to a run: `check`, `config`, `train`, `search`, `few-shot`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field

from raypose.cli.verbs import ANY, Call, Keys, Verb, Word, section_rows
from raypose.config.section import Count
from raypose.console import bar, plural, status, waiting
from raypose.errors import ConfigError

__all__ = ["RECIPE", "VERBS", "given"]

RECIPE = Word("RECIPE", "a YAML file that says what differs from the defaults")


class TrainKeys(Keys):
    """What is done after training."""

    baselines: bool = True
    """Hold the result against the model it came from, on data.test, or data.val without it."""
    dry_run: bool = False
    """Take three steps on made-up pictures and say what the run will take; train nothing."""


class SearchKeys(Keys):
    """What is done after a search."""

    then: tuple[Literal["train", "publish"], ...] = ()
    """train: train the winner at full length; publish: also publish it, and promote it where it
    beats production on data.test by a paired test."""


class FewShotKeys(Keys):
    """Which points of the curve."""

    per_class: tuple[Count, ...] = (5, 10, 20, 50)
    """Pictures of each class, for each point."""
    draws: Annotated[int, Field(ge=2)] = 5
    """Supports for each point."""
    steps: Count = 100
    """Of each training, about; a probe takes none."""
    methods: tuple[Literal["probe", "lora", "full"], ...] = ("probe",)
    """Ways to train."""
    classes: tuple[str, ...] = ()
    """Ids of the classes to tell apart; by default all."""
    out: str = ""
    """Where to write; by default few-shot/ under the storage root."""


def check(call: Call) -> None:
    """Print the resolved document of a recipe."""
    import yaml

    from raypose import config
    from raypose.data import inputs
    from raypose.errors import NotFoundError

    resolved = call.config(call.words[0])
    classes = inputs.check_names(resolved)
    if "/" in resolved.model.backbone:
        with waiting("loading open_clip"):
            _check_weights(resolved)
    found = {}
    for key in ("train", "val", "test", "synthetic"):
        url = getattr(resolved.data, key)
        if url:
            try:
                found[key] = inputs.check(url, classes, key=f"data.{key}")
            except NotFoundError as error:  # a recipe may be written before its data
                status(f"{error}; training will refuse it")
        elif key == "train":
            status("data.train: not set; training needs shards, which raypose shards build makes")
    inputs.tell_shared(found)
    if resolved.search.space:
        _tell_search(resolved)
    document = config.dump(resolved)
    shown = {**document, "data": {**document["data"], "taxonomy": _named(resolved, classes)}}
    search = {
        **document["search"],
        "space": config.sparse(resolved).get("search", {}).get("space", {}),
    }
    shown["search"] = search
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    call.show(document, f"# {resolved.run_id}\n{text}".rstrip())


def _tell_search(resolved: Any) -> None:
    """Prove the space of a search, and say how large it is and how long it will take."""
    from raypose import config
    from raypose.data import inputs
    from raypose.tuning import records

    inputs.check_search(resolved)
    proof = config.prove(resolved)
    points = "endlessly many" if proof.num_points is None else f"{proof.num_points:,}"
    for name in proof.idle:
        key, _, number = name.partition("@")
        which = f" (range {int(number) + 1})" if number else ""
        status(f"search.space: {key}{which} is never asked for: its conditions do not hold")
    trials = plural(resolved.search.num_trials, "trial")
    status(f"search.space: {points} points, 256 of them drawn and resolved; {trials} asked for")
    pace = records.pace(resolved)
    if pace is None:
        status(
            "how long it takes is known after its first trial; raypose train RECIPE dry_run=true"
        )
    else:
        status(f"about {_span(pace * resolved.search.num_trials)} at {_span(pace)} a trial so far")


def _named(config: Any, classes: Any) -> str:
    """Return what a person calls a document's taxonomy: its cards are in the document."""
    held = config.data.taxonomy
    return held if isinstance(held, str) else str(held.get("source", classes.name))


def _check_weights(config: Any) -> None:
    """Refuse weights that open_clip has not, where it is installed to tell."""
    from importlib.util import find_spec

    if find_spec("open_clip") and config.model.backbone not in config.model.architectures:
        from raypose.clip.model import check_weights

        check_weights(config.model)


def show_config(call: Call) -> None:
    """Print every key of a recipe with its default and what it does."""
    wanted = " ".join(call.words).lower().split()
    rows = [row for row in section_rows() if _speaks(" ".join(row), wanted)]
    rows = [row for row in rows if _speaks(row[0], wanted)] or rows
    from raypose.errors import UsageError

    if not rows:
        raise UsageError(f"config: no key speaks of {' '.join(wanted)!r}; see raypose config")
    document = [dict(zip(("key", "default", "help"), row, strict=True)) for row in rows]
    from raypose.cli.usage import laid_out

    call.show(document, "\n".join(laid_out(rows)))


def _speaks(text: str, wanted: Sequence[str]) -> bool:
    """Tell whether a text has words that begin so: "serve" is not in "preserve"."""
    found = [re.escape(each).replace(r"\-", "[-_ ]") for each in wanted]
    begins = [f"(?<![a-z]){each}" if each[:1].isalpha() else each for each in found]
    return all(re.search(each, text.lower()) for each in begins)


def _ready(config: Any) -> None:
    """Answer mistakes in what a recipe names before anything heavy is loaded."""
    from raypose.data import inputs

    with waiting("reading manifests"):
        inputs.ready(config)


def given(call: Call) -> str:
    """Return the recipe and its pairs as they were given, to be given to another verb."""
    words = shlex.split(call.command)[2:]
    own = tuple(f"{name}=" for name in type(call.keys).model_fields)
    return shlex.join(word for word in words if not word.startswith((*own, "-")))


def train(call: Call) -> None:
    """Train, from the last checkpoint on; once for each of `train.seeds`."""
    config = call.config(call.words[0])
    if call.keys.dry_run:
        _estimate(call, config)
        return
    if len(config.train.seeds) == 1:
        raise ConfigError("train.seeds: one seed has no spread; give two or more, or seed=")
    from raypose.config import override
    from raypose.training import runs

    seeds = config.train.seeds
    configs = [override(config, {"seed": seed, "train.seeds": ()}) for seed in seeds] or [config]
    before = [runs.finished(each) for each in configs]
    results = [found for found in before if found is not None]
    if None in before:
        results = _trained(call, configs)
    if seeds:
        from raypose.evaluation.seeds import conclude

        _show_seeds(call, conclude(config, results))
        return
    (result,) = results
    held = runs.baselines(result)
    if before[0]:
        status(f"{result.run_id} is finished already: nothing to train; see {result.url}")
        changed = runs.changed_data(config, result)
        if changed:
            status(changed)
        if config.data.val and not held:
            status("it was not held against its baselines; raypose evaluate does that")
    figures = "  ".join(
        f"{key} {value:.4f}" for key, value in result.metrics.items() if isinstance(value, float)
    )
    text = f"{result.run_id}  best epoch {result.metrics['epoch']}  {figures}\n{result.checkpoint}"
    if held.get("verdict"):
        text = f"{text}\n{held['verdict']}"
    call.show({**asdict(result), "baselines": held}, text)
    call.next(f"raypose publish {given(call)}")


def _trained(call: Call, configs: Sequence[Any]) -> list[Any]:
    """Train each of some recipes on one Ray; return their results."""
    _ready(configs[0])
    with waiting("loading torch and Ray"):
        from raypose import runtime
        from raypose.evaluation.verdict import hold_up
        from raypose.training import runs
        from raypose.training.run import train as run

    results = []
    with runtime.connect(configs[0].cluster, verbose=call.verbose):
        for config in configs:
            if len(configs) > 1:
                status(f"seed {config.seed}: {config.run_id}")
            begins = runs.finished(config) is None
            results.append(run(config))
            if begins and call.keys.baselines and (config.data.val or config.data.test):
                with waiting("holding it against its baselines"):
                    hold_up(config, results[-1])
    return results


def _show_seeds(call: Call, found: dict[str, Any]) -> None:
    lines = [
        f"{key:<22} {figure['mean']:.4f} ± {figure['sd']:.4f}  "
        f"({figure['interval'][0]:.4f} to {figure['interval'][1]:.4f})"
        for key, figure in found["figures"].items()
    ]
    count = plural(len(found["runs"]), "seed")
    call.show(found, "\n".join([f"{found['name']}: mean of {count}", *lines, found["url"]]))


def _estimate(call: Call, config: Any) -> None:
    """Say what a run will take."""
    from raypose.data import inputs

    with waiting("reading manifests"):
        num_rows = inputs.load(config).manifests["train"].num_rows
    with waiting("taking a few steps"):
        from raypose.training.estimate import estimate

        found = estimate(config, num_rows)
    millions = f"{found.parameters / 1e6:.1f} M parameters, {found.learned / 1e6:.1f} M learn"
    lines = [
        f"{config.run_id}: {millions}",
        f"{found.num_steps} steps of {config.optim.batch_size} pictures, "
        f"{found.steps_per_epoch} an epoch, on {plural(config.train.least_workers, 'worker')}",
        f"a step {found.step_s:.2f} s, an epoch {_span(found.epoch_s)}, all "
        f"{_span(found.run_s)} on {found.device}; reading, validation and checkpoints come on top",
        f"memory of a worker {found.memory_bytes / 1e9:.1f} GB",
    ]
    call.show({"run": config.run_id, **asdict(found)}, "\n".join(lines))
    call.next(f"raypose train {given(call)}")


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def search(call: Call) -> None:
    """Try recipes and write down the best."""
    config = call.config(call.words[0])
    if "publish" in call.keys.then and not config.data.test:
        raise ConfigError(
            "then=publish: data.test is not set, and a release is promoted only where it beats "
            "production on pictures that chose nothing; raypose shards split makes such a set"
        )
    from raypose.tuning import records

    result = records.finished(config)
    if result is None or call.keys.then:
        from raypose.data import inputs

        inputs.check_search(config)
        _ready(config)
        with waiting("loading torch and Ray"):
            from raypose import runtime
            from raypose.tuning.study import search as run

        with runtime.connect(config.cluster, verbose=call.verbose):
            result = result or run(config)
            after = _after(call, result.config)
    else:
        after = {}
        status(f"{config.search_id} is finished already: see {result.url}")
    values = "  ".join(f"{key}={value}" for key, value in result.values.items())
    document = {
        "url": result.url,
        "recipe": result.recipe,
        "values": result.values,
        "score": result.score,
        "trials": result.trials,
        "notes": result.notes,
        **after,
    }
    text = f"best of {len(result.trials)}: {records.METRIC} {result.score:.4f}  {values}"
    lines = [text, *result.notes, *after.get("said", ()), result.recipe]
    call.show(document, "\n".join(lines))
    call.next(f"raypose searches report {config.search_id}{call.at(config)}")
    if not call.keys.then:
        call.next(f"raypose train {result.recipe}")


def _after(call: Call, winner: Any) -> dict[str, Any]:
    """Train the winner, and publish and promote it, as far as that was asked for."""
    if not call.keys.then:
        return {}
    from raypose.evaluation.promotion import train_and_publish

    return train_and_publish(winner, publish="publish" in call.keys.then)


def few_shot(call: Call) -> None:
    """See how far few pictures a class go."""
    config, keys = call.config(call.words[0]), call.keys
    _ready(config)
    with waiting("loading torch and Ray"):
        from raypose import runtime, storage
        from raypose.evaluation import fewshot, report

    with runtime.connect(config.cluster, verbose=call.verbose), bar("few-shot") as update:
        found = fewshot.run(
            config,
            per_class=keys.per_class,
            num_draws=keys.draws,
            num_steps=keys.steps,
            methods=keys.methods,
            classes=keys.classes,
            progress=update,
        )
    url = keys.out or storage.join(config.storage, "few-shot", config.run_id)
    storage.write_json(storage.join(url, "draws.json"), found)
    storage.write_bytes(storage.join(url, "report.html"), report.few_shot_page(found).encode())
    lines = [
        f"{method:<6} {point['per_class']:>4} a class  top-1 {point['mean']:.3f} "
        f"± {point['sd']:.3f}  ({point['interval'][0]:.3f} to {point['interval'][1]:.3f})"
        + (f"  rate {found['rates'][method]:g}" if method in found["rates"] else "")
        for method, points in found["methods"].items()
        for point in points
    ]
    lines.append(f"zero-shot          top-1 {found['zero_shot']:.3f}  {found['note']}".rstrip())
    if not config.data.test:
        lines.append("scored on data.val: data.test is for pictures that chose nothing")
    call.show({"url": url, **found}, "\n".join([*lines, url]))


VERBS = (
    Verb(
        "check",
        (RECIPE,),
        "prove a recipe, and print the whole document",
        check,
        ("raypose check postures-recipe.yaml optim.epochs=5",),
        sections=(ANY,),
    ),
    Verb(
        "config",
        (Word("WORD", "words to filter by, such as optim", many=True, least=0),),
        "print every key with its default and what it does",
        show_config,
        ("raypose config", "raypose config optim", "raypose config learning rate"),
    ),
    Verb(
        "train",
        (RECIPE,),
        "train, from the last checkpoint on",
        train,
        (
            "raypose train postures-recipe.yaml",
            "raypose train postures-recipe.yaml optim.learning_rate=3e-5 train.num_workers=2",
            "raypose train postures-recipe.yaml dry_run=true",
            "raypose train postures-recipe.yaml train.seeds=0,1,2",
        ),
        TrainKeys,
        (ANY,),
        as_job=True,
    ),
    Verb(
        "search",
        (RECIPE,),
        "try recipes and write down the best",
        search,
        (
            "raypose search postures-recipe.yaml search.num_trials=20",
            "raypose search postures-recipe.yaml search.max_hours=8 then=train,publish",
        ),
        SearchKeys,
        (ANY,),
        as_job=True,
    ),
    Verb(
        "few-shot",
        (RECIPE,),
        "see how far few pictures a class go",
        few_shot,
        ("raypose few-shot postures-recipe.yaml per_class=5,10,20 methods=probe,lora,full",),
        FewShotKeys,
        (ANY,),
        as_job=True,
    ),
)
