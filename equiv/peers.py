"""Other people's attention at the sizes of DeiT-S and Swin-T against our forms, with the same weights, on a picture.

The catalogue compares our two forms with each other, so a formula that both misread would pass there. Here the other
side is code that trained models run: ``ViTAttention`` and ``SwinLayer`` of Hugging Face ``transformers``, and PyTorch's
``scaled_dot_product_attention`` (SDPA).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from equiv import conv, libraries, matmul, picture
from equiv.catalogue import LOWERINGS
from equiv.errors import message
from equiv.ladder.draws import derive, draw_weights
from equiv.ladder.evidence import Evidence, Verdict, combine
from equiv.ladder.floating import check
from equiv.ladder.rule import Tensors
from equiv.layout import map_to_tokens, tokens_to_map

INSTALL = libraries.INSTALL
PICTURE, WINDOW, SHIFT, MASK = 224, 7, 3, -100.0
SHARPEN = 2.0  # times LayerNorm's output: attention on it is far from uniform, without being one-hot everywhere


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A candidate and a reference, and how the reference's tensors are called in the candidate (``None``: the same)."""

    label: str
    candidate: nn.Module
    reference: nn.Module
    convert: Callable[[Tensors], Tensors] | None = None


@dataclasses.dataclass(frozen=True)
class Peer:
    """A third-party attention at the size of a published model.

    Attributes:
        name: for people.
        slug: for command lines.
        size: locations along a side of the picture's map, channels, heads.
        embed: the input, from locations along a side, channels and a seed.
        compare: what is compared, from the three sizes and the dtype.
    """

    name: str
    slug: str
    size: tuple[int, int, int]
    embed: Callable[[int, int, int], torch.Tensor]
    compare: Callable[[int, int, int, torch.dtype], list[Comparison]]

    def check(self, dtype: torch.dtype, device: torch.device | str, seed: int, gradients: bool = True) -> Evidence:
        """Compare our forms with the third-party one on the patches of the picture, with drawn weights.

        Args:
            dtype: floating dtype of weights and input.
            device: where both run; the float64 oracle runs on the CPU.
            seed: of the embedding, the weights and the cotangents.
            gradients: also compare the gradients by the input and by every parameter.

        Returns:
            Evidence: the parts are the single comparisons. UNKNOWN if a package is missing, too old, or has changed.

        Raises:
            ValueError: unknown dtype.

        Example:
            >>> find("torch-sdpa").check(torch.float32, "cpu", seed=0, gradients=False).verdict
            <Verdict.EQUAL: 'EQUAL'>
        """
        side, dim, heads = self.size
        claim = f"equiv's attention equals {self.name} up to rounding"
        what = "outputs and gradients" if gradients else "outputs"
        scope = f"{what} on the picture, random weights, {str(dtype).removeprefix('torch.')} on {device}"
        again = f"equiv.peers.find({self.slug!r}).check({dtype}, {str(device)!r}, {seed}, {gradients})"
        try:
            # Two streams: an input that repeats the numbers of the weights would not be general.
            x = self.embed(side, dim, derive(seed, "input"))
            comparisons = self.compare(side, dim, heads, dtype)
            for one in comparisons:
                if one.convert is not None:
                    one.candidate.load_state_dict(one.convert(one.reference.state_dict()))
        except Exception as error:  # any, as it is their code that may have changed
            text = " ".join(str(error).split())
            if not isinstance(error, ImportError):
                text = f"the third-party module is not as expected ({type(error).__name__}: {text})"
            reason = text if INSTALL in text else f"{text}: {INSTALL}"
            return Evidence(Verdict.UNKNOWN, claim, scope, seed=seed, reproduce=again, reason=reason)
        parts = [
            check(
                one.candidate,
                one.reference,
                [x],
                dtype=dtype,
                device=device,
                gradients=gradients,
                weights="random",
                convert=one.convert,
                patterns=(),
                seed=seed,
                claim=one.label,
            )
            for one in comparisons
        ]
        return dataclasses.replace(combine(parts, claim, scope), seed=seed, reproduce=again)


