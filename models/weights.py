"""Other people's weights in our models: ``load(model, file)``.

Three steps, each of which refuses what it does not know: read the file without running it
(:mod:`equiv.models.checkpoint`), give the tensors our names (:mod:`equiv.models.layouts`), and compare them with the
model's, name by name. Only if all fit is anything copied.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from equiv.errors import check_bool, message
from equiv.models import checkpoint
from equiv.models.layouts import LayoutError, Plan, convert, detect, join, layout, own_names, strip

__all__ = ["LayoutError", "Report", "WeightsError", "convert", "layout", "load"]

#: What files of whole trainings call the weights in them. ``…_ema`` are averages: never taken without being asked.
WRAPPERS = ("model", "state_dict", "model_ema", "state_dict_ema")
#: What follows the last norm: the classifier, and the layers that some models have before it.
HEADS = ("head.", "fc.", "head_dist.", "pre_logits.", "pooler.")


class WeightsError(ValueError):
    """Weights that do not fit a model. Nothing was loaded.

    Attributes:
        missing: the model's names that the source lacks, with the source's names for them.
        unexpected: the source's names that the model lacks.
        mismatched: the model's names whose tensor has another shape or kind, with the reason.
    """

    def __init__(
        self, text: str, missing: dict[str, list[str]], unexpected: list[str], mismatched: dict[str, str]
    ) -> None:
        super().__init__(text)
        self.missing, self.unexpected, self.mismatched = missing, unexpected, mismatched


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`load` did.

    Attributes:
        layout: of the source, see :func:`layout`; ``"equiv"`` for names of a model that no other library has.
        tensors: how many of the model's were set.
        dropped: the source's names that were not used: constant buffers, entries beside the weights, with
            ``head=False`` the classifier.
        kept: the model's names that were left as they were: with ``head=False`` the classifier.
        cast: dtypes that were converted, as ``"float16 -> float32"``.
    """

    layout: str
    tensors: int
    dropped: tuple[str, ...]
    kept: tuple[str, ...]
    cast: tuple[str, ...]


def load(model: nn.Module, source: Mapping[str, Any] | str | os.PathLike[str], *, head: bool = True) -> Report:
    """Set all parameters of ``model`` from a state dict or a file of another library, or of equiv.

    All or nothing: unless every tensor of the model is in the source in its shape, and every tensor of the source is
    known, the model stays as it was. Values are rounded to the dtype of the model's tensor, to which they are copied;
    the model keeps its dtypes and devices. A finite value that would become infinite there is an error.

    Left out and reported: ``attn_mask`` and ``relative_position_index``, after a look that they are what the models
    here compute. In a dict like ``{"model": weights, "epoch": 3}`` the weights are found by :data:`WRAPPERS`. A prefix
    like ``module.``, if all names have it, is taken off.

    Args:
        model: one of ``equiv.models``; any module whose parameters have these names.
        source: tensors by name; or a path, see :func:`equiv.models.checkpoint.read`.
        head: ``False``: leave the model's classifier as it is, and do without the source's, which may be missing or of
            another size, and without what feeds only it (transformers' ``pooler``, torchvision's ``pre_logits``).

    Returns:
        Report: what was found and what was left out.

    Raises:
        WeightsError: names or shapes do not fit; it lists all that do not.
        LayoutError: the names are those of no known layout, or of several, and not of this model either.
        equiv.models.checkpoint.CheckpointError: the file is refused or cannot be read.
        TypeError: ``source`` is neither a mapping nor a path.

    Example:
        >>> model = nn.Sequential()
        >>> model.head = nn.Linear(3, 2)
        >>> load(model, {"head.weight": torch.ones(2, 3, dtype=torch.float64), "head.bias": torch.ones(2)})
        Report(layout='equiv', tensors=2, dropped=(), kept=(), cast=('float64 -> float32',))
    """
    call = "models.weights.load"
    check_bool("head", head, call)
    given: Any = checkpoint.read(source) if isinstance(source, str | os.PathLike) else source
    if not isinstance(given, Mapping):
        raise TypeError(message("source", source, "a state dict or the path of a file", call))
    inside, beside = _unwrap(given, call)
    state = strip({name: value for name, value in inside.items() if isinstance(value, torch.Tensor)})
    beside += [name for name, value in inside.items() if not isinstance(value, torch.Tensor)]
    own = model.state_dict()
    if any(tensor.is_meta for tensor in own.values()):
        raise ValueError(message("model", "a model on the meta device", "one with storage: see `to_empty`", call))

    try:
        plan = Plan.of(state, detect(state, call))
    except LayoutError:
        if not set(own) & set(state):
            raise
        plan = own_names(state)
    fitted = _Fit(plan, state, own, head)
    fitted.check(call)
    tensors = fitted.tensors
    model.load_state_dict(tensors | {name: own[name] for name in fitted.kept})
    cast = {(tensor.dtype, own[name].dtype) for name, tensor in tensors.items() if tensor.dtype != own[name].dtype}
    return Report(
        plan.layout.name,
        len(tensors),
        tuple(sorted([*fitted.dropped, *plan.constants, *beside])),
        tuple(fitted.kept),
        tuple(sorted(" -> ".join(str(dtype).removeprefix("torch.") for dtype in pair) for pair in cast)),
    )


