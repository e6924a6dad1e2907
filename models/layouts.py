"""How other libraries call the parameters of ViT and Swin, and how to have them called as here.

Names here are those of current timm. A rule of a layout reads ``theirs -> ours``, both without the final ``.weight`` or
``.bias``; ``#`` is a number. The first number of theirs is ``times * n + plus`` for our n. Where the layout keeps
queries, keys and values apart, three rules lead to one ``qkv``, numbered by ``part``.

Every tensor is renamed, or concatenated with others along the first axis, and nothing else: no layout transposes. So
the conversion is linear, and converts gradients as well as weights.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from equiv.errors import message


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a layout."""

    theirs: str
    ours: str
    part: int | None = None
    times: int = 1
    plus: int = 0

    def forward(self, name: str) -> str | None:
        """Our name for theirs, ``None`` if this rule is not about it."""
        return _rename(name, self.theirs, self.ours, lambda m: divmod(m - self.plus, self.times))

    def backward(self, name: str) -> str | None:
        """Their name for ours."""
        return _rename(name, self.ours, self.theirs, lambda n: (self.times * n + self.plus, 0))


def _rename(name: str, before: str, after: str, first: Callable[[int], tuple[int, int]]) -> str | None:
    """``name`` with ``before`` replaced by ``after``; ``first`` gives the first number's successor and what remains."""
    pattern = re.escape(before).replace(r"\#", r"(\d+)") + r"((?:\.(?:weight|bias))?)"
    found = re.fullmatch(pattern, name)
    if found is None:
        return None
    *numbers, leaf = found.groups()
    if numbers:
        shifted, rest = first(int(numbers[0]))
        if rest or shifted < 0:
            return None
        numbers[0] = str(shifted)
    for number in numbers:
        after = after.replace("#", number, 1)
    return f"{after}{leaf}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of one library for one family.

    Attributes:
        name: of the library, with a version where the names changed.
        marker: regular expression of one name that only this layout has.
        rules: see the module; with ``keep``, a name without a rule stays as it is, otherwise it is unknown.
        prefix: of names in a model with a classifier, absent from the bare backbone.
    """

    name: str
    marker: str
    rules: tuple[Rule, ...]
    prefix: str = ""
    keep: bool = False

    def ours(self, name: str) -> tuple[str, int | None] | None:
        """Our name, and which part of it theirs is; ``None`` if unknown."""
        bare = name.removeprefix(self.prefix)
        for rule in self.rules:
            if (found := rule.forward(bare)) is not None:
                return found, rule.part
        return (name, None) if self.keep else None

    def theirs(self, name: str) -> list[str]:
        """Their names for ours, without the prefix: one, or the three that we concatenate; none if they lack it."""
        found = [(rule.part, there) for rule in self.rules if (there := rule.backward(name)) is not None]
        if not found:
            return [name] * self.keep
        return [there for part, there in found if part is not None] or [found[0][1]]


def _rules(*rows: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple(Rule(*row) for row in rows)


def _parts(theirs: str, names: tuple[str, str, str], ours: str) -> tuple[Rule, ...]:
    return tuple(Rule(f"{theirs}.{name}", ours, part) for part, name in enumerate(names))


_VIT_TRANSFORMERS = _rules(
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("layernorm", "norm"),
    ("pooler.dense", "pooler.dense"),
    ("classifier", "head"),
)
_SWIN_TRANSFORMERS = _rules(
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.norm", "patch_embed.norm"),
    ("embeddings.position_embeddings", "absolute_pos_embed"),
    ("encoder.layers.#.blocks.#.layernorm_before", "layers.#.blocks.#.norm1"),
    ("encoder.layers.#.blocks.#.layernorm_after", "layers.#.blocks.#.norm2"),
    ("layernorm", "norm"),
    ("classifier", "head.fc"),
) + tuple(
    # Downsampling ends a stage there and begins the next one here.
    Rule(f"encoder.layers.#.downsample.{part}", f"layers.#.downsample.{part}", plus=-1)
    for part in ("norm", "reduction")
)
_TABLE = "layers.#.blocks.#.attn.relative_position_bias_table"

LAYOUTS = (
    Layout("timm", r"blocks\.\d+\.attn\..+", (), keep=True),
    Layout("timm", r"layers\.\d+\.blocks\.\d+\.attn\..+", (), keep=True),
    Layout(
        "official",
        "",  # told from timm by `detect`
        (
            Rule("layers.#.downsample.norm", "layers.#.downsample.norm", plus=-1),
            Rule("layers.#.downsample.reduction", "layers.#.downsample.reduction", plus=-1),
            Rule("head", "head.fc"),
        ),
        keep=True,
    ),
    Layout(
        "transformers-4",
        r"(vit\.)?encoder\.layer\.\d+\.attention\.attention\.query\..+",
        _VIT_TRANSFORMERS
        + _parts("encoder.layer.#.attention.attention", ("query", "key", "value"), "blocks.#.attn.qkv")
        + _rules(
            ("encoder.layer.#.layernorm_before", "blocks.#.norm1"),
            ("encoder.layer.#.attention.output.dense", "blocks.#.attn.proj"),
            ("encoder.layer.#.layernorm_after", "blocks.#.norm2"),
            ("encoder.layer.#.intermediate.dense", "blocks.#.mlp.fc1"),
            ("encoder.layer.#.output.dense", "blocks.#.mlp.fc2"),
        ),
        prefix="vit.",
    ),
    Layout(
        "transformers-4",
        r"(swin\.)?encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.query\..+",
        _SWIN_TRANSFORMERS
        + _parts("encoder.layers.#.blocks.#.attention.self", ("query", "key", "value"), "layers.#.blocks.#.attn.qkv")
        + _rules(
            ("encoder.layers.#.blocks.#.attention.self.relative_position_bias_table", _TABLE),
            ("encoder.layers.#.blocks.#.attention.output.dense", "layers.#.blocks.#.attn.proj"),
            ("encoder.layers.#.blocks.#.intermediate.dense", "layers.#.blocks.#.mlp.fc1"),
            ("encoder.layers.#.blocks.#.output.dense", "layers.#.blocks.#.mlp.fc2"),
        ),
        prefix="swin.",
    ),
    Layout(
        "transformers-5",
        r"(vit\.)?layers\.\d+\.attention\.q_proj\..+",
        _VIT_TRANSFORMERS
        + _parts("layers.#.attention", ("q_proj", "k_proj", "v_proj"), "blocks.#.attn.qkv")
        + _rules(
            ("layers.#.layernorm_before", "blocks.#.norm1"),
            ("layers.#.attention.o_proj", "blocks.#.attn.proj"),
            ("layers.#.layernorm_after", "blocks.#.norm2"),
            ("layers.#.mlp.fc1", "blocks.#.mlp.fc1"),
            ("layers.#.mlp.fc2", "blocks.#.mlp.fc2"),
        ),
        prefix="vit.",
    ),
    Layout(
        "transformers-5",
        r"(swin\.)?encoder\.layers\.\d+\.blocks\.\d+\.attention\.q_proj\..+",
        _SWIN_TRANSFORMERS
        + _parts("encoder.layers.#.blocks.#.attention", ("q_proj", "k_proj", "v_proj"), "layers.#.blocks.#.attn.qkv")
        + _rules(
            ("encoder.layers.#.blocks.#.attention.o_proj", "layers.#.blocks.#.attn.proj"),
            ("encoder.layers.#.blocks.#.attention.relative_position_bias.relative_position_bias_table", _TABLE),
            ("encoder.layers.#.blocks.#.mlp.fc1", "layers.#.blocks.#.mlp.fc1"),
            ("encoder.layers.#.blocks.#.mlp.fc2", "layers.#.blocks.#.mlp.fc2"),
        ),
        prefix="swin.",
    ),
    Layout(
        "torchvision",
        r"encoder\.layers\.encoder_layer_\d+\.self_attention\.in_proj_weight",
        _rules(
            ("class_token", "cls_token"),
            ("encoder.pos_embedding", "pos_embed"),
            ("conv_proj", "patch_embed.proj"),
            ("encoder.layers.encoder_layer_#.ln_1", "blocks.#.norm1"),
            ("encoder.layers.encoder_layer_#.self_attention.in_proj_weight", "blocks.#.attn.qkv.weight"),
            ("encoder.layers.encoder_layer_#.self_attention.in_proj_bias", "blocks.#.attn.qkv.bias"),
            ("encoder.layers.encoder_layer_#.self_attention.out_proj", "blocks.#.attn.proj"),
            ("encoder.layers.encoder_layer_#.ln_2", "blocks.#.norm2"),
            ("encoder.layers.encoder_layer_#.mlp.0", "blocks.#.mlp.fc1"),
            ("encoder.layers.encoder_layer_#.mlp.3", "blocks.#.mlp.fc2"),
            ("encoder.layers.encoder_layer_#.mlp.linear_1", "blocks.#.mlp.fc1"),  # before version 2 of its blocks
            ("encoder.layers.encoder_layer_#.mlp.linear_2", "blocks.#.mlp.fc2"),
            ("encoder.ln", "norm"),
            ("heads.pre_logits", "pre_logits.fc"),
            ("heads.head", "head"),
        ),
    ),
    Layout(
        "torchvision",
        r"features\.\d+\.\d+\.attn\.qkv\..+",
        # Stem, stage 0, merging, stage 1, …: stages are the odd ones.
        (
            *(
                Rule(f"features.#.#.{theirs}", f"layers.#.blocks.#.{ours}", times=2, plus=1)
                for theirs, ours in (
                    ("norm1", "norm1"),
                    ("attn.qkv", "attn.qkv"),
                    ("attn.proj", "attn.proj"),
                    ("attn.relative_position_bias_table", "attn.relative_position_bias_table"),
                    ("norm2", "norm2"),
                    ("mlp.0", "mlp.fc1"),
                    ("mlp.3", "mlp.fc2"),
                )
            ),
            Rule("features.#.norm", "layers.#.downsample.norm", times=2),
            Rule("features.#.reduction", "layers.#.downsample.reduction", times=2),
            Rule("features.0.0", "patch_embed.proj"),
            Rule("features.0.2", "patch_embed.norm"),
            Rule("norm", "norm"),
            Rule("head", "head.fc"),
        ),
    ),
)

#: Buffers that follow from the window alone, which some libraries save: not weights, and never converted.
CONSTANTS = ("relative_position_index", "attn_mask")


class LayoutError(ValueError):
    """Names of parameters that fit no known layout, or several."""


def layout(state: Mapping[str, Any]) -> str:
    """The layout of a state dict, by its names: which library's they are. A prefix that all share does not count.

    Returns:
        str: ``"timm"`` (current timm, and equiv); ``"official"`` (the Swin checkpoints of its authors, and timm before
        0.9: downsampling ends a stage, the classifier is ``head``); ``"transformers-4"``, ``"transformers-5"``,
        ``"torchvision"``.

    Raises:
        LayoutError: it is none of these, or more than one.

    Example:
        >>> layout({"vit.layers.0.attention.q_proj.weight": None})
        'transformers-5'
    """
    return detect(strip(state)).name


def detect(names: Iterable[str], call: str = "models.weights.layout") -> Layout:
    """The layout of which these are the names; raises :class:`LayoutError`."""
    names = list(names)
    found = [one for one in LAYOUTS if one.marker and any(re.fullmatch(one.marker, name) for name in names)]
    if len(found) != 1:
        looked_for = "".join(f"\n  {one.name}: {one.marker}" for one in LAYOUTS if one.marker)
        fits = " and ".join(one.name for one in found) or "none"
        expected = f"parameters by the names of one layout; these fit {fits} of{looked_for}\n"
        raise LayoutError(message("state", sorted(names)[:3], expected, call))
    swin = found[0].name == "timm" and found[0].marker.startswith("layers")
    old = any(name.startswith("layers.0.downsample.") or name == "head.weight" for name in names)
    return next(one for one in LAYOUTS if one.name == "official") if swin and old else found[0]


@dataclasses.dataclass
class Plan:
    """What becomes of each name of a state dict.

    Attributes:
        layout: of the state dict.
        sources: their names by ours: one, or the three of a ``qkv`` by their place in it.
        constants: their names of :data:`CONSTANTS`.
        unknown: their names that the layout does not have.
        twice: pairs of theirs that are one and the same of ours.
    """

    layout: Layout
    sources: dict[str, dict[int | None, str]]
    constants: list[str]
    unknown: list[str]
    twice: list[tuple[str, str]]

    @classmethod
    def of(cls, names: Iterable[str], layout: Layout) -> Plan:
        """Follow the rules of a layout."""
        plan = cls(layout, {}, [], [], [])
        for name in names:
            target = layout.ours(name)
            if name.rpartition(".")[2] in CONSTANTS:
                plan.constants.append(name)
            elif target is None:
                plan.unknown.append(name)
            elif target[1] in (parts := plan.sources.setdefault(target[0], {})):
                plan.twice.append((parts[target[1]], name))
            else:
                parts[target[1]] = name
        return plan

    def absent(self, ours: str) -> list[str]:
        """Their names that the state dict would need for ours, and lacks."""
        have = {name.removeprefix(self.layout.prefix) for name in self.sources.get(ours, {}).values()}
        return [name for name in self.layout.theirs(ours) if name not in have]

    def complete(self, ours: str) -> bool:
        """Whether all parts of ours are there."""
        return set(self.sources.get(ours, {})) in ({None}, {0, 1, 2})


def own_names(names: Iterable[str]) -> Plan:
    """The plan that keeps all names: those of a model that no other library has."""
    return Plan.of(names, Layout("equiv", "", (), keep=True))


def join(parts: Mapping[int | None, torch.Tensor]) -> torch.Tensor:
    """One tensor of ours: theirs, or queries, keys and values, of one shape each, one after the other."""
    if set(parts) == {None}:
        return parts[None]
    return torch.cat([parts[part] for part in range(3)])


def convert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of any layout, with our names: tensors are renamed or concatenated, so gradients convert likewise.

    ``qkv = cat(query, key, value)`` along the first axis, where they are apart; nothing else is computed. Constant
    buffers (:data:`CONSTANTS`) are left out; everything else is in the result. A prefix that all names share, as a
    wrapper leaves it (``module.``, ``_orig_mod.``, ``model.``), is taken off first.

    Args:
        state: tensors by name; of one layout, see :func:`layout`.

    Returns:
        dict: tensors by our names; those that are only renamed share memory with ``state``.

    Raises:
        LayoutError: unknown or ambiguous layout; a name that the layout does not have; two names for one of ours; one
            or two of query, key and value, or the three of different shapes.

    Source: parameter names as read in timm 1.0.31, transformers 5.23 (and its published mapping from those of version
    4), torchvision 0.28 and microsoft/Swin-Transformer.

    Example:
        >>> names = [f"layers.0.attention.{x}_proj.weight" for x in "qkv"]
        >>> {name: tuple(x.shape) for name, x in convert(dict.fromkeys(names, torch.zeros(4, 4))).items()}
        {'blocks.0.attn.qkv.weight': (12, 4)}
    """
    call = "models.weights.convert"
    state = strip(state)
    plan = Plan.of(state, detect(state, call))
    problems = [f"{name}: no such name in this layout" for name in plan.unknown]
    problems += [f"{one} and {other}: two names for one tensor" for one, other in plan.twice]
    converted = {}
    for ours, sources in plan.sources.items():
        if not plan.complete(ours):
            problems.append(f"{', '.join(plan.absent(ours))}: missing beside {', '.join(sources.values())}")
            continue
        parts = {part: state[name] for part, name in sources.items()}
        if len({tuple(part.shape) for part in parts.values()}) > 1:
            problems.append(f"{', '.join(sources.values())}: of different shapes")
        elif not problems:
            converted[ours] = join(parts)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise LayoutError(message("state", plan.layout.name, f"complete, and of one layout:{lines}\n", call))
    return converted


def strip(state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` without the prefixes that wrappers put before all names."""
    state = dict(state)
    for _ in range(3):  # at most each once
        for prefix in ("module.", "_orig_mod.", "model."):
            if state and all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
