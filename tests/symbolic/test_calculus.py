"""Soundness of the index calculus: names are not captured, ranges are respected, what is not understood raises."""

from __future__ import annotations

import pytest
from sympy import Function, Idx, IndexedBase, Lambda, Piecewise, S, Sum, Symbol, exp, symbols
from sympy import KroneckerDelta as Delta

from equiv.symbolic.calculus import normal_form, proves
from equiv.symbolic.derivative import derivative
from equiv.symbolic.facts import AtLeast, Bijection, Division, Equivariant, Limit
from equiv.symbolic.ranges import NotUnderstood
from equiv.symbolic.world import World, counterexample

N, d, B, w, P, M, r = symbols("N d B w P M r", integer=True, positive=True)
m, n, i = (Idx(name, N) for name in "mni")
x, b, j = Idx("x", d), Idx("b", B), Idx("j", w)
a, c = IndexedBase("a"), IndexedBase("c")
phi, tok, win, pos, quo, perm = map(Function, ("phi", "tok", "win", "pos", "quo", "perm"))
WINDOWS = Bijection(tok, ((S.Zero, B - 1), (S.Zero, w - 1)), (S.Zero, N - 1), (win, pos))


def test_substituting_does_not_capture_bound_names():
    nested = Sum(Delta(m, i) * Sum(a[m, i], i), m)
    assert proves(nested, Sum(a[i, m], m))
    assert not proves(nested, Sum(a[i, i], i))
    free = symbols("free", integer=True)
    assert Sum(a[free, m], m).subs(free, m) == Sum(a[m, m], m)  # ... as SymPy's own subs does


def test_the_same_name_bound_twice_is_two_indices():
    assert proves(Sum(a[m, 0] * Sum(a[m, 1], m), m), Sum(a[i, 0], i) * Sum(a[m, 1], m))
    assert not proves(Sum(a[m], m) ** 2, Sum(a[m] ** 2, m))


def test_a_vector_s_index_is_bound():
    assert proves(phi(Lambda(m, a[m]), N, n), phi(Lambda(i, a[i]), N, n))
    assert not proves(phi(Lambda(m, a[m]), N, n), phi(Lambda(m, a[n]), N, n))
    assert proves(Sum(Delta(m, i) * phi(Lambda(i, a[i, m]), N, n), m), phi(Lambda(m, a[m, i]), N, n))


def test_a_delta_is_contracted_only_inside_the_range():
    assert proves(Sum(Delta(m, i) * a[m], m), a[i])
    assert not proves(Sum(Delta(m, x) * a[m], m), a[x])  # x may be N or more
    assert not proves(Sum(Delta(m, i + 1) * a[m], m), a[i + 1])  # i + 1 may be N
    assert not proves(Sum(Delta(m, n), (m, 0, N - 2)), 1)
    longer = Idx("longer", N + 1)
    assert proves(Sum(Delta(longer, i + 1) * a[longer], longer), a[i + 1])


def test_sums_of_another_length_differ():
    assert not proves(Sum(a[m], m), Sum(a[x], x))
    assert not proves(Sum(a[m], m), Sum(a[m], (m, 0, N - 2)))
    assert proves(Sum(1, m), N)
    assert not proves(Sum(1, m), d)
    assert not proves(phi(Lambda(m, 1), N, n), phi(Lambda(m, 1), d, n))


def test_a_bijection_counts_only_on_its_domain():
    pairs = (b, 0, B - 1), (j, 0, w - 1)
    assert proves(Sum(a[tok(b, j)], *pairs), Sum(a[m], m), (WINDOWS,))
    assert not proves(Sum(a[tok(b, j)], *pairs), Sum(a[m], m))
    assert not proves(Sum(a[tok(b, x)], b, x), Sum(a[m], m), (WINDOWS,))
    assert not proves(Sum(a[tok(b, b)], b), Sum(a[m], m), (WINDOWS,))
    assert proves(a[win(tok(b, j))], a[b], (WINDOWS,))
    assert not proves(a[win(tok(b, x))], a[b], (WINDOWS,))
    anything = symbols("anything", integer=True)
    assert not proves(a[tok(win(anything), pos(anything))], a[anything], (WINDOWS,))
    assert not proves(a[tok(win(n), pos(m))], a[n], (WINDOWS,))


