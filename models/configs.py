"""Named models: the published sizes, and every row of the paper's Tables 2 and 3."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from typing import Any

from equiv.models.dconv_resnet import DConvResNet
from equiv.models.dwnet import DWNet
from equiv.models.linformer import LinformerVisionTransformer
from equiv.models.swin import SwinTransformer
from equiv.models.vit import VisionTransformer
from torch import nn

from equiv.errors import message

Options = dict[str, Any]

VIT: dict[str, Options] = {
    "tiny": {"dim": 192, "depth": 12, "heads": 3},
    "small": {"dim": 384, "depth": 12, "heads": 6},
    "base": {"dim": 768, "depth": 12, "heads": 12},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
}
SWIN: dict[str, Options] = {
    "tiny": {"dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "small": {"dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
    "base": {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
}
DWNET: dict[str, Options] = {
    "tiny": {"dim": 96, "depths": (2, 2, 6, 2)},
    "base": {"dim": 128, "depths": (2, 2, 18, 2)},
}
#: Channels that share a kernel: 32 groups in every stage.
INHOMOGENEOUS: dict[str, Options] = {
    "tiny": {"variant": "inhomogeneous", "group_channels": (3, 6, 12, 24)},
    "base": {"variant": "inhomogeneous", "group_channels": (4, 8, 16, 32)},
}

LINEAR: Options = {"attention": "linear"}
NONE: Options = {"attention": "linear", "activation": "none"}
DEPTHWISE: Options = {"attention": "depthwise"}
RELATIVE: Options = {"position": "relative"}
ABSOLUTE: Options = {"position": "absolute"}
AVERAGE: Options = {"position": "relative", "pooling": "average"}


@dataclasses.dataclass(frozen=True)
class Config:
    """A named model.

    Attributes:
        family: its class.
        options: arguments of the class.
    """

    family: type[nn.Module]
    options: Options


def _deit(size: str, *options: Options, **more: Any) -> Config:
    return Config(VisionTransformer, _merged(VIT[size], *options, more))


def _swin(size: str, *options: Options, **more: Any) -> Config:
    return Config(SwinTransformer, _merged(SWIN[size], *options, more))


def _merged(*options: Options) -> Options:
    return {name: value for one in options for name, value in one.items()}


CONFIGS: dict[str, Config] = {
    **{f"vit_{size}": _deit(size) for size in VIT},
    **{f"deit_{size}": _deit(size) for size in ("tiny", "small", "base")},
    **{f"swin_{size}": _swin(size) for size in SWIN},
    **{
        f"linformer_vit_{size}": Config(LinformerVisionTransformer, VIT[size] | {"rank": 64})
        for size in ("tiny", "small", "base")
    },
    **{f"dwnet_{size}": Config(DWNet, DWNET[size]) for size in DWNET},
    **{f"dwnet_{size}_inhomogeneous": Config(DWNet, DWNET[size] | INHOMOGENEOUS[size]) for size in DWNET},
    "dconv_resnet18": Config(DConvResNet, {"block": "basic", "depths": (2, 2, 2, 2)}),
    "dconv_resnet50": Config(DConvResNet, {"block": "bottleneck", "depths": (3, 4, 6, 3)}),
    # Table 2: _abs and _rel are the positions, _gap is global average pooling
    "deit_small_abs_softmax": _deit("small"),
    "deit_small_abs_none": _deit("small", NONE),
    "deit_small_abs_scaling": _deit("small", LINEAR),
    "deit_small_abs_scaling_relu": _deit("small", activation="scaling_relu"),
    "deit_small_rel_softmax": _deit("small", RELATIVE),
    "deit_small_rel_scaling": _deit("small", RELATIVE, LINEAR),
    "deit_small_rel_scaling_relu": _deit("small", RELATIVE, activation="scaling_relu"),
    "deit_small_rel_layernorm": _deit("small", RELATIVE, activation="layernorm"),
    "deit_small_rel_gap_layernorm": _deit("small", AVERAGE, activation="layernorm"),
    "deit_small_rel_gap_layernorm_relu": _deit("small", AVERAGE, activation="layernorm_relu"),
    "swin_tiny_rel_softmax": _swin("tiny"),
    "swin_tiny_rel_none": _swin("tiny", NONE),
    "swin_tiny_rel_scaling": _swin("tiny", LINEAR),
    "swin_tiny_rel_scaling_relu": _swin("tiny", activation="scaling_relu"),
    "swin_tiny_rel_layernorm": _swin("tiny", activation="layernorm"),
    "swin_tiny_rel_layernorm_relu": _swin("tiny", activation="layernorm_relu"),
    "swin_tiny_abs_softmax": _swin("tiny", ABSOLUTE),
    "swin_tiny_abs_scaling": _swin("tiny", ABSOLUTE, LINEAR),
    "swin_tiny_abs_scaling_relu": _swin("tiny", ABSOLUTE, activation="scaling_relu"),
    # Table 3, where Table 2 has them not
    "deit_small_abs_depthwise": _deit("small", DEPTHWISE),
    "deit_small_rel_depthwise": _deit("small", RELATIVE, DEPTHWISE),
    "deit_base_abs_softmax": _deit("base"),
    "deit_base_rel_softmax": _deit("base", RELATIVE),
    "deit_base_rel_depthwise": _deit("base", RELATIVE, DEPTHWISE),
    "swin_tiny_rel_depthwise": _swin("tiny", DEPTHWISE, bias_table="channel"),
    "swin_base_rel_softmax": _swin("base"),
    "swin_base_rel_scaling": _swin("base", LINEAR, masking="einsum"),
    "swin_base_rel_depthwise": _swin("base", DEPTHWISE, bias_table="head"),
}

#: Table 2: the model's name and the paper's top-1 accuracy on ImageNet in percent. The paper's, not measured by us.
TABLE2: dict[str, float] = {
    "deit_small_abs_softmax": 80.53,
    "deit_small_abs_none": 77.17,
    "deit_small_abs_scaling": 78.15,
    "deit_small_abs_scaling_relu": 80.03,
    "deit_small_rel_softmax": 80.96,
    "deit_small_rel_scaling": 80.45,
    "deit_small_rel_scaling_relu": 80.93,
    "deit_small_rel_layernorm": 78.82,
    "deit_small_rel_gap_layernorm": 80.09,
    "deit_small_rel_gap_layernorm_relu": 80.64,
    "swin_tiny_rel_softmax": 81.13,
    "swin_tiny_rel_none": 80.02,
    "swin_tiny_rel_scaling": 81.15,
    "swin_tiny_rel_scaling_relu": 81.24,
    "swin_tiny_rel_layernorm": 81.22,
    "swin_tiny_rel_layernorm_relu": 81.56,
    "swin_tiny_abs_softmax": 80.50,
    "swin_tiny_abs_scaling": 79.99,
    "swin_tiny_abs_scaling_relu": 80.57,
}

#: Table 3: the model's name and the paper's GFLOPs, millions of parameters and of activations, as printed. The rows
#: imply two code paths: Swin-B's masks are einsums, Swin-T's elementwise products (the option ``masking``).
TABLE3: dict[str, tuple[str, str, str]] = {
    "deit_small_abs_softmax": ("4.608", "22.051", "11.947"),
    "deit_small_abs_scaling": ("4.366", "22.051", "9.448"),
    "deit_small_abs_depthwise": ("3.902", "20.277", "7.337"),
    "deit_small_rel_softmax": ("4.608", "22.028", "11.947"),
    "deit_small_rel_scaling": ("4.543", "22.028", "10.351"),
    "deit_small_rel_depthwise": ("4.079", "20.253", "8.241"),
    "deit_base_abs_softmax": ("17.582", "86.568", "23.895"),
    "deit_base_rel_softmax": ("17.582", "86.521", "23.895"),
    "deit_base_rel_depthwise": ("15.830", "79.434", "16.481"),
    "swin_tiny_rel_softmax": ("4.508", "28.288", "17.054"),
    "swin_tiny_rel_scaling": ("4.508", "28.288", "17.054"),
    "swin_tiny_rel_depthwise": ("4.141", "26.850", "14.112"),
    "swin_base_rel_softmax": ("15.467", "87.768", "36.625"),
    "swin_base_rel_scaling": ("15.468", "87.768", "38.930"),
    "swin_base_rel_depthwise": ("14.192", "80.777", "30.256"),
}


def create(name: str, form: str = "matmul", **options: Any) -> nn.Module:
    """The model called ``name``, with random weights.

    Args:
        name: a key of :data:`CONFIGS`; ``equiv models`` lists all.
        form: ``"matmul"`` or ``"conv"``.
        options: any arguments of the model's class; they replace those of the configuration.

    Raises:
        TypeError: the class has no such option, or its value has a wrong type.
        ValueError: there is no such model, or an option is out of range.

    Example:
        >>> model = create("deit_tiny", form="conv", activation="scaling_relu", image_size=32, classes=10)
        >>> sum(parameter.numel() for parameter in model.parameters())
        5489482
    """
    if name not in CONFIGS:
        raise ValueError(message("name", name, nearest(name, CONFIGS), "models.create"))
    config = CONFIGS[name]
    known = options_of(config.family)
    for option in options:
        if option not in known:
            raise TypeError(message("option", option, nearest(option, known), f"models.create({name!r})"))
    return config.family(form=form, **(config.options | options))


def nearest(word: str, known: Any) -> str:
    """What should have been said instead of ``word``: the nearest of the known words, or all.

    Example:
        >>> nearest("deit_smal", ["deit_small", "swin_tiny"])
        'deit_small (nearest)'
    """
    lower = {other.lower(): other for other in known}
    near = [lower[other] for other in difflib.get_close_matches(str(word).lower(), lower, cutoff=0.5)]
    return f"{' or '.join(near)} (nearest)" if near else f"one of {', '.join(known)}"


def options_of(family: type) -> list[str]:
    """Keyword arguments of a class and of the classes that it hands its ``**options`` to."""
    found: list[str] = []
    for one in family.__mro__:
        parameters = inspect.signature(one).parameters
        found += [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name not in found]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return [name for name in found if name != "form"]
