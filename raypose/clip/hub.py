"""Weights from a hub: fetched by the driver before workers start, in a few tries that are said.

A search keeps them on storage too, so that no thousand trials ask a hub, and with them what they
are: revision and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import constants, try_to_load_from_cache

from raypose import storage
from raypose.clip import model
from raypose.clip.libraries import open_clip
from raypose.config import ModelConfig
from raypose.console import status, waiting
from raypose.errors import ConfigError

__all__ = ["ORIGIN", "fetch", "keep"]

ORIGIN = "origin.json"
"""Beside weights that are kept: backbone, repository, revision, and SHA-256 of the file."""

TRIES, PAUSE_S, TIMEOUT_S = 3, 1.0, 10.0
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_config.json")


def fetch(config: ModelConfig) -> None:
    """Have the weights of a model at hand on this machine, where they come from a hub.

    Raises:
        ConfigError: where the hub does not answer.
    """
    repository = _repository(config) if not config.kept else None
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


def keep(config: ModelConfig, root: str) -> str:
    """Put the weights of a model that come from a hub on storage, once; return where.

    Args:
        config: of the model.
        root: the storage root.

    Returns:
        The folder, in open_clip's form; empty where no hub is asked for them.

    Raises:
        ConfigError: where they cannot be had.
    """
    repository = _repository(config)
    if repository is None:
        return ""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", config.backbone)
    url = storage.join(root, "weights", name)
    if storage.exists(storage.join(url, ORIGIN)):
        return url
    fetch(config)
    plain = config.model_copy(update={"image_weights": None, "kept": None})
    with waiting(f"keeping the weights of {config.backbone}"), TemporaryDirectory() as folder:
        made = Path(folder) / "weights"
        model.save(model.build(plain), made)
        origin = {
            "backbone": config.backbone,
            "repository": repository,
            "revision": _revision(repository),
            "sha256": _sha256(made / model.WEIGHTS_FILE),
        }
        (made / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        storage.upload_folder(made, url, last=ORIGIN)
    return url


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _revision(repository: str) -> str:
    """Return the commit of what lies in the hub's cache; empty where that does not say."""
    for name in FILES:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found).parent.name
    return ""


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
