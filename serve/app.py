"""The application for `serve run app:application`; the environment says which release."""

import os

from raypose.serving.app import Arguments, build

__all__ = ["application"]

application = build(
    Arguments(
        storage=os.environ["RAYPOSE_STORAGE"],
        release=os.environ["RAYPOSE_RELEASE"],  # NAME, NAME@ALIAS or NAME:VERSION
    )
)
