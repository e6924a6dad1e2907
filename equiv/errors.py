"""Errors of equiv, and the checks that raise them; no numerical code.

Every message follows one grammar::

    `name`=got, but should be expected [call]

Wrong types raise ``TypeError``, wrong values ``ValueError``; a failed comparison raises :class:`NotEquivalent`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class NotEquivalent(AssertionError):
    """Two callables were found to differ, or could not be shown to be equal.

    Attributes:
        evidence: the :class:`equiv.ladder.evidence.Evidence` behind the message.
    """

    def __init__(self, message: str, evidence: Any = None) -> None:
        super().__init__(message)
        self.evidence = evidence


def describe(value: Any) -> str:
    """A short text of what was got: shape and dtype of a tensor, otherwise ``repr``."""
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype"):
        return f"tensor of shape {tuple(shape)} and {value.dtype}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def message(name: str, got: Any, expected: str, call: str) -> str:
    """The one message grammar.

    Example:
        >>> message("heads", 5, "a divisor of `dim`=8", "GlobalAttention")
        '`heads`=5, but should be a divisor of `dim`=8 [GlobalAttention]'
    """
    return f"`{name}`={describe(got)}, but should be {expected} [{call}]"


def check_int(name: str, value: Any, call: str, *, minimum: int = 1) -> int:
    """``value`` as an integer of at least ``minimum``; ``bool`` is not one."""
    expected = f"an integer of at least {minimum}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(message(name, value, expected, call))
    if value < minimum:
        raise ValueError(message(name, value, expected, call))
    return value


def check_odd(name: str, value: Any, call: str) -> int:
    """``value`` as an odd positive integer: a kernel of even size has no centre."""
    if check_int(name, value, call) % 2 == 0:
        raise ValueError(message(name, value, "odd: a kernel of even size has no centre", call))
    return value


def check_bool(name: str, value: Any, call: str) -> bool:
    """``value`` if it is a ``bool``."""
    if not isinstance(value, bool):
        raise TypeError(message(name, value, "True or False", call))
    return value


def check_positive(name: str, value: Any, call: str) -> float:
    """``value`` as a finite positive number."""
    expected = "a finite positive number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(message(name, value, expected, call))
    if not 0 < value < math.inf:  # not math.isfinite: torch.compile cannot trace it
        raise ValueError(message(name, value, expected, call))
    return float(value)


def check_choice(name: str, value: Any, choices: Collection[str], call: str) -> str:
    """``value`` if it is one of ``choices``."""
    expected = "one of " + ", ".join(map(repr, choices))
    if not isinstance(value, str):
        raise TypeError(message(name, value, expected, call))
    if value not in choices:
        raise ValueError(message(name, value, expected, call))
    return value


def check_divides(name: str, value: Any, whole_name: str, whole: int, call: str) -> int:
    """``value`` as a positive divisor of ``whole``."""
    check_int(name, value, call)
    if whole % value:
        raise ValueError(message(name, value, f"a divisor of `{whole_name}`={whole}", call))
    return value


def check_grid(name: str, value: Any, call: str) -> tuple[int, int] | None:
    """``value`` as a grid ``(height, width)`` of positive integers, or ``None``."""
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(message(name, value, "None or a pair (height, width)", call))
    return check_int(f"{name}[0]", value[0], call), check_int(f"{name}[1]", value[1], call)


def check_shift(value: Any, window: int, call: str) -> tuple[int, int]:
    """A cyclic shift as ``(rows, columns)``, each in ``[0, window)``; an integer stands for both."""
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(message("shift", value, "an integer or a pair (rows, columns)", call))
    for part in pair:
        check_int("shift", part, call, minimum=0)
        if part >= window:
            raise ValueError(message("shift", part, f"less than `window`={window}", call))
    return pair[0], pair[1]


def check_mask_value(value: Any, activation: str, call: str) -> float:
    """The number added to the logits of masked pairs: ``-inf`` excludes them, a finite one needs softmax.

    Without softmax an additive penalty would be a large negative *weight*, not an exclusion, so it is refused.
    """
    expected = "-inf (masked pairs get weight 0) or a finite number below 0"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(message("mask_value", value, expected, call))
    if not value < 0:
        raise ValueError(message("mask_value", value, expected, call))
    if math.isfinite(value) and activation != "softmax":
        raise ValueError(message("mask_value", value, f"-inf with `activation`={activation!r}", call))
    return float(value)


def check_factory(device: Any, dtype: Any, call: str) -> dict[str, Any]:
    """``device`` and ``dtype`` as keyword arguments for new parameters: a floating dtype, a device or its name."""
    import torch  # here, so that importing equiv does not import torch

    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(message("dtype", dtype, "None or a torch.dtype", call))
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(message("dtype", dtype, "a floating dtype", call))
    if device is not None:
        try:
            torch.device(device)
        except (RuntimeError, TypeError) as error:
            kind = ValueError if isinstance(device, str) else TypeError
            raise kind(message("device", device, "None, a torch.device or the name of one", call)) from error
    return {"device": device, "dtype": dtype}


def check_mixing(mixing: Any, sharing: str, shape: tuple[int, int], like: torch.Tensor, call: str) -> None:
    """Check Linformer's shared mixing: with ``sharing="layerwise"`` only, of ``shape``, and otherwise like ``like``."""
    import torch

    if mixing is None:
        return
    if sharing != "layerwise":
        raise ValueError(message("mixing", mixing, f"None with `sharing`={sharing!r}", call))
    if not isinstance(mixing, torch.nn.Parameter):
        raise TypeError(message("mixing", mixing, "None or an nn.Parameter", call))
    if mixing.shape != shape:
        raise ValueError(message("mixing", mixing, f"of shape (rank, tokens)={shape}", call))
    if mixing.dtype != like.dtype or mixing.device != like.device:
        raise ValueError(message("mixing", mixing, f"of {like.dtype} on {like.device}, as the other parameters", call))


