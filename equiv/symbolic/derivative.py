"""Derivatives of index expressions by an array entry; an activation contributes its uninterpreted Jacobian."""

from __future__ import annotations

from collections.abc import Mapping

from sympy import Add, Expr, Indexed, Mul, Pow, S, Sum, exp
from sympy import KroneckerDelta as Delta
from sympy.core.function import UndefinedFunction

from equiv.symbolic.calculus import apart, is_activation
from equiv.symbolic.ranges import NotUnderstood, fresh


def derivative(e: Expr, by: Expr, jacobians: Mapping[UndefinedFunction, UndefinedFunction]) -> Expr:
    """∂e/∂by for an array entry ``by``, by the sum, product and chain rules.

    Args:
        e: the expression.
        by: an entry of an array, with free indices.
        jacobians: for each activation phi the function J with ``J(x, size, m, i)`` = ∂phi(x, size, m)/∂x_i.

    Example:
        >>> from sympy import Idx, IndexedBase, symbols
        >>> N = symbols("N", integer=True, positive=True)
        >>> a, i, j = IndexedBase("a"), Idx("i", N), Idx("j", N)
        >>> derivative(a[i] ** 2, a[j], {})
        2*KroneckerDelta(i, j)*a[i]
    """
    by = apart(by)

    def go(e: Expr) -> Expr:
        if isinstance(e, Indexed):
            return Mul(*map(Delta, e.indices, by.indices)) if e.base == by.base else S.Zero
        if not e.has(by.base):
            return S.Zero
        if isinstance(e, Add):
            return Add(*map(go, e.args))
        if isinstance(e, Mul):
            return Add(*[Mul(*e.args[:i], go(a), *e.args[i + 1 :]) for i, a in enumerate(e.args)])
        if isinstance(e, Sum):
            return Sum(go(e.function), *e.limits)
        if isinstance(e, exp):
            return e * go(e.args[0])
        if isinstance(e, Pow) and e.exp.is_Integer:
            return e.exp * Pow(e.base, e.exp - 1) * go(e.base)
        if is_activation(e) and e.func in jacobians:
            lam, size, at = e.args
            i = fresh(S.Zero, size - 1)
            inner = apart(go(lam.expr)).xreplace({lam.variables[0]: i})
            return Sum(jacobians[e.func](lam, size, at, i) * inner, (i, i.lower, i.upper))
        raise NotUnderstood(f"no derivative of {e}")

    return apart(go(apart(e)))
