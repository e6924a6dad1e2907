"""Roles of operators: which part of a dynamic convolution an operator belongs to, and the slices that say so.

Nothing of this is in the operators themselves. :func:`annotate` wraps what :data:`SCOPES` and :data:`MODULES` name, as
long as its block runs, in ``torch.profiler.record_function``; before and after, nothing is different.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.profiler import record_function

from equiv.conv.static import Conv1x1

PREFIX = "equiv::"  # of the names in a trace, as PyTorch's own operators are aten::…

#: Every role, in the order of the tables.
ROLES = {
    "static convolution": "a convolution, or linear layer, whose kernels are parameters",
    "bank": "cutting the keys and values into the kernels of the heads",
    "kernel generation": "predicting kernels that form no bank from the image",
    "selection": "which kernels serve a location: windows, mixtures, coefficients",
    "bias": "the relative position bias: looked up, added, or applied to the values",
    "first kernel": "the first 1×1 convolution of a pair, d → M: the logits",
    "activation": "φ along the kernel axis",
    "second kernel": "the second 1×1 convolution of a pair, M → d",
    "paired (fused)": "first kernel, activation and second kernel in the one operator that PyTorch has for them",
    "kernel merging": "computing the merged kernel Σ kⱼᵀvⱼ",
    "merged kernel": "the 1×1 convolution with the merged kernel",
    "depth-wise kernel": "the mean kernel, computed and applied",
    "spatial kernel": "the K×K convolution",
    "normalisation": "LayerNorm and BatchNorm",
    "MLP activation": "GELU between the two layers of an MLP",
}

#: The pair of kernels; one fused operator can stand for all three.
PAIRED = ("first kernel", "activation", "second kernel")

#: By operator, the roles that it cannot do without, in both forms or by form.
NEEDED: dict[str, tuple[str, ...] | dict[str, tuple[str, ...]]] = {
    "GlobalAttention": PAIRED,
    "WindowAttention": (*PAIRED, "selection"),
    "LinformerAttention": (*PAIRED, "selection"),
    "LinearAttention": ("kernel merging", "merged kernel"),
    # The textbook form masks its logits instead of merging kernels, as the paper's counts for Swin imply.
    "LinearWindowAttention": {
        "matmul": ("first kernel", "second kernel", "selection"),
        "conv": ("kernel merging", "merged kernel", "selection"),
    },
    "DepthwiseAttention": ("depth-wise kernel",),
    "DepthwiseWindowAttention": ("depth-wise kernel", "selection"),
    "DynamicConv2d": ("selection", "spatial kernel"),
    "DynamicDepthwiseConv2d": ("kernel generation", "spatial kernel"),
    "Involution2d": ("kernel generation", "spatial kernel"),
}


@dataclasses.dataclass(frozen=True)
class Scope:
    """A function or method, and the roles of what it does.

    Attributes:
        where: ``module:name``.
        role: of all that it does; ``None``: it has parts in several roles.
        inner: whether scopes and modules that run inside have their own roles. Always, if ``role`` is ``None``.
        inline: roles of calls of torch written in it, by the name of torch's function: one role for all, or a tuple of
            one for each in the order in which they run.
    """

    where: str
    role: str | None = None
    inner: bool = False
    inline: Mapping[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether what runs inside has a role of its own."""
        return self.inner or self.role is None


PAIR = ("first kernel", "second kernel")
ROUTING = dict.fromkeys(("mean", "relu", "div", "softmax"), "selection")
DEPTHWISE = dict.fromkeys(("mean", "mul"), "depth-wise kernel") | {"add": "bias"}

