"""Equality of index expressions (sums of products of array entries) for ALL sizes, by normal form.

:func:`normal_form` writes an expression as a sum of terms (coefficient, bound indices with their ranges, factors) and
gives each term its smallest naming. It knows

* the laws of a commutative ring; ``exp(a+b) = exp(a)exp(b)``; ``z/z = 1`` (denominators are assumed not to be 0);
* that finite sums are linear, may be exchanged, and that their indices may be renamed;
* ``Σ_i [i = e] f(i) = f(e)``, **if e is known to lie in the range of i**;
* that ``phi(Lambda(k, x_k), size, m)``, entry m of an activation of a vector, depends on the vector's values only.

Arrays, index maps and activations are otherwise uninterpreted: arrays have an entry at every integer, sizes are
positive integers. Whatever else an argument uses is passed in as :mod:`facts <equiv.symbolic.facts>`. What is not
understood raises; nothing is guessed. Equal normal forms prove equality, different ones prove nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

from sympy import Add, Dummy, Expr, Idx, Indexed, IndexedBase, Lambda, Mul, Pow, S, Sum, Symbol, exp, expand, sympify
from sympy import KroneckerDelta as Delta
from sympy.core.function import AppliedUndef
from sympy.matrices.expressions.matexpr import MatrixElement, MatrixSymbol

from equiv.symbolic.facts import Bijection, Division, Equivariant, of_type
from equiv.symbolic.ranges import Facts, NotUnderstood, fresh, inside, interval, nonnegative, same_range

Term = tuple[Expr, list[Idx], list[Expr]]
_DEPTHS, _NAMINGS = "abcdefgh", 5040


def proves(left: Expr, right: Expr, facts: Facts = ()) -> bool:
    """Whether the two expressions are equal for all sizes, arrays and activations, given the facts.

    Example:
        >>> from sympy import symbols
        >>> N = symbols("N", integer=True, positive=True)
        >>> a, i, j = IndexedBase("a"), Idx("i", N), Idx("j", N)
        >>> proves(Sum(a[i] * Sum(a[j], j), i), Sum(a[i], i) ** 2)
        True
        >>> proves(Sum(a[i], i), Sum(a[i], (i, 0, N - 2)))
        False
    """
    return normal_form(left, facts) == normal_form(right, facts)


@functools.lru_cache(maxsize=10_000)
def normal_form(e: Expr, facts: Facts = ()) -> Expr:
    """The sum of the terms of ``e``, each under its smallest naming.

    Raises:
        NotUnderstood: ``e`` holds something that the calculus has no rule for.
    """
    e = apart(sympify(e))
    for s in e.atoms(Symbol, Idx):
        if str(s).startswith("_") and not isinstance(getattr(s, "label", s), Dummy):
            raise NotUnderstood(f"the name {s} is reserved")
    return _normal_form(e, facts, 0)


@functools.lru_cache(maxsize=50_000)
def _normal_form(e: Expr, facts: Facts, depth: int) -> Expr:
    total: dict[Expr, Expr] = {}
    for c, bound, factors in reduced(apart(e), facts):
        count, key = _canonical(bound, factors, facts, depth)
        total[key] = expand(total.get(key, S.Zero) + c * count)
    return Add(*[c * key for key, c in total.items()])


# Reading an expression -------------------------------------------------------------------------------------------


def apart(e: Expr) -> Expr:
    """Rename every bound index to a fresh one that carries its range: SymPy's own ``subs`` would capture names."""
    if isinstance(e, MatrixElement):  # a matrix is an array
        if not isinstance(e.parent, MatrixSymbol):
            raise NotUnderstood(f"{e} is not an entry of a matrix symbol")
        return IndexedBase(e.parent.name)[tuple(map(apart, e.args[1:]))]
    if not e.args or isinstance(e, Idx | IndexedBase):
        return e
    if isinstance(e, Sum):
        names = {i: fresh(lo, hi) for i, lo, hi in e.limits}
        if len(names) < len(e.limits):
            raise NotUnderstood(f"an index is bound twice in {e}")
        return Sum(apart(e.function).xreplace(names), *[(s, s.lower, s.upper) for s in names.values()])
    if is_activation(e):
        lam, size, *rest = e.args
        k = fresh(S.Zero, size - 1)
        return e.func(Lambda(k, apart(lam.expr).xreplace({lam.variables[0]: k})), size, *map(apart, rest))
    return e.func(*map(apart, e.args))


