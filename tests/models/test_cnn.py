"""DW-Net and ResNets with D-Conv: both forms equal, and equal to torchvision and to networks written out here."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from equiv import libraries, models
from equiv.ladder.draws import draw_weights
from tests.refusals import refusal

CNNS = [name for name in models.CONFIGS if name.startswith(("dwnet", "dconv"))]
#: One small model of each kind: its class and options.
SMALL: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "homogeneous": (models.DWNet, {"dim": 8, "depths": (1, 2), "kernel_size": 3, "classes": 5}),
    "inhomogeneous": (
        models.DWNet,
        {"dim": 8, "depths": (1, 2), "variant": "inhomogeneous", "group_channels": (2, 8), "classes": 5},
    ),
    # reduction: with four hidden units or more, some of each routing are alive behind their ReLU
    "basic": (models.DConvResNet, {"depths": (1, 2), "width": 8, "reduction": 1, "temperature": 0.5, "classes": 5}),
    "bottleneck": (
        models.DConvResNet,
        {"depths": (1, 2), "width": 4, "block": "bottleneck", "kernels": 3}
        | {"reduction": 1, "temperature": 0.5, "classes": 5},
    ),
}
FORMS: dict[str, dict[str, Any]] = {
    "matmul": {"form": "matmul"},
    "literal": {"form": "conv"},
    "fused": {"form": "conv", "lowering": "fused"},
}


def drawn(model: nn.Module, seed: int = 0) -> Any:
    """The model in eval mode with general weights: no bias or running statistic is at its default."""
    with torch.no_grad():
        draw_weights(model, torch.Generator().manual_seed(seed))
    return model.eval()


def small(kind: str, form: str = "matmul", **options: Any) -> Any:
    family, given = SMALL[kind]
    return drawn(family(**FORMS[form], **given | options, dtype=torch.float64))


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def deviation(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the largest element, which may not be zero."""
    assert got.shape == expected.shape
    largest = expected.abs().max().item()
    assert largest > 0
    return (got - expected).abs().max().item() / largest


def step(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits, all gradients of one loss, and the buffers afterwards."""
    x = x.clone().requires_grad_()
    logits = model(x)
    (logits * images(*logits.shape, seed=2)).sum().backward()
    assert x.grad is not None
    found = {"logits": logits.detach(), "gradient of x": x.grad}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[f"gradient of {name}"] = parameter.grad
    return found | {name: buffer.double() for name, buffer in model.named_buffers()}


# Both forms


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("form", ["literal", "fused"])
@pytest.mark.parametrize("kind", SMALL)
def test_forms_are_equal(kind, form, training):
    x = images(3, 3, 37, 50)
    before = {name: buffer.double().clone() for name, buffer in small(kind).named_buffers()}
    theirs = step(small(kind).train(training), x)
    ours = step(small(kind, form).train(training), x)
    assert ours.keys() == theirs.keys()
    # A shift before a BatchNorm in training mode has no gradient but rounding: measure that by the others'.
    largest = max(tensor.abs().max() for name, tensor in theirs.items() if name.startswith("gradient"))
    for name, expected in theirs.items():
        if name.endswith("num_batches_tracked"):
            assert torch.equal(ours[name], expected)
            continue
        vanishes = training and name.startswith("gradient") and expected.abs().max() < 1e-10 * largest
        error = (ours[name] - expected).abs().max() / largest if vanishes else deviation(ours[name], expected)
        assert error <= 1e-12, name
    moved = {name for name in before if not torch.equal(before[name], ours[name])}
    assert moved == (set(before) if training else set())


@pytest.mark.parametrize("kind", SMALL)
def test_a_changed_weight_is_seen(kind):
    """What the test above compares is no constant: every single parameter matters to the logits."""
    x = images(3, 3, 37, 50)
    model = small(kind)
    before = model(x)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            saved = parameter.clone()
            parameter += 0.1 * images(*parameter.shape, seed=3)
            assert deviation(model(x), before) > 1e-9, name
            parameter.copy_(saved)


@pytest.mark.parametrize("kind", SMALL)
def test_state_dicts_are_exchanged(kind):
    x = images(2, 3, 33, 40)
    ours, theirs = small(kind, "literal"), drawn(small(kind), seed=9)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]
    assert deviation(ours(x), theirs(x)) > 0.01
    ours.load_state_dict(theirs.state_dict())
    assert deviation(ours(x), theirs(x)) <= 1e-12
    theirs.load_state_dict(drawn(ours, seed=10).state_dict())
    assert deviation(ours(x), theirs(x)) <= 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", SMALL)
def test_copies_are_independent(kind, form):
    x = images(2, 3, 33, 40)
    model = small(kind, form)
    twin = copy.deepcopy(model)
    expected = model(x)
    assert torch.equal(twin(x), expected)
    if isinstance(twin, models.DConvResNet):
        twin.temperature = 7.0
        assert model.temperature == 0.5
    drawn(twin, seed=4)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", CNNS)
def test_named_models_have_one_set_of_parameters(name):
    shapes = []
    for form in ("matmul", "conv"):
        model = models.create(name, form=form, device="meta")
        shapes.append([(key, tuple(tensor.shape)) for key, tensor in model.state_dict().items()])
    assert shapes[0] == shapes[1]


# The trace

PRODUCTS = re.compile(r"aten::(.*mm|addbmm|addmv|mv|dot|vdot|inner|tensordot|matmul|linear|einsum|.*attention.*)")
CONVOLUTIONS = re.compile(r"(aten|mkldnn)::.*conv.*")


class Trace(TorchDispatchMode):
    """Names of all ATen operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **kwargs or {})


