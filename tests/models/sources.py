"""State dicts as other libraries have them, of models that are built here by those libraries.

The older names are written out from what those versions saved, so that they do not come from the tables under test.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from equiv import libraries
from equiv.ladder.draws import draw_weights
from equiv.libraries import LibraryModel

#: Small models, as `libraries.build` and as `models.create` want them.
SMALL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit_tiny": (
        {"dim": 24, "depths": (2,), "heads": (3,), "patch": 8, "classes": 5},
        {"dim": 24, "depth": 2, "heads": 3, "patch_size": 8, "classes": 5},
    ),
    # Maps of 8×8, where windows shift, and 4×4, where they do not.
    "swin_tiny": (
        {"dim": 12, "depths": (2, 2), "heads": (3, 6), "window": 4, "classes": 5},
        {"dim": 12, "depths": (2, 2), "heads": (3, 6), "window": 4, "classes": 5},
    ),
}


def built(library: str, name: str, *, seed: int = 0, **options: Any) -> LibraryModel:
    """A third-party model with drawn weights in float64, small unless told otherwise; a skip says why there is none."""
    try:
        model = libraries.build(library, name, **(options or {"image_size": 32, **SMALL[name][0]}))
    except libraries.Unavailable as error:
        pytest.skip(f"not compared with {library}: {error}")
    model = model.double()
    with torch.no_grad():
        draw_weights(model, torch.Generator().manual_seed(seed))
    return model


def renamed(state: dict[str, Any], *changes: tuple[str, str]) -> dict[str, Any]:
    """``state`` with regular expressions replaced in its names, one after the other; each must occur."""
    for before, after in changes:
        assert any(re.search(before, name) for name in state), before
        state = {re.sub(before, after, name): value for name, value in state.items()}
    return state


def transformers_4(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """The names of transformers 4, from those of 5."""
    if name.startswith("vit"):
        return renamed(
            state,
            (r"vit\.layers\.(\d+)\.attention\.q_proj", r"vit.encoder.layer.\1.attention.attention.query"),
            (r"vit\.layers\.(\d+)\.attention\.k_proj", r"vit.encoder.layer.\1.attention.attention.key"),
            (r"vit\.layers\.(\d+)\.attention\.v_proj", r"vit.encoder.layer.\1.attention.attention.value"),
            (r"vit\.layers\.(\d+)\.attention\.o_proj", r"vit.encoder.layer.\1.attention.output.dense"),
            (r"vit\.layers\.(\d+)\.mlp\.fc1", r"vit.encoder.layer.\1.intermediate.dense"),
            (r"vit\.layers\.(\d+)\.mlp\.fc2", r"vit.encoder.layer.\1.output.dense"),
            (r"vit\.layers\.", r"vit.encoder.layer."),
        )
    state = renamed(
        state,
        (r"attention\.q_proj", "attention.self.query"),
        (r"attention\.k_proj", "attention.self.key"),
        (r"attention\.v_proj", "attention.self.value"),
        (r"attention\.o_proj", "attention.output.dense"),
        (r"attention\.relative_position_bias\.", "attention.self."),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
    )
    return state | {
        name.replace("bias_table", "index"): index(4) for name in state if name.endswith("relative_position_bias_table")
    }


def official(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """The names of the authors' Swin checkpoints, from those of current timm, with the buffers in them."""
    assert name.startswith("swin")
    state = renamed(
        state,
        (r"layers\.1\.downsample\.", "layers.0.downsample."),
        (r"^head\.fc\.", "head."),
    )
    tables = [name for name in state if name.endswith("relative_position_bias_table")]
    mask = torch.zeros(4, 16, 16).index_fill_(2, torch.tensor([3]), -100.0)
    return (
        state
        | {name.replace("bias_table", "index"): index(4) for name in tables}
        | {"layers.0.blocks.1.attn_mask": mask}
    )


def index(window: int) -> torch.Tensor:
    """``relative_position_index`` as the Swin repository computes it, line by line."""
    coords = torch.stack(torch.meshgrid([torch.arange(window), torch.arange(window)], indexing="ij"))
    coords_flatten = torch.flatten(coords, 1)
    relative_coords = coords_flatten[:, :, None] - coords_flatten[:, None, :]
    relative_coords = relative_coords.permute(1, 2, 0).contiguous()
    relative_coords[:, :, 0] += window - 1
    relative_coords[:, :, 1] += window - 1
    relative_coords[:, :, 0] *= 2 * window - 1
    return relative_coords.sum(-1)


def older_torchvision(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """torchvision's ViT as its published weights were saved: the MLP's layers had names, not numbers."""
    assert name.startswith("vit")
    return renamed(state, (r"mlp\.0\.", "mlp.linear_1."), (r"mlp\.3\.", "mlp.linear_2."))


def same(name: str, state: dict[str, Any]) -> dict[str, Any]:
    return state


#: Layout, library, model, and the library's names as the layout has them.
SOURCES = [
    ("timm", "timm", "vit_tiny", same),
    ("timm", "timm", "swin_tiny", same),
    ("official", "timm", "swin_tiny", official),
    ("transformers-5", "transformers", "vit_tiny", same),
    ("transformers-5", "transformers", "swin_tiny", same),
    ("transformers-4", "transformers", "vit_tiny", transformers_4),
    ("transformers-4", "transformers", "swin_tiny", transformers_4),
    ("torchvision", "torchvision", "vit_tiny", same),
    ("torchvision", "torchvision", "vit_tiny", older_torchvision),
    ("torchvision", "torchvision", "swin_tiny", same),
]
