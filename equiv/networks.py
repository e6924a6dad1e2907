"""Networks to compare: a model of ours in one of its forms, or the same model of a library, with our weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from equiv import libraries, models
from equiv.ladder.draws import derive, draw_weights
from equiv.ladder.rule import Tensors, Unknown
from equiv.models import weights
from equiv.models.configs import options_of

WINDOW = 7  # of all named Swins
MASK = -100.0  # what the libraries add to the logits of masked pairs in shifted windows

#: A block by our name, and what brings its output to our shape.
Tap = tuple[str, nn.Module, Callable[[Any], torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Network:
    """One of the networks that are compared.

    Attributes:
        name: for people.
        make: builds it in the dtype of the given weights, which are called as ours are, and gives it these weights.
        taps: its blocks, in order.
        rename: its named tensors (gradients) by our names.
    """

    name: str
    make: Callable[[Tensors], nn.Module]
    taps: Callable[[Any], Iterable[Tap]]
    rename: Callable[[Tensors], Tensors] = dict


def plan(name: str, image_size: tuple[int, int]) -> tuple[list[tuple[Network, list[Network]]], dict[str, str]]:
    """References (our matmul form) with what is compared with each; and the libraries that are not, with reasons."""

    def form(label: str, **options: Any) -> Network:
        return ours(
            ", ".join([label, *(f"{k}={v}" for k, v in options.items() if k in ("mask_value", "shifts"))]),
            name,
            image_size,
            options,
        )

    forms = [form(f"conv form, {lowering}", form="conv", lowering=lowering) for lowering in ("literal", "fused")]
    found: dict[tuple[int, ...], tuple[Network, list[Network]]] = {(): (form("matmul form", form="matmul"), forms)}
    known = next((other for other in libraries.SIZES if models.CONFIGS[other] == models.CONFIGS[name]), None)
    absent: dict[str, str] = {}
    for library in libraries.LIBRARIES if known else ():
        try:
            shifts = _shifts(library, name, image_size)
            network = theirs(library, str(known), image_size)
        except libraries.Unavailable as error:
            absent[library] = str(error)
            continue
        moved: dict[str, Any] = {"shifts": shifts} if shifts else {}
        if shifts not in found:
            found[shifts] = form("matmul form", form="matmul", **moved), []
        candidates = found[shifts][1]
        if "depths" in models.CONFIGS[name].options and not any("mask_value" in one.name for one in candidates):
            moved["mask_value"] = MASK
            candidates.append(form("matmul form", form="matmul", **moved))
            candidates.append(form("conv form, literal", form="conv", lowering="literal", **moved))
        candidates.append(network)
    return list(found.values()), absent


def draw(name: str, images: torch.Tensor, seed: int, checkpoint: str | None) -> Tensors:
    """The weights of all networks, by our names, float64.

    Where there is BatchNorm, its running statistics are those of the images and of noise: drawn ones would let the
    products of drawn kernels overflow.
    """
    image_size = int(images.shape[2]), int(images.shape[3])
    model = _create(name, image_size, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if len(names) != len(list(model.parameters())):
        raise Unknown("the model shares parameters, which this check would separate")
    if checkpoint is None:
        draw_weights(model, torch.Generator().manual_seed(derive(seed, "weights")))
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        handles = [norm.register_forward_pre_hook(_calibrate) for norm in norms]
        if norms:
            generator = torch.Generator().manual_seed(derive(seed, "noise"))
            noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                model.eval()(torch.cat((images.double(), noise)))
        for handle in handles:
            handle.remove()
    else:
        weights.load(model, checkpoint)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def _calibrate(norm: Any, inputs: tuple[torch.Tensor]) -> None:
    """Make the statistics of this input the running ones, before they are used."""
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3), correction=0))


def _create(name: str, image_size: tuple[int, int], **options: Any) -> nn.Module:
    sized = {"image_size": image_size} if "image_size" in options_of(name) else {}  # the others take any size
    return models.create(name, **sized, **options)


def ours(label: str, name: str, image_size: tuple[int, int], options: dict[str, Any]) -> Network:
    def make(state: Tensors) -> nn.Module:
        model = _create(name, image_size, device="meta", **options)
        model.load_state_dict(state, assign=True)
        return model

    def taps(model: Any) -> Iterable[Tap]:
        return [(name, block, lambda output: output) for name, block in model.residual_blocks().items()]

    return Network(label, make, taps)


def theirs(library: str, name: str, image_size: tuple[int, int]) -> Network:
    libraries.load(library)

    def make(state: Tensors) -> nn.Module:
        dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
        model = libraries.build(library, name, image_size=image_size).to(dtype)
        model.load_state_dict(_inverted(model.state_dict(), state), strict=False)
        return model

    def taps(model: Any) -> Iterable[Tap]:
        return [(name, block, functools.partial(model.read, name)) for name, block in model.blocks()]

    return Network(library, make, taps, weights.convert)


def _inverted(theirs: Tensors, ours: Tensors) -> Tensors:
    """Our weights by their names: :func:`equiv.models.weights.convert` the other way round.

    The conversion moves elements without changing them, so it is inverted by converting numbers of elements.

    Raises:
        Unknown: the conversion loses or repeats an element.
    """
    theirs = {name: tensor for name, tensor in theirs.items() if tensor.is_floating_point()}
    sizes = [tensor.numel() for tensor in theirs.values()]
    numbers = torch.arange(sum(sizes), dtype=torch.int32).split(sizes)
    moved = weights.convert({n: part.view(theirs[n].shape) for n, part in zip(theirs, numbers, strict=True)})
    if {name: tensor.shape for name, tensor in moved.items()} != {name: tensor.shape for name, tensor in ours.items()}:
        raise Unknown(f"other weights than ours: {sorted(moved.keys() ^ ours.keys()) or 'their shapes'}")
    values = torch.empty(sum(sizes), dtype=next(iter(ours.values())).dtype)
    given = torch.zeros(sum(sizes), dtype=torch.bool)
    for name, tensor in ours.items():
        where = moved.pop(name).flatten()
        values[where] = tensor.flatten().to(values.device)
        given[where] = True
    if not given.all() or sum(tensor.numel() for tensor in ours.values()) != sum(sizes):
        raise Unknown("the conversion of weights loses or repeats elements")
    return {name: part.view(theirs[name].shape) for name, part in zip(theirs, values.split(sizes), strict=True)}


def _shifts(library: str, name: str, image_size: tuple[int, int]) -> tuple[int, ...]:
    """The ``shifts`` with which our Swin is the library's, empty: the default.

    Raises:
        libraries.Unavailable: there are none.
    """
    options = models.CONFIGS[name].options
    sides, shifts = [-(-side // 4) for side in image_size], []
    for _ in options.get("depths", ()):
        shifts.append(0 if min(sides) <= WINDOW else WINDOW // 2)
        if library == "timm" and any(side % WINDOW for side in sides):
            raise libraries.Unavailable("its Swin shifts before it pads, so that other locations meet in a window")
        sides = [-(-side // 2) for side in sides]
    # transformers shifts along no axis if one axis has a single window; where both have, nobody does.
    return tuple(shifts) if library == "transformers" and image_size[0] != image_size[1] and 0 in shifts else ()