def contractions(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """How many matrix products and how many convolutions the model runs."""
    with Trace() as trace:
        model(x)
    assert len(trace.names) > 50
    products, convolutions = (
        sum(bool(kind.fullmatch(name)) for name in trace.names) for kind in (PRODUCTS, CONVOLUTIONS)
    )
    return products, convolutions


@pytest.mark.parametrize("kind", SMALL)
def test_each_form_contracts_by_its_own_means(kind):
    x = images(2, 3, 37, 50)
    products, convolutions = contractions(small(kind), x)
    assert products > 5
    assert convolutions == 0
    products, convolutions = contractions(small(kind, "literal"), x)
    assert products == 0
    assert convolutions > 5


@pytest.mark.parametrize("name", CNNS)
def test_full_models_contract_by_their_own_means(name):
    x = torch.zeros(1, 3, 224, 224, device="meta")
    products, convolutions = contractions(models.create(name, device="meta").eval(), x)
    assert (products > 30, convolutions) == (True, 0)
    products, convolutions = contractions(models.create(name, "conv", device="meta").eval(), x)
    assert (products, convolutions > 30) == (0, True)


CONTRACTING = {"Linear", "TokenConv1x1", "Conv2d", "DynamicConv2d", "DynamicDepthwiseConv2d"}


def layers(model: nn.Module) -> list[str]:
    """The names of all static layers and dynamic operators, not of the layers inside of operators."""
    found: list[str] = []
    for name, module in model.named_modules():
        if type(module).__name__ in CONTRACTING and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


@pytest.mark.parametrize("kind", SMALL)
def test_one_foreign_layer_is_found(kind):
    """The check above can fail: any one layer, exchanged for the other form's, is seen, and changes no value."""
    x = images(2, 3, 16, 17)
    for form, foreign, wrong in (("literal", "matmul", 0), ("matmul", "literal", 1)):
        model, other = small(kind, form), small(kind, foreign)
        expected = model(x)
        assert len(layers(model)) > 6
        for name in layers(model):
            parent, _, last = name.rpartition(".")
            owner, own = model.get_submodule(parent), model.get_submodule(name)
            setattr(owner, last, other.get_submodule(name))
            assert contractions(model, x)[wrong] > 0, name
            assert deviation(model(x), expected) <= 1e-12
            setattr(owner, last, own)
        assert contractions(model, x)[wrong] == 0


# ResNet: torchvision's is the case in which all kernels of a bank are equal


@pytest.fixture(scope="module")
def torchvision() -> ModuleType:
    try:
        return libraries.load("torchvision")
    except libraries.Unavailable as error:
        pytest.skip(str(error))


def from_static(state: dict[str, torch.Tensor], model: nn.Module) -> None:
    """Load torchvision's weights: each kernel into all places of its bank, general weights in the routing."""
    own = drawn(model, seed=5).state_dict()
    for name, tensor in own.items():
        if not re.search(r"\.fc[12]\.", name):  # routing
            own[name] = state[name].expand_as(tensor)
    model.load_state_dict(own)


def static(torchvision: ModuleType, size: int, **options: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(torchvision.models, f"resnet{size}")(**options).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # its convolutions and head are general as they are
            drawn(module, seed=module.num_features)
    return model.eval()


@pytest.mark.parametrize("form", ["matmul", "literal"])
@pytest.mark.parametrize(("size", "kernels"), [(18, 4), (50, 1)])
def test_equal_kernels_give_torchvisions_resnet(torchvision, size, kernels, form):
    reference = static(torchvision, size)
    model = models.create(f"dconv_resnet{size}", kernels=kernels, temperature=1.0, dtype=torch.float64, **FORMS[form])
    from_static(reference.state_dict(), model.eval())
    x = images(1, 3, 224, 224)
    with torch.no_grad():
        assert deviation(model(x), reference(x)) <= 1e-11


def test_names_are_torchvisions(torchvision):
    for size in (18, 50):
        own = models.create(f"dconv_resnet{size}", device="meta").state_dict()
        theirs = static(torchvision, size).state_dict()
        routing = {name for name in own if re.search(r"\.fc[12]\.(weight|bias)$", name)}
        assert [name for name in own if name not in routing] == list(theirs)
        banks = {name for name in own if name.endswith(".weight") and own[name].dim() == 5}
        # All convolutions but the first are banks, and each bank has two routing layers with weight and bias.
        assert banks == {name for name, tensor in theirs.items() if tensor.dim() == 4} - {"conv1.weight"}
        assert routing == {name[:-6] + end for name in banks for end in ROUTING}
        for name in theirs.keys() - banks:
            assert own[name].shape == theirs[name].shape
        for name in banks:
            inputs = theirs[name].shape[1]
            assert own[name].shape == (4, *theirs[name].shape)
            assert own[name[:-6] + "fc1.weight"].shape == (inputs // 4, inputs)
            assert own[name[:-6] + "fc2.weight"].shape == (4, inputs // 4)


ROUTING = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


def test_training_equal_kernels_is_training_torchvisions_resnet(torchvision):
    reference = static(torchvision, 18, num_classes=7).train()
    model = models.create("dconv_resnet18", "conv", classes=7, temperature=1.0, dtype=torch.float64)
    from_static(reference.state_dict(), model)
    model.train()
    x = images(2, 3, 75, 90)
    theirs, ours = step(reference, x), step(model, x)
    for name, expected in theirs.items():
        got = ours[name]
        assert (got.dim() == 0) == name.endswith("num_batches_tracked")
        if got.dim() == 5:  # W = Σ π_m W_m and Σ π_m = 1, so that the kernels' gradients sum to the static one's
            got = got.sum(0)
        assert deviation(got, expected) <= 1e-10, name


# ResNet: what the equal kernels do not show, the mixing itself


def mixed(layer: Any, image: torch.Tensor, temperature: float) -> torch.Tensor:
    """D-Conv of one image ``(1, C, H, W)``: the kernels mixed by a loop."""
    state = layer.state_dict()
    hidden = (state["fc1.weight"] @ image[0].mean((1, 2)) + state["fc1.bias"]).clamp(min=0)
    weights = ((state["fc2.weight"] @ hidden + state["fc2.bias"]) / temperature).exp()
    kernel = sum(w * k for w, k in zip(weights / weights.sum(), state["weight"], strict=True))
    assert isinstance(kernel, torch.Tensor)
    return F.conv2d(image, kernel, stride=layer.stride, padding=kernel.shape[-1] // 2)


def normed(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """BatchNorm by its running statistics, written out."""
    state = {name: tensor[:, None, None] for name, tensor in layer.state_dict().items() if tensor.dim()}
    return (x - state["running_mean"]) / (state["running_var"] + 1e-5).sqrt() * state["weight"] + state["bias"]


def resnet(model: Any, image: torch.Tensor, temperature: float) -> torch.Tensor:
    """The logits of one image, by the model's weights alone."""
    x = F.conv2d(image, model.conv1.weight, stride=2, padding=3)
    x = F.max_pool2d(normed(model.bn1, x).clamp(min=0), 3, 2, 1)
    for stage in (model.layer1, model.layer2):
        for block in stage:
            u, last = x, 3 if hasattr(block, "conv3") else 2
            for number in range(1, last + 1):
                u = mixed(getattr(block, f"conv{number}"), u, temperature)
                u = normed(getattr(block, f"bn{number}"), u)
                u = u.clamp(min=0) if number < last else u
            if not isinstance(block.downsample, nn.Identity):
                x = normed(block.downsample[1], mixed(block.downsample[0], x, temperature))
            x = (x + u).clamp(min=0)
    return model.fc.weight @ x[0].mean((1, 2)) + model.fc.bias


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnet_mixes_kernels_for_each_image(kind, form):
    x = images(3, 3, 37, 50)
    model = small(kind, form)
    for temperature in (0.5, 3.0):
        model.temperature = temperature
        expected = torch.stack([resnet(model, image[None], temperature) for image in x])
        assert deviation(model(x), expected) <= 1e-12
        other = torch.stack([resnet(model, image[None], 1.1 * temperature) for image in x])
        assert deviation(model(x), other) > 1e-6


def test_temperature_is_that_of_all_layers():
    model: Any = models.create("dconv_resnet18", device="meta")
    assert model.temperature == 30
    layers = [module for module in model.modules() if type(module).__name__ == "DynamicConv2d"]
    assert len(layers) == 19  # 16 in blocks, 3 in shortcuts
    model.temperature = 1
    assert {layer.temperature for layer in layers} == {model.temperature} == {1}
    assert not any("temperature" in name for name in model.state_dict())
    layers[3].temperature = 2.0
    with pytest.raises(ValueError, match=re.escape("`temperature`=[1.0, 2.0], but should be the same in all layers")):
        _ = model.temperature
    for value in (0, -1.0, float("nan"), float("inf"), "1", True, None):
        refusal("temperature", "DConvResNet", setattr, model, "temperature", value)
    assert {layer.temperature for layer in layers} == {1, 2}


# DW-Net: a network written out from the description


def dwnet(model: Any, image: torch.Tensor) -> torch.Tensor:
    """The logits of one image ``(1, C, H, W)``, by the weights and the published names alone."""
    state = model.state_dict()

    def at(name: str) -> torch.Tensor:
        return state[name]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return normed(model.get_submodule(name), x)

    def layer_norm(name: str, x: torch.Tensor) -> torch.Tensor:  # over the channels of a map
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * at(f"{name}.weight")[:, None, None] + at(f"{name}.bias")[:, None, None]

    def pointwise(name: str, x: torch.Tensor) -> torch.Tensor:
        y = torch.einsum("oc,bchw->bohw", at(f"{name}.weight").flatten(1), x)
        return y + at(f"{name}.bias")[:, None, None] if f"{name}.bias" in state else y

    def generated(name: str, x: torch.Tensor) -> torch.Tensor:
        return pointwise(f"{name}.conv2", norm(f"{name}.bn", pointwise(f"{name}.conv1", x)).clamp(min=0))

    def dynamic(name: str, x: torch.Tensor) -> torch.Tensor:
        channels, size = x.shape[1], model.layers[0].blocks[0].attn2conv.conv.kernel_size
        radius = size // 2
        if model.variant == "homogeneous":
            kernel = generated(name, x.mean((2, 3), keepdim=True)).reshape(channels, 1, size, size)
            return F.conv2d(x, kernel, at(f"{name}.bias"), padding=radius, groups=channels)
        kernels = generated(name, x)[0].unflatten(0, (-1, size, size))  # (groups, K, K, H, W)
        shared = channels // len(kernels)
        padded, y = F.pad(x, (radius,) * 4)[0], torch.zeros_like(x)
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                patch = padded[:, row : row + size, column : column + size]
                own = kernels[:, :, :, row, column].repeat_interleave(shared, 0)
                y[0, :, row, column] = (own * patch).sum((1, 2))
        return y

    def even(x: torch.Tensor, step: int) -> torch.Tensor:
        wanted = torch.zeros(*x.shape[:2], *(-(-side // step) * step for side in x.shape[2:]), dtype=x.dtype)
        wanted[:, :, : x.shape[2], : x.shape[3]] = x
        return wanted

    x = F.conv2d(even(image, 4), at("patch_embed.proj.weight"), at("patch_embed.proj.bias"), stride=4)
    x = layer_norm("patch_embed.norm", x)
    for index, depth in enumerate((1, 2)):
        for number in range(depth):
            block = f"layers.{index}.blocks.{number}"
            unit = f"{block}.attn2conv"
            u = norm(f"{unit}.bn0", pointwise(f"{unit}.conv0", x)).clamp(min=0)
            u = norm(f"{unit}.bn", dynamic(f"{unit}.conv", u)).clamp(min=0)
            x = x + norm(f"{unit}.bn2", pointwise(f"{unit}.conv2", u))
            x = x + pointwise(f"{block}.mlp.fc2", F.gelu(pointwise(f"{block}.mlp.fc1", norm(f"{block}.bn", x))))
        if index == 0:
            x = even(x, 2)
            corners = [x[:, :, 0::2, 0::2], x[:, :, 1::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 1::2]]
            x = layer_norm("layers.0.downsample.norm", torch.cat(corners, 1))
            x = pointwise("layers.0.downsample.reduction", x)
    return pointwise("head", layer_norm("norm", x).mean((2, 3), keepdim=True)).flatten()


@pytest.mark.parametrize("size", [(37, 50), (32, 16), (1, 3)], ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["homogeneous", "inhomogeneous"])
def test_dwnet_is_the_network_written_out(kind, form, size):
    model, x = small(kind, form), images(3, 3, *size)
    expected = torch.stack([dwnet(model, image[None]) for image in x])
    assert deviation(model(x), expected) <= 1e-12


def test_dwnet_has_the_published_names():
    """Those of the reference's modules, written down from its source; the inhomogeneous generator's are ours."""
    unit = [f"{name}.{end}" for name in ("bn0", "bn", "bn2", "conv.bn") for end in ("weight", "bias")]
    unit += ["conv0.weight", "conv2.weight", "conv.conv1.weight", "conv.conv2.weight", "conv.conv2.bias", "conv.bias"]
    block = [f"attn2conv.{name}" for name in unit]
    block += [f"{name}.{end}" for name in ("mlp.fc1", "mlp.fc2", "bn") for end in ("weight", "bias")]
    expected = {f"{name}.{end}" for name in ("patch_embed.proj", "patch_embed.norm", "norm", "head") for end in WB}
    for stage, depth in enumerate((2, 2, 6, 2)):
        expected |= {f"layers.{stage}.blocks.{number}.{name}" for number in range(depth) for name in block}
        if stage < 3:
            expected |= {f"layers.{stage}.downsample.{n}" for n in ("reduction.weight", "norm.weight", "norm.bias")}
    names = {name for name, _ in models.create("dwnet_tiny", device="meta").named_parameters()}
    assert names == expected
    names = {name for name, _ in models.create("dwnet_tiny_inhomogeneous", device="meta").named_parameters()}
    assert names == {name for name in expected if not name.endswith("attn2conv.conv.bias")}


WB = ("weight", "bias")


@pytest.mark.parametrize("form", ["matmul", "literal"])
def test_dwnet_loads_the_published_layout(form):
    """There all 1×1 convolutions have kernels ``(C', C, 1, 1)``; two in each block are stored as matrices here."""
    model = small("homogeneous", form)
    state = {
        name: tensor[:, :, None, None]
        if re.search(r"attn2conv.*conv\d\.weight$", name) and tensor.dim() == 2
        else tensor
        for name, tensor in drawn(small("homogeneous"), seed=6).state_dict().items()
    }
    assert sum(tensor.dim() == 4 for tensor in state.values()) == 1 + 3 * 4
    x = images(2, 3, 20, 20)
    before = model(x)
    model.load_state_dict(state)
    assert deviation(model(x), before) > 0.01
    assert deviation(model(x), drawn(small("homogeneous"), seed=6)(x)) <= 1e-12


def published(dim: int, depths: tuple[int, ...], group_channels: tuple[int, ...] | None) -> int:
    """Parameters of the reference, added up layer by layer from its source."""
    total = 48 * dim + dim + 2 * dim  # patch embedding and its norm
    for stage, depth in enumerate(depths):
        c = dim << stage
        block = 2 * c * c + 3 * 2 * c + 2 * c + 8 * c * c + 5 * c  # 1×1 and three BN, BN of the MLP, MLP
        block += c * c // 4 + 2 * (c // 4)  # the generator: 1×1 without bias, BN
        outputs = 49 * (c if group_channels is None else c // group_channels[stage])
        block += outputs * (c // 4 + 1) + c * (group_channels is None)  # 1×1, bias of the homogeneous convolution
        total += depth * block + (8 * c * c + 8 * c) * (stage < 3)  # merging
    return total + 2 * 8 * dim + 8 * dim * 1000 + 1000


@pytest.mark.parametrize(
    ("name", "sizes", "millions"),
    [  # millions: of the reference's README, which has the homogeneous ones only
        ("dwnet_tiny", (96, (2, 2, 6, 2), None), 51),
        ("dwnet_base", (128, (2, 2, 18, 2), None), 162),
        ("dwnet_tiny_inhomogeneous", (96, (2, 2, 6, 2), (3, 6, 12, 24)), None),
        ("dwnet_base_inhomogeneous", (128, (2, 2, 18, 2), (4, 8, 16, 32)), None),
    ],
)
def test_dwnet_has_the_published_number_of_parameters(name, sizes, millions):
    count = sum(parameter.numel() for parameter in models.create(name, device="meta").parameters())
    assert count == published(*sizes)
    assert millions is None or round(count / 1e6) == millions
    state = models.create(name, device="meta").state_dict()
    groups = {len(tensor) // 49 for name, tensor in state.items() if name.endswith("attn2conv.conv.conv2.weight")}
    assert (groups == {32}) == ("inhomogeneous" in name)


def test_dwnet_tiny_has_the_published_flops():
    counting = pytest.importorskip("equiv.counting")
    pytest.importorskip("fvcore", reason=counting.INSTALL)
    flops = counting.count(models.create("dwnet_tiny", "conv"), torch.zeros(1, 3, 224, 224)).flops
    assert round(flops / 1e9, 1) == 3.8  # the reference's README


# Sizes, initial values, refusals


@pytest.mark.parametrize("kind", SMALL)
def test_images_are_judged_one_by_one(kind):
    model, x = small(kind, "literal"), images(3, 3, 21, 34)
    assert deviation(model(x), torch.cat([model(image[None]) for image in x])) <= 1e-12
    assert torch.equal(
        model(x), model.get_submodule("head" if "ous" in kind else "fc")(model.features(x)[:, None])[:, 0]
    )


def test_initial_values_of_dwnet_are_those_of_the_reference():
    torch.manual_seed(0)
    model: Any = models.create("dwnet_tiny")
    unit = model.layers[3].blocks[0].attn2conv
    for linear in (model.head, model.layers[2].downsample.reduction, model.layers[3].blocks[0].mlp.fc1):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert linear.bias is None or linear.bias.abs().max() == 0
    for weight in (unit.conv0.weight, unit.conv.conv1.weight, unit.conv.conv2.weight):  # uniform in ±1/√fan-in
        bound = weight.shape[1] ** -0.5
        assert 0.99 * bound < weight.abs().max() <= bound
    assert unit.conv.bias.abs().max() == 0


def test_initial_values_of_banks_are_torchvisions_for_each_kernel():
    torch.manual_seed(0)
    model: Any = models.create("dconv_resnet18", "conv")
    for weight in (model.conv1.weight[None], model.layer3[0].conv1.weight, model.layer4[0].downsample[0].weight):
        expected = (2 / (weight.shape[1] * weight[0, 0, 0].numel())) ** 0.5  # fan-out
        for kernel in weight:
            assert kernel.std().item() == pytest.approx(expected, rel=0.03)
        assert len({kernel[0, 0, 0, 0].item() for kernel in weight}) == len(weight)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("both", {"form": "einsum"}, "form"),
    ("both", {"lowering": "literal"}, "lowering"),
    ("both", {"form": "conv", "lowering": "slow"}, "lowering"),
    ("both", {"channels": 0}, "channels"),
    ("both", {"classes": 0}, "classes"),
    ("both", {"classes": 2.0}, "classes"),
    ("both", {"depths": ()}, "depths"),
    ("both", {"depths": (1, 0)}, "depths"),
    ("both", {"reduction": 0}, "reduction"),
    ("both", {"dtype": torch.int64}, "dtype"),
    ("dwnet", {"dim": 0}, "dim"),
    ("dwnet", {"patch_size": 0}, "patch_size"),
    ("dwnet", {"kernel_size": 4}, "kernel_size"),
    ("dwnet", {"variant": "static"}, "variant"),
    ("dwnet", {"mlp_ratio": -1}, "mlp_ratio"),
    ("dwnet", {"group_channels": (2, 2)}, "group_channels"),
    ("dwnet", {"variant": "inhomogeneous", "group_channels": (2,)}, "group_channels"),
    ("resnet", {"block": "wide"}, "block"),
    ("resnet", {"width": 0}, "width"),
    ("resnet", {"kernels": 0}, "kernels"),
    ("resnet", {"temperature": 0}, "temperature"),
    ("resnet", {"temperature": "1"}, "temperature"),
]


@pytest.mark.parametrize(("which", "options", "name"), BAD, ids=str)
def test_bad_arguments(which, options, name):
    families = {"dwnet": ("homogeneous",), "resnet": ("basic",), "both": ("homogeneous", "basic")}[which]
    for kind in families:
        family, given = SMALL[kind]
        family(**given)
        refusal(name, family.__name__, family, **given | options)


def test_group_channels_must_divide():
    refusal("group_channels", "DynamicDepthwiseConv2d", small, "inhomogeneous", group_channels=(3, 4))


def in_training(model: nn.Module) -> Callable[..., torch.Tensor]:
    return model.train()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", SMALL)
def test_bad_images(kind, form):
    model = small(kind, form)
    call = type(model).__name__
    for x in (images(2, 4, 32, 32), images(3, 32, 32), images(0, 3, 32, 32), images(2, 3, 0, 32)):
        refusal("x", call, model, x)
    for wrong in (images(2, 3, 32, 32).float(), torch.zeros(2, 3, 32, 32, dtype=torch.int64), [1.0]):
        refusal("x", call, model, wrong)
    # BatchNorm of the last map: 8×8 pixels are one location of it, 8×9 are two.
    refusal("x", call, in_training(model), images(1, 3, 8, 8))
    assert model(images(2, 3, 8, 8)).shape == (2, 5)
    if kind != "homogeneous":
        assert model(images(1, 3, 8, 9)).shape == (1, 5)
    else:  # its generator sees the mean of the map
        refusal("x", "DynamicDepthwiseConv2d", model, images(1, 3, 8, 9))


def test_unknown_options_are_refused_by_name():
    with pytest.raises(TypeError, match=re.escape("but should be kernel_size (nearest)")):
        models.create("dwnet_tiny", kernelsize=3)
    with pytest.raises(ValueError, match=re.escape("dconv_resnet18 or dconv_resnet50 (nearest)")):
        models.create("dconvresnet18")


@pytest.mark.parametrize("name", ["dwnet_tiny", "dwnet_tiny_inhomogeneous", "dconv_resnet18"])
def test_gradients_on_one_image(name):
    """On a transposed view of one image's tokens, PyTorch's CPU backward of BatchNorm is silently wrong (2.13)."""
    torch.manual_seed(0)
    one, other = (models.create(name, form=form, classes=5, dtype=torch.float64).eval() for form in ("matmul", "conv"))
    other.load_state_dict(one.state_dict())
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    cotangent = torch.randn(1, 5, dtype=torch.float64)
    want, got = (
        torch.autograd.grad((model(image) * cotangent).sum(), tuple(model.parameters())) for model in (one, other)
    )
    largest = max(gradient.abs().max() for gradient in want)
    for (parameter, _), theirs, ours in zip(one.named_parameters(), want, got, strict=True):
        assert (ours - theirs).abs().max() <= 1e-11 * largest, parameter
