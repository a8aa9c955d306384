"""Every form of backbone: trained on one and two workers, resumed, finished, released, loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from support.contexts import InMemory, batch, recipe, spread
from support.models import COCA, NORMED, TINY

from raypose.clip import model
from raypose.errors import ConfigError
from raypose.releases.predictor import Predictor, write_release
from raypose.training import checkpoint, finish, loop, saver
from raypose.training.epochs import train

TEXT = TINY["text_cfg"]
VISION = TINY["vision_cfg"]
TREE = "a photo of a tree"


def words(folder: Path) -> str:
    """A tokenizer of transformers: a few words, as a SigLIP's in form."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    known = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "photo", "of"]
    known += sorted({word for name in names() for word in name.split()} - set(known))
    made = Tokenizer(WordLevel({word: k for k, word in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    return str(folder)


def names() -> list[str]:
    from support.contexts import CLASSES

    return [name for card in CLASSES.cards for name in card.names]


def bert(folder: Path) -> str:
    """A text tower of transformers, by its configuration alone."""
    from transformers import BertConfig

    BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def architectures(folder: Path) -> dict[str, dict[str, Any]]:
    tokenizer = words(folder / "tokenizer")
    siglip = {
        "context_length": 16,
        "vocab_size": 200,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "hf_tokenizer_name": tokenizer,
        "tokenizer_kwargs": {"clean_up_tokenization_spaces": False},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    }
    return {
        "causal": TINY,
        "quick": {**TINY, "quick_gelu": True},
        "siglip": {"embed_dim": 16, "init_logit_bias": -10.0, "custom_text": True,
                   "vision_cfg": VISION, "text_cfg": siglip},
        "timm": NORMED,
        "resnet": {"embed_dim": 16, "text_cfg": TEXT,
                   "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}},
        "coca": COCA,
        "bert": {
            "embed_dim": 16, "vision_cfg": VISION,
            "text_cfg": {"hf_model_name": bert(folder / "bert"), "hf_tokenizer_name": tokenizer,
                         "hf_model_pretrained": False, "context_length": 16,
                         "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"},
        },
    }  # fmt: skip


FORMS = ("causal", "quick", "siglip", "timm", "resnet", "coca", "bert")


def run(form: dict[str, Any], url: str, epochs: int) -> None:
    """Train so many epochs of two, from where the run stands."""
    context = InMemory([])
    rows = [[0, 1, 2, 3], [4, 5, 6, 7]][: context.world_size]
    context.given = [batch(rows[context.rank])]
    made = recipe(
        **{"model.backbone": "form", "model.architectures": {"form": form}, "optim.epochs": 2,
           "data.val": "memory", "captions.preset": "name", "optim.layer_decay": 0.9}
    )  # fmt: skip
    trainer, progress = loop.prepare(made, context, run_url=url, num_rows=4 * context.world_size)
    with saver.saving(context, url) as writer:
        for epoch in range(progress.epoch, epochs):
            values = train(trainer, progress)
            tracker = loop.Tracker(f"{url}/metrics.jsonl", resume_epoch=epoch + 1)
            loop._end_epoch(trainer, tracker, {"epoch": epoch + 1, **values}, writer)
            progress = loop.EpochProgress(epoch=epoch + 1)
    if epochs == 2:
        finish.finish(made, context, run_url=url)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", FORMS)
def test_a_backbone_goes_all_the_way(
    name: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    form = architectures(tmp_path)[name]
    url = str(tmp_path / "run")
    for epochs in (1, 2):
        if workers == 1:
            run(form, url, epochs)
        else:
            spread(run, form, url, epochs)
    assert checkpoint.complete(url)[-1].step == 2
    changes = {"model.backbone": "form", "model.architectures": {"form": form},
               "captions.preset": "name"}  # fmt: skip
    final, release = tmp_path / "run/final", tmp_path / "release"
    end = json.loads((final / "final.json").read_text())
    write_release(final, release, recipe(**changes), end["metrics"], {"final": end})
    for folder in ("tokenizer", "bert"):  # what a release needs it holds
        (tmp_path / folder).rename(tmp_path / f"{folder}-gone")
    ours = model.load(release)
    ours.model.eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    spoken = ours.tokenize([TREE, "boat"])
    alone = model.load_image_tower(release)
    alone.model.eval()
    with torch.no_grad():
        features = ours.model.encode_image(images, normalize=True)
        torch.testing.assert_close(alone.model.encode_image(images, normalize=True), features)
    predictor = Predictor.load(release)
    chances = predictor.probabilities(batch([0, 1]).pixels.numpy())
    assert chances.shape == (2, 12)
    if name == "bert":  # whose own configuration plain open_clip looks for where it was
        (tmp_path / "bert-gone").rename(tmp_path / "bert")
    theirs, _ = open_clip.create_model_from_pretrained(f"local-dir:{release}")
    theirs.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{release}")([TREE, "boat"])
    assert torch.equal(tokens, spoken)
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode_image(images, normalize=True), features)
        torch.testing.assert_close(theirs.encode_text(tokens), ours.model.encode_text(spoken))


def test_an_image_tower_needs_no_transformers(tmp_path: Path) -> None:
    form = architectures(tmp_path)["siglip"]
    clip = model.build(recipe(**{"model.backbone": "f", "model.architectures": {"f": form}}).model)
    model.save(clip, tmp_path / "saved")
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from pathlib import Path; from raypose.clip import model\n"
        f"print(model.load_image_tower(Path({str(tmp_path / 'saved')!r})).image_size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "32", done.stderr


MISMATCHED = [
    (name, tag)
    for name, tag in open_clip.list_pretrained()
    if bool((open_clip.get_model_config(name) or {}).get("quick_gelu"))
    != bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
]


def test_there_are_weights_of_another_activation() -> None:
    assert ("ViT-B-32", "openai") in MISMATCHED
    assert len(MISMATCHED) >= 20


@pytest.mark.parametrize(("name", "tag"), MISMATCHED)
def test_weights_of_another_activation(
    name: str, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are loaded into their own, and the saved folder says so; or refused."""
    made: list[dict[str, Any]] = []

    def create(name: str, **how: Any) -> Any:
        made.append(how)
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model", create)
    asked = recipe(**{"model.backbone": f"{name}/{tag}"}).model
    with pytest.raises(ConfigError) as caught:
        model.build(asked)
    if made:
        assert made[0]["force_quick_gelu"]
    else:
        assert "was trained without QuickGELU" in str(caught.value)


def test_the_saved_config_says_which_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = open_clip.create_model

    def create(name: str, *, pretrained: str | None, **how: Any) -> Any:
        assert pretrained == "openai"
        return plain(name, pretrained=None, **{**how, "load_weights": False})

    monkeypatch.setattr(open_clip, "create_model", create)
    clip = model.build(recipe(**{"model.backbone": "RN50/openai"}).model)
    assert clip.model_cfg["quick_gelu"] is True
    assert "QuickGELU" in str(clip.model.transformer)


@pytest.mark.parametrize("name", FORMS)
def test_no_parameter_is_what_memory_held(name: str, tmp_path: Path) -> None:
    form = architectures(tmp_path)[name]
    config = recipe(**{"model.backbone": "form", "model.architectures": {"form": form}}).model
    torch.use_deterministic_algorithms(True, warn_only=True)  # memory not filled yet is NaN
    try:
        one, other = (model.build(config, seed=3).model for _ in range(2))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    for (key, value), again in zip(one.named_parameters(), other.parameters(), strict=True):
        assert value.isfinite().all(), key
        assert torch.equal(value, again), key
