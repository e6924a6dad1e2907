"""Whole models on a picture: both forms against each other, and against the same model of three libraries.

All networks get the same weights and the same two images, the picture and its mirror image. Compared are the output of
every block and the logits, in evaluation mode, and one loss (cross-entropy with drawn labels) and its gradients by all
parameters, in training mode; networks with BatchNorm stay in evaluation mode. A candidate may deviate from the
reference's float64 run by what :mod:`equiv.ladder.rule` allows, measured by the reference in the same dtype.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv import libraries, models, picture
from equiv.ladder.draws import derive
from equiv.ladder.evidence import Evidence, Verdict, combine
from equiv.ladder.rule import DECISIVE, Deviation, Different, Norms, Tensors, Unknown, deviations
from equiv.ladder.tf32 import setting as tf32
from equiv.ladder.trial import HOPELESS, MOVES, STEP
from equiv.networks import Network, draw, plan

LOGITS = "output logits"


def check_model(
    name: str,
    dtype: torch.dtype,
    device: str,
    seed: int,
    gradients: bool = True,
    *,
    image: str | None = None,
    checkpoint: str | None = None,
    image_size: tuple[int, int] = (224, 224),
) -> Evidence:
    """Compare both forms of a model with each other, and each with the libraries that have the model.

    Args:
        name: a key of :data:`equiv.models.CONFIGS`.
        dtype: of weights and images.
        device: where the networks run; the float64 runs are on the CPU.
        seed: of the weights and the labels.
        gradients: also compare the gradients of a training loss.
        image: a file to show; ``None``: the project's own picture.
        checkpoint: a file of weights; ``None``: drawn ones, with which attention is far from uniform and no bias is 0.
        image_size: (height, width).

    Returns:
        Evidence: the parts are the single comparisons. UNKNOWN if transformers is missing; for timm and torchvision,
        which not everybody can install, the scope says so.

    Raises:
        OSError: a file cannot be read.
        ValueError: there is no such model, the file is no image, or the checkpoint does not fit.
    """
    start = time.perf_counter()
    claim = f"{name}: the conv form and the same model of the libraries equal the matmul form"
    what = "blocks and logits in evaluation mode"
    if gradients:
        mode = "evaluation" if _has_batch_norm(models.create(name, device="meta")) else "training"
        what += f", loss and all its gradients in {mode} mode"
    shown = f"{'the picture' if image is None else image} and its mirror image, {image_size[0]}×{image_size[1]}"
    drawn = "random weights" if checkpoint is None else f"the weights of {checkpoint}"
    scope = f"{what} on {shown}; {drawn}; {str(dtype).removeprefix('torch.')} on {device}"
    try:
        bench = Bench(name, image, image_size, checkpoint, dtype, device, seed, gradients)
    except (Unknown, OSError, ValueError) as error:  # the picture or the checkpoint is not what it should be
        return Evidence(Verdict.UNKNOWN, claim, scope, seed=seed, reason=str(error))
    pairs, absent = plan(name, image_size)
    parts = [part for reference, candidates in pairs for part in bench.compare(reference, candidates)]
    absent |= bench.absent
    if "transformers" in absent:
        reason = f"not compared with it: {absent['transformers']}"
        parts.append(Evidence(Verdict.UNKNOWN, "transformers equals matmul form", "", reason=reason))
    words = [scope, *(f"not compared with {library}: {reason}" for library, reason in absent.items())]
    evidence = combine(parts, claim, "; ".join(words))
    others = [part.claim.partition(" equals ")[0] for part in parts if part.claim.endswith(" equals matmul form")]
    compared = [other for other in others if "mask_value" not in other]
    numbers = evidence.numbers | {"compared with": compared, "seconds": time.perf_counter() - start}
    return dataclasses.replace(evidence, numbers=numbers, seed=seed)


class Bench:
    """Runs networks on the same weights and images in one dtype, and compares them."""

    def __init__(
        self,
        name: str,
        image: str | None,
        image_size: tuple[int, int],
        checkpoint: str | None,
        dtype: torch.dtype,
        device: str,
        seed: int,
        gradients: bool,
    ) -> None:
        self.dtype, self.device, self.gradients = dtype, device, gradients
        shown = picture.load(image, size=image_size).to(dtype)
        self.images = torch.cat((shown, shown.flip(-1)))
        state = draw(name, self.images, seed, checkpoint)
        self.state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
        head = [tensor for name, tensor in state.items() if name.startswith(("head", "fc")) and tensor.dim() == 1]
        generator = torch.Generator().manual_seed(derive(seed, "labels"))
        self.labels = torch.randint(head[0].shape[0], (len(self.images),), generator=generator)
        self.absent: dict[str, str] = {}  # libraries that turned out not to have the model at this size
        self.moves = torch.Generator().manual_seed(derive(seed, "moves"))

    def compare(self, reference: Network, candidates: Sequence[Network]) -> list[Evidence]:
        """The evidence that each candidate equals the reference, whose float64 run is the oracle."""
        with tf32(False), torch.inference_mode(False):
            want = self._run(reference, torch.float64)
            low = want if self.dtype == torch.float64 else self._run(reference, self.dtype)
            parts = []
            for candidate in candidates:
                parts += self._evidence(candidate, reference, low, want)
        return parts

    def _evidence(self, candidate: Network, reference: Network, low: Tensors, want: Tensors) -> list[Evidence]:
        try:
            got = self._run(candidate, self.dtype)
        except libraries.Unavailable as error:
            self.absent[candidate.name] = str(error)
            return []
        except Unknown as error:
            return [Evidence(Verdict.UNKNOWN, f"{candidate.name} equals {reference.name}", "", reason=str(error))]
        parts = [self._verdict(candidate, reference, got, low, want)]
        if candidate.name in libraries.LIBRARIES and self.dtype != torch.float64:
            # Now theirs measures what rounding may do, and ours is judged. (In float64 that would be the same.)
            parts.append(self._verdict(reference, candidate, low, got, want))
        return parts

    def _verdict(self, candidate: Network, reference: Network, got: Tensors, low: Tensors, want: Tensors) -> Evidence:
        verdict, reason, found = Verdict.EQUAL, "", []
        numbers: dict[str, Any] = {}
        try:
            _check_names(got, low)
            found = self._deviations(reference, got, low, want)
            _raise_first(found)
            top = [run[LOGITS].argmax(-1) for run in (got, want)]
            numbers["top-1 agreement"] = (top[0] == top[1]).double().mean().item()
            if self.dtype == torch.float64 and numbers["top-1 agreement"] < 1:
                raise Different(f"top-1 classes are {top[0].tolist()}, expected {top[1].tolist()}")
        except Unknown as error:
            verdict, reason = Verdict.UNKNOWN, str(error)
        except Different as error:
            verdict, reason = Verdict.DIFFERENT, str(error)
        if found:
            worst = max(found, key=lambda one: one.share)
            numbers |= {"largest deviation": worst.deviation, "tolerance": worst.tolerance, "worst tensor": worst.name}
            numbers["deviation of the logits"] = next(one.deviation for one in found if one.name == LOGITS)
            gradients = [one.deviation for one in found if one.name.startswith("gradient")]
            numbers |= {"largest deviation of a gradient": max(gradients)} if gradients else {}
            numbers["tensors not decided"] = sum(one.tolerance > DECISIVE for one in found)
        numbers["tensors compared"] = len(found)
        claim = f"{candidate.name} equals {reference.name}"
        return Evidence(verdict, claim, "", numbers=numbers, reason=reason)

    def _deviations(self, reference: Network, got: Tensors, low: Tensors, want: Tensors) -> list[Deviation]:
        found = list(deviations(got, low, want, self.dtype))
        for moves in MOVES:
            hopeless = any(one.share > HOPELESS for one in found if one.name.startswith("output"))
            if hopeless or all(one.share <= 1 for one in found):
                break
            largest: dict[str, Norms] = {}
            for _ in range(moves):
                moved = self._run(reference, torch.float64, move=True)
                for name, tensor in want.items():
                    change = Norms.of(moved[name] - tensor)
                    largest[name] = change.at_least(largest.get(name, change))
            found = list(deviations(got, low, want, self.dtype, largest))
        return found

    def _run(self, network: Network, dtype: torch.dtype, move: bool = False) -> Tensors:
        """Blocks, logits and gradients by name, on the CPU. Moved: weights and images changed by a few roundings."""
        device = self.device if dtype == self.dtype else "cpu"
        change = self._moved if move else lambda x: x
        state = {n: change(t).to(device, dtype) if t.is_floating_point() else t for n, t in self.state.items()}
        return _evaluate(network, state, change(self.images).to(device, dtype), self.labels.to(device), self.gradients)

    def _moved(self, x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        noise = torch.randn(x.shape, generator=self.moves, dtype=torch.float64)
        return x + STEP[self.dtype] * x.square().mean().sqrt() * noise


def _evaluate(network: Network, state: Tensors, images: torch.Tensor, labels: torch.Tensor, gradients: bool) -> Tensors:
    """Outputs in evaluation mode; then loss and gradients in training mode, but with BatchNorm in evaluation mode."""
    model = network.make(state).to(images.device).eval()
    result: Tensors = {}
    handles = []
    for name, block, read in network.taps(model):

        def keep(_module: nn.Module, _args: Any, output: Any, name: str = name, read: Any = read) -> None:
            result[f"output {name}"] = read(output).detach().cpu()

        handles.append(block.register_forward_hook(keep))
    try:
        with torch.no_grad():
            result[LOGITS] = model(images).detach().cpu()
    finally:
        for handle in handles:
            handle.remove()
    if not gradients:
        return result
    # Statistics of two images would turn what BatchNorm sees once an image into ±1.
    model.train(not _has_batch_norm(model)).zero_grad()
    with torch.enable_grad():
        logits = model(images)
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
        loss.backward()
    result |= {"output logits for the loss": logits.detach().cpu(), "output loss": loss.detach().cpu()}
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    lacking = [name for name, gradient in found.items() if gradient is None]
    if lacking:
        raise Unknown(f"{network.name} has no gradient of {', '.join(lacking)}")
    for name, gradient in network.rename({n: g.cpu() for n, g in found.items() if g is not None}).items():
        result[f"gradient of {name}"] = gradient
    model.zero_grad()
    return result


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _check_names(got: Tensors, want: Tensors) -> None:
    if got.keys() != want.keys():
        raise Different(f"only one of the two has {', '.join(sorted(got.keys() ^ want.keys()))}")
    for name, tensor in want.items():
        if got[name].shape != tensor.shape or got[name].dtype != tensor.dtype:
            raise Different(
                f"{name} has shape {tuple(got[name].shape)} and {got[name].dtype}, "
                f"expected {tuple(tensor.shape)} and {tensor.dtype}"
            )


def _raise_first(found: list[Deviation]) -> None:
    """Raise for the first block beyond its tolerance, else for the logits, else for the worst gradient."""
    beyond = [one for one in found if one.share > 1]
    outputs = [one for one in beyond if one.name.startswith("output")]
    if outputs:
        raise Different(f"first of {len(outputs)} diverging stages: {outputs[0].text}")
    if beyond:
        raise Different(max(beyond, key=lambda one: one.share).text)
    undecided = [one.name for one in found if not one.decisive]
    if undecided:
        raise Unknown(f"rounding alone may change half of {', '.join(undecided)} in this dtype")
