"""What a proof may assume beyond the laws of a field: each assumption is an explicit, listed, checkable `Fact`.

A proof names the facts that it uses, so that its assumptions can be read off, printed and, at small sizes, checked by
brute force (``check``).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sympy import Expr, Symbol, exp, limit, oo
from sympy.core.function import UndefinedFunction

#: First and last value of an index; both may be symbolic.
Range = tuple[Expr, Expr]


class Concrete(Protocol):
    """Numbers for the sizes, and Python functions for the maps, of one concrete case."""

    def number(self, e: Expr) -> int: ...

    def function(self, f: UndefinedFunction) -> Callable[..., Any]: ...


@dataclasses.dataclass(frozen=True)
class Bijection:
    """``map`` takes the ``domain`` ranges onto ``codomain``, one to one; ``inverse`` holds one map for each argument.

    A permutation is the case of one argument; without ``inverse``, only that it is one to one and onto is used.
    """

    map: UndefinedFunction
    domain: tuple[Range, ...]
    codomain: Range
    inverse: tuple[UndefinedFunction, ...] = ()

    def __str__(self) -> str:
        domain = " × ".join(f"[{lo}..{hi}]" for lo, hi in self.domain)
        inverse = f", with inverse ({', '.join(f.__name__ for f in self.inverse)})" if self.inverse else ""
        return (
            f"{self.map.__name__}: {domain} → [{self.codomain[0]}..{self.codomain[1]}] is one to one and onto{inverse}"
        )

    def check(self, case: Concrete) -> None:
        """Raise ``AssertionError`` if the fact is false of this concrete case."""
        f, inverse = case.function(self.map), [case.function(g) for g in self.inverse]
        arguments = list(itertools.product(*[_values(case, r) for r in self.domain]))
        images = [f(*a) for a in arguments]
        if sorted(images) != list(_values(case, self.codomain)):
            raise AssertionError(f"{self}: got the values {sorted(images)}")
        for a, image in zip(arguments, images, strict=True):
            if inverse and tuple(g(image) for g in inverse) != a:
                raise AssertionError(f"{self}: {a} ↦ {image} ↦ {tuple(g(image) for g in inverse)}")


@dataclasses.dataclass(frozen=True)
class Division:
    """Division with remainder: each integer e is ``divisor·s + p`` with 0 ≤ p < divisor in one way, s = quotient(e)."""

    quotient: UndefinedFunction
    divisor: Expr

    def __str__(self) -> str:
        p, f = self.divisor, self.quotient.__name__
        return f"every integer e is {p}*s + p with 0 <= p < {p} in exactly one way, and s = {f}(e)"

    def check(self, case: Concrete) -> None:
        """Raise ``AssertionError`` if the fact is false of this concrete case."""
        f, divisor = case.function(self.quotient), case.number(self.divisor)
        for e in range(-20, 21):
            ways = [(s, p) for s in range(-21, 22) for p in range(divisor) if divisor * s + p == e]
            if ways != [(f(e), e - divisor * f(e))]:
                raise AssertionError(f"{self}: {e} is {ways}, but {self.quotient.__name__}({e}) = {f(e)}")


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """``larger ≥ smaller``, an inequality between sizes."""

    larger: Expr
    smaller: Expr

    def __str__(self) -> str:
        return f"{self.larger} >= {self.smaller}"

    def check(self, case: Concrete) -> None:
        """Raise ``AssertionError`` if the fact is false of this concrete case."""
        if case.number(self.larger) < case.number(self.smaller):
            raise AssertionError(f"{self} is false: {case.number(self.larger)} < {case.number(self.smaller)}")


@dataclasses.dataclass(frozen=True)
class Equivariant:
    """``phi(x∘f, m) = phi(x, f(m))`` for every permutation f: the activation treats all places of a vector alike."""

    phi: UndefinedFunction

    def __str__(self) -> str:
        name = self.phi.__name__
        return f"{name}(k ↦ x(f(k)), m) = {name}(x, f(m)) for every permutation f"

    def check(self, case: Concrete) -> None:
        """Raise ``AssertionError`` if the fact is false of this concrete case."""
        phi = case.function(self.phi)
        for size in (1, 2, 3):
            for x in itertools.product((-2, 0, 3), repeat=size):
                for f in itertools.permutations(range(size)):
                    for m in range(size):
                        if phi([x[f[k]] for k in range(size)], m) != phi(list(x), f[m]):
                            raise AssertionError(f"{self}: false for x={x}, f={f}, m={m}")


@dataclasses.dataclass(frozen=True)
class Limit:
    """``exp(−α (a² + b²)) → [a = 0][b = 0]`` for integers a, b: the calculus starts after this limit has been taken."""

    def __str__(self) -> str:
        return "exp(-alpha*(a**2 + b**2)) → [a = 0][b = 0] as alpha → ∞, for integers a, b; limits pass through sums"

    def check(self, case: Concrete) -> None:
        """Raise ``AssertionError`` if the fact is false of some small a and b; nothing depends on the case."""
        alpha = Symbol("alpha", real=True)
        for a, b in itertools.product(range(-2, 3), repeat=2):
            if limit(exp(-alpha * (a**2 + b**2)), alpha, oo) != int(a == b == 0):
                raise AssertionError(f"{self}: false for a={a}, b={b}")


Fact = Bijection | Division | AtLeast | Equivariant | Limit


def of_type(facts: Sequence[Fact], kind: type) -> list[Any]:
    """The facts of one kind, in order."""
    return [fact for fact in facts if isinstance(fact, kind)]


def _values(case: Concrete, r: Range) -> range:
    return range(case.number(r[0]), case.number(r[1]) + 1)
