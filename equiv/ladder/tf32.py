"""TF32 set explicitly, for matrix products *and* for cuDNN: PyTorch's defaults are off for the one, on for the other.

PyTorch 2.9 to 2.13 have two sets of switches. The new ones (``fp32_precision``, one per operator) are what the kernels
read; the old ones (``cudnn.allow_tf32``, ``set_float32_matmul_precision``) write both, but reading one raises where the
two disagree, and ``torch.backends.cudnn.flags`` and parts of ``torch.compile`` still read them. So both are written,
the old ones first, and both are put back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def setting(on: bool) -> Iterator[None]:
    """Run a block with TF32 on or off for matmul and cuDNN (convolution, RNN), then restore what was set before.

    float32 products on the CPU (oneDNN), which the old switches would change as well, stay IEEE in either case.

    Example:
        >>> with setting(False):
        ...     describe()
        'matmul off, cuDNN convolution off'
    """
    import torch

    operators = _operators()
    with _unlocked():
        old_matmul = _or_none(torch.get_float32_matmul_precision)
        old_cudnn = _or_none(lambda: bool(torch.backends.cudnn.allow_tf32))
        values = [operator.fp32_precision for operator in operators]
        _write_old(old_matmul and ("high" if on else "highest"), None if old_cudnn is None else on)
        for operator in operators:
            operator.fp32_precision = "tf32" if on and operator is not operators[-1] else "ieee"
    try:
        yield
    finally:
        with _unlocked():
            _write_old(old_matmul, old_cudnn)
            for operator, value in zip(operators, values, strict=True):
                operator.fp32_precision = "none"  # shows the value of its backend, or of all backends ...
                if operator.fp32_precision != value:  # ... which is what it did before, unless it had its own
                    operator.fp32_precision = value


def describe() -> str:
    """The state that the kernels see now, per backend."""
    matmul, convolution, *_ = ("on" if operator.fp32_precision == "tf32" else "off" for operator in _operators())
    return f"matmul {matmul}, cuDNN convolution {convolution}"


def _operators() -> tuple[Any, ...]:
    """What has a switch of its own; the last is the CPU's."""
    import torch

    backends: Any = torch.backends  # its modules are replaced by objects that a type checker does not see
    return backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul


def _write_old(matmul: str | None, cudnn: bool | None) -> None:
    """Write the old switches; None leaves alone those that could not be read, as the new ones were set without them."""
    import torch

    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if cudnn is not None:
        torch.backends.cudnn.allow_tf32 = cudnn


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except RuntimeError:
        return None


@contextmanager
def _unlocked() -> Iterator[None]:
    """No deprecation warning of the old switches (2.9), no lock (``torch.testing._internal`` freezes the flags)."""
    import torch

    with warnings.catch_warnings(), torch.backends.__allow_nonbracketed_mutation():
        warnings.simplefilter("ignore")
        yield
