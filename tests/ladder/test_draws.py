"""Each pattern, layout and weight draw has the property that it is named for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from equiv.catalogue import PAIRS
from equiv.ladder.draws import LAYOUTS, PATTERNS, draw_input, draw_weights


def generator():
    return torch.Generator().manual_seed(0)


PROPERTIES = {
    "normal": lambda x: abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1,
    "offset": lambda x: abs(x.mean() - 1) < 0.1,
    "sparse": lambda x: 0.7 < (x == 0).double().mean() < 0.9,
    "ties": lambda x: set(x.unique().tolist()) == {-1.0, 0.0, 1.0},
    "large": lambda x: abs(x.std() - 16) < 1,
    "cancel": lambda x: ((x[..., 0::2] + x[..., 1::2]).abs() <= x[..., 0::2].abs() * 2**-6 * 1.001).all(),
    "onehot": lambda x: x.sum() == 1 and (x != 0).sum() == 1,
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern):
    x = draw_input((4, 30, 40), pattern, generator())
    assert x.shape == (4, 30, 40)
    assert x.dtype == torch.float64
    assert PROPERTIES[pattern](x)
    assert torch.equal(x, draw_input((4, 30, 40), pattern, generator()))
    assert draw_input((0, 3), pattern, generator()).shape == (0, 3)


def test_unknown_pattern():
    with pytest.raises(ValueError, match="`pattern`='gaussian', but should be one of normal"):
        draw_input((2,), "gaussian", generator())


@pytest.mark.parametrize(
    ("layout", "strides"),
    [
        ("contiguous", (60, 20, 5, 1)),
        ("transposed", (60, 20, 1, 4)),
        ("channels_last", (60, 1, 15, 3)),
        ("strided", (120, 40, 10, 2)),
        ("expanded", (0, 20, 5, 1)),
    ],
)
def test_layouts(layout, strides):
    x = torch.randn(2, 3, 4, 5)
    y = LAYOUTS[layout](x)
    assert y.stride() == strides
    assert torch.equal(y, x[:1].expand_as(x) if layout == "expanded" else x)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_drawn_weights_hide_nothing(pair):
    for case in pair.cases:
        operator = pair.build("matmul", case)
        draw_weights(operator, generator())
        for name, tensor in [*operator.named_parameters(), *operator.named_buffers()]:
            if tensor.is_floating_point():
                assert (tensor != 0).all(), name
                assert tensor.numel() == 1 or tensor.std() > 0.01, name
                assert "running_var" not in name or (tensor > 0).all()


def test_attention_on_drawn_weights_is_neither_uniform_nor_saturated():
    attention = nn.Linear(64, 128)
    draw_weights(attention, generator())
    q, k = attention(draw_input((197, 64), "normal", generator()).float()).split(64, -1)
    weights = (q @ k.T / 8).softmax(-1)
    entropy = (-weights * weights.log()).sum(-1).mean().exp()  # effective number of keys
    assert 10 < entropy < 150
