"""What ``equiv verify`` runs: the pairs of the catalogue, third-party peers, whole models, or two modules of the user.

Each is a :class:`Subject`; a :class:`Job` checks one subject in one dtype on one device and is one row of the table.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import operator
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from equiv.catalogue import LOWERINGS, PAIRS, Pair, example_input
from equiv.errors import message
from equiv.ladder.draws import derive
from equiv.ladder.evidence import Evidence, Verdict, combine
from equiv.ladder.floating import DTYPES, check
from equiv.ladder.trial import Function, Weights

CALL = "equiv verify"
PATTERNS = ("offset", "sparse")  # besides the example input, which is normal
MODELS = ("deit_small", "swin_tiny")  # that are checked when nothing is named
MODEL_DTYPES = ("float64", "float32", "bfloat16")  # unless others are asked for: CPUs convolve float16 very slowly

#: Runs the comparison: ``(dtype, device, seed, gradients)``.
Check = Callable[[torch.dtype, str, int, bool], Evidence]


@dataclasses.dataclass(frozen=True)
class Subject:
    """Something to verify.

    Attributes:
        name: as the table shows it.
        arguments: what selects it on the command line.
        check: runs the comparison.
        dtypes: that it is checked in, unless others are asked for.
    """

    name: str
    arguments: tuple[str, ...]
    check: Check
    dtypes: tuple[str, ...] = tuple(DTYPES)


@dataclasses.dataclass(frozen=True)
class Job:
    """One subject in one dtype on one device."""

    subject: Subject
    dtype: str
    device: str
    gradients: bool = True

    def run(self, seed: int) -> Evidence:
        """The evidence, with the command that gives the same numbers again; an unexpected exception is UNKNOWN.

        Args:
            seed: the run's; the job derives its own from it, which does not depend on which other jobs there are.
        """
        start = time.perf_counter()
        own = derive(seed, self.subject.name, self.dtype)
        try:
            evidence = self.subject.check(DTYPES[self.dtype], self.device, own, self.gradients)
        except (Exception, SystemExit) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            evidence = Evidence(
                Verdict.UNKNOWN,
                claim=self.subject.name,
                scope=f"{self.dtype} on {self.device}",
                numbers={"seconds": time.perf_counter() - start},
                reason=f"unexpected {_text(error)} ({os.path.basename(where.filename)}:{where.lineno})",
            )
        flags = ["--dtype", self.dtype, "--device", self.device, "--seed", str(seed)]
        words = ["equiv", "verify", *self.subject.arguments, *flags, *["--forward-only"] * (not self.gradients)]
        return dataclasses.replace(evidence, seed=seed, reproduce=shlex.join(words))


def devices() -> tuple[str, ...]:
    """The devices of this machine, ``"cpu"`` first."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return tuple(name for name, here in present.items() if here)


