"""One drawn case, checked again: the command that a failed property test prints.

::

    python -m equiv.testing.reproduce '{"operator":"LinearAttention","args":[8,2],"shape":[2,5,8]}' --dtype float16

It compares both lowerings of the convolution form with the matmul form, prints the evidence, and ends with exit status
0 (equal), 1 (different) or 2 (unknown, or a usage error). It needs no Hypothesis.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from equiv.catalogue import LOWERINGS, Case, find
from equiv.errors import check_choice, check_int, message
from equiv.ladder.draws import LAYOUTS, PATTERNS, draw_input, draw_weights
from equiv.ladder.evidence import Evidence, Verdict, worst
from equiv.ladder.floating import DTYPES
from equiv.ladder.floating import check as check_float

STATUS = {Verdict.EQUAL: 0, Verdict.DIFFERENT: 1, Verdict.UNKNOWN: 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn(Case):
    """A case of the catalogue's kind, with the operator that it is for and the input to run it on.

    Attributes:
        operator: name of a pair of :data:`equiv.catalogue.PAIRS`.
        layout: memory layout of the input, of :data:`equiv.ladder.draws.LAYOUTS`.
        pattern: the input's values, of :data:`equiv.ladder.draws.PATTERNS`.
        seed: of the input's values, the weights and the cotangents.

    Example:
        >>> drawn = Drawn((2, 5, 8), (8, 2), {"activation": "none"}, operator="LinearAttention", pattern="ties")
        >>> print(drawn)
        LinearAttention(8, 2, activation='none') on 2x5x8, contiguous, ties, seed 0
        >>> drawn.to_json()
        '{"operator":"LinearAttention","args":[8,2],"options":{"activation":"none"},"shape":[2,5,8],"pattern":"ties"}'
        >>> Drawn.from_json(drawn.to_json()) == drawn
        True
    """

    operator: str
    layout: str = "contiguous"
    pattern: str = "normal"
    seed: int = 0

    def __post_init__(self) -> None:
        find(self.operator)
        check_choice("layout", self.layout, LAYOUTS, "Drawn")
        check_choice("pattern", self.pattern, PATTERNS, "Drawn")
        check_int("seed", self.seed, "Drawn", minimum=0)

    def __str__(self) -> str:
        return f"{self.operator}{super().__str__()}, {self.layout}, {self.pattern}, seed {self.seed}"

    def to_json(self) -> str:
        """The case in one line, without the fields that have their default values."""
        fields = {field.name: field for field in dataclasses.fields(self)}
        order = ("operator", "args", "options", "shape", "training", "layout", "pattern", "seed")
        values = {name: getattr(self, name) for name in order}
        kept = {name: value for name, value in values.items() if value not in (fields[name].default, {})}
        return json.dumps(kept, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Drawn:
        """The inverse of :meth:`to_json`.

        Raises:
            TypeError, ValueError: ``text`` is no JSON, or not of a case.
        """
        values = json.loads(text)
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not {"operator", "args", "shape"} <= values.keys() <= names:
            expected = "a JSON object with operator, args and shape, and at most " + ", ".join(sorted(names))
            raise ValueError(message("text", values, expected, "Drawn.from_json"))
        options = {name: _tuple(value) for name, value in values.pop("options", {}).items()}
        return cls(options=options, **{name: _tuple(value) for name, value in values.items()})

    def build(self, form: str, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The operator in a form (see :meth:`equiv.catalogue.Pair.build`), with random weights that all forms share."""
        pair = find(self.operator)
        reference = pair.build("matmul", self)
        draw_weights(reference, torch.Generator().manual_seed(self.seed))
        operator = pair.build(form, self)
        operator.load_state_dict(reference.state_dict())
        return operator.to(dtype)

    def input(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """The input, in its memory layout."""
        return LAYOUTS[self.layout](self.values().to(dtype))

    def values(self) -> torch.Tensor:
        """The input's values, contiguous and float64."""
        return draw_input(self.shape, self.pattern, torch.Generator().manual_seed(self.seed))


def command(drawn: Drawn, dtype: torch.dtype) -> str:
    """The shell command that checks ``drawn`` again.

    Example:
        >>> print(command(Drawn((1, 5, 8), (8, 2), operator="LinearAttention"), torch.float16))
        python -m equiv.testing.reproduce '{"operator":"LinearAttention","args":[8,2],"shape":[1,5,8]}' --dtype float16
    """
    return f"python -m equiv.testing.reproduce {shlex.quote(drawn.to_json())} --dtype {str(dtype).split('.')[1]}"


def check(drawn: Drawn, dtype: torch.dtype) -> list[Evidence]:
    """Compare each lowering of the convolution form with the matmul form, outputs and gradients, on the CPU.

    Example:
        >>> [one.verdict.name for one in check(Drawn((1, 5, 8), (8, 2), operator="LinearAttention"), torch.float32)]
        ['EQUAL', 'EQUAL']
    """
    pair = find(drawn.operator)
    return [
        check_float(
            pair.build(lowering, drawn),
            pair.build("matmul", drawn),
            [drawn.values()],
            dtype=dtype,
            weights="random",
            patterns=(),
            layout=drawn.layout,
            seed=drawn.seed,
            claim=f"conv ({lowering}) equals matmul for {drawn}",
            reproduce=command(drawn, dtype),
        )
        for lowering in LOWERINGS
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (those of the process); return the exit status."""
    parser = argparse.ArgumentParser("python -m equiv.testing.reproduce", description="Check one drawn case again.")
    parser.add_argument("case", help="JSON, as a failed property test prints it")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    options = parser.parse_args(arguments)
    try:
        found = check(Drawn.from_json(options.case), DTYPES[options.dtype])
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    print(*found, sep="\n")
    return STATUS[worst([one.verdict for one in found])]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
