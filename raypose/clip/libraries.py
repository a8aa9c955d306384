"""open_clip and timm, loaded without torch's compiler and without transformers.

torchvision and timm load all of ``torch._dynamo`` for the sake of one name each, and with it sympy:
as long as torch itself takes, and more memory than many a model. open_clip loads transformers for
text towers that few models have. A command, a replica or a worker that compiles nothing, and whose
captions go through CLIP's own text tower, has no use for either. What does still finds them: they
are put off, not away.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import _compile

__all__ = ["BatchNormAct2d", "HFTokenizer", "group_parameters", "open_clip"]

COMPILER = "torch._dynamo.utils"
TRANSFORMERS = ("transformers", "transformers.modeling_outputs")


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Put off what an import would have of torch's compiler until it is called."""
    if COMPILER in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    # torch's own form of it, which loads the compiler when it is called
    torch.compiler.disable = _compile._disable_dynamo  # type: ignore[assignment]
    try:
        with _later(COMPILER):
            yield
    finally:
        torch.compiler.disable = disable


def _without_transformers() -> AbstractContextManager[None]:
    """Put off what an import would have of transformers until it is used."""
    known = "transformers" in sys.modules or importlib.util.find_spec("transformers") is None
    return nullcontext() if known else _later(*TRANSFORMERS)


@contextmanager
def _later(*names: str) -> Iterator[None]:
    """Have modules stand in for others as long as this is open."""
    sys.modules.update({name: _Later(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            if isinstance(sys.modules.get(name), _Later):
                del sys.modules[name]


class _Later(ModuleType):
    """Stands in for a module: whatever it is asked for is looked up there when it is used.

    Where its package is loaded after all, by whatever else is imported, it gives way at once.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        package = self.__name__.rpartition(".")[0]
        if package in sys.modules and not isinstance(sys.modules[package], _Later):
            if sys.modules[self.__name__] is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)
        return _Named(self.__name__, name)


class _Named:
    """A function or class of a module, which is loaded when it is called or asked of something."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _found(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._found()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._found(), name)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._found())


with _without_compiler(), _without_transformers():
    import open_clip
    from open_clip.tokenizer import HFTokenizer
    from timm.layers import BatchNormAct2d
    from timm.models import group_parameters