def is_activation(e: Expr) -> bool:
    """Whether ``e`` is an entry of an activation, ``phi(Lambda(k, x_k), size, m)``."""
    return isinstance(e, AppliedUndef) and isinstance(e.args[0], Lambda)


def terms(e: Expr, facts: Facts, *, invert: bool = True) -> list[Term]:
    """``e``, whose bound indices are apart, as a sum of sums of products."""
    again = functools.partial(terms, facts=facts, invert=invert)
    if isinstance(e, Add):
        return [t for a in e.args for t in again(a)]
    if isinstance(e, Mul):
        return _product([again(a) for a in e.args])
    if isinstance(e, Sum):
        return [(c, [limit[0] for limit in e.limits] + bound, fs) for c, bound, fs in again(e.function)]
    if isinstance(e, exp):
        return [(S.One, [], [exp(_rebuilt(t)) for t in reduced(e.args[0], facts)])]
    if not e.has(Idx, Indexed, AppliedUndef, Delta, exp):  # numbers, sizes and scalars
        return [(e, [], [])]
    if isinstance(e, Pow) and e.exp.is_Integer:
        if e.exp > 0:
            return _product([again(apart(e.base)) for _ in range(int(e.exp))])
        if invert:
            return _product([_inverse(e.base, facts) for _ in range(-int(e.exp))])
        return [(S.One, [], [Pow(e.base, -1)] * -int(e.exp))]
    if isinstance(e, Indexed | Delta | Idx | AppliedUndef):
        return [(S.One, [], [e])]
    raise NotUnderstood(f"no rule for {type(e).__name__}: {e}")


def _product(parts: Sequence[list[Term]]) -> list[Term]:
    return [
        (Mul(*[t[0] for t in ts]), [i for t in ts for i in t[1]], [f for t in ts for f in t[2]])
        for ts in itertools.product(*parts)
    ]


def _inverse(base: Expr, facts: Facts) -> list[Term]:
    """1/base, with everything that is a factor of all of ``base`` inverted by itself."""
    found = reduced(apart(base), facts)
    if len(found) != 1:
        return [(S.One, [], [Pow(Add(*map(_rebuilt, found)), -1)])]
    c, bound, factors = found[0]
    loose = [f for f in factors if not f.has(*bound)] if bound else factors
    parts = [_rebuilt((S.One, vs, fs)) for vs, fs in components(bound, factors)]
    outer: list[Expr] = [f.base if isinstance(f, Pow) else 1 / f for f in loose]
    return [(1 / c, [], outer + [Pow(part, -1) for part in parts])]


def _rebuilt(term: Term) -> Expr:
    c, bound, factors = term
    return c * (Sum(Mul(*factors), *[(i, i.lower, i.upper) for i in bound]) if bound else Mul(*factors))


def components(bound: Sequence[Idx], factors: Sequence[Expr]) -> Iterator[tuple[list[Idx], list[Expr]]]:
    """The bound indices in groups that hang together by factors, each with the factors that hold them."""
    todo = list(bound)
    while todo:
        group: set[Idx] = set()
        more = {todo[0]}
        while group != more:
            group = more
            fs = [f for f in factors if f.has(*group)]
            more = group | {i for i in todo if any(f.has(i) for f in fs)}
        yield [i for i in todo if i in group], fs
        todo = [i for i in todo if i not in group]


# Rewriting a term --------------------------------------------------------------------------------------------------


def reduced(e: Expr, facts: Facts) -> list[Term]:
    """The terms of ``e``, whose bound indices are apart, after every rule has been used as often as it applies."""
    out, todo = [], terms(e, facts)
    while todo:
        c, bound, old = todo.pop()
        factors = [rebuild(f, functools.partial(simplify, facts=facts)) for f in old]
        rule = next((r for f in factors if isinstance(f, Delta) for r in contractions(f, bound, facts)), None)
        rule = rule or _single(bound) or _reindexed(bound, factors, facts)
        if rule:
            swap, gone, new = rule
            factors = [f.xreplace(swap) for f in factors]
            bound = [i for i in bound if i not in gone] + new
        if rule or factors != old:
            spread = _product([terms(f, facts, invert=False) for f in factors])
            todo += [(c * k, bound + more, fs) for k, more, fs in spread if k != 0]
        elif rest := _cancelled(bound, factors, facts):
            todo.append((c, *rest))
        else:
            out.append((c, bound, factors))
    return out