def test_indices_may_occur_beside_the_bijection():
    left, right = Sum(a[tok(b, j)] * c[b], b, j), Sum(a[m] * c[win(m)], m)
    assert proves(left, right, (WINDOWS,))
    assert not proves(left, Sum(a[m] * c[pos(m)], m), (WINDOWS,))
    assert not proves(left, Sum(a[m] * c[0], m), (WINDOWS,))


def test_equivariance_holds_for_permutations_of_all_places_only():
    permutation = Bijection(perm, ((S.Zero, N - 1),), (S.Zero, N - 1))
    moved, expected = phi(Lambda(m, a[perm(m)]), N, n), phi(Lambda(m, a[m]), N, perm(n))
    assert proves(moved, expected, (permutation, Equivariant(phi)))
    assert not proves(moved, expected, (permutation,))
    assert not proves(
        phi(Lambda(x, a[perm(x)]), d, x), phi(Lambda(x, a[x]), d, perm(x)), (permutation, Equivariant(phi))
    )
    mixed = phi(Lambda(m, a[perm(m)] * c[m]), N, n)
    assert not proves(mixed, phi(Lambda(m, a[m] * c[m]), N, perm(n)), (permutation, Equivariant(phi)))


class TestHeadsOverPatches:
    """Σ over heads s and pixels p of [e = P·s + p] is one term if the heads reach far enough, and nothing otherwise."""

    facts = (Division(quo, P), AtLeast(P * M, r))
    py, p2 = Idx("py", P), Idx("p2", P)

    def heads(self, e, first, last):
        s = Idx("s", (first, last))
        return Sum(Delta(e, P * s + self.p2) * a[P * s + self.p2], self.p2, s)

    def test_enough_heads(self):
        e = self.py + Idx("t", 2 * r + 1) - r
        assert proves(self.heads(e, -M, M), a[e], self.facts)
        assert proves(self.heads(e, -M - 1, M + 2), a[e], self.facts)

    def test_one_head_too_few_on_either_side(self):
        e = self.py + Idx("t", 2 * r + 1) - r
        assert not proves(self.heads(e, -M, M - 1), a[e], self.facts)
        assert not proves(self.heads(e, 1 - M, M), a[e], self.facts)

    def test_kernel_too_large(self):
        e = self.py + Idx("t", 2 * r + 2) - r
        assert not proves(self.heads(e, -M, M), a[e], self.facts)

    def test_each_fact_is_needed(self):
        e = self.py + Idx("t", 2 * r + 1) - r
        for fact in self.facts:
            assert not proves(self.heads(e, -M, M), a[e], tuple(f for f in self.facts if f != fact))


def test_softmax_laws():
    z = lambda i: exp(a[n, i])  # noqa: E731
    assert proves(Sum(z(m) / Sum(z(i), i), m), 1)
    assert proves(Sum(exp(a[n, m]) / Sum(exp(a[n, i]), i), m, n), N)
    assert not proves(Sum(exp(a[m, n]) / Sum(exp(a[n, i]), i), m), 1)
    assert not proves(Sum(z(m) / Sum(z(i), (i, 0, N - 2)), m), 1)
    assert proves(exp(a[n] + c[n]), exp(a[n]) * exp(c[n]))
    assert not proves(exp(a[n] * c[n]), exp(a[n]) * exp(c[n]))


@pytest.mark.parametrize(
    "expression",
    [
        Piecewise((a[n], n > 0), (0, True)),
        a[n] ** S.Half,
        abs(a[n]),
        Sum(a[m], (m, 0, n)),
        Sum(a[m], (m, 0, N - 3)),
        a[Idx("_a0", N)],
    ],
    ids=[
        "cases",
        "root",
        "absolute value",
        "range depends on an index",
        "range may be empty backwards",
        "reserved name",
    ],
)
def test_what_is_not_understood_raises(expression):
    with pytest.raises(NotUnderstood):
        normal_form(expression)


