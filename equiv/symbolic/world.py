"""Exact evaluation of index expressions in one concrete case, and the search for a point where two of them differ."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from sympy import Add, E, Expr, Idx, Indexed, Integer, Mul, Pow, Rational, Sum, Symbol, exp, sympify
from sympy import KroneckerDelta as Delta
from sympy.core.function import AppliedUndef, UndefinedFunction

from equiv.symbolic.calculus import apart, is_activation

Number = int | Fraction
Entry = Callable[..., Number]


class World:
    """One concrete case: sizes, index maps, activations and arrays, in which every expression has an exact value.

    Args:
        sizes: a number for each size (and for each scalar that should not be random).
        functions: a Python function for each index map, ``f(i, …)``, and each activation, ``phi(vector, m)``.
        arrays: a function ``(i, …) -> number`` for each array that should not be random small integers.
        seed: of the random arrays.

    ``exp`` is evaluated as 2^x: the calculus uses that it is a homomorphism from + to ·, and nothing else.

    Example:
        >>> from sympy import IndexedBase, symbols
        >>> N = symbols("N", integer=True, positive=True)
        >>> a, i = IndexedBase("a"), Idx("i", N)
        >>> World({"N": 4}, arrays={"a": lambda i: i * i}).value(Sum(a[i], i))
        14
    """

    def __init__(
        self,
        sizes: Mapping[str, Any],
        functions: Mapping[str, Any] | None = None,
        arrays: Mapping[str, Entry] | None = None,
        seed: int = 0,
    ) -> None:
        self.sizes, self.functions, self.arrays, self.seed = (
            dict(sizes),
            dict(functions or {}),
            dict(arrays or {}),
            seed,
        )
        self._names: dict[str, Any] = {"Fraction": Fraction, "power_of_two": _power_of_two}

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.sizes.items())

    def number(self, e: Expr) -> int:
        """The value of a size."""
        value = self.value(e)
        if value != int(value):
            raise ValueError(f"{e} is {value} with {self}, not a size")
        return int(value)

    def function(self, f: UndefinedFunction) -> Callable[..., Any]:
        """The Python function for an index map or activation."""
        return self.functions[f.__name__]

    def range_of(self, i: Idx) -> range:
        """The values of an index."""
        return range(self.number(i.lower), self.number(i.upper) + 1)

    def value(self, e: Expr, at: Mapping[Idx, int] | None = None) -> Number:
        """The exact value of ``e`` with the free indices ``at`` the given values."""
        at = at or {}
        return self.compiled(e, tuple(at))(*at.values())

    def compiled(self, e: Expr, free: Sequence[Idx]) -> Callable[..., Number]:
        """``e`` as a Python function of the free indices."""
        names = {i: f"f{n}" for n, i in enumerate(free)}
        source = f"lambda {', '.join(names.values())}: {self._source(apart(sympify(e)), names)}"
        compiled: Callable[..., Number] = eval(source, self._names)
        return compiled

    def _source(self, e: Expr, names: Mapping[Expr, str]) -> str:
        go = functools.partial(self._source, names=names)
        if isinstance(e, Idx):
            return names[e]
        if isinstance(e, Integer):
            return f"({int(e)})"
        if isinstance(e, Rational):
            return f"Fraction({e.p}, {e.q})"
        if e == E:  # exp(1)
            return "(2)"
        if isinstance(e, Symbol):
            if e.is_integer and e.name not in self.sizes:
                raise ValueError(f"no number for the size {e} [World]")
            return repr(self.sizes[e.name] if e.name in self.sizes else self._random(e.name, ()))
        if isinstance(e, Add):
            return "(" + " + ".join(map(go, e.args)) + ")"
        if isinstance(e, Mul):
            deltas = [go(a) for a in e.args if isinstance(a, Delta)]
            product = " * ".join(go(a) for a in e.args if not isinstance(a, Delta)) or "1"
            return f"({product} if {' and '.join(deltas)} else 0)" if deltas else f"({product})"
        if isinstance(e, Pow):
            return f"{go(e.base)} ** {e.exp}" if e.exp > 0 else f"Fraction({go(e.base)}) ** {go(e.exp)}"
        if isinstance(e, exp):
            return f"power_of_two({go(e.args[0])})"
        if isinstance(e, Delta):
            return f"int({go(e.args[0])} == {go(e.args[1])})"
        if isinstance(e, Sum):
            inner = {**names, **{limit[0]: f"s{len(names)}_{n}" for n, limit in enumerate(e.limits)}}
            loops = " ".join(f"for {inner[i]} in range({go(lo)}, {go(hi)} + 1)" for i, lo, hi in e.limits)
            return f"sum({self._source(e.function, inner)} {loops})"
        if isinstance(e, Indexed):
            return f"{self._array(str(e.base))}({', '.join(map(go, e.indices))})"
        if is_activation(e):
            lam, size, *at = e.args
            k = f"k{len(names)}"
            body = self._source(lam.expr, {**names, lam.variables[0]: k})
            return f"{self._function(e)}([{body} for {k} in range({go(size)})], {', '.join(map(go, at))})"
        if isinstance(e, AppliedUndef):
            return f"{self._function(e)}({', '.join(map(go, e.args))})"
        raise TypeError(f"no value for {type(e).__name__}: {e}")

    def _function(self, e: AppliedUndef) -> str:
        self._names[f"call_{e.func.__name__}"] = self.function(e.func)
        return f"call_{e.func.__name__}"

    def _array(self, name: str) -> str:
        if f"array_{name}" not in self._names:
            entry = self.arrays.get(name, lambda *index: self._random(name, index))
            self._names[f"array_{name}"] = functools.cache(entry)
        return f"array_{name}"

    def _random(self, name: str, index: tuple[int, ...]) -> int:
        return random.Random(f"{self.seed} {name} {index}").choice((-4, -3, -2, -1, 1, 2, 3, 4, 5))


def _power_of_two(x: Number) -> Number:
    if x != int(x):
        raise ValueError(f"exp is evaluated at integers, not {x}")
    return Fraction(2) ** int(x)


def _value(f: Callable[..., Number], at: tuple[int, ...]) -> Number | str:
    try:
        return f(*at)
    except ZeroDivisionError:
        return "undefined"


def counterexample(left: Expr, right: Expr, free: Sequence[Idx], worlds: Sequence[World]) -> str | None:
    """The first case and values of the free indices at which the two sides differ, in words; None if there is none.

    A side with a denominator of 0 is undefined there, which differs from every number.

    Raises:
        ValueError: no point could be compared, as the left side has a denominator of 0 everywhere.
    """
    compared = 0
    for world in worlds:
        f, g = world.compiled(left, free), world.compiled(right, free)
        for at in itertools.product(*map(world.range_of, free)):
            a, b = _value(f, at), _value(g, at)
            compared += a != "undefined"
            if a != b:
                where = ", ".join(f"{i.label}={v}" for i, v in zip(free, at, strict=True))
                return f"{a} ≠ {b} at {where or 'the only point'} with {world} (arrays drawn from seed {world.seed})"
    if not compared:
        raise ValueError("nothing could be compared")
    return None
