"""Recognise human postures with CLIP: shards, training, search, releases and serving."""

__version__ = "0.1.0"
