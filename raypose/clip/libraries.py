"""open_clip and timm, loaded without torch's compiler.

torchvision and timm load all of ``torch._dynamo`` for the sake of one name each, and with it sympy:
as long as torch itself takes, and more memory than many a model. A command, a replica or a worker
that compiles nothing has no use for it. What does compile still finds it: it is put off, not away.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import _compile

__all__ = ["BatchNormAct2d", "HFTokenizer", "group_parameters", "open_clip"]

COMPILER = "torch._dynamo.utils"


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Put off what an import would have of torch's compiler until it is called."""
    if COMPILER in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    sys.modules[COMPILER] = _Later(COMPILER)
    # torch's own form of it, which loads the compiler when it is called
    torch.compiler.disable = _compile._disable_dynamo  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if isinstance(sys.modules.get(COMPILER), _Later):
            del sys.modules[COMPILER]


class _Later(ModuleType):
    """Stands in for a module: whatever function is asked for loads the module when called.

    Where its package is loaded after all, by whatever else is imported, it gives way at once.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__.rpartition(".")[0] in sys.modules:
            if sys.modules[self.__name__] is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*args, **kwargs)

        return call


with _without_compiler():
    import open_clip
    from open_clip.tokenizer import HFTokenizer
    from timm.layers import BatchNormAct2d
    from timm.models import group_parameters
