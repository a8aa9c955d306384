"""What demo, tests and benchmarks share, and users may: an S3 server on this machine."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