SCOPES = (
    # conv: static convolution → bank → selection → application
    Scope("equiv.conv.bank:split_heads", "bank"),
    Scope("equiv.conv.generated:_Generator.generate", "kernel generation"),
    Scope("equiv.conv.generated:DynamicDepthwiseConv2d.forward", inline={"mean": "kernel generation"}),
    Scope("equiv.conv.generated:Involution2d.forward", inline={"avg_pool2d": "kernel generation"}),
    Scope("equiv.conv.dynamic:DynamicConvolution.select", "selection", inner=True),
    Scope("equiv.conv.selection:relative_bias", "bias"),
    Scope("equiv.conv.selection:locate", "selection"),
    Scope("equiv.conv.selection:put_back", "selection"),
    Scope("equiv.conv.base:WindowedAttention.read_map", "selection"),
    Scope("equiv.conv.mixture:DynamicConv2d.forward", inline=ROUTING),
    Scope("equiv.conv.apply:Paired.__call__", inline={"mul": "first kernel", "matmul": PAIR, "add": "bias"}),
    Scope(
        "equiv.conv.apply:Paired._literal",
        inline={"reshape": "first kernel", "conv2d": ("first kernel",), "add": "bias"},
    ),
    Scope("equiv.conv.apply:activate", "activation"),
    Scope("equiv.conv.apply:second_kernels", "second kernel"),
    Scope("equiv.conv.apply:_sdpa", "paired (fused)"),
    Scope("equiv.conv.apply:Merged.__call__", inline={"mul": "merged kernel", "add": "bias"}),
    Scope("equiv.conv.apply:merge_pair", "kernel merging"),
    Scope("equiv.conv.apply:apply_merged", "merged kernel"),
    Scope("equiv.conv.apply:_weighted_kernels", "bias"),
    Scope("equiv.conv.apply:DepthwiseMean.__call__", "depth-wise kernel", inner=True),
    Scope("equiv.conv.spatial:ImageKernel.__call__", "spatial kernel"),
    Scope("equiv.conv.spatial:LocationKernels.__call__", "spatial kernel"),
    # matmul: the same roles where the textbook has them
    Scope("equiv.matmul.heads:split_heads", "bank"),
    Scope("equiv.matmul.heads:split_qkv", "bank"),
    Scope("equiv.matmul.heads:relative_position_bias", "bias"),
    Scope("equiv.matmul.heads:bias_sum", "bias"),
    Scope("equiv.matmul.activation:activate", "activation"),
    Scope(
        "equiv.matmul.attention:attend",
        inline={"mul": "first kernel", "matmul": PAIR, "add": "bias", "where": "selection"},
    ),
    Scope("equiv.matmul.attention:GlobalAttention.forward", inline={"pad": "bias"}),
    Scope("equiv.matmul.window:partition", "selection"),
    Scope("equiv.matmul.window:merge", "selection"),
    Scope("equiv.matmul.window:selected_pairs", "selection"),
    Scope("equiv.matmul.window:WindowOperator.forward", inline=dict.fromkeys(("pad", "roll"), "selection")),
    Scope("equiv.matmul.linformer:LinformerAttention.forward", inline={"matmul": ("selection", "selection")}),
    Scope(
        "equiv.matmul.linear:LinearAttention.forward",
        inline={"mul": "merged kernel", "matmul": ("kernel merging", "merged kernel"), "add": "bias"},
    ),
    Scope(
        "equiv.matmul.linear:LinearWindowAttention._inside",
        inline={"mul": "first kernel", "matmul": PAIR, "add": "bias", "einsum": ("selection",)},
    ),
    Scope("equiv.matmul.depthwise:DepthwiseAttention.forward", inline=DEPTHWISE),
    Scope(
        "equiv.matmul.depthwise:DepthwiseWindowAttention._inside",
        inline=DEPTHWISE
        | dict.fromkeys(("sum", "div"), "depth-wise kernel")
        | {"einsum": ("depth-wise kernel", "bias")},
    ),
    Scope(
        "equiv.matmul.dynamic:DynamicConv2d.forward",
        inline=ROUTING
        | {"matmul": ("selection", "spatial kernel", "selection"), "unfold": "spatial kernel", "add": "bias"},
    ),
    Scope("equiv.matmul.dynamic:GeneratedKernels._generate", "kernel generation"),
    Scope("equiv.matmul.dynamic:GeneratedKernels._multiply", "spatial kernel"),
    Scope("equiv.matmul.dynamic:DynamicDepthwiseConv2d.forward", inline={"mean": "kernel generation", "add": "bias"}),
    Scope("equiv.matmul.involution:Involution2d.forward", inline={"avg_pool2d": "kernel generation"}),
    # models
    Scope("equiv.models.parts:Mlp.forward", inline={"gelu": "MLP activation"}),
)

#: Roles of modules, whoever calls them.
MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "static convolution"),
    (nn.Conv2d, "static convolution"),
    (Conv1x1, "static convolution"),
    (nn.LayerNorm, "normalisation"),
    (_NormBase, "normalisation"),
)


