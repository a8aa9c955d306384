"""Releases: the registry of immutable versions and moving aliases, and what classifies by one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
