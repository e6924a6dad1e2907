"""Family 6: without an activation the pair of convolutions is one, with the merged kernel (Fig. 5, Eq. 4)."""

from __future__ import annotations

from sympy import Expr, Idx, Sum

from equiv.symbolic.families.common import WORLDS, Bias, K, Q, V, conv1x1, d, e, k, m, n, s, tok, w, win
from equiv.symbolic.identity import Family, Identity

j = Idx("j", w)


def kernel(row: Expr, column: Expr) -> Expr:
    """Entry of the merged kernel, the sum of the outer products of keys and values."""
    return Sum(K[m, row] * V[m, column], m)


def one_convolution(scale: Expr = s) -> Expr:
    """The 1×1 convolution d → d with the merged kernel."""
    return conv1x1(lambda z: Q[n, z], lambda z: scale * kernel(z, k), d)


MERGED = Identity(
    "6a",
    "two linear dynamic convolutions merge into one with the kernel Σ_j k_jᵀ v_j",
    (n, k),
    (
        ("attention without activation: s Q Kᵀ V, a product of matrices", s * (Q * K.T * V)[n, k]),
        ("the pair of dynamic convolutions", Sum(conv1x1(lambda z: Q[n, z], lambda z: s * K[m, z], d) * V[m, k], m)),
        ("exchange the sums: multiply keys and values first", one_convolution()),
        ("as matrices: Q (Kᵀ V)", s * (Q * (K.T * V))[n, k]),
    ),
    {
        "merged the other way round, v_jᵀ k_j": conv1x1(lambda z: Q[n, z], lambda z: s * kernel(k, z), d),
        "the scale is applied twice": one_convolution(s**2),
        "the kernel is averaged": one_convolution(s / n.upper),
        "merged in spite of an activation (a square)": s * Sum(Sum(Q[n, e] * K[m, e], e) ** 2 * V[m, k], m),
    },
    WORLDS,
)

BIAS = Identity(
    "6b",
    "Eq. 4: without softmax the relative position bias is a second term, on the values",
    (n, k),
    (
        ("bias on the logits", Sum((s * (Q * K.T)[n, m] + Bias[n, m]) * V[m, k], m)),
        ("distribute", Sum(s * (Q * K.T)[n, m] * V[m, k], m) + Sum(Bias[n, m] * V[m, k], m)),
        ("6a on the first term", one_convolution() + Sum(Bias[n, m] * V[m, k], m)),
    ),
    {
        "the bias acts on the keys": one_convolution() + Sum(Bias[n, m] * K[m, k], m),
        "the bias is scaled too": one_convolution() + s * Sum(Bias[n, m] * V[m, k], m),
        "the bias is transposed": one_convolution() + Sum(Bias[m, n] * V[m, k], m),
    },
    WORLDS,
)

own = tok(win(n), j)
WINDOW = Identity(
    "6c",
    "inside a window, the merged kernel sums over the window's tokens only",
    (n, k),
    (
        (
            "attention without activation over the kernels of the window",
            Sum(s * Sum(Q[n, e] * K[own, e], e) * V[own, k], j),
        ),
        ("exchange the sums", conv1x1(lambda z: Q[n, z], lambda z: s * Sum(K[own, z] * V[own, k], j), d)),
    ),
    {
        "merged over all tokens": one_convolution(),
        "the kernel of window 0": conv1x1(
            lambda z: Q[n, z], lambda z: s * Sum(K[tok(0, j), z] * V[tok(0, j), k], j), d
        ),
        "keys and values summed apart": conv1x1(
            lambda z: Q[n, z], lambda z: s * Sum(K[own, z], j) * Sum(V[own, k], j), d
        ),
    },
    WORLDS,
)

FAMILY = Family(
    6, "Without activation, one merged kernel", ("LinearAttention", "LinearWindowAttention"), (MERGED, BIAS, WINDOW)
)
