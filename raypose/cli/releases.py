"""Releases: `publish`, `releases`, `promote`, `rollback`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from raypose.cli.evaluation import RELEASE
from raypose.cli.places import looked_up
from raypose.cli.telling import origin
from raypose.cli.training import RECIPE, given
from raypose.cli.verbs import ANY, Call, Keys, Verb, Word
from raypose.config.section import NAME_PATTERN
from raypose.console import plural, status, waiting

__all__ = ["VERBS"]

SECTIONS = ("storage",)


class AliasKeys(Keys):
    """Which alias is moved."""

    alias: str = Field("production", pattern=NAME_PATTERN)
    """Its name."""


class PublishKeys(Keys):
    """What is found out about a release beside making it."""

    backends: bool | None = None
    """Hold what computes faster on a CPU against torch, on pictures of data.val, and let the
    release be served by what answers alike; by default where the image tower has a million
    parameters and more: of a smaller one torch is fast, and the others take seconds to be made."""


def publish(call: Call) -> None:
    """Make a release of a finished run."""
    config = call.config(call.words[0])
    from raypose.errors import TrainError
    from raypose.releases import registry
    from raypose.training import runs

    result = runs.finished(config)
    if result is None:
        run_id = runs.locate(config).id
        others = [
            f"{name} is, with other {', '.join(keys[:3]) or 'keys'}"
            for name, keys in runs.beside(config).items()
        ]
        done = "".join(f"; {other}" for other in others[:3])
        raise TrainError(f"{run_id}: not finished; run: raypose train {given(call)}{done}")
    with waiting("loading torch"):
        from raypose.evaluation import publishing
    known = {row["release"] for row in registry.overview(config.storage)}
    release = publishing.publish(config, backends=call.keys.backends)
    text = f"{release}\n{release.url}"
    alike = publishing.with_same_weights(config.storage, release)
    if str(release) in known:
        status(f"{release} is published already: nothing is new")
    elif alike:
        status(f"{release} holds the same weights as {alike[-1]}")
    verdict = runs.baselines(result).get("verdict", "")
    if verdict:
        text = f"{text}\n{verdict}"
    document = {
        "release": str(release),
        "url": release.url,
        "again": str(release) in known,
        "same_weights": [str(other) for other in alike],
        "verdict": verdict,
    }
    call.show(document, text)
    at = call.at(config)
    call.next(f"raypose promote {release}{at}", f"raypose classify {release} PICTURE…{at}")


def list_releases(call: Call) -> None:
    """List releases and their aliases."""
    from raypose.releases import registry

    root = call.config().storage
    with waiting(f"looking in {root}"):
        found = registry.described(root)
    lines = [
        "  ".join(filter(None, (row["release"], _whose(row["owner"], row["at"]), _pointed(row))))
        for row in found
    ]
    status(f"releases in {root}")
    document = {"storage": root, "releases": found}
    call.show(document, "\n".join(lines) or f"nothing is published in {root}")


def show_release(call: Call) -> None:
    """Show where a release lies, what it is made of, and its figures."""
    from raypose import storage
    from raypose.config import read_stored

    release = looked_up(call.config().storage, call.words[0])

    def read(name: str) -> dict[str, Any]:
        url = storage.join(release.url, name)
        if not storage.exists(url):
            return {}
        mend = "publish it again"
        return read_stored(dict[str, Any], url, what="a document of a release", mend=mend)

    metrics, recipe, backends = read("metrics.json"), read("config.json"), _backends(release.url)
    made = read("MANIFEST.json")
    owner, at = str(made.get("by", "")), str(made.get("at", ""))
    document = {
        "release": str(release),
        "url": release.url,
        "owner": owner,
        "at": at,
        "metrics": metrics,
        "config": recipe,
        "provenance": read("provenance.json"),
        "backends": backends,
    }
    model, data = recipe.get("model"), recipe.get("data")
    lines = [str(release), release.url]
    lines += [f"published {whose}"] if (whose := _whose(owner, at)) else []
    lines += [f"backbone {model.get('backbone')}"] if isinstance(model, dict) else []
    lines += [f"trained on {data.get('train')}"] if isinstance(data, dict) else []
    lines += [f"{key} {value:.4f}" for key, value in metrics.items() if isinstance(value, float)]
    lines += [f"backend {name}: {_standing(one)}" for name, one in backends.items()]
    call.show(document, "\n".join(lines))


def _backends(url: str) -> dict[str, dict[str, Any]]:
    """Return how each backend of a release did; nothing for one published before there were any."""
    from raypose import storage
    from raypose.releases import documents

    place = storage.join(url, documents.BACKENDS)
    if not storage.exists(place):
        return {}
    found = documents.read(documents.Backends, place, mend="publish it again")
    return {name: one.model_dump(exclude_none=True) for name, one in found.backends.items()}


def _standing(one: dict[str, Any]) -> str:
    """Return in a few words whether a backend is admitted, and by what."""
    if not one["admitted"]:
        return f"not admitted: {one['why']}"
    if not one["num_pictures"]:
        return "the reference"
    return (
        f"admitted: of {plural(one['num_pictures'], 'picture')} {one['changed_top1']:.1%} changed "
        f"class, no logit by more than {one['largest_difference']:g}"
    )


def _whose(owner: str, at: str) -> str:
    """Return who published a release and when, as its manifest says it."""
    try:
        began = datetime.fromisoformat(at).timestamp()
    except ValueError:
        began = 0.0
    return origin(owner, began)


def _pointed(row: dict[str, Any]) -> str:
    return f"← {', '.join(row['aliases'])}" if row["aliases"] else ""


def promote(call: Call) -> None:
    """Point production at a release."""
    from raypose.releases import registry

    config, alias = call.config(), call.keys.alias
    release = registry.promote(config.storage, call.words[0], alias=alias)
    text = f"{release.name}@{alias} is {release.version}"
    call.show({"release": str(release), "alias": alias}, text)
    status(f"endpoints that follow {release.name}@{alias} take it within seconds")
    call.next(f"raypose serve {release.name}@{alias}{call.at(config)}")


def rollback(call: Call) -> None:
    """Point production back."""
    from raypose.releases import registry

    alias = call.keys.alias
    release = registry.rollback(call.config().storage, call.words[0], alias=alias)
    text = f"{release.name}@{alias} is {release.version} again"
    status("a second rollback undoes this one")
    call.show({"release": str(release), "alias": alias}, text)


VERBS = (
    Verb(
        "publish",
        (RECIPE,),
        "make a release of a finished run",
        publish,
        ("raypose publish postures-recipe.yaml",),
        PublishKeys,
        sections=(ANY,),
    ),
    Verb(
        "promote",
        (RELEASE,),
        "point production at a release",
        promote,
        ("raypose promote postures:v1", "raypose promote postures:v2 alias=canary"),
        AliasKeys,
        SECTIONS,
    ),
    Verb(
        "rollback",
        (Word("NAME", "of the release"),),
        "point production back",
        rollback,
        ("raypose rollback postures",),
        AliasKeys,
        SECTIONS,
    ),
    Verb(
        "releases list",
        (),
        "list releases and their aliases",
        list_releases,
        ("raypose releases list", "raypose releases list storage=s3://my-bucket"),
        sections=SECTIONS,
    ),
    Verb(
        "releases show",
        (RELEASE,),
        "show where a release lies, its recipe and its figures",
        show_release,
        ("raypose releases show postures",),
        sections=SECTIONS,
    ),
)
