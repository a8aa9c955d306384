"""What TAB completes: keys of a verb, their values, and the names of releases.

The scripts of bash and zsh are our own. Typer's end a key with a space, and bash breaks words at
``=``, ``:`` and ``@`` before a script sees them: neither a value nor NAME:VERSION would complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer import _completion_shared as shells

from raypose.cli.verbs import Verb, known_keys, section_rows
from raypose.config.settings import Config
from raypose.errors import UsageError

__all__ = ["OPTIONS", "complete", "serve_shell", "teach"]

OPTIONS = ("--install-completion", "--show-completion")
_ASK = (
    "env _TYPER_COMPLETE_FISH_ACTION=get-args _RAYPOSE_COMPLETE=complete_fish _TYPER_COMPLETE_ARGS"
)
"""Prints an answer a line, whatever the shell."""
BASH = """
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} broken=
    local word=${line##* }
    [[ $word == *[=:]* ]] && broken=${word%%"${word##*[=:]}"}
    [[ $word == *@* ]] && broken=${word%%"@${word##*@}"}
    COMPREPLY=( $(ASK="$line" $1 2>/dev/null) )
    COMPREPLY=( "${COMPREPLY[@]%%%%$'\\t'*}" )
    COMPREPLY=( "${COMPREPLY[@]#"$broken"}" )
    [[ ${#COMPREPLY[@]} == 1 && -z ${COMPREPLY[0]} ]] && COMPREPLY=()
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=:@] ]] && compopt -o nospace
    return 0
}

complete -o default -F %(complete_func)s %(prog_name)s
""".replace("ASK", _ASK)
ZSH = """
#compdef %(prog_name)s

%(complete_func)s() {
    local -a found keys others
    found=("${(@f)$(ASK="${(j: :)words[1,$CURRENT]}" %(prog_name)s 2>/dev/null)}")
    found=("${(@)found%%%%$'\\t'*}")
    keys=(${(M)found:#*[=:@]}) others=(${found:#*[=:@]})
    (( ${#keys} )) && compadd -S '' -- $keys
    (( ${#others} )) && compadd -- $others
    (( ${#keys} + ${#others} )) && return
    [[ $PREFIX == *=* ]] && compset -P '*='
    _files
}

compdef %(complete_func)s %(prog_name)s
""".replace("ASK", _ASK)


def teach() -> None:
    """Put our scripts in the place of Typer's, which has no public way to give it one."""
    shells._completion_scripts.update(bash=BASH, zsh=ZSH)


def serve_shell(words: Sequence[str]) -> bool:
    """Print or install the script of the shell that is named after one of `OPTIONS`.

    Returns:
        Whether that was asked; without a name Typer finds the shell out.
    """
    if len(words) != 2 or words[0] not in OPTIONS:
        return False
    option, shell = words
    known = ("bash", "zsh", "fish")
    if shell not in known:
        raise UsageError(f"{option}: no completion for {shell}; there is for {', '.join(known)}")
    names = {"prog_name": "raypose", "complete_var": "_RAYPOSE_COMPLETE", "shell": shell}
    if option == "--show-completion":
        print(shells.get_completion_script(**names))
        return True
    _, path = shells.install(**names)
    print(f"{Path(path)}: {shell} completes raypose from its next start on")
    return True


RELEASES = ("RELEASE", "NAME", "A", "B")
SEARCHES = ("SEARCH",)
TAXONOMIES = ("TAXONOMY",)
GRAMMARS = ("GRAMMAR",)
RECIPES = ("RECIPE",)
KEYS = ("WORD",)


def complete(verb: Verb, given: Sequence[str], incomplete: str) -> list[str]:
    """Return what may stand where something incomplete does; files are the shell's to complete.

    Args:
        verb: what is called.
        given: the words before.
        incomplete: what has been typed of this one.
    """
    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={word}" for word in _values(verb, key) if word.startswith(value)]
    placed = sum("=" not in word and not word.startswith("-") for word in given)
    missing = placed < sum(word.least for word in verb.words)
    names = list(_named(verb, placed, given, incomplete)) if placed < len(verb.words) else []
    keys = [] if missing else [f"{name}=" for name in known_keys(verb)]
    return [word for word in [*names, *keys] if word.startswith(incomplete)]


def _named(verb: Verb, placed: int, given: Sequence[str], incomplete: str) -> Iterator[str]:
    """Yield the names that may stand in place of a verb's next word."""
    word = verb.words[placed].name
    if word in RELEASES:
        yield from _releases(given, incomplete)
    elif word in SEARCHES:
        yield from _searches(given)
    elif word in KEYS:
        yield from (name for name, _, _ in section_rows())
    elif word in RECIPES:
        from raypose.config import shipped

        yield from shipped()
    elif word in TAXONOMIES:
        from raypose.captions import taxonomy

        yield from taxonomy.shipped()
    elif word in GRAMMARS:
        from raypose.captions import PRESETS

        yield from PRESETS


def _releases(given: Sequence[str], incomplete: str) -> list[str]:
    """Return the names of releases; of one that has been typed, its versions or its aliases."""
    from raypose.errors import RayposeError
    from raypose.releases import registry

    root = _root(given)
    try:
        if ":" not in incomplete and "@" not in incomplete:
            return registry.names(root)
        rows = registry.overview(root)
    except RayposeError:
        return []
    if ":" in incomplete:
        return [row["release"] for row in rows]
    return [f"{row['release'].partition(':')[0]}@{a}" for row in rows for a in row["aliases"]]


def _searches(given: Sequence[str]) -> list[str]:
    """Return the ids of searches."""
    from raypose.errors import RayposeError
    from raypose.tuning import records

    try:
        return records.names(_root(given))
    except RayposeError:
        return []


def _root(given: Sequence[str]) -> str:
    """Return the storage root that is named among the words before, or the default one."""
    from raypose import storage

    named = [word.partition("=")[2] for word in given if word.startswith("storage=")]
    return named[0] if named else storage.default_root()


def _values(verb: Verb, key: str) -> list[str]:
    """Return the words that a key may take, where they can be listed."""
    from raypose.config.reading import annotation_of

    own = key in verb.keys.model_fields
    wanted: Any = annotation_of(verb.keys if own else Config, key)
    if wanted is bool:
        return ["true", "false"]
    if get_origin(wanted) is Literal:
        return [str(word) for word in get_args(wanted)]
    if key in ("data.taxonomy", "taxonomy"):
        from raypose.captions import taxonomy

        return taxonomy.shipped()
    if key == "captions.preset":
        from raypose.captions import PRESETS

        return list(PRESETS)
    return []
