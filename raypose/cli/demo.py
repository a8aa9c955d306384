"""The whole chain in one command: `demo`."""

from __future__ import annotations

from pathlib import Path

from raypose.cli.request import PAIRS, Command, Request, options_of

__all__ = ["COMMANDS"]


def _demo(request: Request) -> None:
    from raypose.cli import chain

    options = options_of(request, folder="raypose-demo", per_class=450, epochs=20, trials=4)
    folder = Path(options.pop("folder"))
    chain.run(folder, **options, keep="--keep" in request.flags, verbose=request.verbose)


COMMANDS = {
    "demo": Command(
        f"[--keep] {PAIRS}", "run the whole chain here, on pictures it draws", _demo, ("--keep",)
    )
}
