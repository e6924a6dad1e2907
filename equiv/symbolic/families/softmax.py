"""Family 10: softmax: shift invariance, rows that sum to one, equivariance under permutations."""

from __future__ import annotations

from collections.abc import Callable

from sympy import Expr, Function, IndexedBase, S, Sum, exp

from equiv.symbolic.facts import Bijection, Equivariant
from equiv.symbolic.families.common import WORLDS, K, N, Q, V, activated, e, i, k, m, n, phi, s
from equiv.symbolic.identity import Family, Identity
from equiv.symbolic.world import World

z, shift = IndexedBase("z"), IndexedBase("shift")
perm = Function("perm")
PERMUTATION = Bijection(perm, ((S.Zero, N - 1),), (S.Zero, N - 1))


def softmax(above: Callable[[Expr], Expr], below: Callable[[Expr], Expr] | None = None) -> Expr:
    """Entry m of the softmax of a vector (``below``: the vector of the denominator, if another)."""
    return exp(above(m)) / Sum(exp((below or above)(i)), i)


SHIFT = Identity(
    "10a",
    "adding the same number to all logits of a row, such as minus their maximum, changes nothing",
    (n, m),
    (
        ("softmax of the shifted row", softmax(lambda i: z[n, i] + shift[n])),
        (
            "exp(a + b) = exp(a) exp(b), above and below",
            exp(shift[n]) * exp(z[n, m]) / (exp(shift[n]) * Sum(exp(z[n, i]), i)),
        ),
        ("the common factor cancels", softmax(lambda i: z[n, i])),
    ),
    {
        "the shift depends on the kernel": softmax(lambda i: z[n, i] + shift[i]),
        "the shift is in the numerator only": softmax(lambda i: z[n, i] + shift[n], lambda i: z[n, i]),
        "the shift is a factor": softmax(lambda i: z[n, i] * shift[n]),
    },
    WORLDS,
)

ROWS = Identity(
    "10b",
    "each row of a softmax sums to one",
    (n,),
    (
        ("the sum of a row", Sum(softmax(lambda i: z[n, i]), m)),
        ("the denominator does not depend on the kernel", Sum(exp(z[n, m]), m) / Sum(exp(z[n, i]), i)),
        ("z/z = 1", S.One),
    ),
    {
        "the columns sum to one": Sum(exp(z[m, n]) / Sum(exp(z[m, i]), i), m),
        "the sum is N": N,
        "without the denominator": Sum(exp(z[n, m]), m),
    },
    WORLDS,
)

SOFTMAX_EQUIVARIANT = Identity(
    "10c",
    "permuting the logits permutes the softmax",
    (m,),
    (
        ("softmax of the permuted vector", exp(z[0, perm(m)]) / Sum(exp(z[0, perm(i)]), i)),
        ("the denominator is a sum over all kernels in any order", exp(z[0, perm(m)]) / Sum(exp(z[0, i]), i)),
    ),
    {
        "the softmax stays as it was": softmax(lambda i: z[0, i]),
        "permuted twice": exp(z[0, perm(perm(m))]) / Sum(exp(z[0, i]), i),
        "the denominator permutes another row": exp(z[0, perm(m)]) / Sum(exp(z[1, i]), i),
    },
    tuple(
        World(world.sizes, {**world.functions, "perm": lambda i, size=world.sizes["N"]: (i + 2) % size}, seed=5)
        for world in WORLDS
    ),
    (PERMUTATION,),
)


def attention(location: Expr, kernel: Callable[[Expr], Expr], value: Callable[[Expr], Expr]) -> Expr:
    """Attention at a location with the keys and values in some order."""
    logit = lambda i: s * Sum(Q[location, e] * K[kernel(i), e], e)  # noqa: E731
    return Sum(activated(logit, N, m) * V[value(m), k], m)


def symmetric(x: list[int], at: int) -> int:
    """An activation that treats all places alike."""
    return x[at] ** 2 + 2 * sum(v**2 for v in x) - 3 * sum(x)


unmoved = lambda i: i  # noqa: E731
ATTENTION_EQUIVARIANT = Identity(
    "10d",
    "permuting the tokens permutes the output of attention, if phi treats all kernels alike",
    (n, k),
    (
        ("attention of the permuted tokens, at location n", attention(perm(n), perm, perm)),
        (
            "phi(x∘perm, m) = phi(x, perm(m)), and the sum runs over all kernels in any order",
            attention(perm(n), unmoved, unmoved),
        ),
    ),
    {
        "the output stays as it was": attention(n, unmoved, unmoved),
        "the values are not permuted": attention(perm(n), perm, unmoved),
        "the location is not permuted": attention(n, perm, perm),
    },
    tuple(
        World(world.sizes, {"phi": symmetric, "perm": lambda i, size=world.sizes["N"]: (i + 2) % size}, seed=6)
        for world in WORLDS
    ),
    (PERMUTATION, Equivariant(phi)),
)

FAMILY = Family(
    10,
    "Softmax: shifts, row sums, permutations",
    ("GlobalAttention", "WindowAttention", "LinformerAttention"),
    (SHIFT, ROWS, SOFTMAX_EQUIVARIANT, ATTENTION_EQUIVARIANT),
)
