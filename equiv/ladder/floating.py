"""The float rung, interim form: deviations against a float64 oracle, within twice those of a reference.

:mod:`equiv.ladder.rule` states the tolerance, :mod:`equiv.ladder.trial` runs the callables. Certified bounds will
replace the rule behind the same function.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from equiv.errors import check_choice, message
from equiv.ladder.draws import LAYOUTS, PATTERNS
from equiv.ladder.evidence import Evidence, Verdict
from equiv.ladder.rule import Deviation, Different, Unknown
from equiv.ladder.tf32 import setting as tf32
from equiv.ladder.trial import Convert, Function, Trial, Weights, same_values

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
DEFAULT_PATTERNS = ("normal", "offset", "sparse")


def check(
    candidate: Function,
    reference: Function,
    inputs: Sequence[torch.Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    gradients: bool = True,
    weights: Weights = "auto",
    convert: Convert | None = None,
    patterns: Sequence[str] = DEFAULT_PATTERNS,
    layout: str = "contiguous",
    seed: int | None = None,
    claim: str | None = None,
    reproduce: str = "",
) -> Evidence:
    """Compare two modules or functions in one dtype on one device.

    Args:
        candidate: what is under test.
        reference: what it should compute, in PyTorch operators that also run in float64 on the CPU.
        inputs: example inputs. They are used as they are, and then their shapes with values of each pattern; tensors of
            integers or bools are kept.
        dtype: floating dtype of weights and inputs.
        device: where candidate and reference run; the oracle runs on the CPU. TF32 is off.
        gradients: also compare gradients of a random linear functional of the outputs, by inputs and parameters.
        weights: ``"random"``: parameters are drawn and shared by name. ``"own"``: both keep theirs. ``"auto"``: own,
            and if all tensors of the same name are equal, random ones too.
        convert: maps the reference's named tensors to the candidate's names (weights and gradients); with it, the
            candidate gets the reference's converted weights.
        patterns: names from :data:`equiv.ladder.draws.PATTERNS`.
        layout: a name from :data:`equiv.ladder.draws.LAYOUTS`.
        seed: of all random draws; ``None``: drawn now.
        claim: one sentence for the evidence.
        reproduce: a command for the evidence; empty: the same call with the seed.

    Returns:
        Evidence: EQUAL if every tensor is within the rule and nothing else differs (shapes, dtypes, mutated inputs,
        finiteness); UNKNOWN if something could not be run, is random, overflows in the reference, or is empty.

    Raises:
        TypeError: ``candidate`` or ``reference`` is not callable, or an input is no tensor.
        ValueError: unknown dtype, pattern, layout or option.

    Example:
        >>> check(torch.sigmoid, lambda x: 1 / (1 + (-x).exp()), [torch.randn(3)]).verdict
        <Verdict.EQUAL: 'EQUAL'>
    """
    _check_arguments(candidate, reference, inputs, dtype, weights, patterns, layout)
    seed = secrets.randbits(31) if seed is None else seed
    start = time.perf_counter()
    trial = Trial(
        candidate,
        reference,
        inputs,
        dtype=dtype,
        device=torch.device(device),
        gradients=gradients,
        convert=convert,
        layout=layout,
        seed=seed,
    )
    found: list[Deviation] = []
    hows: list[str] = []
    verdict, reason = Verdict.EQUAL, ""
    how = where = ""
    try:
        # Whatever modes the caller is in: without grad mode, all gradients would be zeros, and equal.
        with tf32(False), torch.inference_mode(False), torch.enable_grad():
            hows = trial.weightings(weights)
            for how in hows:
                trial.set_weights(how)
                for pattern in ("given", *patterns):
                    where = f" [{pattern} inputs, {how} weights]"
                    found += trial.run(pattern)
                    beyond = [one for one in found if one.share > 1]
                    if beyond:  # a wrong output makes gradients wrong too, but says more
                        outputs = [one for one in beyond if one.name.startswith("output")]
                        raise Different(max(outputs or beyond, key=attrgetter("share")).text)
        where = ""
        undecided = {one.name for one in found} - {one.name for one in found if one.decisive}
        if undecided:
            raise Unknown(f"rounding alone may change half of {', '.join(sorted(undecided))} in this dtype")
    except Unknown as error:
        verdict, reason = Verdict.UNKNOWN, str(error) + where
    except Different as error:
        verdict, reason = Verdict.DIFFERENT, str(error) + where + (_hint(trial) if how == "own" else "")
    numbers: dict[str, Any] = {"tensors compared": len(found), "seconds": time.perf_counter() - start}
    if found:
        worst = max(found, key=attrgetter("share"))
        numbers |= {"largest deviation": worst.deviation, "tolerance": worst.tolerance, "worst tensor": worst.name}
    shapes = ", ".join("x".join(map(str, x.shape)) or "scalar" for x in inputs)
    modes = {f.training for f in (candidate, reference) if isinstance(f, nn.Module)}
    mode = {frozenset({True}): ", training mode", frozenset({False}): ", evaluation mode"}.get(frozenset(modes), "")
    mode = ", one module in training mode and the other not" if len(modes) > 1 else mode
    kept = "; integers as given" if any(not x.is_floating_point() for x in inputs) else ""
    what = "outputs" if not gradients else "outputs and gradients" if trial.named else "outputs and input gradients"
    return Evidence(
        verdict,
        claim=claim or f"{_name(candidate)} equals {_name(reference)} up to rounding",
        scope=f"{what} for {shapes} inputs ({', '.join(('given', *patterns))}{kept}; {layout}), "
        f"{' and '.join(hows) or 'no'} weights, {str(dtype).removeprefix('torch.')} on {device}{mode}",
        assumptions=("the reference, run in float64, computes the intended function",),
        numbers=numbers,
        seed=seed,
        reproduce=reproduce or f"the same call with seed={seed}",
        reason=reason,
    )


def _check_arguments(
    candidate: Any,
    reference: Any,
    inputs: Any,
    dtype: torch.dtype,
    weights: str,
    patterns: Sequence[str],
    layout: str,
) -> None:
    for name, value in (("candidate", candidate), ("reference", reference)):
        if not callable(value):
            raise TypeError(message(name, value, "a module or function", "check"))
    if not inputs:
        raise ValueError(message("inputs", inputs, "at least one tensor", "check"))
    for index, value in enumerate(inputs):
        if not isinstance(value, torch.Tensor):
            raise TypeError(message(f"inputs[{index}]", value, "a tensor", "check"))
    if dtype not in DTYPES.values():
        raise ValueError(message("dtype", dtype, f"one of {', '.join(DTYPES)}", "check"))
    check_choice("weights", weights, ("auto", "random", "own"), "check")
    check_choice("layout", layout, LAYOUTS, "check")
    for pattern in patterns:
        check_choice("patterns", pattern, PATTERNS, "check")


def _name(f: Function) -> str:
    if isinstance(f, nn.Module):
        return f"{type(f).__module__.removeprefix('equiv.').split('.')[0]}.{type(f).__name__}"
    return getattr(f, "__name__", type(f).__name__)


def _hint(trial: Trial) -> str:
    if trial.convert is None and trial.named and not same_values(*trial.originals):
        return (
            "; the two modules came with different weights under the same names: load one's state dict into the other, "
            'or pass weights="random"'
        )
    return ""
