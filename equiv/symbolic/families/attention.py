"""Family 3: attention-value as a dynamic convolution N → d, and the whole multi-head block with any activation."""

from __future__ import annotations

from collections.abc import Callable

from sympy import Expr, Idx, IndexedBase, MatrixSymbol, Sum

from equiv.symbolic.families.common import (
    HEADS,
    SMALL,
    Bias,
    C,
    K,
    N,
    O,
    Q,
    V,
    X,
    activated,
    cat,
    channel,
    conv1x1,
    d,
    e,
    g,
    h,
    head,
    k,
    m,
    n,
    o,
    s,
)
from equiv.symbolic.families.query_key import logits
from equiv.symbolic.identity import Family, Identity

A = MatrixSymbol("A", N, N)

VALUES = Identity(
    "3a",
    "multiplying by the values is a 1×1 convolution N → d whose input channel is the kernel index",
    (n, k),
    (
        ("entry (n, k) of A V: the attention matrix times the values", (A * V)[n, k]),
        ("row n of A is the pixel n of a map with N channels", conv1x1(lambda z: A[n, z], lambda z: V[z, k], N)),
    ),
    {
        "the attention matrix is transposed": conv1x1(lambda z: A[z, n], lambda z: V[z, k], N),
        "each location uses its own value": Sum(A[n, m] * V[n, k], m),
        "the kernel is averaged": conv1x1(lambda z: A[n, z], lambda z: V[z, k], N) / N,
    },
    SMALL,
)


def pair(at: Expr = n, axis: Callable[[Expr, Expr], Expr] = lambda location, kernel: logits(location, kernel)) -> Expr:
    """Dynamic convolution, activation along the kernel axis, dynamic convolution."""
    return Sum(activated(lambda z: axis(at, z) + Bias[at, z], N, m) * V[m, k], m)


PAIR = Identity(
    "3b",
    "attention with any activation along the kernel axis is a pair of dynamic convolutions around that activation",
    (n, k),
    (
        (
            "phi along each row of the logits s Q Kᵀ + Bias, times V",
            Sum(activated(lambda z: s * (Q * K.T)[n, z] + Bias[n, z], N, m) * V[m, k], m),
        ),
        ("2a inside phi: the logits are a convolution with the keys", pair()),
        (
            "3a: the outer product is a convolution with the values",
            conv1x1(lambda y: activated(lambda z: logits(n, z) + Bias[n, z], N, y), lambda y: V[y, k], N),
        ),
    ),
    {
        "phi runs along the query axis": Sum(activated(lambda z: logits(z, m) + Bias[z, m], N, n) * V[m, k], m),
        "phi comes after the values": activated(lambda z: Sum((logits(n, m) + Bias[n, m]) * V[m, k], m), N, n),
        "the bias is transposed": Sum(activated(lambda z: logits(n, z) + Bias[z, n], N, m) * V[m, k], m),
        "the bias is added after phi": Sum((activated(lambda z: logits(n, z), N, m) + Bias[n, m]) * V[m, k], m),
    },
    SMALL,
)

WEIGHTS = {name: MatrixSymbol(f"W{name}", C, h * d) for name in "qkv"}
BIASES = {name: IndexedBase(f"b{name}") for name in "qkv"}
Wo, bo = MatrixSymbol("Wo", h * d, O), IndexedBase("bo")
D, c2, f2 = Idx("D", h * d), Idx("c2", d), Idx("f2", d)
Rel = IndexedBase("Rel")  # relative position bias of head, location, kernel


def matrix(name: str, token: Expr, ch: Expr) -> Expr:
    """Channel ``ch`` of the projection of a token, as a linear layer."""
    return (X * WEIGHTS[name])[token, ch] + BIASES[name][ch]


def static(name: str, token: Expr, ch: Expr) -> Expr:
    """The same as a static 1×1 convolution."""
    return conv1x1(lambda z: X[token, z], lambda z: WEIGHTS[name][z, ch], C) + BIASES[name][ch]


def one_head(project: Callable[[str, Expr, Expr], Expr], group: Expr, ch: Expr, key_head: Expr | None = None) -> Expr:
    """Channel ``ch`` of the output of one head at location n."""

    def logit(z: Idx) -> Expr:
        product = project("q", n, cat(group, e)) * project("k", z, cat(group if key_head is None else key_head, e))
        return s * Sum(product, e) + Rel[group, n, z]

    return Sum(activated(logit, N, m) * project("v", m, cat(group, ch)), m)


block = Sum(Sum(one_head(static, g, c2) * Wo[cat(g, c2), o], c2), g) + bo[o]
BLOCK = Identity(
    "3c",
    "a whole multi-head block is static conv → dynamic conv → phi → dynamic conv → static conv",
    (n, o),
    (
        (
            "the heads side by side, channel D from head(D), then the output projection",
            Sum(one_head(matrix, head(D), channel(D)) * Wo[D, o], D) + bo[o],
        ),
        ("1a: projections are static convolutions", Sum(one_head(static, head(D), channel(D)) * Wo[D, o], D) + bo[o]),
        ("D = cat(g, c): the sum over channels is one over heads and their channels", block),
    ),
    {
        "all heads use the keys of head 0": Sum(Sum(one_head(static, g, c2, cat(0, 0)) * Wo[cat(g, c2), o], c2), g)
        + bo[o],
        "heads are interleaved": Sum(Sum(one_head(static, g, c2) * Wo[cat(c2, g), o], c2), g) + bo[o],
        "the output bias is added by every head": Sum(Sum(one_head(static, g, c2) * Wo[cat(g, c2), o], c2) + bo[o], g),
        "only the first head": Sum(one_head(static, 0, c2) * Wo[cat(0, c2), o], c2) + bo[o],
    },
    SMALL,
    (HEADS,),
)

FAMILY = Family(
    3, "Attention = static → dynamic → φ → dynamic → static convolution", ("GlobalAttention",), (VALUES, PAIR, BLOCK)
)
