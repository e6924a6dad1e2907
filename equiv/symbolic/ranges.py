"""Ranges of index expressions: what is known about where an index runs."""

from __future__ import annotations

from sympy import Add, Dummy, Expr, Idx, Mul, expand
from sympy.core.function import AppliedUndef

from equiv.symbolic.facts import AtLeast, Bijection, Fact, Range, of_type

Facts = tuple[Fact, ...]


class NotUnderstood(ValueError):
    """The expression is outside the calculus, or too symmetric to be named."""


def fresh(lo: Expr, hi: Expr) -> Idx:
    """A new index from ``lo`` to ``hi``, which must be sizes, at least ``lo - 1``."""
    if any(s.has(Idx) for s in (lo, hi)):
        raise NotUnderstood(f"the range {lo}..{hi} depends on another index")
    if not nonnegative(hi - lo + 1, ()):
        raise NotUnderstood(f"the range {lo}..{hi} might be empty backwards")
    return Idx(Dummy("s", integer=True), (lo, hi))


def nonnegative(e: Expr, facts: Facts) -> bool:
    """Whether ``e`` is known to be ≥ 0: with every size s written as 1 + s' (or less a fact), no minus is left."""

    def plain(e: Expr) -> bool:
        e = expand(e.xreplace({s: 1 + s for s in e.free_symbols if s.is_integer and s.is_positive}))
        split = [a.as_coeff_Mul() for a in Add.make_args(e)]
        return all(c >= 0 and all(s.is_integer and s.is_positive for s in m.free_symbols) for c, m in split)

    return plain(e) or any(plain(e - f.larger + f.smaller) for f in of_type(facts, AtLeast))


def interval(e: Expr, facts: Facts) -> Range | None:
    """Bounds of an index expression, or None if nothing is known."""
    if isinstance(e, Idx):
        return e.lower, e.upper
    if not e.has(Idx, AppliedUndef):
        return e, e
    if isinstance(e, Add):
        parts = [interval(a, facts) for a in e.args]
        known = [p for p in parts if p is not None]
        return (Add(*[p[0] for p in known]), Add(*[p[1] for p in known])) if len(known) == len(parts) else None
    if isinstance(e, Mul):
        c, rest = e.as_independent(Idx, AppliedUndef)
        found = None if c == 1 else interval(rest, facts)
        if found and nonnegative(c, facts):
            return c * found[0], c * found[1]
        return (c * found[1], c * found[0]) if found and nonnegative(-c, facts) else None
    for b in of_type(facts, Bijection):
        if getattr(e, "func", None) == b.map and all(
            inside(a, r, facts) for a, r in zip(e.args, b.domain, strict=True)
        ):
            return b.codomain
        if getattr(e, "func", None) in b.inverse and inside(e.args[0], b.codomain, facts):
            return b.domain[b.inverse.index(e.func)]
    return None


def inside(e: Expr, r: Range, facts: Facts) -> bool:
    """Whether the index expression ``e`` is known to stay within the range ``r``."""
    found = interval(expand(e), facts)
    return found is not None and nonnegative(found[0] - r[0], facts) and nonnegative(r[1] - found[1], facts)


def same_range(i: Idx, r: Range) -> bool:
    return expand(i.lower - r[0]) == 0 and expand(i.upper - r[1]) == 0
