"""The endpoint: `serve`."""

from __future__ import annotations

import os
import signal

from raypose.cli.evaluation import RELEASE
from raypose.cli.places import looked_up, require_port, require_shared
from raypose.cli.verbs import Call, Verb
from raypose.console import waiting

__all__ = ["VERBS"]


def serve(call: Call) -> None:
    """Serve a release over HTTP until it is interrupted."""
    config = call.config()

    release = looked_up(config.storage, call.words[0])  # before anything starts
    if config.cluster.address or os.environ.get("RAY_ADDRESS"):
        require_shared(release, config.cluster.shared, word=call.words[0])
    require_port(config.serve.host, config.serve.port)
    with waiting("loading torch and Ray"):
        from raypose import runtime
        from raypose.serving import endpoint as serving

    with runtime.connect(config.cluster, verbose=call.verbose):
        with serving.running(config, call.words[0]) as served:
            document = {"url": served.url, "release": served.release}
            text = f"serving {served.release} at {served.url}/v1/classify; Ctrl-C stops it"
            call.show(document, text)
            call.next(f"curl --data-binary @PICTURE.jpg {served.url}/v1/classify")
            signal.pause()


VERBS = (
    Verb(
        "serve",
        (RELEASE,),
        "serve a release over HTTP",
        serve,
        ("raypose serve postures serve.port=8000", "raypose serve ./release serve.port=0"),
        sections=("storage", "serve", "cluster"),
    ),
)
