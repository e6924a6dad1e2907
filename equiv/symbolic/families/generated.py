"""Family 9: D-DW-Conv and involution: generated kernels, applied as unfold, multiply and sum."""

from __future__ import annotations

from collections.abc import Callable

from sympy import Expr, Idx, IndexedBase, KroneckerDelta, Sum, symbols

from equiv.symbolic.families.common import HEADS, TAPS, WORLDS, T, cat, d, g, h, head, k, tap, tap_column, tap_row, x, y
from equiv.symbolic.identity import Family, Identity

padding, stride = symbols("padding stride", integer=True, positive=True)
u, v, t, D, ch = Idx("u", T), Idx("v", T), Idx("t", T * T), Idx("D", h * d), Idx("ch", h * d)
image, kernel, local = IndexedBase("image"), IndexedBase("kernel"), IndexedBase("local")


def pixel(channel: Expr, row: Expr, column: Expr) -> Expr:
    """What tap (row, column) reads at location (y, x)."""
    return image[channel, stride * y + row - padding, stride * x + column - padding]


unfold_sum = Sum(kernel[D, t] * pixel(D, tap_row(t), tap_column(t)), t)
DEPTHWISE = Identity(
    "9a",
    "a depth-wise convolution with one generated kernel set per image is unfold, multiply, sum",
    (y, x, D),
    (
        ("unfold: tap t of the patch; multiply by the kernel; sum over the patch", unfold_sum),
        ("t = tap(u, v)", Sum(kernel[D, tap(u, v)] * pixel(D, u, v), u, v)),
        (
            "depth-wise = a dense kernel that is diagonal in the channels",
            Sum(KroneckerDelta(ch, D) * kernel[D, tap(u, v)] * pixel(ch, u, v), ch, u, v),
        ),
    ),
    {
        "the taps are transposed": Sum(kernel[D, tap(v, u)] * pixel(D, u, v), u, v),
        "the kernel is dense": Sum(kernel[D, tap(u, v)] * pixel(ch, u, v), ch, u, v),
        "the kernel is not centred": Sum(kernel[D, tap(u, v)] * pixel(D, u + padding, v + padding), u, v),
    },
    WORLDS,
    (TAPS,),
)


def per_location(group: Expr, at: Callable[[Expr, Expr], tuple[Expr, Expr]] = lambda u, v: (y, x)) -> Expr:
    """The patch of location (y, x), channel k of group g, convolved with the kernel of this location and group."""
    return Sum(local[group, u, v, at(u, v)[0], at(u, v)[1]] * pixel(cat(g, k), u, v), u, v)


INVOLUTION = Identity(
    "9b",
    "involution: each location convolves its own patch with its own kernel, shared by the channels of a group",
    (y, x, g, k),
    (
        (
            "unfold, multiply by the kernel of the channel's group, sum",
            Sum(
                local[head(cat(g, k)), tap_row(t), tap_column(t), y, x] * pixel(cat(g, k), tap_row(t), tap_column(t)), t
            ),
        ),
        (
            "channel cat(g, k) is in group g",
            Sum(local[g, tap_row(t), tap_column(t), y, x] * pixel(cat(g, k), tap_row(t), tap_column(t)), t),
        ),
        ("t = tap(u, v): a convolution of the patch, with one location as result", per_location(g)),
    ),
    {
        "the kernel of the place that is read": per_location(g, lambda u, v: (y + u, x + v)),
        "groups are interleaved": per_location(k),
        "the kernel of the first location": per_location(g, lambda u, v: (0, 0)),
    },
    WORLDS,
    (TAPS, HEADS),
)

FAMILY = Family(
    9, "Generated kernels: unfold, multiply, sum", ("DynamicDepthwiseConv2d", "Involution2d"), (DEPTHWISE, INVOLUTION)
)
