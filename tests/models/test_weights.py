"""equiv.models.weights: state dicts of every layout land where they must, and what does not fit is refused whole."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from equiv import models
from equiv.models import weights
from equiv.models.layouts import LAYOUTS, detect, strip
from tests.models.sources import SMALL, SOURCES, built, index, older_torchvision, transformers_4

IDS = [f"{layout}-{name}-{rename.__name__}" for layout, _, name, rename in SOURCES]
sources = pytest.mark.parametrize(("layout", "library", "name", "rename"), SOURCES, ids=IDS)


def ours(name: str, form: str = "matmul", **options) -> nn.Module:
    options = {"image_size": 32, "dtype": torch.float64, **SMALL[name][1], **options}
    if name.startswith("swin"):
        options["mask_value"] = -100.0
    return models.create(name, form=form, **options)


def picture() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def assert_near(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    assert expected.abs().max() > 0
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Every layout


@pytest.mark.parametrize("form", ["matmul", "conv"])
@sources
def test_with_their_weights_our_model_is_theirs(layout, library, name, rename, form):
    theirs, model = built(library, name), ours(name, form)
    state = rename(name, theirs.model.state_dict())
    assert weights.layout(state) == layout
    report = weights.load(model, state)
    assert report.layout == layout
    assert report.tensors == len(model.state_dict())
    assert report.kept == report.cast == ()
    constants = {key for key in state if key.endswith(("relative_position_index", "attn_mask"))}
    assert set(report.dropped) == constants
    with torch.no_grad():
        assert_near(model(picture()), theirs(picture()), 1e-11)


@sources
def test_gradients_convert_as_weights_do(layout, library, name, rename):
    theirs, model = built(library, name), ours(name)
    weights.load(model, rename(name, theirs.model.state_dict()))
    target = torch.tensor([1, 4])
    for module in (theirs, model):
        nn.functional.cross_entropy(module(picture()), target).backward()
    grads = {key: parameter.grad for key, parameter in theirs.model.named_parameters()}
    converted = weights.convert(rename(name, grads))
    assert set(converted) == {key for key, _ in model.named_parameters()}
    # A bias of keys moves all logits of a query alike, so its gradient is nothing but rounding.
    largest = max(float(grad.abs().max()) for grad in converted.values())
    for key, parameter in model.named_parameters():
        assert (converted[key] - parameter.grad).abs().max() <= 1e-10 * largest, key


@sources
def test_converting_is_linear_and_loses_nothing(layout, library, name, rename):
    first, second = (rename(name, built(library, name, seed=seed).model.state_dict()) for seed in (1, 2))
    constants = {key for key in first if key.endswith(("relative_position_index", "attn_mask"))}
    mixed = {key: 2 * first[key] - 3 * second[key] for key in first if key not in constants}
    a, b, c = weights.convert(first), weights.convert(second), weights.convert(mixed)
    assert set(a) == set(b) == set(c)
    assert all(torch.equal(c[key], 2 * a[key] - 3 * b[key]) for key in c)
    assert sum(tensor.numel() for tensor in c.values()) == sum(tensor.numel() for tensor in mixed.values())


@sources
def test_their_name_of_ours_is_found_back(layout, library, name, rename):
    state = rename(name, built(library, name).model.state_dict())
    found = detect(state)
    for key in state:
        if not key.endswith(("relative_position_index", "attn_mask")) and "linear_" not in key:
            target = found.ours(key)
            assert target is not None
            assert key.removeprefix(found.prefix) in found.theirs(target[0])


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_what_transformers_saves_is_loaded(name, tmp_path):
    """``save_pretrained`` writes by transformers' own table from new names to those that it saves."""
    theirs, model = built("transformers", name), ours(name)
    saving: Any = theirs.model
    saving.save_pretrained(tmp_path)
    report = weights.load(model, tmp_path / "model.safetensors")
    assert report.layout == "transformers-4"  # as 5.23 does, so that older versions can read it
    with torch.no_grad():
        assert_near(model(picture()), theirs(picture()), 1e-11)


