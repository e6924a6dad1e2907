"""Operations, parameters and activations of a model, counted by fvcore while it runs.

The rule of the paper's Table 3 is that of fvcore: one multiply-accumulate is one FLOP, LayerNorm costs 5 for each
element, average pooling 1, softmax and other elementwise functions nothing; activations are the elements of the outputs
of convolutions, linear layers, matrix products and einsums. The costs of an einsum are read from NumPy's printed path,
which keeps four significant digits, and one with three operands costs 1.5 for each tuple of indices. The classifier
head is not run, but its parameters count.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import nn

INSTALL = "fvcore is missing: pip install equiv[tables]"


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of one image.

    Attributes:
        flops: multiply-accumulates, and the few other operations that fvcore counts.
        parameters: with the classifier head.
        activations: elements of the outputs of contractions.
    """

    flops: int
    parameters: int
    activations: int


class _Features(nn.Module):
    """A model without its head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.model.features(x)
        return y


def count(model: nn.Module, image: torch.Tensor) -> Counts:
    """Run ``model.features`` on ``image`` and count. Model and image may be on the meta device: nothing is computed.

    Args:
        model: one of ours, in either form.
        image: ``(1, C, H, W)``.

    Raises:
        ImportError: fvcore is missing; the message says how to install it.

    Example:
        >>> from equiv.models import create
        >>> count(create("deit_tiny", device="meta"), torch.zeros(1, 3, 224, 224, device="meta"))
        Counts(flops=1258219200, parameters=5717416, activations=5973636)
    """
    totals = []
    training = model.training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore scripts and traces with torch.jit, which is deprecated
        try:
            from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
        except ImportError as error:
            raise ImportError(INSTALL) from error
        for analysis in (FlopCountAnalysis, ActivationCountAnalysis):
            counted = analysis(_Features(model.eval()), image)
            counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            totals.append(int(counted.total()))
    model.train(training)
    return Counts(totals[0], sum(parameter.numel() for parameter in model.parameters()), totals[1])
