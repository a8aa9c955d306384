"""The command line: ``raypose VERB … key=value``. It parses first and imports heavy things later.

Progress and errors go to stderr, results to stdout; ``--json`` prints them for machines. A user's
mistake is one line and an exit code, never a traceback unless ``--verbose`` asks for it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence

from raypose.cli import captions, demo, evaluation, releases, shards, training
from raypose.cli.request import parse
from raypose.errors import RayposeError, UsageError, did_you_mean

__all__ = ["COMMANDS", "main"]

MISSING = {
    **dict.fromkeys(("matplotlib", "open_clip", "optuna", "ray", "torch"), "train"),
    "peft": "lora",
    "fastapi": "serve",
    "moto": "demo",
    "boto3": "demo",
    "httpx": "demo",
}
"""Module → the extra that brings it."""


COMMANDS = {
    **demo.COMMANDS,
    **captions.COMMANDS,
    **shards.COMMANDS,
    **training.COMMANDS,
    **releases.COMMANDS,
    **evaluation.COMMANDS,
}
"""Verb → what it takes and does, in the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in arguments
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        _dispatch(arguments)
    except RayposeError as error:
        if verbose:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        extra = MISSING.get((error.name or "").split(".")[0])
        if verbose or extra is None:
            raise
        print(f"{error.name} is not installed: pip install 'raypose[{extra}]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        if argv is None:  # a thread within Ray, left behind, may crash an interpreter that ends
            os._exit(130)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _dispatch(arguments: list[str]) -> None:
    flags = frozenset(word for word in arguments if word.startswith("-"))
    words = [word for word in arguments if not word.startswith("-")]
    if not words:
        if flags & {"--version"}:
            from raypose import __version__

            print(__version__)
            return
        print(_help())
        if not flags & {"-h", "--help"}:
            raise UsageError("no command given")
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    if name not in COMMANDS:
        known = [key for key in COMMANDS if key.startswith(f"{name} ")]
        wanted = " ".join(words[:2]) if known else name
        choices = f"; there are: {', '.join(known)}" if known else "; see raypose --help"
        raise UsageError(f"{wanted}: no such command{did_you_mean(wanted, COMMANDS)}{choices}")
    command = COMMANDS[name]
    usage = f"usage: raypose {name} {command.usage}"
    if flags & {"-h", "--help"}:
        own = "".join(f"\n  {key}={json.dumps(value)}" for key, value in command.options.items())
        print(f"{usage}\n\n{command.summary}")
        if own:
            print(f"\nits own keys, beside those of a recipe:{own}")
        return
    unknown = flags - {"--json", "--verbose", *command.flags}
    if unknown:
        raise UsageError(f"{name}: unknown option {min(unknown)}; {usage}")
    command.run(parse(name, command, words[len(name.split()) :], flags))


def _help() -> str:
    width = max(len(f"{name} {command.usage}") for name, command in COMMANDS.items())
    width = min(width, 44)
    lines = ["raypose: recognise human postures with CLIP, at any scale", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {f'{name} {command.usage}':<{width}}  {command.summary}")
    lines += [
        "",
        "key=value overrides any setting of a recipe: optim.learning_rate=3e-5",
        "--json prints results for machines, --verbose everything, --version the version",
    ]
    return "\n".join(lines)