class Annotation(TorchFunctionMode):
    """The scopes that are running, and how often each was met.

    Attributes:
        hits: by scope (its ``where``, or the name of a module's class), torch's function (empty: the scope itself) and
            role.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hits: Counter[tuple[str, str, str]] = Counter()
        self._running: list[tuple[Scope, Counter[str]]] = []

    def wrap(self, scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` in the scope, unless what runs it claims all its inside."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._running and not self._running[-1][0].open:
                return function(*args, **kwargs)
            self._running.append((scope, Counter()))
            try:
                with contextlib.nullcontext() if scope.role is None else self._slice(scope.where, "", scope.role):
                    return function(*args, **kwargs)
            finally:
                self._running.pop()

        return wrapped

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """A call of torch: in a slice, if the innermost scope has a role for it."""
        if self._running:
            scope, seen = self._running[-1]
            name = getattr(func, "__name__", "")
            role = scope.inline.get(name)
            if isinstance(role, tuple):
                seen[name] += 1
                if seen[name] > len(role):
                    raise RuntimeError(f"{scope.where} calls {name} more often than the {len(role)} times with a role")
                role = role[seen[name] - 1]
            if role is not None:
                with self._slice(scope.where, name, role):
                    return func(*args, **kwargs or {})
        return func(*args, **kwargs or {})

    def _slice(self, where: str, call: str, role: str) -> record_function:
        self.hits[where, call, role] += 1
        return record_function(PREFIX + role)


@contextlib.contextmanager
def annotate(model: nn.Module) -> Iterator[Annotation]:
    """While the block runs, every operator with a role that ``model`` calls runs in a slice called after the role.

    Slices are ``record_function``'s, named :data:`PREFIX` + role. Not for two threads at once.

    Raises:
        RuntimeError: in the block, if a function calls torch more often than :data:`SCOPES` has roles for.

    Example:
        >>> import torch
        >>> from equiv import conv
        >>> attention = conv.GlobalAttention(8, 2, lowering="literal")
        >>> with annotate(attention) as annotation:
        ...     _ = attention(torch.zeros(1, 5, 8))
        >>> annotation.hits["equiv.conv.apply:Paired._literal", "conv2d", "first kernel"]
        1
    """
    annotation = Annotation()
    with contextlib.ExitStack() as undo:
        for scope in SCOPES:
            owner, name = _owner(scope.where)
            original = getattr(owner, name)
            wrapped = annotation.wrap(scope, original)
            for place in [owner] if isinstance(owner, type) else _bound_in(name, original):
                undo.callback(setattr, place, name, original)
                setattr(place, name, wrapped)
        for module in model.modules():
            role = module_role(module)
            if role is not None:
                undo.callback(delattr, module, "forward")
                module.forward = annotation.wrap(Scope(type(module).__name__, role), module.forward)
        undo.enter_context(annotation)
        yield annotation


def module_role(module: nn.Module) -> str | None:
    """The role of a module in :data:`MODULES`, if any."""
    return next((role for kind, role in MODULES if isinstance(module, kind)), None)


def missing(model: nn.Module, form: str, found: set[str]) -> list[str]:
    """What :data:`NEEDED` says that ``model`` has to show, and ``found`` lacks: ``"operator: role"`` each.

    Example:
        >>> from equiv import conv
        >>> missing(conv.LinearAttention(8, 2), "conv", {"static convolution", "merged kernel"})
        ['LinearAttention: kernel merging']
    """
    fused = set(PAIRED) if "paired (fused)" in found else set()
    gaps = []
    for name in dict.fromkeys(type(module).__name__ for module in model.modules()):
        needed = NEEDED.get(name, ())
        roles = needed[form] if isinstance(needed, dict) else needed
        gaps += [f"{name}: {role}" for role in roles if role not in found | fused]
    static = {role for role in map(module_role, model.modules()) if role is not None}
    inside = {"kernel generation"} & found  # swallows the layers of a generator
    return gaps + [f"modules: {role}" for role in ROLES if role in static - found and not inside]


def _owner(where: str) -> tuple[Any, str]:
    """The module or class that has the attribute ``where``, and the attribute's name."""
    module, _, path = where.partition(":")
    *outer, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    if name not in vars(owner):  # inherited: to wrap it here would wrap it twice
        raise AttributeError(f"{where} is not defined there")
    return owner, name


def _bound_in(name: str, function: Any) -> list[Any]:
    """Modules of equiv that have ``function`` under its name: where it is defined, and where it was imported to."""
    loaded = [module for key, module in sys.modules.items() if key.partition(".")[0] == "equiv"]
    return [module for module in loaded if vars(module).get(name) is function]
