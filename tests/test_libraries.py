"""equiv.libraries: three libraries build one function, at the published sizes, or say why they do not."""

import importlib.util
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from equiv import libraries
from equiv.ladder.draws import draw_weights
from equiv.libraries import LIBRARIES, SIZES, Unavailable, build
from equiv.models import weights

VIT: dict[str, Any] = {"dim": 24, "depths": (2,), "heads": (3,), "patch": 8, "classes": 5}
SWIN: dict[str, Any] = {"dim": 12, "depths": (2, 2, 1), "heads": (3, 6, 6), "window": 4, "classes": 5}


def model(library: str, name: str, **options) -> libraries.LibraryModel:
    try:
        return build(library, name, **options)
    except Unavailable as error:
        pytest.skip(f"not compared with {library}: {error}")


def same_weights(name: str, **options) -> dict[str, libraries.LibraryModel]:
    """The model in every library, with the same drawn weights, in float64."""
    found = {library: model(library, name, **options).double() for library in LIBRARIES}
    with torch.no_grad():
        draw_weights(found["timm"], torch.Generator().manual_seed(0))
    drawn = found["timm"].model.state_dict()
    for one in found.values():
        names = {key: key for key in one.model.state_dict()}
        if one.library != "timm":
            plan = weights.Plan.of(names, weights.detect(names))
            for ours, parts in plan.sources.items():
                pieces = drawn[ours].chunk(len(parts))
                for part, key in parts.items():
                    one.model.get_parameter(key).data.copy_(pieces[part or 0])
    return found


