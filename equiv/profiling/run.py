"""Profile a model or operator in several forms, on the same weights and input, into folders that TensorBoard reads."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.profiler import ProfilerActivity, profile, schedule

from equiv import catalogue
from equiv.errors import check_choice, check_int, message
from equiv.ladder.draws import derive, draw_weights
from equiv.ladder.floating import DTYPES
from equiv.ladder.tf32 import setting as tf32
from equiv.models import CONFIGS, create
from equiv.models.configs import nearest, options_of
from equiv.profiling.roles import annotate, missing
from equiv.profiling.trace import Event, Summary, finish, summarise

FORMS = ("matmul", "conv")
CALL = "equiv profile"
INSTALL = "tensorboard is missing: pip install equiv[profile]"
#: What a reader of the format may rely on, by ``ph``.
REQUIRED = {"X": ("name", "cat", "pid", "tid", "ts", "dur"), "i": ("name", "ts", "pid", "tid"), "M": ("name", "args")}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is profiled.

    Attributes:
        name: of a model (``equiv models``), or of an operator of :mod:`equiv.catalogue` (its first case).
        batch: images or inputs at once; ``None``: 1 for a model, that of the case for an operator.
        image_size: of a model; ``None``: 224.
        options: further options of a model, see :func:`equiv.models.create`.
        lowering: of the conv form.
        dtype: a key of :data:`equiv.ladder.floating.DTYPES`.
        device: ``"cpu"`` or ``"cuda"``.
        backward: whether gradients are computed too: of all parameters, and of an operator's input.
        seed: of weights and input, which are drawn as for ``equiv verify``; a model with BatchNorm has the weights that
            it is made with, but for drawn biases of those.
    """

    name: str
    batch: int | None = None
    image_size: int | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    lowering: str = "literal"
    dtype: str = "float32"
    device: str = "cpu"
    backward: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, tuple(DTYPES), CALL)
        check_choice("lowering", self.lowering, catalogue.LOWERINGS, CALL)
        for name, value in (("batch", self.batch), ("image_size", self.image_size)):
            if value is not None:
                check_int(name, value, CALL)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(message("device", self.device, "'cpu': there is no CUDA device", CALL))
        check_choice("device", self.device, ("cpu", "cuda"), CALL)
        if self.name not in CONFIGS:
            operators = [pair.name for pair in catalogue.PAIRS]
            if self.name not in operators:
                raise ValueError(message("TARGET", self.name, nearest(self.name, [*CONFIGS, *operators]), CALL))
            if self.image_size is not None:
                raise ValueError(message("image_size", self.image_size, "None for an operator", CALL))

    def build(self, form: str) -> nn.Module:
        """The module in one form, in evaluation mode, with weights that are the same in all forms.

        Raises:
            TypeError: an option is not one of the model's.
            ValueError: an option is out of range.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "weights"))
            made = self._make("matmul")
            for module in made.modules():
                if isinstance(module, _NormBase):  # else ReLUs stand at 0, where rounding chooses the gradient
                    nn.init.normal_(module.bias, std=0.1)
        # Drawn weights hide nothing, but a deep network whose BatchNorms normalise with drawn statistics overflows.
        if self.name not in CONFIGS or not any(isinstance(module, _NormBase) for module in made.modules()):
            draw_weights(made, torch.Generator().manual_seed(derive(self.seed, "weights")))
        if form != "matmul":
            state = made.state_dict()
            made = self._make(form)
            made.load_state_dict(state)
        return made.to(self.device, DTYPES[self.dtype]).eval()

    def _make(self, form: str) -> nn.Module:
        if self.name not in CONFIGS:
            pair = catalogue.find(self.name)
            return pair.build(form if form == "matmul" else self.lowering, pair.cases[0])
        more: dict[str, Any] = {"lowering": self.lowering} if form == "conv" else {}
        if "image_size" in options_of(self.name):  # the others take images of any size
            more["image_size"] = self.image_size or 224
        return create(self.name, form=form, **(self.options | more))

    def input(self) -> torch.Tensor:
        """Normal numbers."""
        if self.name in CONFIGS:
            side = self.image_size or 224
            shape: tuple[int, ...] = (self.batch or 1, self.options.get("channels", 3), side, side)
        else:
            batch, *rest = catalogue.find(self.name).cases[0].shape
            shape = (self.batch or batch, *rest)
        generator = torch.Generator().manual_seed(derive(self.seed, "input"))
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, DTYPES[self.dtype])
        return x.requires_grad_(self.backward and self.name not in CONFIGS)


@dataclasses.dataclass(frozen=True)
class Profile:
    """One form, measured.

    Attributes:
        form: ``"matmul"``, ``"conv-literal"`` or ``"conv-fused"``.
        folder: the run's, with its trace.
        trace: the file.
        seconds: of each step, without the profiler.
        deviations: from the matmul form, ``"output"`` and ``"gradients"``, relative to the largest element of the
            output, and of all gradients; empty for the matmul form itself.
        summary: by role.
        scalars: whether they were written, for which TensorBoard must be installed.
    """

    form: str
    folder: Path
    trace: Path
    seconds: tuple[float, ...]
    deviations: dict[str, float]
    summary: Summary
    scalars: bool

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)


def count(forms: Sequence[str], steps: int) -> int:
    """How often :func:`run` yields."""
    return len(forms) * (2 * steps + 3) + 1


def run(target: Target, forms: Sequence[str], steps: int, logdir: str | os.PathLike[str]) -> Iterator[Profile | None]:
    """Measure ``target`` in the ``forms``, and write a run for each: ``logdir/NAME/FORM``.

    Yields after every step: the profile of a form when it is complete, otherwise ``None``.

    A run holds ``equiv.NANOSECONDS.pt.trace.json``, named as by ``torch.profiler.tensorboard_trace_handler``, and the
    scalars ``time_ms/step``, ``time_ms/ROLE``, ``peak_MB/step`` and ``deviation/…``. Times by role are from the trace,
    under the profiler, which costs time itself; ``time_ms/step`` is not. TF32 is off.

    Raises:
        OSError: a folder or file cannot be written.
        RuntimeError: a role that the target cannot do without was not met, or the trace is not valid.
        ValueError: ``forms`` or ``steps`` are out of range, or the target does not take such an input.
    """
    check_int("steps", steps, CALL)
    for form in forms:
        check_choice("form", form, FORMS, CALL)
    with tf32(False):
        x = target.input()
        reference = _results(target.build("matmul"), x, target.backward)
        yield None
        for form in forms:
            model = target.build(form)
            results = _results(model, x, target.backward)
            yield None
            deviations = _deviations(results, reference) if form != "matmul" else {}
            seconds = []
            for _ in range(steps):
                seconds.append(_time(model, x, target.backward))
                yield None
            name = form if form == "matmul" else f"{form}-{target.lowering}"
            folder = Path(logdir) / target.name / name
            folder.mkdir(parents=True, exist_ok=True)
            holder: list[Event] = []
            for _ in _record(model, x, target, form, steps, holder):
                yield None
            summary = summarise(holder[0])
            trace = folder / f"equiv.{time.time_ns()}.pt.trace.json"
            write(holder.pop(), trace)
            scalars = _write_scalars(folder, seconds, deviations, summary)
            yield Profile(name, folder, trace, tuple(seconds), deviations, summary, scalars)


def _step(model: nn.Module, x: torch.Tensor, backward: bool) -> tuple[torch.Tensor, ...]:
    """The output, and the gradients of its sum with alternating signs: a cotangent that no bias is blind to."""
    if not backward:
        with torch.no_grad():
            return (model(x),)
    y = model(x)
    cotangent = torch.ones_like(y).flatten()
    cotangent[1::2] = -0.5
    # By name: the forms do not register their parameters in one order.
    wanted = [x] * x.requires_grad + [parameter for _, parameter in sorted(model.named_parameters())]
    gradients = torch.autograd.grad(y, wanted, cotangent.view_as(y), materialize_grads=True)
    return (y, *gradients)


def _results(model: nn.Module, x: torch.Tensor, backward: bool) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in _step(model, x, backward)]


def _deviations(results: list[torch.Tensor], reference: list[torch.Tensor]) -> dict[str, float]:
    """Of the output, and of all gradients together: some are zero up to rounding, and have no size of their own."""
    found = {"output": _deviation(results[:1], reference[:1])}
    return found | ({"gradients": _deviation(results[1:], reference[1:])} if len(results) > 1 else {})


def _deviation(results: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    pairs = list(zip(results, reference, strict=True))
    differences = torch.stack([(ours.double() - theirs.double()).abs().max() for ours, theirs in pairs])
    size = torch.stack([theirs.double().abs().max() for _, theirs in pairs]).max()
    return float(differences.max() / size) if size else float(differences.max())


def _time(model: nn.Module, x: torch.Tensor, backward: bool) -> float:
    _synchronize(x)
    start = time.perf_counter()
    _step(model, x, backward)
    _synchronize(x)
    return time.perf_counter() - start


def _synchronize(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _record(
    model: nn.Module, x: torch.Tensor, target: Target, form: str, steps: int, holder: list[Event]
) -> Iterator[None]:
    """Run one step to warm up and ``steps`` that are recorded; put the trace into ``holder``."""

    def read(profiler: profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace.json")
            profiler.export_chrome_trace(path)
            with open(path, encoding="utf-8") as file:
                holder.append(finish(json.load(file)))

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (target.device == "cuda")
    options: dict[str, Any] = {"record_shapes": True, "profile_memory": True}
    plan = schedule(wait=0, warmup=1, active=steps, repeat=1)
    recording = profile(activities=activities, schedule=plan, on_trace_ready=read, **options)
    with annotate(model) as annotation, recording as profiler:
        for _ in range(steps + 1):
            _step(model, x, target.backward)
            _synchronize(x)
            profiler.step()
            yield
    gaps = missing(model, form, {role for _, _, role in annotation.hits})
    if gaps:
        raise RuntimeError(f"no operator was met in these roles: {', '.join(gaps)}")


def write(trace: Event, path: Path) -> None:
    """Write a trace, complete or not at all.

    Raises:
        RuntimeError: an event lacks what readers of the format rely on.
        OSError: ``path`` cannot be written.
    """
    for event in trace["traceEvents"]:
        lacking = [key for key in REQUIRED.get(event.get("ph"), ()) if key not in event]
        if lacking:
            raise RuntimeError(f"an event of the trace lacks {', '.join(lacking)}: {event}")
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(json.dumps(trace, allow_nan=False, separators=(",", ":")), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_scalars(folder: Path, seconds: list[float], deviations: dict[str, float], summary: Summary) -> bool:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    with SummaryWriter(log_dir=str(folder)) as writer:
        for step, value in enumerate(seconds):
            writer.add_scalar("time_ms/step", 1e3 * value, step)
        for part in summary.parts:
            writer.add_scalar(f"time_ms/{re.sub(r'[^-/.a-zA-Z0-9_ ]', '', part.role)}", part.time, 0)
        writer.add_scalar("peak_MB/step", summary.peak / 1e6, 0)
        for name, value in deviations.items():
            writer.add_scalar(f"deviation/{name}", value, 0)
    return True
