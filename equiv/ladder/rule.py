"""The interim tolerance: twice the error of a reference of the same dtype, and a few roundings.

With o the float64 oracle, r the reference and c the candidate in the dtype under test, in the maximum norm *and* in the
root mean square:

    ‖c − o‖ ≤ 2 ‖r − o‖ + TERM[dtype]·‖o‖ + sensitivity

TERM is four roundings (unit roundoffs) for the half types. For float32 and float64 it is more, as a reference that
happens to be exact in a small tensor says nothing about rounding, and bugs are far larger. Two additions keep correct
code from being refused:

1. Gradients that cancel carry the rounding of their terms, so for gradients ‖o‖ is at least 1/16 of the largest one's.
2. *sensitivity*, measured only where the rest is exceeded: how far the oracle moves when inputs and weights move by a
   few roundings (division by a small deviation, a ReLU whose argument is within rounding of 0). A correct program may
   be off by as much, even if the reference happens not to be.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch

Tensors = dict[str, torch.Tensor]

#: Granted besides twice the reference's error, relative to the largest element (or to the root mean square).
TERM = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4 * 2.0**-9, torch.float16: 4 * 2.0**-12}
GRADIENT_FLOOR = 1 / 16
#: A tolerance above this part of the tensor's largest element decides nothing.
DECISIVE = 0.5


class Unknown(Exception):
    """Nothing can be said; the text is the reason."""


class Different(Exception):
    """A difference; the text is the witness."""


@dataclasses.dataclass(frozen=True)
class Norms:
    """Maximum and root mean square of the absolute values."""

    maximum: float
    rms: float

    @classmethod
    def of(cls, x: torch.Tensor) -> Norms:
        if not x.numel():
            return cls(0.0, 0.0)
        found = cls._of(x)
        return found if math.isfinite(found.maximum) else cls._of(torch.where(torch.isfinite(x), x, 0.0))

    @classmethod
    def _of(cls, x: torch.Tensor) -> Norms:
        maximum, length = (torch.linalg.vector_norm(x, order).item() for order in (math.inf, 2))
        if math.isinf(length) and math.isfinite(maximum):  # the squares overflowed
            length = maximum * torch.linalg.vector_norm(x / maximum).item()
        return cls(maximum, length / math.sqrt(x.numel()))

    def at_least(self, other: Norms, factor: float = 1.0) -> Norms:
        return Norms(max(self.maximum, factor * other.maximum), max(self.rms, factor * other.rms))


ZERO = Norms(0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Deviation:
    """The comparison of one tensor.

    Attributes:
        name: ``output 0``, ``gradient of x0``, ``gradient of qkv.weight``, ``buffer bn.running_mean``, …
        deviation: ‖c − o‖ divided by the scale ‖o‖.
        tolerance: what the rule allows, divided by the same.
        share: deviation over tolerance: above 1 is a difference.
        decisive: whether the tolerance is small enough to tell the tensor from another one. (Gradients below the floor
            are rounding of terms that cancel; there is nothing to decide.)
        text: norm and worst element, for people; empty if within the tolerance.
    """

    name: str
    deviation: float
    tolerance: float
    share: float
    decisive: bool
    text: str


def check_structure(got: Tensors, low: Tensors, want: Tensors) -> None:
    """Raise unless the candidate gives the same tensors, with the shapes and dtypes of the reference's."""
    if "output 0" not in low:
        raise Unknown("the reference returns no tensor")
    if not any(tensor.numel() for name, tensor in low.items() if name.startswith("output")):
        raise Unknown("nothing was compared: all outputs of the reference are empty")
    finite = any(torch.isfinite(tensor).any() for name, tensor in want.items() if name.startswith("output"))
    if not finite:
        raise Unknown("nothing was compared: no output of the reference has a finite element")
    if low.keys() != want.keys() or any(low[name].shape != want[name].shape for name in low):
        raise Unknown("the reference and its float64 form return different tensors")
    if got.keys() != low.keys():
        only = sorted(got.keys() - low.keys()), sorted(low.keys() - got.keys())
        raise Different(f"the candidate gives {only[0] or 'nothing'} beside the reference, and lacks {only[1]}")
    for name, tensor in low.items():
        for what in ("shape", "dtype"):
            left, right = getattr(got[name], what), getattr(tensor, what)
            if left != right:
                raise Different(f"{name} has {what} {left}, expected {right}")


