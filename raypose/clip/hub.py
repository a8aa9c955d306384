"""Weights from a hub: fetched by the driver before workers start, in a few tries that are said."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import open_clip
from huggingface_hub import constants, try_to_load_from_cache

from raypose.config import ModelConfig
from raypose.console import status, waiting
from raypose.errors import ConfigError

__all__ = ["fetch"]

TRIES, PAUSE_S, TIMEOUT_S = 3, 1.0, 10.0
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_config.json")


def fetch(config: ModelConfig) -> None:
    """Have the weights of a model at hand on this machine, where they come from a hub.

    Raises:
        ConfigError: where the hub does not answer.
    """
    repository = _repository(config)
    if repository is None or _cached(repository) or constants.HF_HUB_OFFLINE:
        return  # what is not there is told when it is loaded
    _reach(config.backbone)
    name, _, tag = config.backbone.partition("/")
    with waiting(f"fetching the weights of {config.backbone}"):
        try:
            if config.backbone.startswith("hf-hub:"):
                open_clip.create_model(config.backbone, load_weights=False)
            else:
                open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag))
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"model.backbone: weights of {config.backbone} cannot be fetched ({reason})"
            ) from None


def _repository(config: ModelConfig) -> str | None:
    """Return the repository on the hub that holds a model's weights; None where there is none."""
    name, _, tag = config.backbone.partition("/")
    if config.backbone in config.architectures:
        return None
    if name.startswith("hf-hub:"):
        return config.backbone.removeprefix("hf-hub:")
    found = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    return str(found["hf_hub"]).rstrip("/") if found.get("hf_hub") else None


def _cached(repository: str) -> bool:
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in FILES[:2])


def _reach(backbone: str) -> None:
    """Ask the hub for a sign of life, a few times."""
    for number in range(1, TRIES + 1):
        try:
            with waiting(f"reaching {constants.ENDPOINT}"):
                urllib.request.urlopen(constants.ENDPOINT, timeout=TIMEOUT_S).close()
            return
        except urllib.error.HTTPError:
            return  # it answers
        except (urllib.error.URLError, TimeoutError, OSError) as error:
            reason = str(getattr(error, "reason", error))
            status(f"{constants.ENDPOINT} does not answer ({reason}): try {number} of {TRIES}")
        if number < TRIES:
            time.sleep(PAUSE_S)
    raise ConfigError(
        f"model.backbone: weights of {backbone} are not on this machine, and {constants.ENDPOINT} "
        "does not answer; check the network, give a saved model by local-dir:PATH, or try the "
        "recipe that ships: raypose train laptop"
    )
