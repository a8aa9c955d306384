"""A run from recipe to final model, on one worker or many. `ray.train` is in `workers` alone."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