@pytest.mark.parametrize(("library", "rename"), [("transformers", None), ("transformers", transformers_4)])
@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_a_backbone_without_its_classifier(name, library, rename):
    theirs, model = built(library, name), ours(name)
    state = theirs.model.state_dict() if rename is None else rename(name, theirs.model.state_dict())
    bare = {key.partition(".")[2]: value for key, value in state.items() if not key.startswith("classifier")}
    head = "head." if name.startswith("vit") else "head.fc."
    with pytest.raises(weights.WeightsError, match="Only the classifier does not fit: `head=False`") as error:
        weights.load(model, bare)
    assert error.value.missing == {f"{head}weight": ["classifier.weight"], f"{head}bias": ["classifier.bias"]}
    with torch.no_grad():
        features = weights.load(model, bare, head=False)
        assert features.kept == (f"{head}weight", f"{head}bias")
        for leaf in ("weight", "bias"):
            model.get_parameter(head + leaf).copy_(state[f"classifier.{leaf}"])
        assert_near(model(picture()), theirs(picture()), 1e-11)


def test_full_size():
    theirs, model = built("transformers", "vit_small", image_size=224), models.create("vit_small", dtype=torch.float64)
    assert weights.load(model, theirs.model.state_dict()).tensors == 152
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert_near(model(x), theirs(x), 1e-11)


@pytest.mark.parametrize("name", ["deit_small_rel_scaling", "swin_tiny_depthwise", "linformer_vit_tiny"])
def test_models_of_our_own_load_their_own(name):
    if name not in models.CONFIGS:
        name = next(other for other in models.CONFIGS if "depthwise" in other and other.startswith("swin_tiny"))
    source, model = models.create(name, form="conv"), models.create(name)
    report = weights.load(model, source.state_dict())
    assert (report.tensors, report.dropped) == (len(source.state_dict()), ())
    assert unchanged(model, source.state_dict())


def test_names_that_no_library_has():
    source, model = nn.Linear(3, 2), nn.Linear(3, 2)
    assert weights.load(model, source.state_dict()).layout == "equiv"
    assert unchanged(model, source.state_dict())


# Around the weights


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_ema"])
def test_wrappers_and_prefixes_come_off(prefix, wrapper):
    source, model = ours("vit_tiny"), ours("vit_tiny")
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    assert weights.layout(state) == "timm"
    report = weights.load(model, state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer": {}})
    assert report.dropped == (() if wrapper is None else ("epoch", "optimizer"))
    assert unchanged(model, source.state_dict())


def test_a_prefix_of_some_names_stays():
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert strip(state) == state


def test_two_sets_of_weights_are_ambiguous():
    model = ours("vit_tiny")
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"one set of weights, but has state_dict and state_dict_ema: pass source\["):
        weights.load(model, {"state_dict": state, "state_dict_ema": state})


# What does not fit


@sources
def test_all_that_does_not_fit_is_named_and_nothing_loaded(layout, library, name, rename):
    model = ours(name)
    state = rename(name, built(library, name).model.state_dict())
    before = snapshot(model)
    proj = next(key for key in state if weights.convert(state)["patch_embed.proj.bias"] is state[key])
    fc2 = next(key for key in state if weights.convert(state)[_second(name)] is state[key])
    del state[proj]
    state[fc2] = torch.ones(7)
    state["surplus.weight"] = torch.ones(1)
    with pytest.raises(weights.WeightsError) as error:
        weights.load(model, state)
    prefix = detect(state).prefix
    assert error.value.missing == {"patch_embed.proj.bias": [proj.removeprefix(prefix)]}
    assert error.value.unexpected == ["surplus.weight"]
    assert set(error.value.mismatched) == {_second(name)}
    text = str(error.value)
    assert "missing: patch_embed.proj.bias" in text
    assert "unexpected: surplus.weight" in text
    assert f"mismatched: {_second(name)}" in text
    for theirs in (proj.removeprefix(prefix), fc2):
        assert theirs in text
    assert "shape (7,), but should be (" in text
    assert re.fullmatch(r"`source`=.*, but should be .*nothing was loaded:\n.*\[models\.weights\.load\]", text, re.S)
    assert unchanged(model, before)


