r"""Build, split, dedupe or verify shards as a Ray job.

    ray job submit --working-dir jobs -- python shards.py \
        build s3://my-bucket/pictures s3://my-bucket/train

It takes the words and keys of `raypose shards`, answers as that does and ends with its exit code.
Within a job Ray is the cluster that runs it: its tasks pack side by side on all nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from raypose.cli.main import main as raypose

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Do what is asked of shards; return the exit code."""
    return raypose(["shards", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
