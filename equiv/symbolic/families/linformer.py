"""Family 5: Linformer mixes kernels before it convolves; with a bias, the order of mixing and projecting matters."""

from __future__ import annotations

from sympy import Expr, Idx, IndexedBase, MatrixSymbol, Sum

from equiv.symbolic.families.common import WORLDS, C, K, N, Q, R, V, X, activated, c, conv1x1, d, i, k, m, n, s
from equiv.symbolic.identity import Family, Identity

E, F = MatrixSymbol("E", R, N), MatrixSymbol("F", R, N)
p = Idx("p", R)


def mixed_kernels(keys: MatrixSymbol, values: MatrixSymbol) -> Expr:
    """A pair of dynamic convolutions d → R → d with mixtures of the N kernels."""
    logits = lambda z: conv1x1(lambda y: Q[n, y], lambda y: s * Sum(keys[z, m] * K[m, y], m), d)  # noqa: E731
    return Sum(activated(logits, R, p) * Sum(values[p, m] * V[m, k], m), p)


SELECTION = Identity(
    "5a",
    "attention over projected keys and values is a pair of convolutions with softly selected kernels",
    (n, k),
    (
        (
            "phi(s Q (E K)ᵀ) (F V), as matrices",
            Sum(activated(lambda z: s * (Q * (E * K).T)[n, z], R, p) * (F * V)[p, k], p),
        ),
        ("E K and F V are mixtures of kernels", mixed_kernels(E, F)),
    ),
    {
        "the values are mixed as the keys": mixed_kernels(E, E),
        "the mixtures change places": mixed_kernels(F, E),
        "mixed after phi": Sum(
            Sum(E[p, m] * activated(lambda z: s * Sum(Q[n, c] * K[z, c], (c, 0, d - 1)), N, m), m) * (F * V)[p, k], p
        ),
    },
    WORLDS,
)

LOGITS = Identity(
    "5b",
    "mixing kernels is mixing logits, if that is done before phi",
    (n, k),
    (
        (
            "convolve with all N kernels, then mix the output channels, Q Kᵀ Eᵀ",
            Sum(activated(lambda z: Sum(E[z, m] * s * (Q * K.T)[n, m], m), R, p) * (F * V)[p, k], p),
        ),
        ("convolution is linear in the kernel", mixed_kernels(E, F)),
    ),
    {
        "the mixture is averaged": mixed_kernels(E / N, F),
        "mixed after phi": Sum(Sum(E[p, m] * activated(lambda z: s * (Q * K.T)[n, z], N, m), m) * (F * V)[p, k], p),
        "the scale is left out": Sum(activated(lambda z: Sum(E[z, m] * (Q * K.T)[n, m], m), R, p) * (F * V)[p, k], p),
    },
    WORLDS,
)

W, b = MatrixSymbol("W", C, d), IndexedBase("b")
projected = Sum((E * X)[p, c] * W[c, k], c)
ORDER = Identity(
    "5c",
    "mixing projected tokens is projecting mixed tokens, except that the bias is multiplied by the mixture's row sum",
    (p, k),
    (
        ("project every token (with bias), then mix", Sum(E[p, m] * ((X * W)[m, k] + b[k]), m)),
        ("distribute: E X W + …", (E * (X * W))[p, k] + Sum(E[p, m], m) * b[k]),
        ("mix the tokens, then project, (E X) W + …: the bias is not the same", projected + Sum(E[p, i], i) * b[k]),
    ),
    {
        "the order does not matter": projected + b[k],
        "the bias is dropped": projected,
        "the bias is counted N times": projected + N * b[k],
    },
    WORLDS,
)

FAMILY = Family(5, "Linformer selects mixtures of kernels", ("LinformerAttention",), (SELECTION, LOGITS, ORDER))
