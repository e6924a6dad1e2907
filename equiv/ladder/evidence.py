"""What a rung returns: a verdict with its claim, scope, assumptions, numbers and a way to reproduce it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any


class Verdict(enum.Enum):
    """EQUAL, DIFFERENT (with a witness) or UNKNOWN (with the reason)."""

    EQUAL = "EQUAL"
    DIFFERENT = "DIFFERENT"
    UNKNOWN = "UNKNOWN"

    def __bool__(self) -> bool:
        raise TypeError("a Verdict has three values: compare it, e.g. `verdict is Verdict.EQUAL`")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The outcome of one check; it has no truth value, so that no test can drop it or misread UNKNOWN.

    Attributes:
        verdict: :class:`Verdict`.
        claim: what was compared with what, one sentence.
        scope: for which inputs, weights, dtypes and devices the verdict speaks.
        assumptions: what is taken on trust.
        numbers: measured figures by name (deviation, tolerance, counts, seconds).
        seed: the seed of every random draw, ``None`` if nothing was drawn.
        reproduce: one command or line of Python that runs this check again.
        reason: why the verdict is not EQUAL (the witness of DIFFERENT, the obstacle of UNKNOWN); empty if EQUAL.
        parts: the evidence that this one sums up.

    Example:
        >>> Evidence(Verdict.EQUAL, claim="f equals g", scope="x in {0, 1}").verdict
        <Verdict.EQUAL: 'EQUAL'>
    """

    verdict: Verdict
    claim: str
    scope: str
    assumptions: tuple[str, ...] = ()
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int | None = None
    reproduce: str = ""
    reason: str = ""
    parts: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        if (self.verdict is Verdict.EQUAL) != (not self.reason):
            raise ValueError(f"`reason`={self.reason!r} does not fit `verdict`={self.verdict.value} [Evidence]")

    def __bool__(self) -> bool:
        raise TypeError("Evidence has no truth value: look at its `verdict`")

    def __str__(self) -> str:
        lines = [f"{self.verdict.value}: {self.claim}"]
        if self.reason:
            lines.append(f"  reason: {self.reason}")
        lines.append(f"  scope: {self.scope}")
        lines += [f"  assumes: {assumption}" for assumption in self.assumptions]
        lines += [f"  {name}: {_number(value)}" for name, value in self.numbers.items()]
        if self.seed is not None:
            lines.append(f"  seed: {self.seed}")
        if self.reproduce:
            lines.append(f"  reproduce: {self.reproduce}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        data["verdict"] = self.verdict.value
        data["parts"] = [part.to_dict() for part in self.parts]
        return data


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """DIFFERENT if any is, else UNKNOWN if any is or there is none, else EQUAL.

    Example:
        >>> worst([]), worst([Verdict.EQUAL, Verdict.UNKNOWN])
        (<Verdict.UNKNOWN: 'UNKNOWN'>, <Verdict.UNKNOWN: 'UNKNOWN'>)
    """
    for verdict in (Verdict.DIFFERENT, Verdict.UNKNOWN):
        if verdict in verdicts:
            return verdict
    return Verdict.EQUAL if verdicts else Verdict.UNKNOWN


def combine(parts: Sequence[Evidence], claim: str, scope: str) -> Evidence:
    """One evidence for all ``parts``, with the numbers of the part that is nearest to its tolerance.

    Example:
        >>> near, far = {"largest deviation": 1.0, "tolerance": 4.0}, {"largest deviation": 1.0, "tolerance": 0.5}
        >>> parts = [Evidence(Verdict.EQUAL, "first", "", numbers=near),
        ...          Evidence(Verdict.DIFFERENT, "second", "", numbers=far, reason="sign")]
        >>> both = combine(parts, "all", "everywhere")
        >>> both.verdict, both.reason, both.numbers["tolerance"]
        (<Verdict.DIFFERENT: 'DIFFERENT'>, 'second: sign', 0.5)
    """
    verdict = worst([part.verdict for part in parts])
    failing = [part for part in parts if part.verdict is verdict] if verdict is not Verdict.EQUAL else []
    reason = f"{failing[0].claim}: {failing[0].reason}" if failing else "" if parts else "there are no parts"
    numbers: dict[str, Any] = {"parts": len(parts)}
    measured = [part for part in parts if "tolerance" in part.numbers]
    if measured:
        nearest = max(measured, key=_share)
        numbers |= nearest.numbers | {"worst part": nearest.claim}
    for name in ("tensors compared", "seconds"):
        numbers[name] = sum(part.numbers.get(name, 0) for part in parts)
    assumptions = tuple(dict.fromkeys(assumption for part in parts for assumption in part.assumptions))
    return Evidence(verdict, claim, scope, assumptions, numbers, reason=reason, parts=tuple(parts))


def _share(part: Evidence) -> float:
    deviation, tolerance = part.numbers["largest deviation"], part.numbers["tolerance"]
    return deviation / tolerance if tolerance else float("inf") if deviation else 0.0


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