def deviations(
    got: Tensors, low: Tensors, want: Tensors, dtype: torch.dtype, sensitivity: dict[str, Norms] | None = None
) -> Iterator[Deviation]:
    """Compare tensors of the same names; raises :class:`Different` and :class:`Unknown` for non-finite values."""
    sizes = {name: Norms.of(tensor.double()) for name, tensor in want.items()}
    largest = ZERO
    for name, size in sizes.items():
        if name.startswith("gradient"):
            largest = largest.at_least(size)
    for name, tensor in want.items():
        if tensor.numel():
            floor = largest if name.startswith("gradient") else ZERO
            allowance = sensitivity.get(name, ZERO) if sensitivity else ZERO
            yield _deviation(name, got[name], low[name], tensor, dtype, sizes[name], floor, allowance)


def _deviation(
    name: str,
    got: torch.Tensor,
    low: torch.Tensor,
    want: torch.Tensor,
    dtype: torch.dtype,
    size: Norms,
    floor: Norms,
    sensitivity: Norms,
) -> Deviation:
    if not want.is_floating_point():
        differing = int((got != low).sum())
        if differing:
            raise Different(f"{name}: {differing} of {got.numel()} elements of {got.dtype} differ")
        return Deviation(name, 0.0, 0.0, 0.0, True, "")
    got, low, want = got.double(), low.double(), want.double()
    error, own = got - want, low - want
    # Of finite tensors only are both differences finite; masks for each element take ten times as long.
    if not all(math.isfinite(torch.linalg.vector_norm(x, math.inf).item()) for x in (error, own)):
        _check_finite(name, got, low, want)
        error, own = (torch.where(torch.isfinite(want), x, 0.0) for x in (error, own))
    found, granted, scale = Norms._of(error), Norms._of(own), size.at_least(floor, GRADIENT_FLOOR)
    limits = Norms(
        2 * granted.maximum + TERM[dtype] * scale.maximum + sensitivity.maximum,
        2 * granted.rms + TERM[dtype] * scale.rms + sensitivity.rms,
    )
    by_maximum = _share(found.maximum, limits.maximum) >= _share(found.rms, limits.rms)
    norm = "maximum" if by_maximum else "rms"
    deviation, limit, unit = (getattr(norms, norm) for norms in (found, limits, scale))
    decisive = limits.maximum <= DECISIVE * scale.maximum or size.maximum < GRADIENT_FLOOR * floor.maximum
    share = _share(deviation, limit)
    text = _witness(name, norm, deviation, limit, got, want, limits.maximum) if share > 1 else ""
    return Deviation(name, deviation / (unit or 1), limit / (unit or 1), share, decisive, text)


def _witness(
    name: str, norm: str, deviation: float, limit: float, got: torch.Tensor, want: torch.Tensor, allowed: float
) -> str:
    error = (got - want).abs()
    index = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    return (
        f"{name}: {norm} deviation {deviation:.3g} exceeds the {limit:.3g} allowed {_share(deviation, limit):.3g} "
        f"times; worst element {index}: got {got[index].item():.6g}, expected {want[index].item():.6g}; "
        f"{int((error > allowed).sum())} of {error.numel()} elements beyond the maximum allowed"
    )


def _check_finite(name: str, got: torch.Tensor, low: torch.Tensor, want: torch.Tensor) -> None:
    """NaN where the oracle has NaN, the same infinities, and finite elsewhere."""
    finite = torch.isfinite(want)
    overflow = finite & ~torch.isfinite(low)
    if overflow.any():
        raise Unknown(f"{name}: the reference itself overflows in this dtype at {int(overflow.sum())} elements")
    for what, where in {
        "finite where the expected value is not": ~finite & torch.isfinite(got),
        "not finite where the expected value is": finite & ~torch.isfinite(got),
        "NaN and infinity mixed up": ~finite & (torch.isnan(got) != torch.isnan(want)),
        "infinity of the other sign": torch.isinf(want) & torch.isinf(got) & (got != want),
    }.items():
        if where.any():
            index = tuple(int(i) for i in where.nonzero()[0])
            raise Different(
                f"{name}: {what}, {int(where.sum())} of {where.numel()} elements, first at {index}: "
                f"got {got[index].item()}, expected {want[index].item()}"
            )


def _share(deviation: float, tolerance: float) -> float:
    if deviation == 0:
        return 0.0
    share = deviation / tolerance if tolerance else math.inf
    return math.inf if math.isnan(share) else share
