"""The command line: ``raypose VERB … key=value``. It parses first and imports heavy things later.

Typer gives the tree of verbs and the completion of shells; the keys of a verb are a pydantic model.
Progress and errors go to stderr, results to stdout; ``--json`` prints them for machines. A user's
mistake is one line and an exit code, never a traceback unless ``--verbose`` asks for it.

Annotations are kept as objects in this module: Typer reads those of functions made here.
"""

import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from raypose.cli import (
    captions,
    completion,
    demo,
    drawing,
    evaluation,
    jobs,
    nodes,
    prediction,
    releases,
    runs,
    searches,
    serving,
    shards,
    status,
    training,
    usage,
)
from raypose.cli.verbs import Call, Verb, arrange
from raypose.console import FORMATS, LOG, complain, is_json
from raypose.errors import RayposeError, UsageError, did_you_mean

__all__ = ["PANELS", "VERBS", "main"]

PANELS = {
    "start here": demo.VERBS,
    "pictures and classes": (*shards.VERBS, *drawing.VERBS, *captions.VERBS),
    "training": (*training.VERBS, *runs.VERBS, *searches.VERBS),
    "releases": (*releases.VERBS, *evaluation.VERBS, *prediction.VERBS, *serving.VERBS),
    "clusters": (*status.VERBS, *jobs.VERBS, *nodes.VERBS),
}
"""What verbs are about → the verbs, in the order of the help."""
VERBS = {verb.name: verb for verbs in PANELS.values() for verb in verbs}
BARE = {"jobs": "list", "releases": "list", "runs": "list", "searches": "list"}
"""Group → the verb that is meant where none is named."""
GO_ON = (("train",), ("search",), ("shards", "build"), ("shards", "split"), ("synthesize",))
"""Verbs that go on where they were cut off, when they are given again."""
GOES_ON = (("deploy",), ("endpoint", "update"), ("endpoint", "scale"), ("endpoint", "delete"))
"""Verbs that ask something of a cluster, which does it whether or not they are there to see it."""
FLAGS = ("--json", "--quiet", "--verbose")
LOG_FORMAT = "--log-format"
"""Takes a word: how lines on stderr are written, here and in what is started."""
SPELLED = {"--dry-run": "dry_run=true", "--print": "print=true"}
"""What is known from other tools → how it is written here."""
MISSING = {
    **dict.fromkeys(("matplotlib", "open_clip", "optuna", "ray", "safetensors", "torch"), "train"),
    **dict.fromkeys(("aiohttp", "requests"), "cluster"),
    "peft": "lora",
    "fastapi": "serve",
    "moto": "demo",
    "httpx": "demo",
}
"""Module → the extra that brings it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments, form = _without_format(sys.argv[1:] if argv is None else argv)
    if form not in FORMATS:
        where = LOG if form == os.environ.get(LOG) else LOG_FORMAT
        return _failed(f"UsageError: {where}: {form!r}: wants {' or '.join(FORMATS)}", 2)
    with _environment(LOG, form):
        return _guarded(arguments, alone=argv is None)


def _guarded(arguments: list[str], *, alone: bool) -> int:
    """Run one command; what goes wrong is a line and an exit code."""
    verbose = "--verbose" in arguments
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        _run(arguments)
    except RayposeError as error:
        if verbose and not isinstance(error, UsageError):
            raise
        return _failed(f"{error.called}: {error}", error.exit_code)
    except typer.TyperException as error:
        return _failed(f"UsageError: {error}", UsageError.exit_code)
    except ModuleNotFoundError as error:
        extra = MISSING.get((error.name or "").split(".")[0])
        if verbose or extra is None:
            raise
        return _failed(f"{error.name} is not installed: pip install 'raypose[{extra}]'", 1)
    except SystemExit as error:
        if error.code != signal.SIGTERM:  # with which Ray exits where it comes as it starts
            raise
        return _failed(_ended("terminated", arguments), 143)
    except KeyboardInterrupt:
        _failed(_ended("interrupted", arguments), 130)
        if alone:  # a thread within Ray, left behind, may crash an interpreter that ends
            os._exit(130)
        return 130
    except BrokenPipeError:  # the reader of our output has all it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a file where a folder is meant, a full disk
        if verbose:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"OSError: {where}{(error.strerror or str(error)).lower()}", 1)
    except Exception as error:  # a mistake of ours: its traceback would be no line of JSON
        if verbose or not is_json():
            raise
        line = " ".join(str(error).split())[:200]
        return _failed(f"{type(error).__name__}: {line}; --verbose shows everything", 1)
    return 0


def _without_format(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Return arguments without `LOG_FORMAT`, and the form of lines, else the environment's."""
    left, rest = list(arguments), []
    form = os.environ.get(LOG) or FORMATS[0]
    while left:
        word, equals, value = left.pop(0).partition("=")
        if word != LOG_FORMAT:
            rest.append(f"{word}{equals}{value}")
        else:
            form = value if equals else left.pop(0) if left else ""
    return rest, form


