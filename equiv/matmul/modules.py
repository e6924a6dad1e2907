"""The static 1×1 convolution as a linear layer, and how an operator prints its options."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Linear(nn.Linear):
    """``nn.Linear`` that also loads the weight ``(out, in, 1, 1)`` of a 1×1 convolution.

    Example:
        >>> Linear(2, 3).load_state_dict({"weight": torch.zeros(3, 2, 1, 1), "bias": torch.zeros(3)})
        <All keys matched successfully>
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.get(prefix + "weight")
        if isinstance(weight, torch.Tensor) and weight.shape[2:] == (1, 1):
            state_dict[prefix + "weight"] = weight.flatten(1)  # load_state_dict works on a copy of the caller's dict
        super()._load_from_state_dict(state_dict, prefix, *args)


def options(module: nn.Module, *names: str) -> str:
    """The ``extra_repr`` of an operator: its options by name."""
    return ", ".join(f"{name}={getattr(module, name)!r}" for name in names)
