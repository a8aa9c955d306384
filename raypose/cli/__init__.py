"""The command line: one file a group of verbs; `main` runs it."""

from __future__ import annotations

import sys

__all__ = ["entry"]


def entry() -> int:
    """Run the command that this process was started for; Ctrl-C while it loads is no traceback."""
    try:
        from raypose.cli.main import main
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    return main()