def image(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def near(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-12) -> bool:
    assert got.shape == expected.shape
    return bool((got - expected).abs().max() <= tolerance * expected.abs().max())


# One function


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("name", "sizes", "shape"),
    [
        ("vit_tiny", VIT, (2, 17, 24)),
        ("deit_tiny", VIT, (2, 17, 24)),
        ("swin_tiny", SWIN, (2, 12, 16, 16)),
    ],
)
def test_the_libraries_agree(name, sizes, shape, training):
    side = 64 if name.startswith("swin") else 32
    found = same_weights(name, image_size=side, **sizes)
    x, traces = image(side, side), {}
    with torch.no_grad():
        for library, one in found.items():
            traces[library] = one.train(training).trace(x)
            assert torch.equal(one(x), traces[library][0])  # no dropout
            assert not any(block._forward_hooks for _, block in one.blocks())
    logits, blocks = traces["timm"]
    assert logits.shape == (2, 5)
    assert next(iter(blocks.values())).shape == shape
    assert len(blocks) == sum(sizes["depths"])
    for library in LIBRARIES:
        assert near(traces[library][0], logits), library
        assert list(traces[library][1]) == list(blocks)
        for block, output in blocks.items():
            assert near(traces[library][1][block], output), (library, block)
    # Would a difference have been seen? Attention matters, and blocks differ from each other.
    outputs = list(blocks.values())
    assert not near(outputs[0], outputs[1], 0.1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize(("name", "sizes"), [("vit_tiny", VIT), ("swin_tiny", SWIN)])
def test_lower_precisions_run_and_stay_near(name, sizes, dtype, tolerance):
    """transformers runs its eager attention there; how near exactly is for `equiv verify` to judge."""
    found = same_weights(name, image_size=64, **sizes)
    x = image(64, 64)
    with torch.no_grad():
        expected = found["timm"](x)
        for library, one in found.items():
            got = one.to(dtype)(x.to(dtype))
            assert got.dtype is dtype
            assert near(got.double(), expected, tolerance), library


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("name", "eps"), [("vit_tiny", 1e-6), ("swin_tiny", 1e-5)])
def test_every_eps_is_ours(name, eps, library):
    sizes = VIT if name == "vit_tiny" else SWIN
    norms = [m for m in model(library, name, image_size=64, **sizes).modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == (5 if name == "vit_tiny" else 2 * 5 + 1 + 2 + 1)
    assert {norm.eps for norm in norms} == {eps}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_blocks_are_modules_whose_outputs_read_tells(name, library):
    one = model(library, name, image_size=64, **(VIT if name == "vit_tiny" else SWIN))
    modules = {id(module) for module in one.modules()}
    assert all(id(block) in modules for _, block in one.blocks())
    names = [name for name, _ in one.blocks()]
    stages = [f"layers.{s}.blocks.{n}" for s, depth in enumerate(SWIN["depths"]) for n in range(depth)]
    assert names == (["blocks.0", "blocks.1"] if name == "vit_tiny" else stages)


def test_maps_that_are_not_square():
    """48×80 gives maps of 12×20, 6×10 and 3×5: whole windows of 2 (or 3×5, padded) in two stages."""
    sizes = SWIN | {"window": 2, "depths": (2, 2), "heads": (3, 6)}
    found = same_weights("swin_tiny", image_size=(48, 80), **sizes)
    x = image(48, 80)
    with torch.no_grad():
        logits, blocks = found["timm"].trace(x)
        assert [tuple(output.shape[2:]) for output in blocks.values()] == [(12, 20)] * 2 + [(6, 10)] * 2
        for library in ("transformers", "torchvision"):
            other, outputs = found[library].trace(x)
            assert near(other, logits), library
            assert all(near(outputs[block], blocks[block]) for block in blocks), library


def test_known_difference_timm_shifts_before_it_pads():
    """28×36 gives maps of 7×9, which windows of 4 do not tile: shifted blocks differ, the others do not."""
    found = same_weights("swin_tiny", image_size=(28, 36), **(SWIN | {"depths": (2,), "heads": (3,)}))
    x = image(28, 36)
    with torch.no_grad():
        traces = {library: one.trace(x)[1] for library, one in found.items()}
    for block, equal in (("layers.0.blocks.0", True), ("layers.0.blocks.1", False)):
        assert near(traces["transformers"][block], traces["torchvision"][block])
        assert near(traces["timm"][block], traces["torchvision"][block]) is equal


def test_known_difference_transformers_shifts_both_axes_or_none():
    """16×32 gives maps of 4×8, one window high and two wide: timm and torchvision shift along the width."""
    found = same_weights("swin_tiny", image_size=(16, 32), **(SWIN | {"depths": (2,), "heads": (3,)}))
    x = image(16, 32)
    with torch.no_grad():
        traces = {library: one.trace(x)[1] for library, one in found.items()}
    for block, equal in (("layers.0.blocks.0", True), ("layers.0.blocks.1", False)):
        assert near(traces["timm"][block], traces["torchvision"][block])
        assert near(traces["transformers"][block], traces["torchvision"][block]) is equal


# At the published sizes

#: What the libraries call them; `None`: not there under a name.
PUBLISHED = {
    "vit_tiny": ("vit_tiny_patch16_224", None),
    "vit_small": ("vit_small_patch16_224", None),
    "vit_base": ("vit_base_patch16_224", "vit_b_16"),
    "vit_large": ("vit_large_patch16_224", "vit_l_16"),
    "deit_tiny": ("deit_tiny_patch16_224", None),
    "deit_small": ("deit_small_patch16_224", None),
    "deit_base": ("deit_base_patch16_224", None),
    "swin_tiny": ("swin_tiny_patch4_window7_224", "swin_t"),
    "swin_small": ("swin_small_patch4_window7_224", "swin_s"),
    "swin_base": ("swin_base_patch4_window7_224", "swin_b"),
}


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_that_the_library_publishes(name, library):
    published = PUBLISHED[name][library == "torchvision"]
    if published is None:
        pytest.skip(f"torchvision has no {name}; it is built there all the same")
    with torch.device("meta"):
        mine = model(library, name).model
        module = libraries.load(library)
        theirs = module.create_model(published) if library == "timm" else module.models.get_model(published)
    shapes = [{key: tuple(x.shape) for key, x in one.state_dict().items()} for one in (mine, theirs)]
    assert shapes[0] == shapes[1]
    # The shapes do not tell the number of heads.
    heads = [[m.num_heads for m in one.modules() if hasattr(m, "num_heads")] for one in (mine, theirs)]
    assert heads[0] == heads[1]
    assert heads[0]


def test_transformers_defaults_are_the_published_sizes():
    libraries.load("transformers")
    from transformers import SwinConfig, ViTConfig

    vit, swin = ViTConfig(), SwinConfig()
    ours: Any = build("transformers", "vit_base", dim=24, depths=(1,)).model.config
    assert (vit.num_attention_heads, vit.patch_size, vit.qkv_bias) == (ours.num_attention_heads, 16, ours.qkv_bias)
    assert (vit.hidden_size, vit.num_hidden_layers) == (SIZES["vit_base"].dim, *SIZES["vit_base"].depths)
    assert vit.hidden_act == ours.hidden_act == swin.hidden_act == "gelu"
    tiny = SIZES["swin_tiny"]
    assert (swin.embed_dim, tuple(swin.depths), tuple(swin.num_heads)) == (tiny.dim, tiny.depths, tiny.heads)
    assert (swin.window_size, swin.patch_size, swin.layer_norm_eps) == (tiny.window, tiny.patch, 1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_every_model_has_as_many_parameters_in_all_libraries(name):
    with torch.device("meta"):
        counts = {lib: sum(math.prod(p.shape) for p in model(lib, name).parameters()) for lib in LIBRARIES}
    assert len(set(counts.values())) == 1, counts


# What cannot be had


@pytest.mark.parametrize(
    ("arguments", "options", "pattern"),
    [
        (("jax", "vit_tiny"), {}, r"`library`='jax', but should be one of "),
        (("timm", "vit_giant"), {}, r"`name`='vit_giant', but should be one of "),
        (("timm", "vit_tiny"), {"width": 3}, r"`sizes`='width', but should be one of dim, depths, "),
        (("timm", "vit_tiny"), {"depths": (2, 2), "heads": (3, 3)}, r"`sizes`=.*for ViT of length 1"),
        (("timm", "swin_tiny"), {"depths": (2, 2)}, r"`sizes`=.*of one length"),
        (("transformers", "vit_tiny"), {"heads": (5,)}, r"`heads`=5, but should be a divisor of `dim`=192"),
        (("transformers", "vit_tiny"), {"image_size": (224, 230)}, r"`patch`=16, but should be a divisor of"),
        (("timm", "vit_tiny"), {"dim": 0}, r"`dim`=0, but should be an integer of at least 1"),
    ],
)
def test_bad_arguments(arguments, options, pattern):
    with pytest.raises(ValueError, match=f"^{pattern}.*\\[libraries.build\\]$"):
        build(*arguments, **options)


def test_no_image_size():
    with pytest.raises(TypeError, match=r"^`image_size`=None, but should be an integer or a pair"):
        build("timm", "vit_tiny", image_size=None)  # type: ignore[arg-type]


def test_what_torchvision_lacks():
    model("torchvision", "vit_tiny", image_size=32, **VIT)
    with pytest.raises(Unavailable, match=r"torchvision's ViT takes square images only, not \(32, 64\)"):
        build("torchvision", "vit_tiny", image_size=(32, 64), **VIT)
    with pytest.raises(Unavailable, match=r"torchvision's Swin cuts off what is no whole patch of 4: \(33, 32\)"):
        build("torchvision", "swin_tiny", image_size=(33, 32), **SWIN)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_a_library_that_has_changed_is_unavailable(name, library, monkeypatch):
    theirs = type(model(library, name, image_size=32, **(VIT if name == "vit_tiny" else SWIN)).model)

    def changed(*_arguments, **_options):
        raise TypeError("unexpected\nkeyword")

    monkeypatch.setattr(theirs, "__init__", changed)
    reason = rf"^{library} does not build {name} at \(224, 224\) \(TypeError: unexpected keyword\)$"
    with pytest.raises(Unavailable, match=reason):
        build(library, name)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_library(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Unavailable, match=rf"^{library} is missing: pip install equiv\[peers\]$"):
        build(library, "vit_tiny")


@pytest.mark.parametrize(
    ("library", "old"), [("transformers", "5.8.1"), ("timm", "0.9.16"), ("torchvision", "0.23.0+cpu")]
)
def test_an_old_library(library, old, monkeypatch):
    monkeypatch.setattr(libraries.load(library), "__version__", old)
    with pytest.raises(Unavailable, match=rf"^{library} {old.replace('+', '.')} is older than \d+\.\d+: pip install"):
        build(library, "vit_tiny")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_that_fails_to_import(library, tmp_path):
    """Whatever it raises is the reason, in one line."""
    (tmp_path / f"{library}.py").write_text("raise RuntimeError('operator torchvision::nms\\ndoes not exist')")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from equiv import libraries
try:
    libraries.build({library!r}, "vit_tiny")
except libraries.Unavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    reason = "(RuntimeError: operator torchvision::nms does not exist)"
    assert done.stdout == f"{library} does not import here {reason}\n"


# torchvision without its compiled operators


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def needs_torchvision_without_operators() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is missing")
    output = run("try:\n    import torchvision\nexcept RuntimeError as error:\n    print(error)")
    if "does not exist" not in output:
        pytest.skip("torchvision's compiled operators load here")


def test_libraries_import_where_the_compiled_operators_do_not_load():
    needs_torchvision_without_operators()
    for library in LIBRARIES:  # each in a process of its own, as any may be the first
        assert run(f"from equiv import libraries; print(libraries.load({library!r}).__name__)") == f"{library}\n"


def test_declared_operators_do_not_work():
    """They are names without code: torchvision itself still says what is wrong."""
    needs_torchvision_without_operators()
    program = """
import torch
from equiv import libraries
torchvision = libraries.load("torchvision")
boxes, scores = torch.zeros(1, 4), torch.zeros(1)
for function in (torchvision.ops.nms, torch.ops.torchvision.nms):
    try:
        function(boxes, scores, 0.5)
    except (RuntimeError, NotImplementedError) as error:
        print(type(error).__name__, str(error).split(".")[0])
"""
    first, second = run(program).splitlines()
    assert first == "RuntimeError Couldn't load custom C++ ops"
    assert second.startswith("NotImplementedError Could not run 'torchvision::nms'")


def test_nothing_is_declared_where_the_operators_load(monkeypatch):
    libraries.load("transformers")
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is missing")
    assert libraries._declare_missing_operators.__wrapped__() is None