def rebuild(e: Expr, rule: Callable[[Expr], Expr]) -> Expr:
    """``e`` with the rule applied to every part, the inner ones first."""
    if not e.args or isinstance(e, Idx | IndexedBase):
        return e
    args = [rebuild(a, rule) for a in e.args]
    return rule(e if all(a is b for a, b in zip(args, e.args, strict=True)) else e.func(*args))


def simplify(e: Expr, facts: Facts) -> Expr:
    """f(f⁻¹(x)) → x and f⁻¹(f(x)) → x inside the ranges; phi(k ↦ x(f(k)), m) → phi(x, f(m)); tidy indices."""
    if isinstance(e, Indexed):
        return e.base[tuple(map(expand, e.indices))]
    if isinstance(e, Delta):
        return Delta(0, expand(e.args[1] - e.args[0]))
    if not isinstance(e, AppliedUndef):
        return e
    for b in of_type(facts, Bijection):
        inner, back = e.args[0], [getattr(a, "func", None) for a in e.args]
        if (
            e.func in b.inverse
            and back == [b.map]
            and all(inside(a, r, facts) for a, r in zip(inner.args, b.domain, strict=True))
        ):
            return inner.args[b.inverse.index(e.func)]
        if e.func == b.map and back == list(b.inverse) and len({a.args for a in e.args}) == 1:
            return inner.args[0] if inside(inner.args[0], b.codomain, facts) else e
        if is_activation(e) and Equivariant(e.func) in facts and b.domain == (b.codomain,) == ((0, e.args[1] - 1),):
            k, body = inner.variables[0], inner.expr
            if body.has(b.map(k)) and not body.xreplace({b.map(k): S.Zero}).has(k):
                return e.func(Lambda(k, body.xreplace({b.map(k): k})), e.args[1], b.map(e.args[2]))
    return e


Rule = tuple[dict[Expr, Expr], set[Expr], list[Idx]]  # replacements, indices no longer bound, indices newly bound


def contractions(delta: Expr, bound: list[Idx], facts: Facts) -> Iterator[Rule]:
    """The ways to use up ``[difference = 0]``: solve for a bound index that takes the value needed in its range."""
    difference = delta.args[1] - delta.args[0]
    for i in bound:  # i = e
        if (e := _solve(difference, i)) is not None and inside(e, (i.lower, i.upper), facts):
            yield {i: e}, {i}, []
    for division in of_type(facts, Division):  # divisor·s + p = e: s and p are quotient and remainder
        for s, p in itertools.permutations(bound, 2):
            d = division.divisor
            if same_range(p, (S.Zero, d - 1)) and (e := _solve(difference, p)) is not None:
                e = expand(e + d * s)
                bounds = None if e.has(s, p) else interval(e, facts)
                if (
                    bounds
                    and nonnegative(bounds[0] - d * s.lower, facts)
                    and nonnegative(d * s.upper + d - 1 - bounds[1], facts)
                ):
                    yield {s: division.quotient(e), p: e - d * division.quotient(e)}, {s, p}, []


def _solve(difference: Expr, x: Expr) -> Expr | None:
    """e with ``difference = 0`` if and only if ``x = e``, if x is in it once, with coefficient ±1."""
    c = difference.coeff(x)
    rest = expand(difference - c * x)
    return None if c not in (1, -1) or rest.has(x) else -c * rest


def _single(bound: list[Idx]) -> Rule | None:
    """An index of one value is that value."""
    return next((({i: i.lower}, {i}, []) for i in bound if expand(i.upper - i.lower) == 0), None)


