"""The symbolic rung: the identities behind the operators, proved for all sizes, and tied to the layers.

* :mod:`~equiv.symbolic.calculus`: equality of index expressions by normal form; :mod:`~equiv.symbolic.facts`: what a
  proof may assume; :mod:`~equiv.symbolic.world`: exact evaluation, to refute.
* :mod:`~equiv.symbolic.families`: the twelve families of identities, each with wrong variants that must be refused.
* :mod:`~equiv.symbolic.bridge`: the same expressions and the layers of ``equiv.matmul`` and ``equiv.conv``, bit-equal.

The proofs are theorems about the mathematics. That the code computes this mathematics is what the bridge shows, on
integers, and the other rungs show, on their own grounds. ``proofs/`` holds a notebook for each family.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from equiv.errors import message
from equiv.ladder.evidence import Evidence, worst
from equiv.symbolic.families import FAMILIES
from equiv.symbolic.identity import Family, Identity, prove, prove_family

__all__ = ["FAMILIES", "Family", "Identity", "find", "prove", "prove_all", "prove_each", "prove_family"]


def find(name: str) -> Identity:
    """The identity called ``name``.

    Raises:
        ValueError: there is none; the message lists all.

    Example:
        >>> find("6a").claim
        'two linear dynamic convolutions merge into one with the kernel Σ_j k_jᵀ v_j'
    """
    identities = {identity.name: identity for family in FAMILIES for identity in family.identities}
    if name not in identities:
        raise ValueError(message("name", name, f"one of {', '.join(identities)}", "symbolic.find"))
    return identities[name]


def prove_all(*, seed: int = 0) -> list[Evidence]:
    """Prove the identities of all families and check the bridge to the layers: one evidence for each family.

    ``parts`` of each holds the evidence of its identities, and of its bridge as the last one.
    """
    return list(prove_each(seed=seed))


def prove_each(families: Sequence[Family] = FAMILIES, *, seed: int = 0) -> Iterator[Evidence]:
    """The same one after the other, for some families."""
    from equiv.symbolic.bridge import bridge  # here, so that the proofs need no torch

    for family in families:
        proofs, link = prove_family(family), bridge(family.number, seed)
        yield Evidence(
            worst([proofs.verdict, link.verdict]),
            claim=proofs.claim,
            scope="all sizes, all real arrays: theorems about the mathematics; the layers "
            f"({', '.join(family.covers)}): bit-equal to it on integers",
            assumptions=proofs.assumptions,
            numbers={**proofs.numbers, **link.numbers},
            seed=seed,
            reproduce=f"next(equiv.symbolic.prove_each(equiv.symbolic.FAMILIES[{family.number - 1}:], seed={seed}))",
            reason="; ".join(reason for reason in (proofs.reason, link.reason) if reason),
            parts=(*proofs.parts, link),
        )
