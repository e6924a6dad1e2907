"""1000 mutants of the statements: none accepted that differ, none refused that agree."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from sympy import Expr, Idx, Indexed, Integer, KroneckerDelta, Lambda, Sum
from sympy.matrices.expressions.matexpr import MatrixElement, MatrixSymbol

from equiv.symbolic.calculus import proves
from equiv.symbolic.families import FAMILIES
from equiv.symbolic.world import counterexample

#: 11c compares indices as numbers and has no array entries to change.
IDENTITIES = [identity for family in FAMILIES for identity in family.identities if identity.name != "11c"]
PER_PART, PARTS = 250, 4


Path = tuple[int, ...]


def leaves(e: Expr, scope: tuple[Idx, ...], path: Path = ()) -> Iterator[tuple[Path, tuple[Idx, ...]]]:
    """Where the array entries and deltas are, with the indices that are in scope there."""
    if isinstance(e, Indexed | MatrixElement | KroneckerDelta):
        yield path, scope
    elif isinstance(e, Sum | Lambda):
        bound = e.variables
        inner = 0 if isinstance(e, Sum) else 1
        yield from leaves(e.args[inner], (*scope, *bound), (*path, inner))
    elif not isinstance(e, MatrixSymbol | Idx):
        for i, a in enumerate(e.args):
            yield from leaves(a, scope, (*path, i))


def get(e: Expr, path: Path) -> Expr:
    """The part of ``e`` at ``path``."""
    for i in path:
        e = e.args[i]
    return e


def put(e: Expr, path: Path, new: Expr) -> Expr:
    """``e`` with the part at ``path`` replaced."""
    if not path:
        return new
    args = list(e.args)
    args[path[0]] = put(args[path[0]], path[1:], new)
    return e.func(*args)


def mutate(e: Expr, free: Sequence[Idx], draw: random.Random) -> tuple[str, Expr]:
    """What was done, and ``e`` with one array entry or delta changed."""
    path, scope = draw.choice(list(leaves(e, tuple(free))))
    leaf = get(e, path)
    indices = list(leaf.args) if isinstance(leaf, KroneckerDelta) else list(leaf.args[1:])
    kind = draw.choice(["swap indices", "other index", "other index", "next", "sign", "drop", "square", "add"])
    if kind == "swap indices":
        draw.shuffle(indices)
    elif kind == "other index":
        indices[draw.randrange(len(indices))] = draw.choice(scope)
    elif kind == "next":
        indices[draw.randrange(len(indices))] += 1
    simple = {"sign": -leaf, "drop": Integer(1), "square": leaf**2, "add": leaf + 1}
    if kind in simple:
        new = simple[kind]
    else:
        new = KroneckerDelta(*indices) if isinstance(leaf, KroneckerDelta) else leaf.args[0][tuple(indices)]
    return f"{kind} of {leaf}", put(e, path, new)


@pytest.mark.parametrize("part", range(PARTS))
def test_mutants_are_judged_as_exact_evaluation_judges_them(part: int) -> None:
    draw = random.Random(f"mutants {part}")
    found: Counter[bool] = Counter()
    for number in range(PER_PART):
        identity = IDENTITIES[(part + PARTS * number) % len(IDENTITIES)]
        expressions = [e for _, e in identity.steps if next(leaves(e, ()), None)]
        what, mutant = mutate(draw.choice(expressions), identity.free, draw)
        proved = proves(identity.left, mutant, identity.facts)
        witness = counterexample(identity.left, mutant, identity.free, identity.worlds)
        assert proved == (witness is None), f"{identity.name}, {what}: proved={proved}, witness={witness}: {mutant}"
        found[proved] += 1
    assert found[True] >= 10  # some mutants are equal after all, so that both kinds of error can occur
    assert found[False] >= 150
