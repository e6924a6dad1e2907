"""Family 1: a linear layer on tokens is a static 1×1 convolution on the feature map."""

from __future__ import annotations

from sympy import Expr, Idx, IndexedBase, MatrixSymbol, Sum

from equiv.symbolic.families.common import WORLDS, C, N, O, X, at, c, n, o, x, y
from equiv.symbolic.identity import Family, Identity

W, W2 = MatrixSymbol("W", C, O), MatrixSymbol("W2", O, N)
b, b2 = IndexedBase("b"), IndexedBase("b2")
u, v = Idx("u", 1), Idx("v", 1)
p, o2 = Idx("p", N), Idx("o2", O)


def convolution(weight: Expr, row: Expr, column: Expr) -> Expr:
    """The K×K convolution at (y, x) with K = 1; ``row`` and ``column`` say where it reads."""
    return Sum(X[at(row, column), c] * weight, u, v, c)


LINEAR = Identity(
    "1a",
    "a linear layer on tokens is a K×K convolution with K = 1 on their feature map",
    (y, x, o),
    (
        ("X W + b, the linear layer, at the token in row y, column x", (X * W)[at(y, x), o] + b[o]),
        ("name the sum over channels", Sum(X[at(y, x), c] * W[c, o], c) + b[o]),
        ("a sum over the only tap of a 1×1 kernel changes nothing", convolution(W[c, o], y + u, x + v) + b[o]),
    ),
    {
        "the bias depends on the location": convolution(W[c, o], y + u, x + v) + b[at(y, x)],
        "the bias is dropped": convolution(W[c, o], y + u, x + v),
        "the weight is transposed": convolution(W[o, c], y + u, x + v) + b[o],
        "the kernel reads the next column": convolution(W[c, o], y + u, x + v + 1) + b[o],
    },
    WORLDS,
)

once = Sum(X[n, c] * W[c, o2], c) + b[o2]
MERGED = Identity(
    "1b",
    "two static 1×1 convolutions are one, with the product of the kernels and the first bias sent through the second",
    (n, p),
    (
        ("one after the other", Sum(once * W2[o2, p], o2) + b2[p]),
        (
            "distribute, exchange the sums",
            Sum(X[n, c] * Sum(W[c, o2] * W2[o2, p], o2), c) + Sum(b[o2] * W2[o2, p], o2) + b2[p],
        ),
        ("as matrices: X (W W2) + …", (X * (W * W2))[n, p] + Sum(b[o2] * W2[o2, p], o2) + b2[p]),
    ),
    {
        "the first bias is added unchanged": (X * (W * W2))[n, p] + b[p] + b2[p],
        "the first bias is dropped": (X * (W * W2))[n, p] + b2[p],
        "an activation between the two": Sum(once**2 * W2[o2, p], o2) + b2[p],
    },
    WORLDS,
)

FAMILY = Family(
    1,
    "A linear layer is a static 1×1 convolution",
    ("the projections qkv, qk and proj of every operator",),
    (LINEAR, MERGED),
)