def _run(arguments: Sequence[str]) -> None:
    flags = [flag for flag in FLAGS if flag in arguments]
    words = [SPELLED.get(word, word) for word in arguments if word not in FLAGS]
    completion.teach()
    command = typer.main.get_command(_app())
    if completion.serve_shell(words):
        return
    if words[:1] == ["help"] and "help" not in VERBS:
        words = [*words[1:], "--help"]
    if words[:1] == ["--version"]:
        from raypose import __version__

        print(__version__)
        return
    if "--json" in flags and (document := _help_document(words)) is not None:
        print(json.dumps(document, ensure_ascii=False))
        return
    if not words and "_RAYPOSE_COMPLETE" not in os.environ:
        print(usage.root_help(PANELS))
        raise UsageError("no command given")
    with _environment("RAYPOSE_QUIET", "1" if "--quiet" in flags else None):
        # Typer parses; what it would make of an interrupt or a closed pipe is not ours
        work = command.main(args=[*words, *flags], prog_name="raypose", standalone_mode=False)
        if callable(work):
            work()
        sys.stdout.flush()


def _help_document(words: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return the help that is asked for, for a machine: of all verbs, a group's, or one."""
    named = [word for word in words if word not in ("-h", "--help")]
    name = " ".join(named)
    asked = [verb for verb in VERBS.values() if f"{verb.name} ".startswith(f"{name} ".lstrip())]
    bare = not words or (name not in VERBS and name not in BARE and bool(asked))
    return [usage.document(verb) for verb in asked] if bare or len(named) < len(words) else None


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set a variable, in the processes that are started too; None leaves it as it is."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


class _Root(TyperGroup):
    """The command itself."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print verbs by what they are about."""
        formatter.write(f"{usage.root_help(PANELS)}\n")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Answer a verb that there is not with the nearest."""
        _refuse_unknown(self, "", args)
        return super().resolve_command(ctx, args)


class _Group(TyperGroup):
    """Verbs about one thing; alone it lists them, or does what is meant by it alone."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the verbs."""
        formatter.write(f"{usage.group_help(ctx.info_name or '', list(VERBS.values()))}\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the verb that is meant where none is named."""
        group = ctx.info_name or ""
        bare = not args or "=" in args[0] or args[0] in FLAGS
        if bare and group in BARE:
            args = [BARE[group], *args]
        elif bare and not ctx.resilient_parsing:
            args = ["--help"]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Answer a verb that there is not with the nearest."""
        _refuse_unknown(self, f"{ctx.info_name} ", args)
        return super().resolve_command(ctx, args)


class _Command(TyperCommand):
    """A verb."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print words, keys and examples."""
        verb = VERBS[ctx.command_path.partition(" ")[2]]
        formatter.write(f"{usage.verb_help(verb)}\n")


def _refuse_unknown(group: TyperGroup, above: str, args: Sequence[str]) -> None:
    if args[0] in group.commands:
        return
    wanted = f"{above}{args[0]}"
    near = did_you_mean(wanted, [*VERBS, *(name.partition(" ")[0] for name in VERBS)])
    there = f"; there are: {', '.join(group.commands)}" if above else "; see raypose --help"
    raise UsageError(f"{wanted}: no such command{near}{there}")


def _app() -> typer.Typer:
    """Put the tree of verbs together."""
    names = {"help_option_names": ["-h", "--help"]}
    root = typer.Typer(
        cls=_Root, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=names
    )
    root.callback()(lambda: None)
    groups: dict[str, typer.Typer] = {"": root}
    for verb in VERBS.values():
        group, _, name = verb.name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(cls=_Group, rich_markup_mode=None, context_settings=names)
            root.add_typer(groups[group], name=group, help=f"verbs about {group}")
        settings = {"ignore_unknown_options": True, **names}
        groups[group].command(name, cls=_Command, help=verb.summary, context_settings=settings)(
            _function(verb)
        )
    return root


def _function(verb: Verb) -> Callable[..., Callable[[], None]]:
    """Return what Typer calls for a verb: it returns the work to be done."""

    def suggest(ctx: typer.Context, incomplete: str) -> list[str]:
        return completion.complete(verb, ctx.params.get("words") or (), incomplete)

    def command(
        words: Annotated[list[str] | None, typer.Argument(autocompletion=suggest)] = None,
        json: Annotated[bool, typer.Option("--json")] = False,
        quiet: Annotated[bool, typer.Option("--quiet")] = False,
        verbose: Annotated[bool, typer.Option("--verbose")] = False,
    ) -> Callable[[], None]:
        return partial(_carry_out, verb, arrange(verb, words or (), json=json, verbose=verbose))

    return command


def _carry_out(verb: Verb, call: Call) -> None:
    """Do what was asked, here or on the cluster that is named."""
    code = jobs.handed_over(verb, call)
    if code is None:
        verb.run(call)
    elif code:
        sys.exit(code)


def _terminate(signum: int, frame: Any) -> None:
    """End what was started; what Ray's processes say as they are ended with it is not told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told = _ended("terminated", sys.argv[1:])
    if told != "terminated":
        _failed(told, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(128 + signum)


def _ended(how: str, arguments: Sequence[str]) -> str:
    """Say how to go on, where the same command goes on."""
    arguments, _ = _without_format(arguments)
    words = [word for word in arguments if word not in FLAGS]
    if _is_of(words, GO_ON):
        return f"{how}; to go on: raypose {shlex.join(arguments)}"
    if _is_of(words, GOES_ON):
        return f"{how}; the cluster may go on with it: see raypose endpoint status"
    return how


def _is_of(words: Sequence[str], verbs: Sequence[tuple[str, ...]]) -> bool:
    return any(tuple(words[: len(name)]) == name for name in verbs)


def _failed(message: str, code: int) -> int:
    complain(message)
    return code
