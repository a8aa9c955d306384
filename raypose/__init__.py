"""Recognise human postures with CLIP: shards, training, search, releases and serving.

    import raypose

    model = raypose.load("./release")            # a folder, s3://…, NAME or NAME@ALIAS
    found = model.predict(["a.jpg", "b.jpg"])    # paths, bytes, Pillow's pictures, arrays
    found[0].label, found[0].probability

Importing it loads nothing heavy: each name comes when it is first asked for.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
