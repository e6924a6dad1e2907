"""Family 4: (shifted) window attention selects kernels by index set; roll, partition and mask are not needed."""

from __future__ import annotations

from collections.abc import Callable

from sympy import Expr, Function, Idx, IndexedBase, KroneckerDelta, Lambda, Sum, exp

from equiv.symbolic.families.common import (
    WINDOWS,
    WORLDS,
    K,
    Q,
    V,
    activated,
    conv1x1,
    d,
    e,
    k,
    m,
    n,
    pos,
    region,
    s,
    tok,
    w,
    win,
)
from equiv.symbolic.identity import Family, Identity

j = Idx("j", w)
Rel, Penalty = IndexedBase("Rel"), IndexedBase("Penalty")  # by place in the window; by window and place (Swin's −100)


def partitioned(window: Expr, place: Expr) -> Expr:
    """Roll, partition, attend inside ``window``, row ``place``: all tokens are named by window and place."""

    def logit(z: Idx) -> Expr:
        product = Sum(Q[tok(window, place), e] * K[tok(window, z), e], e)
        return s * product + Rel[place, z] + Penalty[window, place, z]

    return Sum(activated(logit, w, j) * V[tok(window, j), k], j)


def selected(kernels: Callable[[Expr], Expr], values: Callable[[Expr], Expr], penalty: int = 1) -> Expr:
    """A pair of dynamic convolutions at location n with w kernels each, picked from the bank by index set."""

    def logit(z: Idx) -> Expr:
        logits = conv1x1(lambda y: Q[n, y], lambda y: s * K[kernels(z), y], d)
        return logits + Rel[pos(n), z] + penalty * Penalty[win(n), pos(n), z]

    return Sum(activated(logit, w, j) * V[values(j), k], j)


own = lambda z: tok(win(n), z)  # noqa: E731
SELECTION = Identity(
    "4a",
    "attending inside partitioned windows is convolving, at each location, with the kernels of its window",
    (n, k),
    (
        (
            "the map rolled and cut into windows; location n sits in window win(n) at place pos(n)",
            partitioned(win(n), pos(n)),
        ),
        (
            "tok(win(n), pos(n)) = n: the location need not move; it selects the kernels of its window",
            selected(own, own),
        ),
    ),
    {
        "the mask's penalty is left out": selected(own, own, penalty=0),
        "the values come from window 0": selected(own, lambda z: tok(0, z)),
        "the keys come from window 0": selected(lambda z: tok(0, z), own),
        "the kernels are the first w tokens": selected(lambda z: z, lambda z: z),
    },
    WORLDS,
    (WINDOWS,),
)


def score(token: Expr) -> Expr:
    """exp of the logit of location n with the kernel of a token."""
    return exp(Sum(Q[n, e] * K[token, e], e))


def same(f: Function, token: Expr) -> Expr:
    """1 where the token has the same window, or region, as location n; the weight that a mask of −∞ gives."""
    return KroneckerDelta(f(token), f(n))


def global_softmax(keep: Callable[[Expr], Expr]) -> Expr:
    """Softmax over all N tokens with weights ``keep`` of 0 and 1."""
    t = Idx("t", n.upper + 1)
    return Sum(keep(m) * score(m) * V[m, k], m) / Sum(keep(t) * score(t), t)


def window_softmax(keep: Callable[[Expr], Expr], below: Callable[[Expr], Expr] | None = None) -> Expr:
    """Softmax over the w tokens of the window of n with weights ``keep`` (``below``: those of the denominator)."""
    i = Idx("i", w)
    return Sum(keep(own(j)) * score(own(j)) * V[own(j), k], j) / Sum((below or keep)(own(i)) * score(own(i)), i)


both = lambda t: same(win, t) * same(region, t)  # noqa: E731
MASK = Identity(
    "4b",
    "masked window softmax is softmax over all tokens with weight 0 (a logit of −∞) outside of the window's part",
    (n, k),
    (
        ("all N kernels; those of another window or another end of the map have weight 0", global_softmax(both)),
        (
            "m = tok(b, j), and the weight 0 of the other windows leaves b = win(n)",
            window_softmax(lambda t: same(region, t)),
        ),
    ),
    {
        "no mask in the shifted window": window_softmax(lambda t: 1),
        "masked after the softmax: the denominator counts all": window_softmax(lambda t: same(region, t), lambda t: 1),
        "no window": global_softmax(lambda t: same(region, t)),
    },
    WORLDS,
    (WINDOWS,),
)

rho = Function("rho")


def elementwise(token: Expr) -> Expr:
    """rho of one logit: an activation without softmax, such as scaling + ReLU (a vector of length 1)."""
    z = Idx("z", 1)
    return rho(Lambda(z, s * Sum(Q[n, e] * K[token, e], e)), 1, 0)


ELEMENTWISE = Identity(
    "4c",
    "without softmax, excluding a kernel is multiplying its activated logit by 0",
    (n, k),
    (
        ("all kernels, weight 0 outside of the window's part", Sum(both(m) * elementwise(m) * V[m, k], m)),
        ("only the kernels of the window of n", Sum(same(region, own(j)) * elementwise(own(j)) * V[own(j), k], j)),
    ),
    {
        "no mask in the shifted window": Sum(elementwise(own(j)) * V[own(j), k], j),
        "the masked logit is set to 0 before rho": Sum(
            rho(Lambda(Idx("z", 1), same(region, own(j)) * s * Sum(Q[n, e] * K[own(j), e], e)), 1, 0) * V[own(j), k], j
        ),
        "averaged over the window": Sum(same(region, own(j)) * elementwise(own(j)) * V[own(j), k], j) / w,
    },
    WORLDS,
    (WINDOWS,),
)

FAMILY = Family(
    4, "Window attention selects kernels by index set", ("WindowAttention",), (SELECTION, MASK, ELEMENTWISE)
)
