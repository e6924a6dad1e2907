"""Family 12: the gradients of both forms are the same, written out through an uninterpreted Jacobian of phi."""

from __future__ import annotations

from sympy import Expr, Function, Idx, IndexedBase, Lambda, MatrixSymbol, Sum

from equiv.symbolic.derivative import derivative
from equiv.symbolic.families.common import (
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
    conv1x1,
    d,
    k,
    m,
    n,
    o,
    phi,
    s,
)
from equiv.symbolic.families.query_key import logits
from equiv.symbolic.identity import Family, Identity
from equiv.symbolic.ranges import fresh

J = Function("J")  # J(x, size, m, i) = ∂phi(x, size, m)/∂x_i
G = MatrixSymbol("G", N, d)  # the gradient of the loss by the output
i0, k0, p, z = Idx("i0", N), Idx("k0", d), Idx("p", N), Idx("z", d)


def loss(out: Expr) -> Expr:
    """A number whose gradient by the output is G; its gradient by anything else is what backward computes."""
    return Sum(G[n, k] * out, n, k)


matrix_form = loss(Sum(activated(lambda y: s * (Q * K.T)[n, y] + Bias[n, y], N, m) * V[m, k], m))
conv_form = loss(conv1x1(lambda y: activated(lambda a: logits(n, a) + Bias[n, a], N, y), lambda y: V[y, k], N))


def row(location: Expr) -> Lambda:
    """The vector of logits of a location."""
    a = fresh(0 * N, N - 1)
    return Lambda(a, logits(location, a) + Bias[location, a])


def weights(location: Expr, kernel: Expr) -> Expr:
    """Entry of the attention matrix."""
    return phi(row(location), N, kernel)


def logit_gradient(location: Expr, kernel: Expr, *, transposed: bool = False) -> Expr:
    """The gradient by one logit: the Jacobian of phi times the gradient by the attention matrix, G Vᵀ."""
    jacobian = J(row(location), N, *((kernel, p) if transposed else (p, kernel)))
    return Sum(jacobian * Sum(G[location, z] * V[p, z], z), p)


def gradient(name: str, by: Expr, what: str, formula: Expr, wrong: dict[str, Expr]) -> Identity:
    """Both forms differentiated, and the formula."""
    steps = (
        ("the derivative of the loss of the matrix form", derivative(matrix_form, by, {phi: J})),
        ("the derivative of the loss of the convolution form", derivative(conv_form, by, {phi: J})),
        ("written out", formula),
    )
    also = ("phi has the Jacobian J; derivatives by the sum, product and chain rules",)
    return Identity(name, f"both forms have the same gradient by the {what}", (i0, k0), steps, wrong, SMALL, also=also)


VALUES = gradient(
    "12a",
    V[i0, k0],
    "values: the transposed convolution, weightsᵀ G",
    Sum(weights(n, i0) * G[n, k0], n),
    {
        "the weights are not transposed": Sum(weights(i0, n) * G[n, k0], n),
        "the logits instead of the weights": Sum((logits(n, i0) + Bias[n, i0]) * G[n, k0], n),
        "the gradient of one location only": weights(i0, i0) * G[i0, k0],
    },
)
KEYS = gradient(
    "12b",
    K[i0, k0],
    "keys: the gradient by the logits, transposed, times the queries",
    s * Sum(logit_gradient(n, i0) * Q[n, k0], n),
    {
        "the Jacobian is transposed": s * Sum(logit_gradient(n, i0, transposed=True) * Q[n, k0], n),
        "the scale is left out": Sum(logit_gradient(n, i0) * Q[n, k0], n),
        "keys instead of queries": s * Sum(logit_gradient(n, i0) * K[n, k0], n),
    },
)
QUERIES = gradient(
    "12c",
    Q[i0, k0],
    "queries: the gradient by the logits times the keys",
    s * Sum(logit_gradient(i0, m) * K[m, k0], m),
    {
        "the Jacobian is transposed": s * Sum(logit_gradient(i0, m, transposed=True) * K[m, k0], m),
        "queries instead of keys": s * Sum(logit_gradient(i0, m) * Q[m, k0], m),
        "the logits' gradient is transposed": s * Sum(logit_gradient(m, i0) * K[m, k0], m),
    },
)

W, H, b = MatrixSymbol("W", C, O), MatrixSymbol("H", N, O), IndexedBase("b")
c0, o0 = Idx("c0", C), Idx("o0", O)
linear = Sum(H[n, o] * ((X * W)[n, o] + b[o]), n, o)
static = Sum(H[n, o] * (conv1x1(lambda y: X[n, y], lambda y: W[y, o], C) + b[o]), n, o)
WEIGHT = Identity(
    "12d",
    "a linear layer and a static 1×1 convolution have the same gradient by the weight, Xᵀ H",
    (c0, o0),
    (
        ("the derivative of the linear layer", derivative(linear, W[c0, o0], {})),
        ("the derivative of the 1×1 convolution", derivative(static, W[c0, o0], {})),
        ("written out: Xᵀ H", (X.T * H)[c0, o0]),
    ),
    {
        "averaged over tokens": (X.T * H)[c0, o0] / N,
        "one token only": X[0, c0] * H[0, o0],
        "the bias' gradient": Sum(H[n, o0], n),
    },
    SMALL,
)
BIAS = Identity(
    "12e",
    "a linear layer and a static 1×1 convolution have the same gradient by the bias, the sum of H over tokens",
    (o0,),
    (
        ("the derivative of the linear layer", derivative(linear, b[o0], {})),
        ("the derivative of the 1×1 convolution", derivative(static, b[o0], {})),
        ("written out", Sum(H[n, o0], n)),
    ),
    {
        "averaged over tokens": Sum(H[n, o0], n) / N,
        "summed over channels too": Sum(H[n, o], n, o),
        "one token only": H[0, o0],
    },
    SMALL,
)

FAMILY = Family(12, "Both forms have the same gradients", ("GlobalAttention",), (VALUES, KEYS, QUERIES, WEIGHT, BIAS))
