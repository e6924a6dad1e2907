"""An identity with its derivation, its facts and wrong variants, and the proof of it as evidence."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

from sympy import Expr, Idx, Sum, Symbol, exp
from sympy.core.function import AppliedUndef

from equiv.ladder.evidence import Evidence, Verdict, worst
from equiv.symbolic.calculus import is_activation, proves
from equiv.symbolic.ranges import Facts
from equiv.symbolic.world import World, counterexample


@dataclasses.dataclass(frozen=True)
class Identity:
    """Two index expressions that are equal for all sizes.

    Attributes:
        name: number of the family and a letter.
        claim: what it says, one sentence.
        free: the indices at which it holds.
        steps: the derivation, pairs (what is done, expression); the first is the left side, the last the right side.
        wrong: right sides that are not equal to the left one, by what is wrong with them.
        worlds: concrete cases, to check the facts and to find where the wrong variants differ.
        facts: what the proof assumes.
        also: assumptions about how the expressions were obtained, in words.
    """

    name: str
    claim: str
    free: tuple[Idx, ...]
    steps: tuple[tuple[str, Expr], ...]
    wrong: Mapping[str, Expr]
    worlds: tuple[World, ...]
    facts: Facts = ()
    also: tuple[str, ...] = ()

    @property
    def left(self) -> Expr:
        """The first expression of the derivation."""
        return self.steps[0][1]

    @property
    def right(self) -> Expr:
        """The last expression of the derivation."""
        return self.steps[-1][1]

    def assumptions(self) -> tuple[str, ...]:
        """All that the proof takes for granted, beyond the laws of a field."""
        parts = [e for _, e in self.steps]
        symbols = {
            s
            for e in (*parts, *(b for i in self.free for b in i.args[1]), *_sizes(self.facts))
            for s in e.atoms(Symbol)
        }
        sizes = sorted({s.name for s in symbols if s.is_integer and s.is_positive})
        found = [f"{', '.join(sizes)}: positive integers, otherwise arbitrary"] if sizes else []
        phis = sorted({e.func.__name__ for p in parts for e in p.atoms(AppliedUndef) if is_activation(e)})
        found += [f"{name}: an arbitrary function of its vector's values" for name in phis]
        if any(e.is_Pow and e.exp.is_negative and e.base.has(Sum, exp) for p in parts for e in p.atoms(Expr) | {p}):
            found.append("denominators are not 0")
        return (*found, *map(str, self.facts), *self.also)


def _sizes(value: Any) -> Iterator[Expr]:
    """The expressions in facts, which hold them in fields and nested tuples."""
    if isinstance(value, Expr):
        yield value
    elif isinstance(value, tuple) or dataclasses.is_dataclass(value):
        fields = value if isinstance(value, tuple) else tuple(vars(value).values())
        yield from itertools.chain.from_iterable(map(_sizes, fields))


@dataclasses.dataclass(frozen=True)
class Family:
    """Identities about one operator.

    Attributes:
        number: 1 to 12.
        title: what the family is about.
        covers: the layers, in both forms, whose function the identities describe.
        identities: in the order of the derivation.
    """

    number: int
    title: str
    covers: tuple[str, ...]
    identities: tuple[Identity, ...]

    def identity(self, name: str) -> Identity:
        """The identity called ``name``."""
        return next(i for i in self.identities if i.name == name)


def prove(identity: Identity) -> Evidence:
    """Prove each step, check each fact in concrete cases, and refuse each wrong variant with a counterexample.

    ``EQUAL``: all of that came out. ``DIFFERENT``: a point was found at which the two sides differ. ``UNKNOWN``: a step
    is not proved, a fact is false in a concrete case, or a wrong variant was not refused.

    Example:
        >>> from equiv.symbolic.families import FAMILIES
        >>> prove(FAMILIES[0].identities[0]).verdict
        <Verdict.EQUAL: 'EQUAL'>
    """
    start = time.perf_counter()
    verdict, reason = _judge(identity)
    return Evidence(
        verdict,
        claim=f"{identity.name}: {identity.claim}",
        scope="all sizes, all real arrays; a statement about the mathematics, tied to the layers by the bridge",
        assumptions=identity.assumptions(),
        numbers={
            "steps proved": len(identity.steps) - 1,
            "facts checked": len(identity.facts),
            "wrong variants refused": len(identity.wrong),
            "seconds": time.perf_counter() - start,
        },
        reproduce=f"equiv.symbolic.prove(equiv.symbolic.find({identity.name!r}))",
        reason=reason,
    )


def _judge(identity: Identity) -> tuple[Verdict, str]:
    for fact in identity.facts:
        for world in identity.worlds:
            try:
                fact.check(world)
            except AssertionError as error:
                return Verdict.UNKNOWN, f"a fact is false with {world}: {error}"
    for (_, left), (what, right) in zip(identity.steps, identity.steps[1:], strict=False):
        if witness := counterexample(left, right, identity.free, identity.worlds):
            return Verdict.DIFFERENT, f"step {what!r}: {witness}"
        if not proves(left, right, identity.facts):
            return Verdict.UNKNOWN, f"step {what!r} is not proved"
    for name, variant in identity.wrong.items():
        if proves(identity.left, variant, identity.facts):
            return Verdict.UNKNOWN, f"the wrong variant {name!r} was accepted"
        if counterexample(identity.left, variant, identity.free, identity.worlds) is None:
            return Verdict.UNKNOWN, f"no point was found at which the wrong variant {name!r} differs"
    return Verdict.EQUAL, ""


def prove_family(family: Family) -> Evidence:
    """The evidence of a family: that of its identities, summed up.

    Example:
        >>> from equiv.symbolic.families import FAMILIES
        >>> len(prove_family(FAMILIES[0]).parts)
        2
    """
    parts = tuple(prove(identity) for identity in family.identities)
    verdict = worst([part.verdict for part in parts])
    return Evidence(
        verdict,
        claim=f"{family.number}. {family.title}",
        scope=f"all sizes, all real arrays; the functions of {', '.join(family.covers)}",
        assumptions=tuple(dict.fromkeys(a for part in parts for a in part.assumptions)),
        numbers={name: sum(part.numbers[name] for part in parts) for name in parts[0].numbers},
        reproduce=f"equiv.symbolic.prove_family(equiv.symbolic.families.FAMILIES[{family.number - 1}])",
        reason="; ".join(f"{part.claim}: {part.reason}" for part in parts if part.reason),
        parts=parts,
    )
