r"""Train a recipe as a Ray job.

    ray job submit --working-dir jobs -- python train.py \
        recipes/yoga66.yaml storage=s3://my-bucket data.train=s3://my-bucket/train

It takes the words and keys of `raypose train`, answers as that does and ends with its exit code.
Within a job Ray is the cluster that runs it, whatever the recipe says of `cluster`; what is local
to the machine that submits is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from raypose.cli.main import main as raypose

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Train, from the last checkpoint on; return the exit code."""
    return raypose(["train", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
