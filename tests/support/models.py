"""Architectures that train in seconds."""

from __future__ import annotations

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}

NORMED = {
    "embed_dim": 16,
    "vision_cfg": {
        "timm_model_name": "test_resnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    },
    "text_cfg": TINY["text_cfg"],
}
"""A trunk of timm's with BatchNorm, whose last map is one pixel."""


COCA = {
    "embed_dim": 16,
    "vision_cfg": {
        **TINY["vision_cfg"],
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {**TINY["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "attn_pooler_heads": 2,
    },
    "custom_text": True,
}
"""A CoCa: its decoder is used by no encoder."""
