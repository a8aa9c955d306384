from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from support.models import NORMED, TINY

from raypose import storage
from raypose.clip import model, tokens
from raypose.config import ModelConfig
from raypose.errors import CheckpointError, ConfigError


def config(**changes: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {"backbone": "tiny", "architectures": {"tiny": TINY, "timm": NORMED}} | changes
    )


@pytest.mark.parametrize("backbone", ["tiny", "timm"])
def test_a_saved_folder_is_open_clips(backbone: str, tmp_path: Path) -> None:
    clip = model.build(config(backbone=backbone, resize="longest", image_mean=[0.1, 0.2, 0.3]))
    clip.model.to(memory_format=torch.channels_last).eval()
    model.save(clip, tmp_path)
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    theirs.eval()
    images = torch.randn(2, 3, 32, 32)
    tokens = clip.tokenize(["a photo of a tree", "boat"])
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.encode_image(images), clip.model.encode_image(images), atol=1e-6, rtol=0
        )
        assert torch.equal(theirs.encode_text(tokens), clip.model.encode_text(tokens))
    assert "CenterCropOrPad" in str(preprocess)
    assert "0.1" in str(preprocess)


def test_a_caption_is_tokenized_once() -> None:
    clip = model.build(config())
    spoken = ["a boat", "a photo of a tree", "a boat"]
    expected = clip.tokenizer(spoken)
    assert torch.equal(clip.tokenize(spoken), expected)
    clip.tokenizer = pytest.fail
    assert torch.equal(clip.tokenize(spoken[:2]), expected[:2])


def test_a_tokenizer_of_no_model() -> None:
    with pytest.raises(ConfigError, match="open_clip has no model 'ViT-B-33'; did you mean"):
        tokens.build_tokenizer("ViT-B-33")


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    clip = model.build(config())
    model.save(clip, tmp_path)
    again = model.load(tmp_path)
    assert again.model_cfg == clip.model_cfg
    assert again.preprocess_cfg == clip.preprocess_cfg
    assert again.image_size == 32 == model.image_size(config())
    for key, value in clip.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])


def test_the_image_tower_alone_gives_the_same_features(tmp_path: Path) -> None:
    clip = model.build(config(backbone="timm"))
    clip.model.eval()
    model.save(clip, tmp_path)
    tower = model.load_image_tower(tmp_path)
    tower.model.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = tower.model.encode_image(images, normalize=True)
        assert torch.equal(ours, clip.model.encode_image(images, normalize=True))
    assert not any("text" in name or "token" in name for name, _ in tower.model.named_parameters())


def test_local_dir_and_s3_folders_are_backbones(tmp_path: Path, bucket: str) -> None:
    clip = model.build(config(), seed=3)
    model.save(clip, tmp_path)
    storage.upload_folder(tmp_path, f"{bucket}/model", last="")
    for backbone in (f"local-dir:{tmp_path}", f"{bucket}/model"):
        made = model.build(ModelConfig(backbone=backbone))
        assert model.image_size(ModelConfig(backbone=backbone)) == 32
        assert torch.equal(made.model.logit_scale, clip.model.logit_scale)
        for key, value in clip.model.state_dict().items():
            assert torch.equal(value, made.model.state_dict()[key])


def test_open_clip_names_build() -> None:
    made = model.build(ModelConfig(backbone="RN50", resize="shortest"))
    assert made.image_size == 224 == model.image_size(ModelConfig(backbone="RN50"))
    assert made.context_length == 77
    assert made.preprocess_cfg["resize_mode"] == "shortest"


def test_seed_decides_what_no_weights_fill() -> None:
    one, again, other = (model.build(config(), seed=seed).model for seed in (0, 0, 1))
    assert torch.equal(one.visual.conv1.weight, again.visual.conv1.weight)
    assert not torch.equal(one.visual.conv1.weight, other.visual.conv1.weight)


def test_image_weights_fill_the_trunk(tmp_path: Path) -> None:
    trunk = model.build(config(backbone="timm"), seed=5).model.visual.trunk.state_dict()
    extra = {"fc.weight": torch.zeros(3, 3)}
    save_file({**trunk, **extra}, tmp_path / "w.safetensors")
    path = str(tmp_path / "w.safetensors")
    made = model.build(config(backbone="timm", image_weights=path), seed=0)
    for key, value in made.model.visual.trunk.state_dict().items():
        assert torch.equal(value, trunk[key])
    with pytest.raises(ConfigError, match=r"w\.safetensors: lacks .*; not this backbone's"):
        model.build(config(backbone="tiny", image_weights=path))
    (tmp_path / "bad.safetensors").write_bytes(b"pickle?")
    with pytest.raises(ConfigError, match="not safetensors"):
        model.build(config(backbone="timm", image_weights=str(tmp_path / "bad.safetensors")))


def test_real_weights_agree_with_padding_as_they_were_made(shared: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import load_file

    weights = shared / "weights/mobilenetv2_100_in1k.safetensors"
    vision = {**NORMED["vision_cfg"], "timm_model_name": "mobilenetv2_100", "image_size": 193}  # type: ignore[dict-item]
    made = model.build(
        config(architectures={"tiny": NORMED | {"vision_cfg": vision}}, image_weights=str(weights))
    )
    same = timm.create_model("mobilenetv2_100", pad_type="same").eval()
    same.load_state_dict(load_file(weights))
    images = torch.randn(1, 3, 193, 193)
    trunk = made.model.visual.trunk.eval()
    with torch.no_grad():
        assert torch.equal(trunk.forward_features(images), same.forward_features(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "ViT-B-23"}, "open_clip has no model 'ViT-B-23'; did you mean \"ViT-B-32\""),
        ({"backbone": "tinny"}, 'did you mean "tiny"'),
        ({"backbone": "RN50/none"}, "RN50 has no weights 'none'; there are: openai"),
        ({"backbone": "local-dir:/none"}, "no open_clip_config.json in /none"),
        (
            {"architectures": {"tiny": {**TINY, "vision_cfg": {"layrs": 1}}}},
            "model.architectures.tiny: open_clip cannot build it",
        ),
        ({"architectures": {"tiny": {"embed_dim": 4}}}, "model.architectures.tiny"),
    ],
)
def test_wrong_models_get_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model.build(config(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreachable_weights_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"weights of .* cannot be loaded"):
        model.build(ModelConfig(backbone="hf-hub:raypose/none"))


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    model.save(model.build(config()), tmp_path)
    weights = tmp_path / model.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:1000])
    for load in (model.load, model.load_image_tower):
        with pytest.raises(CheckpointError, match="model does not load"):
            load(tmp_path)
    (tmp_path / model.CONFIG_FILE).write_text(json.dumps({"model_cfg": 3}))
    with pytest.raises(CheckpointError, match="model does not load"):
        model.load(tmp_path)


def test_token_lists_are_uncut() -> None:
    clip = model.build(config())
    short, long = tokens.token_lists(clip, ["tree", "tree " * 40])
    assert len(short) == 3
    assert len(long) == 42
