"""Models in both forms: the same function, the same state dict, and each form made of its own contractions alone."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from equiv import models
from equiv.ladder.draws import draw_weights
from equiv.models import LinformerVisionTransformer, SwinTransformer, VisionTransformer

VIT = {"image_size": (24, 32), "patch_size": 8, "dim": 12, "depth": 2, "heads": 3, "classes": 7}
SWIN = {"dim": 8, "depths": (2, 2), "heads": (2, 4), "window": 3, "classes": 7}
#: class, options, image
CASES: dict[str, tuple] = {
    "vit": (VisionTransformer, VIT, (24, 32)),
    "vit relative": (VisionTransformer, VIT | {"position": "relative"}, (24, 32)),
    "vit average": (VisionTransformer, VIT | {"pooling": "average", "activation": "layernorm_relu"}, (24, 32)),
    "vit linear": (VisionTransformer, VIT | {"attention": "linear", "position": "relative"}, (24, 32)),
    "vit linear none": (VisionTransformer, VIT | {"attention": "linear", "activation": "none"}, (24, 32)),
    "vit depthwise": (VisionTransformer, VIT | {"attention": "depthwise", "position": "relative"}, (24, 32)),
    "vit scaling": (VisionTransformer, VIT | {"activation": "scaling", "qkv_bias": False, "channels": 1}, (24, 32)),
    "linformer": (LinformerVisionTransformer, VIT | {"rank": 5}, (24, 32)),
    "linformer layerwise": (LinformerVisionTransformer, VIT | {"rank": 5, "sharing": "layerwise"}, (24, 32)),
    "swin": (SwinTransformer, SWIN, (35, 42)),
    "swin mask": (SwinTransformer, SWIN | {"mask_value": -100.0}, (35, 42)),
    "swin absolute": (SwinTransformer, SWIN | {"position": "absolute", "image_size": (34, 42)}, (34, 42)),
    "swin linear": (SwinTransformer, SWIN | {"attention": "linear", "masking": "einsum"}, (35, 42)),
    "swin layernorm": (SwinTransformer, SWIN | {"activation": "layernorm_relu"}, (35, 42)),
    "swin depthwise": (SwinTransformer, SWIN | {"attention": "depthwise", "bias_table": "channel"}, (35, 42)),
    "swin shifts": (SwinTransformer, SWIN | {"shifts": (2, 0), "patch_size": 2}, (22, 26)),
}
#: What may stand between contractions: views, copies, indices, elementwise functions, normalisation, means. Whatever is
#: not listed counts as a contraction, and so do sums, of products.
BETWEEN = re.compile(
    "_softmax|_to_copy|_unsafe_view|add|arange|as_strided_|bitwise_not|cat|clone|constant_pad_nd|div|eq|expand|ge|gelu|"
    "index|lift_fresh|masked_fill|mean|mul|native_layer_norm|ne|permute|pow|promote_types|relu|remainder|repeat|roll|"
    "rsqrt|select|slice|sort|split|sub|t|transpose|unbind|unsqueeze|view|where"
)


class Contractions(TorchDispatchMode):
    """Lists the operators that are not harmless, below autograd: whatever a module calls, it ends here."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if not BETWEEN.fullmatch(name):
            self.found.add(name)
        return function(*args, **(kwargs or {}))


def contractions(model, image):
    with torch.no_grad(), Contractions() as mode:
        model(image)
    return mode.found


def both(case, **more):
    """The two forms with the same drawn weights, float64, and an image."""
    family, options, size = CASES[case]
    one = family(form="matmul", dtype=torch.float64, **options).eval()
    other = family(form="conv", dtype=torch.float64, **options, **more).eval()
    draw_weights(one, torch.Generator().manual_seed(3))
    other.load_state_dict(one.state_dict())
    image = torch.randn(2, options.get("channels", 3), *size, dtype=torch.float64)
    return one, other, image


def unused(case, name):
    """The last block's bias table: the head reads the class token, which has no relative position."""
    _, options, _ = CASES[case]
    relative = options.get("position") == "relative" and options.get("pooling", "class_token") == "class_token"
    return relative and name == "blocks.1.attn.relative_position_bias_table"


