"""Pictures: sources, packing, shards, order, decoding. `ray.data` is in `reader` alone."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
