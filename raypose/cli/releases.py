"""Releases: `publish`, `promote`, `rollback`, `releases`, `classify`, `serve`."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path

from raypose.cli.request import PAIRS, Command, Request, recipe, show

__all__ = ["COMMANDS"]


def _publish(request: Request) -> None:
    config = recipe(request, request.words[0])
    from raypose import evaluation

    release = evaluation.publish(config)
    show(request, {"release": str(release), "url": release.url}, f"{release}\n{release.url}")


def _promote(request: Request) -> None:
    from raypose.releases import registry

    root = recipe(request, None).storage
    release = registry.promote(root, request.words[0])
    text = f"{release.name}@{registry.PRODUCTION} is {release.version}"
    show(request, {"release": str(release), "alias": registry.PRODUCTION}, text)


def _rollback(request: Request) -> None:
    from raypose.releases import registry

    release = registry.rollback(recipe(request, None).storage, request.words[0])
    text = f"{release.name}@{registry.PRODUCTION} is {release.version} again"
    show(request, {"release": str(release), "alias": registry.PRODUCTION}, text)


def _releases(request: Request) -> None:
    from raypose.releases import registry

    found = registry.overview(recipe(request, None).storage)
    lines = [
        f"{row['release']}{'  ← ' + ', '.join(row['aliases']) if row['aliases'] else ''}"
        for row in found
    ]
    show(request, {"releases": found}, "\n".join(lines) or "nothing is published")


def _classify(request: Request) -> None:
    import tempfile

    from raypose import storage
    from raypose.releases import registry

    root = recipe(request, None).storage
    reference, *pictures = request.words
    release = registry.resolve(root, reference)
    from raypose.errors import DataError
    from raypose.releases.predictor import Predictor

    with tempfile.TemporaryDirectory() as name:
        predictor = Predictor.load(registry.fetch(release, Path(name)))
    for picture in pictures:
        try:
            (ranked,) = predictor.predict([storage.read_bytes(picture)])
        except DataError as error:
            raise DataError(
                str(error) if picture in str(error) else f"{picture}: {error}"
            ) from None
        document = {"picture": picture, "release": str(release), "top": [asdict(p) for p in ranked]}
        show(request, document, f"{picture}  {ranked[0].name}  {ranked[0].probability:.3f}")


def _serve(request: Request) -> None:
    config = recipe(request, None)
    from raypose.releases import registry

    registry.resolve(config.storage, request.words[0])  # before anything starts
    from raypose import runtime, serving

    with runtime.connect(config.cluster, verbose=request.verbose):
        with serving.running(config, request.words[0]) as endpoint:
            document = {"url": endpoint.url, "release": endpoint.release}
            text = f"serving {endpoint.release} at {endpoint.url}/v1/classify; Ctrl-C stops it"
            show(request, document, text)
            sys.stdout.flush()
            signal.pause()


COMMANDS = {
    "publish": Command(f"RECIPE {PAIRS}", "make a release of a finished run", _publish),
    "releases": Command(PAIRS, "list releases and their aliases", _releases),
    "promote": Command(f"RELEASE {PAIRS}", "point production at a release", _promote),
    "rollback": Command(f"NAME {PAIRS}", "point production back", _rollback),
    "classify": Command(f"RELEASE PICTURE… {PAIRS}", "classify pictures here", _classify),
    "serve": Command(f"RELEASE {PAIRS}", "serve a release over HTTP", _serve),
}