@pytest.mark.parametrize("lowering", ["literal", "fused"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_of_both_forms_are_equal(case, lowering):
    one, other, image = both(case, lowering=lowering)
    want, got = one(image), other(image)
    assert want.shape == (2, 7)
    assert (got - want).abs().max() <= 1e-13 * want.abs().max()
    cotangent = torch.randn_like(want)
    gradients = [
        torch.autograd.grad((y * cotangent).sum(), tuple(m.parameters())) for y, m in ((want, one), (got, other))
    ]
    largest = max(gradient.abs().max() for gradient in gradients[0])
    for (name, _), theirs, ours in zip(one.named_parameters(), *gradients, strict=True):
        assert (theirs.abs().max() == 0) == unused(case, name), name
        assert (ours - theirs).abs().max() <= 1e-12 * largest, name


@pytest.mark.parametrize("case", CASES)
def test_the_conv_form_contracts_by_convolution_alone(case):
    one, other, image = both(case)
    assert contractions(other, image) == {"convolution"}
    products = contractions(one, image)
    assert "convolution" not in products
    assert products & {"mm", "addmm"}


def test_the_trace_sees_a_product_in_the_conv_form():
    _, other, image = both("vit")
    other.head = nn.Linear(12, 7, dtype=torch.float64)
    assert contractions(other, image) in ({"convolution", "mm"}, {"convolution", "addmm"})
    _, other, image = both("vit")
    other.norm.forward = lambda x: (x[..., None] * x[..., None, :]).sum(-1)
    assert contractions(other, image) == {"convolution", "sum"}
    _, other, image = both("vit", lowering="fused")
    assert len(contractions(other, image)) > 1


@pytest.mark.parametrize("case", CASES)
def test_a_changed_weight_changes_the_logits(case):
    """Else a comparison of the forms would be blind to it."""
    one, _, image = both(case)
    want = one(image)
    for name, parameter in one.named_parameters():
        changed = copy.deepcopy(one)
        with torch.no_grad():
            target = dict(changed.named_parameters())[name]
            target += 0.1 * torch.randn(parameter.shape, dtype=torch.float64)
        assert ((changed(image) - want).abs().max() > 1e-9) != unused(case, name), name


@pytest.mark.parametrize("case", CASES)
def test_copies_and_state_dicts(case):
    one, other, image = both(case)
    assert list(one.state_dict()) == list(other.state_dict())
    assert {n: p.shape for n, p in one.named_parameters()} == {n: p.shape for n, p in other.named_parameters()}
    assert torch.equal(copy.deepcopy(other)(image), other(image))
    stages = [dict(model.named_modules()) for model in (one, other)]
    for model, known in zip((one, other), stages, strict=True):
        assert list(model.residual_blocks()) == list(one.residual_blocks())
        assert all(known[name] is block for name, block in model.residual_blocks().items())


def test_layerwise_mixing_is_one_parameter():
    one, other, _ = both("linformer layerwise")
    for model in (one, other.to(torch.float32)):
        assert model.blocks[0].attn.mix_key is model.blocks[1].attn.mix_key


def test_images_are_independent():
    """Literal convolutions put images into groups: a wrong group would mix them."""
    for case in CASES:
        _, other, image = both(case)
        together, alone = other(image), torch.cat([other(one[None]) for one in image])
        assert (together - alone).abs().max() <= 1e-13 * together.abs().max(), case


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [
        (VisionTransformer, {"form": "convolution"}, "`form`='convolution', but should be one of 'matmul', 'conv'"),
        (VisionTransformer, {"lowering": "fused"}, "`lowering`='fused', but should be None with `form`='matmul'"),
        (VisionTransformer, {"form": "conv", "lowering": "fast"}, "`lowering`='fast', but should be one of"),
        (VisionTransformer, {"image_size": 30, "patch_size": 16}, "`patch_size`=16, but should be a divisor of"),
        (VisionTransformer, {"attention": "depthwise", "activation": "softmax"}, "should be None with `attention`"),
        (VisionTransformer, {"attention": "linear", "activation": "softmax"}, "`activation`='softmax', but should be"),
        (VisionTransformer, {"position": "none"}, "`position`='none', but should be one of 'absolute', 'relative'"),
        (VisionTransformer, {"depth": 0}, "`depth`=0, but should be an integer of at least 1"),
        (LinformerVisionTransformer, {"position": "relative"}, "`position`='relative', but should be 'absolute'"),
        (SwinTransformer, {"heads": (3, 6)}, "`heads`=(3, 6), but should be one number for each stage"),
        (SwinTransformer, {"shifts": (3,)}, "`shifts`=(3,), but should be one number for each stage"),
        (SwinTransformer, {"attention": "linear", "mask_value": -100.0}, "`mask_value`=-100.0, but should be -inf"),
        (SwinTransformer, {"bias_table": "channel"}, "`bias_table`='channel', but should be 'head' with `attention`"),
        (SwinTransformer, {"masking": "einsum"}, "`masking`='einsum', but should be 'elementwise' with `attention`"),
    ],
)
def test_wrong_options_are_refused(family, options, expected):
    with pytest.raises((TypeError, ValueError)) as caught:
        family(device="meta", **options)
    assert str(caught.value).startswith(expected) or expected in str(caught.value)


@pytest.mark.parametrize("form", ["matmul", "conv"])
def test_wrong_images_are_refused(form):
    model = models.create("deit_tiny", form=form, image_size=32)
    for image in (
        torch.zeros(3, 32, 32),
        torch.zeros(1, 1, 32, 32),
        torch.zeros(1, 3, 32, 48),
        torch.zeros(0, 3, 32, 32),
    ):
        with pytest.raises(ValueError, match="`x`=tensor of shape"):
            model(image)
    with pytest.raises(TypeError, match="dtype"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    with pytest.raises(TypeError, match="should be a tensor"):
        model([[1]])
    with pytest.raises(ValueError, match="at least"):
        models.create("swin_tiny", form=form)(torch.zeros(1, 3, 64, 64))


def test_create():
    assert isinstance(models.create("swin_tiny", device="meta"), SwinTransformer)
    with pytest.raises(
        ValueError, match=r"`name`='deit_smal', but should be deit_small .*\(nearest\) \[models.create\]"
    ):
        models.create("deit_smal")
    with pytest.raises(TypeError, match=r"`option`='activatoin', but should be activation"):
        models.create("deit_small", activatoin="softmax")
    made = models.create("linformer_vit_tiny", form="conv", rank=9, device="meta")
    assert made.blocks[0].attn.mix_key.shape == (9, 197)
    assert (
        models.create("deit_small", form="conv", activation="scaling_relu", device="meta").activation == "scaling_relu"
    )


@pytest.mark.parametrize("name", models.CONFIGS)
def test_every_named_model_can_be_made_in_both_forms(name):
    one, other = (models.create(name, form=form, device="meta") for form in ("matmul", "conv"))
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (one, other)]
    assert shapes[0] == shapes[1]
    assert any(parameter.requires_grad for parameter in one.parameters())