def test_more_indices_that_look_alike_than_can_be_named():
    indices = [Idx(f"i{k}", N) for k in range(8)]
    with pytest.raises(NotUnderstood, match="look alike"):
        normal_form(Sum(a[indices[0]] * a[indices[1]] * a[indices[2]] * a[indices[3]], *indices[:4]) ** 2)


def test_derivatives():
    i, k = Idx("i", N), Idx("k", N)
    assert proves(derivative(Sum(a[m] ** 2 * c[m], m), a[i], {}), 2 * a[i] * c[i])
    assert proves(derivative(1 / Sum(exp(a[m]), m), a[i], {}), -exp(a[i]) / Sum(exp(a[m]), m) ** 2)
    jacobian = Function("J")
    chain = derivative(phi(Lambda(m, a[m] * c[m]), N, k), a[i], {phi: jacobian})
    assert proves(chain, jacobian(Lambda(m, a[m] * c[m]), N, k, i) * c[i])
    with pytest.raises(NotUnderstood):
        derivative(phi(Lambda(m, a[m]), N, k), a[i], {})


class TestFacts:
    def world(self, **functions):
        return World({"N": 4, "B": 2, "w": 2, "P": 2, "M": 1, "r": 3}, functions)

    def test_true_facts_pass(self):
        good = {"tok": lambda b, i: 2 * b + i, "win": lambda t: t // 2, "pos": lambda t: t % 2}
        WINDOWS.check(self.world(**good))
        Division(quo, P).check(self.world(quo=lambda e: e // 2))
        Equivariant(phi).check(self.world(phi=lambda v, at: v[at] ** 2 + sum(v)))
        AtLeast(N, r).check(self.world())
        Limit().check(self.world())

    @pytest.mark.parametrize(
        ("fact", "functions"),
        [
            (WINDOWS, {"tok": lambda b, i: b + i, "win": lambda t: t // 2, "pos": lambda t: t % 2}),
            (WINDOWS, {"tok": lambda b, i: 2 * b + i, "win": lambda t: t % 2, "pos": lambda t: t // 2}),
            (Division(quo, P), {"quo": lambda e: int(e / 2)}),  # towards zero
            (Equivariant(phi), {"phi": lambda v, at: v[at] + v[0]}),
            (AtLeast(P * M, r), {}),
        ],
        ids=["not onto", "not the inverse", "not the quotient", "not equivariant", "too small"],
    )
    def test_false_facts_fail(self, fact, functions):
        with pytest.raises(AssertionError):
            fact.check(self.world(**functions))


class TestWorld:
    def test_a_counterexample_is_exact_and_says_where(self):
        worlds = [World({"N": 3}, arrays={"a": lambda i: i})]
        assert counterexample(a[n] / 3, a[n] / 3, [n], worlds) is None
        assert counterexample(a[n] / 3, a[n] / 6, [n], worlds) == "1/3 ≠ 1/6 at n=1 with N=3 (arrays drawn from seed 0)"

    def test_undefined_differs_from_every_number(self):
        worlds = [World({"N": 2}, arrays={"a": lambda i: i})]
        assert counterexample(a[n], a[n] ** 2 / a[n], [n], worlds) is None  # SymPy has cancelled
        assert "0 ≠ undefined" in (
            counterexample(
                a[n], a[n] * (a[n] + a[0]) / Sum(a[n], x), [n], [World({"N": 2, "d": 1}, arrays=worlds[0].arrays)]
            )
            or ""
        )
        nowhere = 1 / Sum(Delta(m, -1), m)
        with pytest.raises(ValueError, match="nothing"):
            counterexample(nowhere, 2 * nowhere, [n], worlds)

    def test_a_size_without_a_number_raises(self):
        with pytest.raises(ValueError, match="no number"):
            World({}).value(Symbol("N", integer=True, positive=True))
