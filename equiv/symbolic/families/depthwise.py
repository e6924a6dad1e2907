"""Family 7: depth-wise self-attention is a depth-wise 1×1 convolution with the average kernel (Eq. 5)."""

from __future__ import annotations

from sympy import Expr, Idx, IndexedBase, KroneckerDelta, MatrixSymbol, Sum

from equiv.symbolic.families.common import (
    HEADS,
    WINDOWS,
    WORLDS,
    K,
    N,
    Q,
    cat,
    conv1x1,
    d,
    g,
    h,
    head,
    k,
    m,
    n,
    region,
    tok,
    w,
    win,
)
from equiv.symbolic.families.window import both, j, own, same
from equiv.symbolic.identity import Family, Identity


def mean(channel: Expr) -> Expr:
    """Entry of the average of the N kernels."""
    return Sum(K[m, channel], m) / N


MEAN = Identity(
    "7a",
    "averaging the products with all kernels is one depth-wise convolution with the average kernel",
    (n, k),
    (
        ("channel by channel, the mean over kernels of the product", Sum(Q[n, k] * K[m, k], m) / N),
        ("the query does not depend on the kernel", Q[n, k] * mean(k)),
        (
            "depth-wise = a dense kernel that is diagonal",
            conv1x1(lambda z: Q[n, z], lambda z: KroneckerDelta(z, k) * mean(z), d),
        ),
    ),
    {
        "the kernel is dense": conv1x1(lambda z: Q[n, z], mean, d),
        "sum instead of mean": Q[n, k] * Sum(K[m, k], m),
        "the mean is over queries": K[n, k] * Sum(Q[m, k], m) / N,
    },
    WORLDS,
)

wide, Z = MatrixSymbol("Kw", N, h * d), MatrixSymbol("Z", N, h * d)
queries, Rel = MatrixSymbol("Qw", N, h * d), IndexedBase("Rel")


def equation5(bias: Expr, average: Expr = N) -> Expr:
    """Eq. 5 at location n, channel k of head g."""
    ch = cat(g, k)
    return queries[n, ch] * Sum(wide[m, ch], m) / average + Sum(bias * Z[m, ch], m)


BIAS = Identity(
    "7b",
    "Eq. 5: the relative position bias, one for each head, weighs a second bank z of depth-wise kernels",
    (n, g, k),
    (
        ("channel D of all channels takes the bias of its head", equation5(Rel[head(cat(g, k)), n, m])),
        ("split into heads: the head of channel cat(g, k) is g", equation5(Rel[g, n, m])),
    ),
    {
        "the bias is transposed": equation5(Rel[g, m, n]),
        "one bias for all heads": equation5(Rel[0, n, m]),
        "the bias is averaged too": equation5(Rel[g, n, m] / N),
        "sum instead of mean": equation5(Rel[g, n, m], 1),
    },
    WORLDS,
    (HEADS,),
)

i = Idx("i", w)
part = lambda z: same(region, own(z))  # noqa: E731


def window_mean(below: Expr) -> Expr:
    """The query times the average kernel of the window's part."""
    return Q[n, k] * Sum(part(j) * K[own(j), k], j) / below


WINDOW = Identity(
    "7c",
    "in a shifted window the average is over the kernels of the window's part, and so is their number",
    (n, k),
    (
        ("mean over all kernels that are not masked", Q[n, k] * Sum(both(m) * K[m, k], m) / Sum(both(m), m)),
        ("m = tok(b, j); only b = win(n) is left", window_mean(Sum(part(i), i))),
    ),
    {
        "divided by the window's size": window_mean(w),
        "divided by all tokens": window_mean(N),
        "no mask": Q[n, k] * Sum(K[tok(win(n), j), k], j) / w,
    },
    WORLDS,
    (WINDOWS,),
)

FAMILY = Family(
    7,
    "Depth-wise attention is a depth-wise convolution",
    ("DepthwiseAttention", "DepthwiseWindowAttention"),
    (MEAN, BIAS, WINDOW),
)
