"""Do these two PyTorch modules compute the same function? equiv answers with evidence.

Public names are loaded on first use, so that ``import equiv`` imports neither torch nor anything else that is slow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equiv import catalogue as catalogue
    from equiv import conv as conv
    from equiv import layout as layout
    from equiv import matmul as matmul
    from equiv import models as models
    from equiv import testing as testing
    from equiv.errors import NotEquivalent
    from equiv.ladder.evidence import Evidence, Verdict
    from equiv.testing import assert_equivalent

__version__ = "0.1.0"

_SUBMODULES = ("catalogue", "conv", "errors", "ladder", "layout", "matmul", "models", "symbolic", "testing")
_NAMES = {
    "Evidence": "equiv.ladder.evidence",
    "NotEquivalent": "equiv.errors",
    "Verdict": "equiv.ladder.evidence",
    "assert_equivalent": "equiv.testing",
}

__all__ = [
    "Evidence",
    "NotEquivalent",
    "Verdict",
    "assert_equivalent",
    "catalogue",
    "conv",
    "layout",
    "matmul",
    "models",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"equiv.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'equiv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
