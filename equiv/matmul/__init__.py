"""The textbook forms: the ten operators as matrix products, softmax, partition, roll and unfold, no convolutions.

Each operator has a namesake in ``equiv.conv`` with the same constructor, parameters and function. The two packages are
each other's oracle, so they never import each other; here every file should read like the paper that it follows.
"""

from equiv.matmul.activation import ACTIVATIONS as ACTIVATIONS
from equiv.matmul.attention import GlobalAttention
from equiv.matmul.depthwise import DepthwiseAttention, DepthwiseWindowAttention
from equiv.matmul.dynamic import DynamicConv2d, DynamicDepthwiseConv2d
from equiv.matmul.involution import Involution2d
from equiv.matmul.linear import LinearAttention, LinearWindowAttention
from equiv.matmul.linformer import LinformerAttention
from equiv.matmul.window import WindowAttention

__all__ = [
    "DepthwiseAttention",
    "DepthwiseWindowAttention",
    "DynamicConv2d",
    "DynamicDepthwiseConv2d",
    "GlobalAttention",
    "Involution2d",
    "LinearAttention",
    "LinearWindowAttention",
    "LinformerAttention",
    "WindowAttention",
]