def _second(name: str) -> str:
    return ("blocks" if name.startswith("vit") else "layers.1.blocks") + ".1.mlp.fc2.bias"


@pytest.mark.parametrize("rename", [lambda name, state: state, transformers_4], ids=["5", "4"])
@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_queries_keys_and_values_belong_together(name, rename):
    model, state = ours(name), rename(name, built("transformers", name).model.state_dict())
    before = snapshot(model)
    key = next(key for key in state if re.search(r"1\.attention\..*k(_proj|ey)\.bias", key))
    value = key.replace("k_proj", "v_proj").replace("key", "value")
    qkv = next(ours for ours in model.state_dict() if re.search(r"1\.attn\.qkv\.bias", ours))

    without = {name: tensor for name, tensor in state.items() if name != key}
    with pytest.raises(weights.WeightsError) as error:
        weights.load(model, without)
    assert error.value.missing == {qkv: [key.partition(".")[2]]}
    assert error.value.unexpected == []
    with pytest.raises(weights.LayoutError, match=re.escape(f"{key.partition('.')[2]}: missing beside")):
        weights.convert(without)

    # Of the right size together, but each of a wrong one.
    torn = state | {key: state[key][:-3], value: torch.cat((state[value], state[value][:3]))}
    with pytest.raises(weights.WeightsError) as error:
        weights.load(model, torn)
    assert set(error.value.mismatched) == {qkv}
    with pytest.raises(weights.LayoutError, match="of different shapes"):
        weights.convert(torn)
    assert unchanged(model, before)


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_a_classifier_of_another_size_needs_a_word(name):
    model, state = ours(name, classes=9), built("timm", name).model.state_dict()
    head = "head" if name.startswith("vit") else "head.fc"
    before = snapshot(model)
    with pytest.raises(weights.WeightsError, match="Only the classifier does not fit: `head=False`") as error:
        weights.load(model, state)
    assert set(error.value.mismatched) == {f"{head}.weight", f"{head}.bias"}
    assert unchanged(model, before)
    report = weights.load(model, state, head=False)
    assert set(report.dropped) == set(report.kept) == {f"{head}.weight", f"{head}.bias"}
    after = model.state_dict()
    assert torch.equal(after[f"{head}.weight"], before[f"{head}.weight"])
    assert torch.equal(after["norm.bias"], state["norm.bias"])
    with pytest.raises(TypeError, match=r"`head`=None, but should be True or False"):
        weights.load(model, state, head=None)


def test_poolers_go_with_the_classifier_only():
    model, state = ours("vit_tiny"), built("transformers", "vit_tiny").model.state_dict()
    state |= {"vit.pooler.dense.weight": torch.ones(24, 24), "vit.pooler.dense.bias": torch.ones(24)}
    with pytest.raises(weights.WeightsError) as error:
        weights.load(model, state)
    assert error.value.unexpected == ["vit.pooler.dense.weight", "vit.pooler.dense.bias"]
    report = weights.load(model, state, head=False)
    assert set(report.dropped) == {key for key in state if "pooler" in key or "classifier" in key}


def test_a_distilled_deit_is_refused():
    model, state = ours("vit_tiny"), built("timm", "vit_tiny").model.state_dict()
    state |= {"dist_token": torch.ones(1, 1, 24), "pos_embed": torch.ones(1, 18, 24)}
    with pytest.raises(weights.WeightsError, match="a distilled DeiT, which has a second token"):
        weights.load(model, state, head=False)


def test_one_tensor_under_two_names():
    state = built("torchvision", "vit_tiny").model.state_dict()
    both = state | older_torchvision("vit", state)
    with pytest.raises(weights.WeightsError, match=r"mlp\.linear_1\.weight.*a second tensor for that of .*mlp\.0\.w"):
        weights.load(ours("vit_tiny"), both)
    with pytest.raises(weights.LayoutError, match="two names for one tensor"):
        weights.convert(both)


