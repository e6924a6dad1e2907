"""The operators as dynamic convolutions: kernels from a bank, selected for each location, applied by convolution.

``equiv.matmul`` holds the same operators as matrix products; the two packages share no numerical code.
"""

from equiv.conv.attention import GlobalAttention, LinformerAttention
from equiv.conv.bank import KernelBank
from equiv.conv.depthwise import DepthwiseAttention, DepthwiseWindowAttention
from equiv.conv.dynamic import Anatomy, DynamicConvolution, anatomy
from equiv.conv.generated import DynamicDepthwiseConv2d, Involution2d
from equiv.conv.linear import LinearAttention, LinearWindowAttention
from equiv.conv.merge import merge_attention, merge_kernels, merge_static
from equiv.conv.mixture import DynamicConv2d
from equiv.conv.selection import KernelSelection
from equiv.conv.window import WindowAttention

__all__ = [
    "Anatomy",
    "DepthwiseAttention",
    "DepthwiseWindowAttention",
    "DynamicConv2d",
    "DynamicConvolution",
    "DynamicDepthwiseConv2d",
    "GlobalAttention",
    "Involution2d",
    "KernelBank",
    "KernelSelection",
    "LinearAttention",
    "LinearWindowAttention",
    "LinformerAttention",
    "WindowAttention",
    "anatomy",
    "merge_attention",
    "merge_kernels",
    "merge_static",
]
