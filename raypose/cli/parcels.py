"""What goes to a cluster with a command: its recipe as one document, and small files that it names.

What else only this machine has is refused by name, before anything is sent.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raypose.cli.places import is_shared
from raypose.cli.verbs import ANY, Call, Verb
from raypose.console import OWNER, owner, waiting
from raypose.errors import UsageError

__all__ = ["parcel"]

MAX_BYTES = 8 << 20
"""Of all files that go along: recipes and tables of classes are far smaller."""
LISTS = (".csv", ".txt")
"""Sources of `shards build` that name pictures, and may go along."""
HERE = ("jobs", "address", "num_cpus", "env", "shared", "driver_labels")
"""Keys of `cluster` that are of this side."""
PLACES = (
    "storage", "data.train", "data.val", "data.test", "data.synthetic", "model.image_weights",
    "model.kept",
)  # fmt: skip
"""Keys of a recipe that name places."""
OWN_PLACES = ("out", "pictures", "fill")
"""Keys of verbs that do."""
NAMES = ("RELEASE", "A", "B")
"""Words in place that may be a name in a registry."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*([@:][\w.-]+)?")


def parcel(verb: Verb, call: Call, config: Any) -> Any:
    """Put together what a command needs there.

    Raises:
        UsageError: for what only this machine has, and for more than should go along.
    """
    with waiting("loading Ray"):
        from raypose.runtime.jobs import Parcel
    shared = config.cluster.shared
    files: dict[str, bytes] = {}
    if ANY in verb.sections:
        words = [_recipe(config, files, shared)]
    else:
        words = [_placed(verb, k, word, files, shared) for k, word in enumerate(call.words)]
        words += [f"{key}={_text(value)}" for key, value in _stated(verb, call, config, shared)]
    own = call.keys.model_dump(mode="json", include=call.keys.model_fields_set)
    words += [_pair(key, value, files, shared) for key, value in own.items()]
    flags = [f"--{name}" for name in ("json", "verbose") if getattr(call, name)]
    storage = config.storage if ANY in verb.sections or "storage" in verb.sections else ""
    metadata = {
        "verb": verb.name, "name": config.name if ANY in verb.sections else "",
        "run": _run(verb, config), "storage": storage, "user": owner(), "command": call.command,
    }  # fmt: skip
    return Parcel(
        command=("raypose", *verb.name.split(), *words, *flags),
        files=_sized(files),
        metadata={key: value for key, value in metadata.items() if value},
        env={**_variables(config.cluster.env), OWNER: owner()},
        labels=config.cluster.driver_labels,
    )


def _recipe(config: Any, files: dict[str, bytes], shared: Sequence[str]) -> str:
    """Put the resolved recipe in."""
    import yaml

    from raypose.config import sparse

    document = sparse(config)
    document["storage"] = config.storage
    cluster = {k: v for k, v in document.pop("cluster", {}).items() if k not in HERE}
    if cluster:
        document["cluster"] = cluster
    for key, value in _strings(document):
        if not key.startswith(("data.taxonomy.", "captions.")):
            named = key.removeprefix("search.space.")
            is_place = any(named == place or named.startswith(f"{place}.") for place in PLACES)
            _refuse_local(key, value, shared, is_place=is_place)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    files["recipe.yaml"] = text.encode()
    return "recipe.yaml"


def _placed(
    verb: Verb, number: int, word: str, files: dict[str, bytes], shared: Sequence[str]
) -> str:
    """Return a word in place as it is there: a place, or a name in a registry."""
    wanted = verb.words[min(number, len(verb.words) - 1)].name
    if wanted in NAMES and _NAME.fullmatch(word) and not os.path.exists(word):
        return word
    if wanted == "SOURCE" and word.lower().endswith(LISTS) and os.path.isfile(word):
        return _along(word, files)
    return _refuse_local(word, word, shared, is_place=True)


def _stated(
    verb: Verb, call: Call, config: Any, shared: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """Yield the pairs of sections that count there."""
    for key, value in call.overrides.items():
        section, _, name = key.partition(".")
        if key != "storage" and not (section == "cluster" and name in ("", *HERE)):
            for _, text in _strings(value):
                _refuse_local(key, text, shared, is_place=key in PLACES)
            yield key, value
    if "storage" in verb.sections:
        yield "storage", _refuse_local("storage", config.storage, shared, is_place=True)


def _strings(value: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield of each text in a document its dotted place and itself."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(inner, f"{above}.{key}" if above else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner, above)
    elif isinstance(value, str):
        yield above, value


def _pair(key: str, value: Any, files: dict[str, bytes], shared: Sequence[str]) -> str:
    """Return a pair of the verb's own as it is there."""
    if key == "taxonomy" and value.lower().endswith((".yaml", ".yml")):
        from raypose.captions import taxonomy

        files["taxonomy.yaml"] = taxonomy.format_taxonomy(taxonomy.load(value)).encode()
        return "taxonomy=taxonomy.yaml"
    for _, text in _strings(value):
        found = _refuse_local(key, text, shared, is_place=key in OWN_PLACES and bool(text))
        value = found if value == text else value
    return f"{key}={_text(value)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _along(path: str, files: dict[str, bytes]) -> str:
    """Put a file in, under its own name; it is a path there, whatever it looks like."""
    name = os.path.basename(path)
    with open(path, "rb") as file:
        files[name] = file.read()
    return f"./{name}"


def _refuse_local(key: str, value: str, shared: Sequence[str], *, is_place: bool = False) -> str:
    """Return a text as it is there: a place that all nodes have by its whole path.

    Args:
        key: where it stands, for the message.
        value: the text.
        shared: folders that all nodes have.
        is_place: whether it names one, so that a relative path is of this machine too.
    """
    scheme, colon, rest = value.partition(":")
    local_dir = scheme == "local-dir" and bool(colon)
    place = rest if local_dir else value.removeprefix("file://")
    if value.startswith("s3://") or not (
        is_place or local_dir or place != value or place.startswith(("/", "~"))
    ):
        return value
    place = os.path.abspath(os.path.expanduser(place))
    if is_shared(place, shared):
        return f"local-dir:{place}" if local_dir else place
    what = value if key == value else f"{key}: {value}"
    raise UsageError(
        f"{what}: only this machine has it, and the command is to run on a cluster; put it on "
        "s3://, or name a folder that all nodes have by cluster.shared"
    )


def _sized(files: dict[str, bytes]) -> dict[str, bytes]:
    """Refuse more than a job should carry."""
    total = sum(map(len, files.values()))
    if total > MAX_BYTES:
        largest = max(files, key=lambda name: len(files[name]))
        raise UsageError(
            f"{largest}: {len(files[largest]) / 1e6:.0f} MB; all that goes along with a job may be "
            f"{MAX_BYTES / 1e6:.0f} MB: put it on s3://"
        )
    return files


def _variables(names: Sequence[str]) -> dict[str, str]:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UsageError(f"cluster.env: {missing[0]}: is not set in the environment here")
    return {name: os.environ[name] for name in names}


def _run(verb: Verb, config: Any) -> str:
    """Return the run or search that a command makes."""
    if ANY not in verb.sections:
        return ""
    return str(config.search_id if verb.name == "search" else config.run_id)