def find(slug: str) -> Peer:
    """The peer called ``slug``.

    Raises:
        ValueError: there is none; the message lists all.

    Example:
        >>> find("transformers-swin-1").size
        (56, 96, 3)
    """
    for peer in PEERS:
        if peer.slug == slug:
            return peer
    raise ValueError(message("slug", slug, f"one of {', '.join(peer.slug for peer in PEERS)}", "find"))


# Inputs


def embedded_map(side: int, dim: int, seed: int) -> torch.Tensor:
    """The picture as a map (1, dim, side, side): patches through a drawn convolution, then a drawn LayerNorm."""
    generator = _generator(seed)
    return tokens_to_map(_normalised(_patches(side, dim, generator), generator), side, side)


def embedded_tokens(side: int, dim: int, seed: int) -> torch.Tensor:
    """The same as tokens (1, 1 + side², dim), a drawn class token first."""
    generator = _generator(seed)
    patches = _patches(side, dim, generator)
    class_token = torch.randn(1, 1, dim, generator=generator, dtype=torch.float64)
    return _normalised(torch.cat((class_token, patches), dim=1), generator)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def _patches(side: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    patch = PICTURE // side
    embedding = nn.Conv2d(3, dim, patch, patch, dtype=torch.float64)
    draw_weights(embedding, generator)
    return map_to_tokens(embedding(picture.load(size=PICTURE).double()))


@torch.no_grad()
def _normalised(tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    norm = nn.LayerNorm(tokens.shape[-1], dtype=torch.float64)
    draw_weights(norm, generator)
    return SHARPEN * norm(tokens)


# Hugging Face transformers


class TransformersViT(nn.Module):
    """``ViTAttention`` on tokens (B, N, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        _check_transformers()
        from transformers.models.vit.modeling_vit import ViTAttention, ViTConfig

        self.attention = ViTAttention(ViTConfig(hidden_size=dim, num_attention_heads=heads))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _choose_implementation(self.attention, x)
        return self.attention(x)[0]


class TransformersSwin(nn.Module):
    """The attention in ``SwinLayer`` on a map (B, C, H, W): its cyclic shift, windows, mask and their undoing.

    The layer's own forward runs, without norms and MLP; what it is about to add to the shortcut is the result.
    """

    def __init__(self, side: int, dim: int, heads: int, shift: int) -> None:
        super().__init__()
        _check_transformers()
        from transformers.models.swin.modeling_swin import SwinConfig, SwinLayer

        self.layer = SwinLayer(SwinConfig(window_size=WINDOW), dim, (side, side), heads, shift_size=shift)
        self.layer.layernorm_before = self.layer.layernorm_after = self.layer.mlp = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _choose_implementation(self.layer.attention, x)
        caught: list[torch.Tensor] = []
        hook = self.layer.drop_path.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        with hook:
            self.layer(map_to_tokens(x), tuple(x.shape[2:]))
        return tokens_to_map(caught[0], x.shape[2], x.shape[3])


def _check_transformers() -> None:
    try:
        libraries.load("transformers")
    except libraries.Unavailable as error:
        raise ImportError(str(error)) from error


def _choose_implementation(attention: Any, x: torch.Tensor) -> None:
    """Eager, their written-out formula; but SDPA in float64, where the eager softmax is cast to float32."""
    attention.config._attn_implementation = "sdpa" if x.dtype == torch.float64 else "eager"


def our_names(theirs: Tensors) -> Tensors:
    """Tensors of a transformers attention (weights or gradients) as ours: q, k and v one after the other in ``qkv``.

    Example:
        >>> parts = {f"attention.{name}_proj.{kind}": torch.ones(2) for name in "qkvo" for kind in ("weight", "bias")}
        >>> {name: len(tensor) for name, tensor in our_names(parts).items()}
        {'qkv.weight': 6, 'qkv.bias': 6, 'proj.weight': 2, 'proj.bias': 2}
    """
    parts = {name.partition("attention.")[2]: tensor for name, tensor in theirs.items()}
    ours = {f"qkv.{kind}": torch.cat([parts.pop(f"{x}_proj.{kind}") for x in "qkv"]) for kind in ("weight", "bias")}
    for name, tensor in parts.items():  # nothing is dropped: a tensor that we lack makes loading fail
        ours[name.replace("o_proj.", "proj.").removeprefix("relative_position_bias.")] = tensor
    return ours


def compare_vit(side: int, dim: int, heads: int, dtype: torch.dtype) -> list[Comparison]:
    """Each of our forms against ``ViTAttention``."""
    theirs = TransformersViT(dim, heads)
    forms = _forms("GlobalAttention", dim, heads)
    return [Comparison(f"{form} equals ViTAttention", ours, theirs, our_names) for form, ours in forms.items()]


def compare_swin(side: int, dim: int, heads: int, dtype: torch.dtype) -> list[Comparison]:
    """Each of our forms against ``SwinLayer``, windows shifted or not; a single one never is."""
    found = []
    for shift in (0, SHIFT) if side > WINDOW else (SHIFT,):
        theirs = TransformersSwin(side, dim, heads, shift)
        forms = _forms("WindowAttention", dim, heads, window=WINDOW, shift=shift, mask_value=MASK)
        for form, ours in forms.items():
            found.append(Comparison(f"{form} with shift {shift} equals SwinLayer", ours, theirs, our_names))
    return found


def _forms(name: str, dim: int, heads: int, **options: Any) -> dict[str, nn.Module]:
    forms: dict[str, nn.Module] = {"matmul": getattr(matmul, name)(dim, heads, **options)}
    for lowering in LOWERINGS:
        forms[f"conv, {lowering},"] = getattr(conv, name)(dim, heads, lowering=lowering, **options)
    return forms


# PyTorch


class TorchSDPA(nn.Module):
    """Attention of a class token and a grid of others, as most projects write it today; parameters named as ours.

    ``grid`` gives a bias by relative position, which is 0 for the class token.
    """

    def __init__(self, dim: int, heads: int, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.heads, self.grid = heads, grid
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        if grid is not None:
            self.relative_position_bias_table = nn.Parameter(torch.zeros(math.prod(2 * n - 1 for n in grid), heads))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias())
        return self.proj(y.transpose(1, 2).flatten(2))

    def bias(self) -> torch.Tensor | None:
        """The table's entries for all pairs of tokens, (heads, N, N)."""
        if self.grid is None:
            return None
        height, width = self.grid
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        down, right = (axis.flatten()[:, None] - axis.flatten() for axis in (y, x))  # query minus key
        entries = self.relative_position_bias_table[(down + height - 1) * (2 * width - 1) + right + width - 1]
        return F.pad(entries.permute(2, 0, 1), (1, 0, 1, 0))


def compare_sdpa(side: int, dim: int, heads: int, dtype: torch.dtype) -> list[Comparison]:
    """SDPA against our forms, except fused, which calls it; beyond half types, all our forms against SDPA as well.

    In half types SDPA keeps logits and weights in float32, so its error is no measure for forms that round them: by it
    correct ones were off by up to 1.07 of the tolerance. The other direction asks what can be asked.
    """
    found = []
    for grid in (None, (side, side)):
        theirs = TorchSDPA(dim, heads, grid)
        forms = _forms("GlobalAttention", dim, heads, relative_position=grid, class_token=True)
        tail = " with bias" * (grid is not None)
        for form, ours in forms.items():
            if "fused" not in form:
                found.append(Comparison(f"SDPA{tail} equals {form}", theirs, ours))
            if dtype in (torch.float64, torch.float32):
                found.append(Comparison(f"{form}{tail} equals SDPA", ours, theirs))
    return found


PEERS: tuple[Peer, ...] = (
    Peer("ViT, transformers (DeiT-S)", "transformers-vit", (14, 384, 6), embedded_tokens, compare_vit),
    Peer("Swin stage 1, transformers (Swin-T)", "transformers-swin-1", (56, 96, 3), embedded_map, compare_swin),
    Peer("Swin stage 2, transformers (Swin-T)", "transformers-swin-2", (28, 192, 6), embedded_map, compare_swin),
    Peer("Swin stage 3, transformers (Swin-T)", "transformers-swin-3", (14, 384, 12), embedded_map, compare_swin),
    Peer("Swin stage 4, transformers (Swin-T)", "transformers-swin-4", (7, 768, 24), embedded_map, compare_swin),
    Peer("SDPA, torch (DeiT-S)", "torch-sdpa", (14, 384, 6), embedded_tokens, compare_sdpa),
)