def test_names_of_two_layouts_are_ambiguous():
    state = built("timm", "vit_tiny").model.state_dict() | built("transformers", "vit_tiny").model.state_dict()
    for function in (weights.layout, weights.convert):
        with pytest.raises(weights.LayoutError, match="these fit timm and transformers-5 of"):
            function(state)


@pytest.mark.parametrize("state", [{}, {"conv1.weight": torch.ones(1)}], ids=["empty", "other"])
def test_unknown_names_list_what_was_looked_for(state):
    for function in (weights.layout, weights.convert, lambda state: weights.load(ours("vit_tiny"), state)):
        with pytest.raises(weights.LayoutError, match="these fit none of") as error:
            function(state)
        for one in LAYOUTS:
            assert one.name in str(error.value) or one.name == "official"
            assert one.marker in str(error.value)


def test_a_name_that_the_layout_lacks_is_not_converted():
    state = built("transformers", "vit_tiny").model.state_dict()
    with pytest.raises(weights.LayoutError, match=r"vit\.embeddings\.mask_token: no such name in this layout"):
        weights.convert(state | {"vit.embeddings.mask_token": torch.ones(1, 1, 24)})


# Values


@pytest.mark.parametrize("name", ["relative_position_index", "attn_mask"])
def test_a_constant_that_is_another_is_refused(name):
    _, _, model, rename = SOURCES[2]
    state = rename(model, built("timm", model).model.state_dict())
    name = next(key for key in state if key.endswith(name))
    state[name] = state[name].clone()
    state[name].view(-1)[5] += 1
    with pytest.raises(weights.WeightsError) as error:
        weights.load(ours(model), state)
    assert set(error.value.mismatched) == {name}
    flat = index(4).flatten()
    odd = {name: flat[:-1]}
    with pytest.raises(weights.WeightsError, match="another order of relative positions"):
        weights.load(ours(model), state | {"layers.1.blocks.0.attn.relative_position_index": odd[name]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_rounded_to_the_dtype_of_the_model(dtype):
    source = built("timm", "vit_tiny").model
    model = ours("vit_tiny", dtype=dtype)
    report = weights.load(model, source.state_dict())
    assert report.cast == (f"float64 -> {str(dtype).removeprefix('torch.')}",)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype is dtype
        assert torch.equal(tensor, source.state_dict()[name].to(dtype)), name
    assert weights.load(source, model.state_dict()).cast == (f"{str(dtype).removeprefix('torch.')} -> float64",)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (torch.full((24,), 1e6), "24 of 24 values too large for torch.float16"),
        (torch.ones(24, dtype=torch.int8), "torch.int8, but should be of a kind with torch.float16"),
        (torch.ones(24, dtype=torch.complex64), "torch.complex64, but should be of a kind"),
        (torch.ones(24, device="meta"), "not an ordinary dense tensor with values"),
        (torch.ones(24).to_sparse(), "not an ordinary dense tensor with values"),
        (torch.tensor(1.0), r"shape \(\), but should be \(24,\)"),
    ],
    ids=["large", "int8", "complex", "meta", "sparse", "scalar"],
)
def test_values_that_the_model_cannot_hold(bad, reason):
    model = ours("vit_tiny", dtype=torch.float16)
    before = snapshot(model)
    with pytest.raises(weights.WeightsError, match=f"mismatched: norm.bias: {reason}"):
        weights.load(model, model.state_dict() | {"norm.bias": bad})
    assert unchanged(model, before)


def test_a_model_without_storage_is_refused():
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="`model`='a model on the meta device', but should be one with storage"):
        weights.load(model, nn.Linear(3, 2).state_dict())


@pytest.mark.parametrize("source", [None, 3, [torch.ones(1)], {1: torch.ones(1)}])
def test_sources_of_another_kind(source):
    with pytest.raises(TypeError, match=r"^`source`=.*, but should be a .* \[models\.weights\.load\]$"):
        weights.load(nn.Linear(3, 2), source)
