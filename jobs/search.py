r"""Search with a recipe as a Ray job.

    ray job submit --working-dir jobs -- python search.py \
        recipes/laptop.yaml storage=s3://my-bucket search.num_trials=100

It takes the words and keys of `raypose search`, answers as that does and ends with its exit code.
Within a job Ray is the cluster that runs it, whatever the recipe says of `cluster`; what is local
to the machine that submits is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from raypose.cli.main import main as raypose

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Make the trials that are missing; return the exit code."""
    return raypose(["search", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