def subjects(
    names: Sequence[str] = (),
    *,
    image: str | None = None,
    checkpoint: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> list[Subject]:
    """The subjects called ``names``: class names of the catalogue, slugs of peers, names of models; without names, all
    pairs, all peers and the models in :data:`MODELS`.

    Args:
        image: a file that models are shown, ``None``: the project's own picture.
        checkpoint: a file of weights for the models, ``None``: random ones.
        image_size: (height, width) for the models, ``None``: 224².

    Raises:
        ValueError: there is no such subject (the message proposes the nearest names), or an option for models was given
            without one.
    """
    from equiv import parity, peers  # here, as third-party packages are slow to find and not needed for users' modules
    from equiv.models import CONFIGS

    known = {pair.name: Subject(pair.name, (pair.name,), functools.partial(_check_pair, pair)) for pair in PAIRS}
    known |= {peer.slug: Subject(peer.name, (peer.slug,), peer.check) for peer in peers.PEERS}
    words = {"--image": image, "--weights": checkpoint, "--image-size": image_size and "x".join(map(str, image_size))}
    given = {option: word for option, word in words.items() if word is not None}
    flags = tuple(part for option, word in given.items() for part in (option, word))
    for name in CONFIGS:
        check_one = functools.partial(
            parity.check_model, name, image=image, checkpoint=checkpoint, image_size=image_size or (224, 224)
        )
        known[name] = Subject(name, (name, *flags), check_one, MODEL_DTYPES)
    for name in names:
        if name not in known:
            lower = {other.lower(): other for other in known}
            near = [lower[other] for other in difflib.get_close_matches(name.lower(), lower, cutoff=0.5)]
            expected = f"{' or '.join(near)} (nearest names)" if near else f"one of {', '.join(known)}"
            raise ValueError(message("PAIR", name, expected, CALL))
        if given and name not in CONFIGS:
            raise ValueError(message("PAIR", name, f"a model, as {' and '.join(given)} is for models only", CALL))
    if given and not names:
        raise ValueError(message("PAIR", "", f"a model, as {' and '.join(given)} is for models only", CALL))
    everything = [*(name for name in known if name not in CONFIGS), *MODELS]
    return [known[name] for name in dict.fromkeys(names or everything)]


def jobs(
    chosen: Iterable[Subject], dtypes: Sequence[str], on: Sequence[str], gradients: bool = True
) -> tuple[list[Job], list[str]]:
    """All combinations, and notes on those that do not exist; without ``dtypes``, those of each subject.

    Raises:
        ValueError: a device is not there, or nothing is left.
    """
    here = devices()
    for device in on:
        if device not in here:
            raise ValueError(message("--device", device, f"a device of this machine: {', '.join(here)}", CALL))
    absent = "mps" in on and "float64" in (dtypes or DTYPES)
    found = [
        Job(subject, dtype, device, gradients)
        for subject in chosen
        for device in dict.fromkeys(on)
        for dtype in dict.fromkeys(dtypes or subject.dtypes)
        if (dtype, device) != ("float64", "mps")
    ]
    if not found:
        raise ValueError(message("--dtype", ", ".join(dtypes), f"a dtype that {', '.join(on)} has", CALL))
    return found, ["float64 does not exist on mps: not checked there"] * absent


def _check_pair(pair: Pair, dtype: torch.dtype, device: str, seed: int, gradients: bool) -> Evidence:
    """Both lowerings of the convolution form against the matmul form, in all cases of the pair."""
    parts = []
    for case in pair.cases:
        # Two streams: inputs that repeat the numbers of the weights would not be general.
        example = example_input(case, torch.Generator().manual_seed(derive(seed, str(case), "input")))
        for lowering in LOWERINGS:
            evidence = check(
                pair.build(lowering, case),
                pair.build("matmul", case),
                [example],
                dtype=dtype,
                device=device,
                gradients=gradients,
                weights="random",
                patterns=PATTERNS,
                seed=derive(seed, str(case)),
                claim=f"conv.{pair.name}{case}, {lowering}, equals matmul.{pair.name}",
            )
            parts.append(evidence)
    what = "outputs and gradients" if gradients else "outputs"
    return combine(
        parts,
        claim=f"conv.{pair.name} equals matmul.{pair.name} up to rounding, {' and '.join(LOWERINGS)}",
        scope=f"{what} in {len(pair.cases)} cases, random weights, {str(dtype).removeprefix('torch.')} on {device}",
    )


def user_subject(candidate: str, reference: str, shapes: Sequence[tuple[int, ...]], weights: Weights) -> Subject:
    """Two modules of the user, each made by a callable ``package.module:name`` without arguments.

    The current directory is importable, as with ``python -m``.

    Args:
        candidate: makes what is under test.
        reference: makes what it should compute.
        shapes: of the inputs, which are normal.
        weights: ``"random"``: drawn, and shared by name; ``"own"``: those that the modules are made with.

    Raises:
        ValueError: one of the callables cannot be imported.
    """
    makers = [_load("PAIR", candidate), _load("--against", reference)]
    inputs = [word for shape in shapes for word in ("--input", "x".join(map(str, shape)))]

    def check_both(dtype: torch.dtype, device: str, seed: int, gradients: bool) -> Evidence:
        f, g = (_make(target, maker, seed) for target, maker in zip((candidate, reference), makers, strict=True))
        generator = torch.Generator().manual_seed(derive(seed, "input"))
        evidence = check(
            f,
            g,
            [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes],
            dtype=dtype,
            device=device,
            gradients=gradients,
            weights=weights,
            patterns=PATTERNS,
            seed=seed,
            claim=f"{candidate} equals {reference} up to rounding",
        )
        if weights == "random" and _names(f) != _names(g):
            hint = "--weights own compares them with the weights that they are made with"
            return dataclasses.replace(evidence, reason=f"{evidence.reason}; {hint}")
        return evidence

    arguments = (candidate, "--against", reference, *inputs, *(["--weights", "own"] * (weights == "own")))
    return Subject(f"{candidate} vs {reference}", arguments, check_both)


def _load(name: str, target: str) -> Callable[[], Any]:
    expected = "package.module:callable"
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ValueError(message(name, target, expected, CALL))
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        maker = operator.attrgetter(attribute)(importlib.import_module(module))
    except (Exception, SystemExit) as error:
        raise ValueError(message(name, target, f"{expected} that can be imported ({_text(error)})", CALL)) from error
    if not callable(maker):
        raise ValueError(message(name, target, f"{expected}; this is of type {type(maker).__name__}", CALL))
    return maker


def _make(target: str, maker: Callable[[], Any], seed: int) -> Function:
    torch.manual_seed(derive(seed, "weights"))
    try:
        made = maker()
    except (Exception, SystemExit) as error:
        raise RuntimeError(f"{target}() failed: {_text(error)}") from error
    if not callable(made):
        raise TypeError(message(f"{target}()", made, "a module or function of tensors", CALL))
    return made


def _names(f: Function) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in f.state_dict().items()} if isinstance(f, nn.Module) else {}


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