def _unwrap(source: Mapping[str, Any], call: str) -> tuple[Mapping[str, Any], list[str]]:
    """The weights inside ``source``, and the names beside them."""
    if any(not isinstance(name, str) for name in source):
        raise TypeError(message("source", source, "a dict of tensors by name", call))
    inside = [name for name in WRAPPERS if isinstance(source.get(name), Mapping)]
    if len(inside) > 1:
        expected = f"one set of weights, but has {' and '.join(inside)}: pass source[{inside[0]!r}], or the other"
        raise ValueError(message("source", sorted(source), expected, call))
    if not inside:
        return source, []
    weights, beside = _unwrap(source[inside[0]], call)
    return weights, [*beside, *(name for name in source if name != inside[0])]


class _Fit:
    """The source's tensors beside the model's, and everything that does not fit."""

    def __init__(self, plan: Plan, state: dict[str, torch.Tensor], own: dict[str, torch.Tensor], head: bool) -> None:
        self.plan = plan
        self.tensors: dict[str, torch.Tensor] = {}
        self.missing: dict[str, list[str]] = {}
        self.unexpected = list(plan.unknown)
        self.mismatched: dict[str, str] = {}
        self.dropped: list[str] = []
        self.kept = [] if head else [name for name in own if name.startswith(HEADS)]
        for one, other in plan.twice:
            self.mismatched[other] = f"a second tensor for that of {one}"
        for name in plan.constants:
            if (reason := _odd_constant(name, state[name])) is not None:
                self.mismatched[name] = reason
        for ours, sources in plan.sources.items():
            if not head and ours.startswith(HEADS):
                self.dropped += sources.values()
            elif ours not in own:
                self.unexpected += sources.values()
            elif plan.complete(ours):
                self._compare(ours, {part: state[name] for part, name in sources.items()}, own[ours])
        for name in own:
            if name not in self.kept and not plan.complete(name):
                self.missing[name] = plan.absent(name)

    def _compare(self, name: str, parts: dict[int | None, torch.Tensor], own: torch.Tensor) -> None:
        """Take the parts as the model's tensor ``name``, or say why not."""
        for tensor in parts.values():
            if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
                self.mismatched[name] = "not an ordinary dense tensor with values"
                return
            if _kind(tensor) != _kind(own):
                self.mismatched[name] = f"{tensor.dtype}, but should be of a kind with {own.dtype}"
                return
        shapes = [tuple(tensor.shape) for tensor in parts.values()]
        rows = len(shapes) * shapes[0][0] if shapes[0] else 0
        if len(set(shapes)) > 1 or (shapes[0] if len(shapes) == 1 else (rows, *shapes[0][1:])) != tuple(own.shape):
            got = str(shapes[0]) if len(shapes) == 1 else " and ".join(map(str, shapes))
            self.mismatched[name] = f"shape {got}, but should be {tuple(own.shape)}" + " together" * (len(shapes) > 1)
            return
        tensor = join(parts)
        if tensor.is_floating_point() and torch.finfo(tensor.dtype).max > torch.finfo(own.dtype).max:
            lost = tensor.isfinite() & ~tensor.to(own.dtype).isfinite()
            if lost.any():
                self.mismatched[name] = f"{int(lost.sum())} of {lost.numel()} values too large for {own.dtype}"
                return
        self.tensors[name] = tensor

    def check(self, call: str) -> None:
        """Raise if anything does not fit."""
        if not (self.missing or self.unexpected or self.mismatched):
            return
        lines = [f"missing: {name}" + _of(theirs, name) for name, theirs in self.missing.items()]
        for name in self.unexpected:
            lines.append(f"unexpected: {name}" + _of([self._ours(name)], name))
        for name, reason in self.mismatched.items():
            lines.append(f"mismatched: {name}" + _of(self.plan.sources.get(name, {}).values(), name) + f": {reason}")
        if any("dist_token" in name or "distillation" in name for name in self.unexpected):
            lines.append("This is a distilled DeiT, which has a second token; the models here have none.")
        heads = [name for name in (*self.missing, *self.mismatched) if name.startswith(HEADS)]
        if heads and len(heads) == len(self.missing) + len(self.mismatched):
            lines.append("Only the classifier does not fit: `head=False` leaves the model's as it is.")
        text = "".join(f"\n  {line}" for line in lines)
        expected = f"the model's parameters, by name and shape; nothing was loaded:{text}\n"
        raise WeightsError(
            message("source", f"weights in the layout {self.plan.layout.name}", expected, call),
            self.missing,
            self.unexpected,
            self.mismatched,
        )

    def _ours(self, name: str) -> str:
        found = self.plan.layout.ours(name)
        return name if found is None else found[0]


def _of(theirs: Any, ours: str) -> str:
    """The source's names in brackets, where they differ."""
    names = [name for name in theirs if name != ours]
    return f" ({', '.join(names)})" if names else ""


def _kind(tensor: torch.Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _odd_constant(name: str, value: torch.Tensor) -> str | None:
    """Why a buffer that is about to be left out is not the constant that it should be; ``None`` if it is.

    The index of query i and key j in a w×w window is ``(Δy + w − 1)(2w − 1) + Δx + w − 1``, Δ query minus key; a mask
    holds 0 and −100 and nothing else.
    """
    if value.is_meta or value.layout is not torch.strided:
        return "without values"
    if name.endswith("attn_mask"):
        return None if bool(((value == 0) | (value == -100)).all()) else "a mask with values other than 0 and -100"
    window = round(value.numel() ** 0.25)
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
    down, right = (axis[:, None] - axis for axis in (y, x))
    index = (down + window - 1) * (2 * window - 1) + right + window - 1
    same = value.numel() == index.numel() and bool((value.cpu().reshape(index.shape) == index).all())
    return None if same else "another order of relative positions than that of square windows"