def _reindexed(bound: list[Idx], factors: list[Expr], facts: Facts) -> Rule | None:
    """Sum over i, j instead of f(i, j) where f⁻¹ is used; over f(i, j) where i and j occur only in it."""
    calls = [c for f in factors for c in _preorder(f) if isinstance(c, AppliedUndef)]
    for b, call in itertools.product(of_type(facts, Bijection), dict.fromkeys(calls)):
        i, *_ = args = call.args
        if call.func in b.inverse and i in bound and same_range(i, b.codomain):
            new = [fresh(*r) for r in b.domain]
            return {i: b.map(*new)}, {i}, new
        if call.func == b.map and set(args) <= set(bound) and len(set(args)) == len(args):
            used = any(f.xreplace({call: S.Zero}).has(*args) for f in factors)
            if not used and all(map(same_range, args, b.domain)):
                s = fresh(*b.codomain)
                return {call: s}, set(args), [s]
    return None


def _preorder(e: Expr) -> Iterator[Expr]:
    yield e
    for a in () if isinstance(e, Idx) else e.args:
        yield from _preorder(a)


def _cancelled(bound: list[Idx], factors: list[Expr], facts: Facts) -> tuple[list[Idx], list[Expr]] | None:
    """Drop some 1/z together with the factors whose sum is z."""
    for f in factors:
        if isinstance(f, Pow) and f.exp == -1:
            others = [g for g in factors if g is not f]
            z = _normal_form(f.base, facts, 0)
            for group, part in components([i for i in bound if not f.base.has(i)], others):
                if _normal_form(_rebuilt((S.One, group, part)), facts, 0) == z:
                    return [i for i in bound if i not in group], [g for g in others if g not in part]
    return None


# Naming ------------------------------------------------------------------------------------------------------------


def _canonical(bound: list[Idx], factors: list[Expr], facts: Facts, depth: int) -> tuple[Expr, Expr]:
    """(number of terms over indices that are not used, the sum under its smallest naming)."""
    if depth == len(_DEPTHS):
        raise NotUnderstood("nested too deeply")
    used = [i for i in bound if any(f.has(i) for f in factors)]
    count = Mul(*[i.upper - i.lower + 1 for i in bound if i not in used])

    def build(names: dict[Idx, Idx], among: Sequence[Expr] = factors) -> Expr:
        return Mul(*[_inside(f.xreplace(names), facts, depth) for f in among])

    def named(i: Idx, name: str) -> Idx:
        return Idx(Symbol(f"_{name}", integer=True), (i.lower, i.upper))

    def look(i: Idx) -> str:
        names = {j: named(j, "this" if j is i else "other") for j in used}
        return f"{(i.lower, i.upper)} {build(names, [f for f in factors if f.has(i)])}"

    looks = {i: look(i) if len(used) > 1 else "" for i in used}
    groups = [[i for i in used if looks[i] == key] for key in sorted(set(looks.values()))]
    if functools.reduce(lambda n, g: n * _factorial(len(g)), groups, 1) > _NAMINGS:
        raise NotUnderstood("too many indices that look alike")
    candidates = []
    for order in itertools.product(*map(itertools.permutations, groups)):  # indices that look alike: try every order
        names = {i: named(i, f"{_DEPTHS[depth]}{n}") for n, i in enumerate(i for group in order for i in group)}
        candidates.append((build(names), [(s, s.lower, s.upper) for s in names.values()]))
    body, limits = min(candidates, key=lambda candidate: str(candidate[0]))
    return count, Sum(body, *limits) if limits else body


def _factorial(n: int) -> int:
    return n * _factorial(n - 1) if n else 1


def _inside(e: Expr, facts: Facts, depth: int) -> Expr:
    """A factor with what is inside it in normal form."""
    if isinstance(e, Pow):
        return Pow(_normal_form(e.base, facts, depth + 1), e.exp)
    if isinstance(e, exp):
        return exp(_normal_form(e.args[0], facts, depth + 1))
    if isinstance(e, Delta):
        return min((Delta(0, expand(sign * e.args[1])) for sign in (1, -1)), key=str)
    if is_activation(e):
        lam, size, *rest = e.args
        k = Idx(Symbol(f"_{_DEPTHS[depth]}", integer=True), (S.Zero, size - 1))
        body = _normal_form(lam.expr.xreplace({lam.variables[0]: k}), facts, depth + 1)
        return e.func(Lambda(k, body), size, *rest)
    return e