def check_matrix(name: str, value: Any, call: str, *, like: torch.Tensor | None = None) -> None:
    """Check a dense floating tensor of at least two axes, of ``like``'s dtype and device."""
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.layout is not torch.strided:
        raise TypeError(message(name, value, "a dense tensor of a floating dtype", call))
    if value.dim() < 2:
        raise ValueError(message(name, value, "a matrix, or several", call))
    if like is not None and (value.dtype, value.device) != (like.dtype, like.device):
        raise ValueError(message(name, value, f"of {like.dtype} on {like.device}", call))


def check_tokens(x: Any, dim: int, module: torch.nn.Module, *, tokens: int | None = None) -> None:
    """Check an input of token operators: ``(B, N, dim)``, not empty, of the parameters' dtype and device."""
    call = type(module).__name__
    _check_tensor(x, module, call)
    expected = f"of shape (B, {'N' if tokens is None else tokens}, {dim}), none of them 0"
    if x.dim() != 3 or x.shape[2] != dim or 0 in x.shape or (tokens is not None and x.shape[1] != tokens):
        raise ValueError(message("x", x, expected, call))


def check_map(x: Any, channels: int, module: torch.nn.Module, *, minimum: int = 1, divisor: int = 1) -> None:
    """Check an input of spatial operators: ``(B, channels, H, W)``, H and W large enough and divisible."""
    call = type(module).__name__
    _check_tensor(x, module, call)
    expected = f"of shape (B, {channels}, H, W) with B at least 1, H and W at least {minimum}"
    if x.dim() != 4 or x.shape[1] != channels or x.shape[0] == 0 or min(x.shape[2:]) < minimum:
        raise ValueError(message("x", x, expected, call))
    if x.shape[2] % divisor or x.shape[3] % divisor:
        raise ValueError(message("x", x, f"of height and width divisible by {divisor}", call))


def check_batch_statistics(x: torch.Tensor, values: int, norm: torch.nn.Module, call: str) -> None:
    """Check that BatchNorm in training mode sees more than one value per channel, as torch does, but naming ``x``."""
    if norm.training and values == 1:
        expected = "larger: BatchNorm in training mode needs more than one value per channel"
        raise ValueError(message("x", x, expected, call))


def _check_tensor(x: Any, module: torch.nn.Module, call: str) -> None:
    import torch

    if not isinstance(x, torch.Tensor):
        raise TypeError(message("x", x, "a tensor", call))
    if not x.is_floating_point() or x.layout is not torch.strided:
        raise TypeError(message("x", x, "a dense tensor of a floating dtype", call))
    for name, parameter in module.named_parameters():
        if x.device != parameter.device:
            raise ValueError(message("x", x.device, f"on the device of `{name}`, {parameter.device}", call))
        # Under autocast, which the meta device does not have, the dtypes differ on purpose.
        if x.dtype != parameter.dtype and (x.is_meta or not torch.is_autocast_enabled(x.device.type)):
            raise TypeError(message("x", x, f"of the dtype of `{name}`, {parameter.dtype}", call))
