"""Full models in both forms: ViT, DeiT, Swin, Linformer-ViT, DW-Net and ResNets with D-Conv.

``form="matmul"`` writes every contraction as a matrix product, ``form="conv"`` every one as a convolution, patch
embedding, MLP and head included; parameter names and state dicts are the same.
"""

from equiv.models import weights
from equiv.models.configs import CONFIGS, TABLE2, TABLE3, create
from equiv.models.dconv_resnet import DConvResNet
from equiv.models.dwnet import DWNet
from equiv.models.linformer import LinformerVisionTransformer
from equiv.models.swin import SwinTransformer
from equiv.models.vit import VisionTransformer

__all__ = [
    "CONFIGS",
    "TABLE2",
    "TABLE3",
    "DConvResNet",
    "DWNet",
    "LinformerVisionTransformer",
    "SwinTransformer",
    "VisionTransformer",
    "create",
    "weights",
]
