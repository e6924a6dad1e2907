"""Family 8: D-Conv: convolving with a mixed kernel is mixing the convolutions, and a product with unfolded patches."""

from __future__ import annotations

from sympy import Expr, Idx, IndexedBase, Sum, symbols

from equiv.symbolic.families.common import TAPS, WORLDS, T, c, o, tap_column, tap_row, x, y
from equiv.symbolic.identity import Family, Identity

M, stride, dilation, padding = symbols("M stride dilation padding", integer=True, positive=True)
q, u, v, t = Idx("q", M), Idx("u", T), Idx("v", T), Idx("t", T * T)
image, bank, bias, pi = IndexedBase("image"), IndexedBase("bank"), IndexedBase("bias"), IndexedBase("pi")


def pixel(row: Expr, column: Expr) -> Expr:
    """What tap (row, column) of the kernel reads when it is at location (y, x)."""
    return image[c, stride * y + dilation * row - padding, stride * x + dilation * column - padding]


def convolve(row: Expr = u, column: Expr = v) -> Expr:
    """The convolution with the mixed kernel, plus the mixed bias."""
    mixed = Sum(pi[q] * bank[q, o, c, row, column], q)
    return Sum(mixed * pixel(u, v), u, v, c) + Sum(pi[q] * bias[q, o], q)


outputs = Sum(pi[q] * (Sum(bank[q, o, c, u, v] * pixel(u, v), u, v, c) + bias[q, o]), q)
MIXTURE = Identity(
    "8a",
    "convolving with the mixture of kernels is mixing the convolutions, at any stride, dilation and padding",
    (y, x, o),
    (
        ("convolve with each kernel of the bank, then mix the outputs", outputs),
        ("convolution is linear in the kernel and the bias", convolve()),
    ),
    {
        "the kernel is transposed": convolve(v, u),
        "the kernel is flipped (true convolution)": convolve(T - 1 - u, T - 1 - v),
        "the biases are not mixed": convolve() - Sum(pi[q] * bias[q, o], q) + Sum(bias[q, o], q),
        "only the first kernel": Sum(bank[0, o, c, u, v] * pixel(u, v), u, v, c) + Sum(pi[q] * bias[q, o], q),
    },
    WORLDS,
)


def unfolded(row: Expr, column: Expr) -> Expr:
    """The mixed kernel times the unfolded patches: tap t of T·T."""
    mixed = Sum(pi[q] * bank[q, o, c, row, column], q)
    return Sum(mixed * pixel(tap_row(t), tap_column(t)), c, t) + Sum(pi[q] * bias[q, o], q)


UNFOLD = Identity(
    "8b",
    "the convolution is the product of the kernel as a matrix C'×(C·K²) with the unfolded patches",
    (y, x, o),
    (
        ("the convolution with the mixed kernel", convolve()),
        ("t = tap(u, v) counts the taps row by row", unfolded(tap_row(t), tap_column(t))),
    ),
    {
        "the taps are counted column by column": unfolded(tap_column(t), tap_row(t)),
        "only the first row of taps": Sum(Sum(pi[q] * bank[q, o, c, 0, v], q) * pixel(0, v), v, c)
        + Sum(pi[q] * bias[q, o], q),
        "every patch is multiplied by the kernel's sum": Sum(
            Sum(pi[q] * bank[q, o, c, u, v], q) * pixel(tap_row(t), tap_column(t)), c, t, u, v
        )
        + Sum(pi[q] * bias[q, o], q),
    },
    WORLDS,
    (TAPS,),
)

FAMILY = Family(8, "D-Conv: a mixture of kernels is a mixture of convolutions", ("DynamicConv2d",), (MIXTURE, UNFOLD))
