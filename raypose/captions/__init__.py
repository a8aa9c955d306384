"""Class cards, and grammars that make sentences of them: rendered, proved, shipped. No torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
