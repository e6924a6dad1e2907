"""Candidate, reference and float64 oracle, run on the same draws of weights and inputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from equiv.ladder.draws import LAYOUTS, draw_input, draw_weights
from equiv.ladder.rule import Deviation, Different, Norms, Tensors, Unknown, check_structure, deviations

Function = Callable[..., Any]
Weights = Literal["auto", "random", "own"]
Convert = Callable[[Tensors], Tensors]

#: How often the oracle's inputs and weights are moved, at first and if that was not enough, and how far, relative to
#: their root mean square: four roundings of the half types; more of the others, where bugs are far larger than that.
MOVES = (2, 32)
#: Outputs that exceed the rule by this factor after few moves are not worth more: gradients jump, outputs do not.
HOPELESS = 20.0
STEP = {torch.float64: 2.0**-47, torch.float32: 2.0**-18, torch.bfloat16: 4 * 2.0**-9, torch.float16: 4 * 2.0**-12}

#: Ends the names of outputs that were computed without grad mode.
QUIET = ", no grad"


class Trial:
    """Two callables in one dtype on one device; see :func:`equiv.ladder.floating.check` for the arguments."""

    def __init__(
        self,
        candidate: Function,
        reference: Function,
        inputs: Sequence[torch.Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
        gradients: bool,
        convert: Convert | None,
        layout: str,
        seed: int,
    ) -> None:
        self.originals = candidate, reference
        self.inputs, self.dtype, self.device = list(inputs), dtype, device
        self.gradients, self.convert, self.layout = gradients, convert, layout
        self.generator = torch.Generator().manual_seed(seed)
        self.structures: dict[str, str] = {}
        #: whether parameters can be compared by name
        self.named = convert is not None or _same_names(candidate, reference)

    # Weights

    def weightings(self, weights: Weights) -> list[str]:
        """The kinds of weights to run with: the modules' own, random ones shared by name, or both."""
        candidate, reference = self.originals
        modules = [f for f in self.originals if isinstance(f, nn.Module)]
        for module in modules:
            for name, inner in module.named_modules():
                if isinstance(inner, _DropoutNd) and inner.training and inner.p > 0:
                    raise Unknown(f"dropout in training mode ({name or type(module).__name__}) is random: call eval()")
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if tensor.is_complex():  # Module.to(dtype) would drop the imaginary part, of both
                    raise Unknown(f"`{name}` is complex, which cannot be converted to another dtype")
        if not modules:
            return ["own"]
        if weights == "random" and not self.named:
            raise Unknown(f"weights cannot be shared by name: {_name_mismatch(candidate, reference)}")
        if weights == "auto":
            shared = self.convert is not None or (self.named and same_values(candidate, reference))
            return ["own", "random"] if shared else ["own"]
        return [weights]

    def set_weights(self, how: str) -> None:
        """Make fresh copies of both callables, with the weights, in the dtype under test, and the oracle in float64."""
        if any("_orig_mod." in name for f in self.originals if isinstance(f, nn.Module) for name in f.state_dict()):
            torch._dynamo.reset()  # past its limit of recompilations, torch.compile would run the module uncompiled
        candidate, reference = (_attempt("copying", copy.deepcopy, f) for f in self.originals)
        if how == "random" and isinstance(reference, nn.Module):
            draw_weights(reference, self.generator)
        _attempt("conversion to the dtype", _to, reference, self.dtype, "cpu")
        if isinstance(candidate, nn.Module) and isinstance(reference, nn.Module) and (how == "random" or self.convert):
            state = _state(reference)
            state = self.convert(state) if self.convert else state
            _attempt("loading", _load, candidate, state)
        self.candidate = _attempt("conversion to the dtype", _to, candidate, self.dtype, self.device)
        self.oracle = _attempt("conversion to float64", _to, copy.deepcopy(reference), torch.float64, "cpu")
        self.reference = _attempt("moving to the device", _to, reference, self.dtype, self.device)

    # Runs

    def run(self, pattern: str) -> list[Deviation]:
        """Evaluate all three on one input and compare."""
        values = [self._draw(x, pattern) for x in self.inputs]
        self.cotangent_seed = int(torch.randint(2**31, (1,), generator=self.generator))
        # For the sensitivity: the state before this run (running statistics change in training mode).
        before = copy.deepcopy(self.oracle)
        # The candidate runs first and on inputs of its own: it can neither copy nor disturb what it is compared with.
        got = self._evaluate(self.candidate, values, self.dtype, self.device, "the candidate")
        low = self._evaluate(self.reference, values, self.dtype, self.device, "the reference")
        want = self._evaluate(self.oracle, values, torch.float64, torch.device("cpu"), "the float64 oracle")
        for name in want:
            # Not to the last bit: with and without grad mode, fused operators may take different kernels.
            if name.endswith(QUIET) and _differ(want[name], want[name.removesuffix(QUIET)]):
                raise Unknown("the reference is random: two calls on the same input differ")
        if "output 0" in low and self.structures["the candidate"] != self.structures["the reference"]:
            raise Different(
                f"the candidate returns {self.structures['the candidate']}, expected {self.structures['the reference']}"
            )
        check_structure(got, low, want)
        found = list(deviations(got, low, want, self.dtype))
        for moves in MOVES:
            if all(one.share <= 1 for one in found) or any(one.share > HOPELESS for one in found if _is_output(one)):
                break
            sensitivity = self._sensitivity(before, values, want, moves)
            found = list(deviations(got, low, want, self.dtype, sensitivity))
        return found

    def _draw(self, x: torch.Tensor, pattern: str) -> torch.Tensor:
        if not x.is_floating_point():
            return x.detach().cpu()
        value = x.detach().double().cpu() if pattern == "given" else draw_input(tuple(x.shape), pattern, self.generator)
        return value.to(self.dtype)

    def _sensitivity(self, oracle: Function, values: list[torch.Tensor], want: Tensors, moves: int) -> dict[str, Norms]:
        """The largest change of each of the oracle's tensors when inputs and weights move by a few roundings."""
        step = STEP[self.dtype]
        largest: dict[str, Norms] = {}

        def move(x: torch.Tensor) -> torch.Tensor:
            x = x.double()
            noise = torch.randn(x.shape, generator=self.generator, dtype=torch.float64)
            return x + step * (x.square().mean().sqrt().item() or 1) * noise

        for _ in range(moves):
            fresh = copy.deepcopy(oracle)
            if isinstance(fresh, nn.Module):
                with torch.no_grad():
                    for parameter in fresh.parameters():
                        parameter.copy_(move(parameter))
            moved = [move(v) if v.is_floating_point() else v for v in values]
            result = self._evaluate(fresh, moved, torch.float64, torch.device("cpu"), "the float64 oracle")
            for name, tensor in want.items():
                if tensor.is_floating_point():
                    change = Norms.of(result[name] - tensor)
                    largest[name] = change.at_least(largest.get(name, change))
        return largest

    def _evaluate(
        self, f: Function, values: list[torch.Tensor], dtype: torch.dtype, device: torch.device, who: str
    ) -> Tensors:
        """Outputs (without and with grad mode), gradients and buffers of ``f`` by name, on the CPU."""
        leaves = [v.to(device, dtype if v.is_floating_point() else v.dtype, copy=True) for v in values]
        before = [leaf.clone() for leaf in leaves]
        with torch.no_grad():
            quiet = _outputs(_attempt(f"running {who}", f, *map(LAYOUTS[self.layout], leaves)), who)
        _check_unchanged(leaves, before, who)
        result = _detached({f"{name}{QUIET}": value for name, value in quiet.items()})
        for leaf in leaves:
            leaf.requires_grad_(self.gradients and leaf.is_floating_point())
        with torch.enable_grad():  # whatever the one before may have switched off
            value = _attempt(f"running {who}", f, *map(LAYOUTS[self.layout], leaves))
        outputs = _outputs(value, who)
        self.structures[who] = _structure(value)
        _check_unchanged(leaves, before, who)
        result |= _detached(outputs)
        if self.gradients:
            result |= self._gradients(f, leaves, outputs, who)
        if isinstance(f, nn.Module) and self.named and self.convert is None:
            # Those in the state dict; others are constants of the implementation.
            state = _state(f)
            buffers = ((_plain(name), buffer) for name, buffer in f.named_buffers())
            result |= _detached({f"buffer {name}": buffer for name, buffer in buffers if name in state})
        return result

    def _gradients(self, f: Function, leaves: list[torch.Tensor], outputs: Tensors, who: str) -> Tensors:
        """Gradients of a random linear functional of all floating outputs; zeros where there is no path."""
        generator = torch.Generator().manual_seed(self.cotangent_seed)
        total: torch.Tensor | None = None
        for output in outputs.values():
            if output.is_floating_point():
                # Drawn whether or not it is differentiable, so that all three callables get the same cotangents; of
                # norm about 1, so that gradients do not overflow float16.
                unit = 2.0 ** -round(math.log2(max(output.numel(), 1)) / 2)
                cotangent = unit * torch.randn(output.shape, generator=generator, dtype=torch.float64)
                if output.requires_grad:
                    term = (output * cotangent.to(self.dtype).to(output)).sum()
                    total = term if total is None else total + term
        inputs = {f"x{index}": leaf for index, leaf in enumerate(leaves) if leaf.requires_grad}
        named = f.named_parameters() if isinstance(f, nn.Module) and self.named else ()
        parameters = {_plain(name): parameter for name, parameter in named}
        sources = [*inputs.values(), *parameters.values()]
        grads: Sequence[torch.Tensor | None] = [None] * len(sources)
        if total is not None and sources:
            wanted = [source for source in sources if source.requires_grad]
            found = _attempt(f"differentiating {who}", torch.autograd.grad, total, wanted, allow_unused=True)
            by_id = {id(source): g for source, g in zip(wanted, found, strict=True)}
            grads = [by_id.get(id(source)) for source in sources]
        filled = [torch.zeros_like(x) if g is None else g for x, g in zip(sources, grads, strict=True)]
        by_name = dict(zip(parameters, filled[len(inputs) :], strict=True))
        if self.convert is not None and who != "the candidate":
            by_name = self.convert(by_name)
        by_name = dict(zip(inputs, filled, strict=False)) | by_name
        return _detached({f"gradient of {name}": g for name, g in by_name.items()})


