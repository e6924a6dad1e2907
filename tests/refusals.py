"""What the tests of bad input share: what a refusal looks like, and values that are wrong for most arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from equiv import conv, matmul
from equiv.testing.strategies import Drawn

FORMS = ("matmul", "literal", "fused")


def make(operator: str, form: str, *args: Any, **options: Any) -> nn.Module:
    if form == "matmul":
        return getattr(matmul, operator)(*args, **options)
    return getattr(conv, operator)(*args, **{"lowering": form, **options})


def refusal(name: str, call: str, function: Any, *args: Any, **options: Any) -> str:
    """The message with which ``function`` refuses the argument ``name``; anything but a refusal fails."""
    with pytest.raises((TypeError, ValueError)) as error:
        function(*args, **options)
    text = f"{error.type.__name__}: {error.value}"
    pattern = rf"(Type|Value)Error: `{re.escape(name)}(\[\d\])?`=.*, but should be .+ \[{re.escape(call)}\]"
    assert re.fullmatch(pattern, text, re.DOTALL), text
    return text


def same(texts: Iterable[str]) -> str:
    """The message, which has to be the same in every form."""
    different = set(texts)
    assert len(different) == 1, different
    return different.pop()


def refused_by_all(name: str, operator: str, *args: Any, **options: Any) -> str:
    """The message, which is that of every form."""
    return same(refusal(name, operator, make, operator, form, *args, **options) for form in FORMS)


#: A valid case of each operator.
EXAMPLES = {
    "GlobalAttention": Drawn((2, 6, 4), (4, 2), {"relative_position": (2, 3)}, operator="GlobalAttention"),
    "WindowAttention": Drawn((2, 4, 5, 6), (4, 2), {"window": 3}, operator="WindowAttention"),
    "LinformerAttention": Drawn((2, 6, 4), (4, 2), {"tokens": 6, "rank": 2}, operator="LinformerAttention"),
    "LinearAttention": Drawn((2, 6, 4), (4, 2), operator="LinearAttention"),
    "LinearWindowAttention": Drawn((2, 4, 5, 6), (4, 2), {"window": 3, "shift": 1}, operator="LinearWindowAttention"),
    "DepthwiseAttention": Drawn((2, 6, 4), (4, 2), operator="DepthwiseAttention"),
    "DepthwiseWindowAttention": Drawn((2, 4, 5, 6), (4, 2), {"window": 3}, operator="DepthwiseWindowAttention"),
    "DynamicConv2d": Drawn((2, 4, 5, 6), (4,), {"padding": 0, "dilation": 2}, operator="DynamicConv2d"),
    "DynamicDepthwiseConv2d": Drawn((2, 4, 5, 6), (4,), {"kernel_size": 3}, True, operator="DynamicDepthwiseConv2d"),
    "Involution2d": Drawn(
        (2, 4, 6, 6), (4,), {"kernel_size": 3, "group_channels": 2, "stride": 2}, True, operator="Involution2d"
    ),
}

#: Values that are neither numbers nor flags.
things = st.text(max_size=3) | st.binary(max_size=2) | st.lists(st.integers(), max_size=3) | st.builds(object)
things |= st.just(torch.ones(())) | st.just(np.int64(2)) | st.just({}) | st.just(math) | st.complex_numbers()
none = st.none()
