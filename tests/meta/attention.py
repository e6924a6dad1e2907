"""Attention written differently, for ``rewrites.py``: each function is another forward of ``op``.

Helpers are few, so that the rewrites stay apart from each other and from the operators.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F

from equiv.layout import map_to_tokens, tokens_to_map


def qkv(op: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v, each ``(B, heads, N, d)``, as timm does it."""
    batch, tokens, dim = x.shape
    q, k, v = op.qkv(x).reshape(batch, tokens, 3, op.heads, dim // op.heads).permute(2, 0, 3, 1, 4)
    return q, k, v


def out(op: Any, y: torch.Tensor) -> torch.Tensor:
    return op.proj(y.transpose(1, 2).flatten(2))


def logits(op: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of softmax attention, and v."""
    q, k, v = qkv(op, x)
    return q @ k.mT * q.shape[-1] ** -0.5, v


# ---- softmax attention -----------------------------------------------------------------------------------------------


def online_softmax(op: Any, x: torch.Tensor) -> torch.Tensor:
    """One kernel at a time, with a running maximum and a running sum."""
    z, v = logits(op, x)
    largest = torch.full_like(z[..., :1], -torch.inf)
    total, y = torch.zeros_like(largest), torch.zeros_like(v)
    for j in range(z.shape[-1]):
        new = torch.maximum(largest, z[..., j : j + 1])
        shrink, weight = (largest - new).exp(), (z[..., j : j + 1] - new).exp()
        total, y, largest = total * shrink + weight, y * shrink + weight * v[..., j : j + 1, :], new
    return out(op, y / total)


def flash_blocks(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Blocks of three kernels, each with its own softmax, combined by their log-sum-exp; float32 inside."""
    z, v = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in logits(op, x))
    blocks = zip(z.split(3, -1), v.split(3, -2), strict=True)
    parts = [(part.logsumexp(-1, keepdim=True), part.softmax(-1) @ values) for part, values in blocks]
    total = torch.cat([size for size, _ in parts], -1).logsumexp(-1, keepdim=True)
    return out(op, sum((size - total).exp() * y for size, y in parts).to(x.dtype))


def log_sum_exp(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Float32 inside: rounded to a half type, the log-sum-exp would scale whole rows, which softmax never does."""
    z, v = logits(op, x)
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    return out(op, (wide - wide.logsumexp(-1, keepdim=True)).exp().to(z.dtype) @ v)


def narrow_log_sum_exp(op: Any, x: torch.Tensor) -> torch.Tensor:
    z, v = logits(op, x)
    return out(op, (z - z.logsumexp(-1, keepdim=True)).exp() @ v)


def detached_maximum(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Softmax does not depend on the maximum that is subtracted, so that needs no gradient; float32 inside."""
    z, v = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in logits(op, x))
    e = (z - z.detach().amax(-1, keepdim=True)).exp()
    return out(op, (e @ v / e.sum(-1, keepdim=True)).to(x.dtype))


def float32_softmax(op: Any, x: torch.Tensor) -> torch.Tensor:
    z, v = logits(op, x)
    return out(op, z.to(torch.promote_types(z.dtype, torch.float32)).softmax(-1).to(z.dtype) @ v)


def sdpa(op: Any, x: torch.Tensor) -> torch.Tensor:
    return out(op, F.scaled_dot_product_attention(*qkv(op, x)))


def einsum(op: Any, x: torch.Tensor) -> torch.Tensor:
    weight, bias = op.qkv.weight.unflatten(0, (3, op.heads, -1)), op.qkv.bias.unflatten(0, (3, op.heads, 1, -1))
    q, k, v = torch.einsum("bnc,shdc->sbhnd", x, weight) + bias[:, None]
    z = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
    y = torch.einsum("bhij,bhjd->bihd", z.softmax(-1), v)
    return torch.einsum("bihd,ohd->bio", y, op.proj.weight.unflatten(1, (op.heads, -1))) + op.proj.bias


def query_chunks(op: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = qkv(op, x)
    chunks = q.split(2, dim=-2)
    return out(op, torch.cat([(chunk @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v for chunk in chunks], -2))


def head_loop(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Each head with its own rows of the weights, and its own columns of the projection."""
    y, width = op.proj.bias, op.dim // op.heads
    for start in range(0, op.dim, width):
        rows = [slice(part * op.dim + start, part * op.dim + start + width) for part in range(3)]
        q, k, v = (F.linear(x, op.qkv.weight[r], op.qkv.bias[r]) for r in rows)
        weights = (q @ k.mT / width**0.5).softmax(-1)
        y = y + F.linear(weights @ v, op.proj.weight[:, start : start + width])
    return y


def values_projected_first(op: Any, x: torch.Tensor) -> torch.Tensor:
    """The projection is linear, so it may come before the weighted mean."""
    z, v = logits(op, x)
    projected = torch.einsum("bhjd,ohd->bhjo", v, op.proj.weight.unflatten(1, (op.heads, -1)))
    return (z.softmax(-1) @ projected).sum(1) + op.proj.bias


def baddbmm(op: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = (t.flatten(0, 1) for t in qkv(op, x))
    zero = q.new_zeros(len(q), q.shape[1], q.shape[1])
    weights = torch.baddbmm(zero, q, k.mT, beta=0, alpha=q.shape[-1] ** -0.5).softmax(-1)
    return out(op, torch.bmm(weights, v).unflatten(0, (len(x), op.heads)))


def permuted_kernels(op: Any, x: torch.Tensor) -> torch.Tensor:
    """The order of the kernels does not matter, as long as keys and values agree."""
    q, k, v = qkv(op, x)
    order = torch.arange(x.shape[1]).flip(0)
    return out(op, (q @ k[:, :, order].mT * q.shape[-1] ** -0.5).softmax(-1) @ v[:, :, order])


def scale_in_weights(op: Any, x: torch.Tensor) -> torch.Tensor:
    """The scale folded into the weights and the bias of k."""
    scale = x.new_ones(3 * op.dim).index_fill(0, torch.arange(op.dim, 2 * op.dim), (op.dim // op.heads) ** -0.5)
    mixed = F.linear(x, op.qkv.weight * scale[:, None], op.qkv.bias * scale)
    q, k, v = mixed.unflatten(-1, (3, op.heads, -1)).permute(2, 0, 3, 1, 4)
    return out(op, (q @ k.mT).softmax(-1) @ v)


def key_bias_dropped(op: Any, x: torch.Tensor) -> torch.Tensor:
    """The bias of k adds the same to all logits of a query, which softmax does not see."""
    keep = torch.ones(3 * op.dim, dtype=torch.bool)
    keep[op.dim : 2 * op.dim] = False
    q, k, v = F.linear(x, op.qkv.weight, op.qkv.bias * keep).unflatten(-1, (3, op.heads, -1)).permute(2, 0, 3, 1, 4)
    return out(op, (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v)


def transposed_twice(op: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = qkv(op, x)
    weights = (k @ q.mT * q.shape[-1] ** -0.5).softmax(-2)
    return out(op, (v.mT @ weights).mT)


def convolutions(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Linear layers as 1×1 convolutions, attention as grouped ones with the keys and values as kernels."""
    batch, tokens, dim = x.shape
    q, k, v = F.conv1d(x.mT, op.qkv.weight[..., None], op.qkv.bias).chunk(3, 1)
    groups, width = batch * op.heads, dim // op.heads
    kernels = k.reshape(groups, width, tokens).mT.reshape(groups * tokens, width, 1)
    z = F.conv1d(q.reshape(1, batch * dim, tokens), kernels, groups=groups) * width**-0.5
    weights = z.unflatten(1, (groups, tokens)).softmax(2).flatten(1, 2)
    y = F.conv1d(weights, v.reshape(batch * dim, tokens, 1), groups=groups).view(batch, dim, tokens)
    return F.conv1d(y, op.proj.weight[..., None], op.proj.bias).mT


def bias_gathered_in_loops(op: Any, x: torch.Tensor) -> torch.Tensor:
    (height, width), q, k, v = op.relative_position, *qkv(op, x)
    places = [(row, column) for row in range(height) for column in range(width)]
    rows = [(ri - rj + height - 1) * (2 * width - 1) + ci - cj + width - 1 for ri, ci in places for rj, cj in places]
    bias = op.relative_position_bias_table.T[:, rows].unflatten(1, (len(places), len(places)))
    return out(op, F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].expand(len(x), -1, -1, -1)))


# ---- other activations -----------------------------------------------------------------------------------------------


def layer_norm_by_hand(op: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = qkv(op, x)
    z = q @ k.mT
    centred = z - z.mean(-1, keepdim=True)
    return out(op, centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() @ v)


def relu_by_where(op: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = qkv(op, x)
    z = q @ k.mT / q.shape[-1]
    return out(op, torch.where(z > 0, z, 0) @ v)


def mixed_before_projected(op: Any, x: torch.Tensor) -> torch.Tensor:
    """E (x W + b) = (E x) W + (E 1) b: fairseq's order, with the bias that it needs."""
    q, k, v = (F.linear(x, w) for w in op.qkv.weight.chunk(3))
    b_q, b_k, b_v = op.qkv.bias.chunk(3)
    w_k, w_v = op.qkv.weight.chunk(3)[1:]
    q = q + b_q
    k = F.linear(op.mix_key @ x, w_k) + op.mix_key.sum(1, keepdim=True) * b_k
    v = F.linear(op.mix_value @ x, w_v) + op.mix_value.sum(1, keepdim=True) * b_v
    q, k, v = (t.unflatten(-1, (op.heads, -1)).transpose(1, 2) for t in (q, k, v))
    return out(op, F.scaled_dot_product_attention(q, k, v))


def quadratic_order(op: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = qkv(op, x)
    return out(op, (q @ k.mT / q.shape[-1]) @ v)


def running_kernel(op: Any, x: torch.Tensor) -> torch.Tensor:
    """The merged kernel as a running sum of outer products."""
    q, k, v = qkv(op, x)
    kernel = torch.zeros_like(k[:, :, :1].mT @ v[:, :, :1])
    for j in range(x.shape[1]):
        kernel = kernel + k[:, :, j, :, None] * v[:, :, j, None, :]
    return out(op, q @ kernel / q.shape[-1])


def mean_as_product(op: Any, x: torch.Tensor) -> torch.Tensor:
    """The mean as a product with 1/N, and the sum with the bias as a convolution with the table as its kernel."""
    (height, width), tokens = op.relative_position, x.shape[1]
    q, k = op.qk(x).chunk(2, -1)
    mean = k.new_full((1, tokens), 1 / tokens) @ k
    kernel = op.relative_position_bias_table.T.repeat_interleave(op.dim // op.heads, 0)
    kernel = kernel.view(op.dim, 1, 2 * height - 1, 2 * width - 1).flip(2, 3)
    padding = (height - 1, width - 1)
    return op.proj(
        q * mean + map_to_tokens(F.conv2d(tokens_to_map(k, height, width), kernel, None, 1, padding, 1, op.dim))
    )


# ---- windows ---------------------------------------------------------------------------------------------------------


def window_bias(op: Any) -> torch.Tensor:
    """``(heads, w, w, w, w)``: rows of query and key, columns of query and key apart."""
    w = op.window
    table = op.relative_position_bias_table.T.view(op.heads, 2 * w - 1, 2 * w - 1)
    offset = torch.arange(w)[:, None] - torch.arange(w) + w - 1
    return table[:, offset[:, None, :, None], offset[None, :, None, :]]


def rolled_by_cat(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Cyclic shift by slices, partition by unfold, fold to put the windows together."""
    w, (shift, _), (_, _, height, width) = op.window, op.shift, x.shape
    x = torch.cat((x[:, :, shift:], x[:, :, :shift]), 2)
    x = torch.cat((x[..., shift:], x[..., :shift]), 3)
    windows = F.unfold(x, w, stride=w).unflatten(1, (op.dim, w * w)).permute(0, 3, 2, 1)
    rows, columns = (torch.arange(n).view(-1, w) >= n - shift for n in (height, width))
    region = (2 * rows[:, None, :, None] + 1 * columns[None, :, None, :]).reshape(-1, w * w)
    mask = torch.zeros(len(region), w * w, w * w, dtype=x.dtype)
    mask = mask.masked_fill(region[:, :, None] != region[:, None], -torch.inf)
    q, k, v = op.qkv(windows).unflatten(-1, (3, op.heads, -1)).permute(3, 0, 1, 4, 2, 5)
    z = q @ k.mT * q.shape[-1] ** -0.5 + window_bias(op).flatten(3).flatten(1, 2) + mask[:, None]
    y = op.proj((z.softmax(-1) @ v).transpose(2, 3).flatten(3))
    y = F.fold(y.permute(0, 3, 2, 1).flatten(1, 2), (height, width), w, stride=w)
    y = torch.cat((y[:, :, height - shift :], y[:, :, : height - shift]), 2)
    return torch.cat((y[..., width - shift :], y[..., : width - shift]), 3)


def sliced_regions(op: Any, x: torch.Tensor) -> torch.Tensor:
    """No mask: each region between two cuts attends to itself, by slices."""
    (height, width), bias = x.shape[2:], window_bias(op)
    q, k, v = (t.unflatten(2, (height, width)) for t in qkv(op, map_to_tokens(x)))

    def cuts(size: int, shift: int) -> list[slice]:
        ends = sorted({0, size, *range(shift, size, op.window)})
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    def attend(rows: slice, columns: slice) -> torch.Tensor:
        query, key, value = (t[:, :, rows, columns].flatten(2, 3) for t in (q, k, v))
        m, n = rows.stop - rows.start, columns.stop - columns.start
        z = query @ key.mT * q.shape[-1] ** -0.5 + bias[:, :m, :n, :m, :n].flatten(3).flatten(1, 2)
        return (z.softmax(-1) @ value).unflatten(2, (m, n))

    bands = [[attend(r, c) for c in cuts(width, op.shift[1])] for r in cuts(height, op.shift[0])]
    y = torch.cat([torch.cat(band, 3) for band in bands], 2)
    return tokens_to_map(out(op, y.flatten(2, 3)), height, width)


def masked_global(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Global attention in which only locations of one window see each other."""
    height, width = x.shape[2:]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    together = (places[:, None] // op.window == places // op.window).all(-1)
    within = places % op.window
    bias = window_bias(op)[:, within[:, None, 0], within[:, None, 1], within[None, :, 0], within[None, :, 1]]
    q, k, v = qkv(op, map_to_tokens(x))
    z = (q @ k.mT * q.shape[-1] ** -0.5 + bias).masked_fill(~together, -torch.inf)
    return tokens_to_map(out(op, z.softmax(-1) @ v), height, width)