def _check_unchanged(leaves: list[torch.Tensor], before: list[torch.Tensor], who: str) -> None:
    for index, (leaf, old) in enumerate(zip(leaves, before, strict=True)):
        if not torch.equal(torch.nan_to_num(leaf.detach()), torch.nan_to_num(old)):
            raise (Different if who == "the candidate" else Unknown)(f"{who} changes its input {index} in place")


def _is_output(one: Deviation) -> bool:
    return one.name.startswith("output")


def _differ(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether two float64 tensors differ by more than rounding could explain."""
    if x.shape != y.shape or not x.is_floating_point():
        return not torch.equal(x, y)
    return not torch.allclose(x, y, rtol=0, atol=1e-9 * Norms.of(x).maximum, equal_nan=True)


def same_values(f: Function, g: Function) -> bool:
    """Whether all tensors of the same name are equal."""
    left, right = _state(f), _state(g)
    return all(torch.equal(left[name].cpu().double(), right[name].cpu().double()) for name in left)


def _plain(name: str) -> str:
    """A parameter's name without the prefix that ``torch.compile`` adds."""
    return name.replace("_orig_mod.", "")


def _load(module: nn.Module, state: Tensors) -> None:
    module.load_state_dict({name: state[_plain(name)] for name in module.state_dict()})


def _state(f: Function) -> Tensors:
    return {_plain(name): tensor for name, tensor in f.state_dict().items()} if isinstance(f, nn.Module) else {}


def _same_names(f: Function, g: Function) -> bool:
    left, right = _state(f), _state(g)
    return {n: t.shape for n, t in left.items()} == {n: t.shape for n, t in right.items()}


def _name_mismatch(f: Function, g: Function) -> str:
    left, right = ({f"{name} {tuple(t.shape)}" for name, t in _state(x).items()} for x in (f, g))
    return f"only in the candidate: {sorted(left - right)[:4]}, only in the reference: {sorted(right - left)[:4]}"


def _attempt(doing: str, f: Function, *args: Any, **options: Any) -> Any:
    try:
        return f(*args, **options)
    except (Exception, SystemExit) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise Unknown(f"{doing} failed: {type(error).__name__}: {first_line}") from error


def _to(f: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    return f.to(device=device, dtype=dtype) if isinstance(f, nn.Module) else f


def _outputs(value: Any, who: str) -> Tensors:
    """The tensors in an output: a tensor, or tensors in (nested) sequences and mappings; ``None`` is passed over."""
    found: Tensors = {}

    def visit(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            if part.is_complex() or part.layout is not torch.strided:
                raise Unknown(f"{who} returns a {part.dtype} tensor of layout {part.layout}, which cannot be compared")
            found[f"output {len(found)}"] = part
        elif isinstance(part, Mapping):
            for key in sorted(part, key=str):
                visit(part[key])
        elif isinstance(part, list | tuple):
            for inner in part:
                visit(inner)
        elif part is not None:
            raise Unknown(f"{who} returns a {type(part).__name__}, which cannot be compared")

    visit(value)
    return found


def _structure(value: Any) -> str:
    """The nesting of an output, such as ``(tensor, {mean: tensor}, None)``; tuples and lists count as one."""
    if isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_structure(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_structure, value)) + ")"
    return str(value)


def _detached(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
