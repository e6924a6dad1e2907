"""equiv.peers: our forms against transformers and SDPA, and what that comparison must refuse."""

import dataclasses
import functools
import importlib
import math
import operator
import re
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from equiv import conv, libraries, matmul, peers, picture
from equiv.ladder.draws import derive, draw_weights
from equiv.ladder.evidence import Evidence, Verdict
from equiv.peers import PEERS, Peer, find

SLUGS = [peer.slug for peer in PEERS]
THEIRS = [slug for slug in SLUGS if slug.startswith("transformers")]
#: Small enough to refuse quickly: the sensitivity, measured before a refusal, runs the oracle 32 times.
VIT = dataclasses.replace(find("transformers-vit"), size=(14, 24, 3))
SWIN = dataclasses.replace(find("transformers-swin-3"), size=(14, 24, 3))
SDPA = dataclasses.replace(find("torch-sdpa"), size=(14, 24, 3))


@pytest.fixture(scope="module", autouse=True)
def modeling():
    """The modules under comparison; here and not above, as importing them takes seconds."""
    pytest.importorskip("transformers")
    libraries.load("transformers")
    names = {kind: f"transformers.models.{kind}.modeling_{kind}" for kind in ("vit", "swin")}
    return SimpleNamespace(**{kind: importlib.import_module(name) for kind, name in names.items()})


def run(peer: Peer, dtype: torch.dtype = torch.float64, gradients: bool = False, seed: int = 0) -> Evidence:
    return peer.check(dtype, "cpu", seed, gradients)


def different(evidence: Evidence) -> set[str]:
    """The claims that were refused; nothing may be unknown."""
    assert all(part.verdict is not Verdict.UNKNOWN for part in evidence.parts), str(evidence.parts)
    refused = {part.claim for part in evidence.parts if part.verdict is Verdict.DIFFERENT}
    assert evidence.verdict is (Verdict.DIFFERENT if refused else Verdict.EQUAL)
    return refused


# The table


def test_sizes_are_those_of_the_published_models(modeling):
    swin = modeling.swin.SwinConfig()  # its defaults are Swin-T's
    assert (swin.window_size, swin.image_size) == (peers.WINDOW, peers.PICTURE)
    for stage, heads in enumerate(swin.num_heads):
        size = (swin.image_size // swin.patch_size >> stage, swin.embed_dim << stage, heads)
        assert find(f"transformers-swin-{stage + 1}").size == size
    assert find("transformers-vit").size == find("torch-sdpa").size == (224 // 16, 384, 6)  # DeiT-S
    assert len(set(SLUGS)) == len(PEERS) == 6
    assert all(re.fullmatch(r"[a-z0-9-]+", slug) for slug in SLUGS)


def test_unknown_slug():
    with pytest.raises(ValueError, match=r"^`slug`='vit', but should be one of transformers-vit, .*\[find\]$"):
        find("vit")


# The input and the weights


@pytest.mark.parametrize("slug", SLUGS)
def test_the_input_is_made_from_the_picture(slug, monkeypatch):
    peer = find(slug)
    side, dim, _ = peer.size
    x = peer.embed(side, dim, 3)
    assert x.shape in ((1, 1 + side**2, dim), (1, dim, side, side))
    assert torch.equal(x, peer.embed(side, dim, 3))
    assert not torch.equal(x, peer.embed(side, dim, 4))
    # One patch painted over changes one token: number 1 + side of the map, i.e. row 1, column 1.
    painted, patch = picture.load().clone(), 224 // side
    painted[:, :, patch : 2 * patch, patch : 2 * patch] = 0
    monkeypatch.setattr(picture, "load", lambda **_: painted)
    changed = (peer.embed(side, dim, 3) != x).any(dim=2 if x.dim() == 3 else 1).flatten().nonzero().flatten()
    assert changed.tolist() == [1 + side + (x.dim() == 3)]


@pytest.mark.parametrize("slug", THEIRS)
def test_attention_is_neither_uniform_nor_one_hot(slug):
    """Measured on transformers' own attention weights, for the weights and the input of the check."""
    peer = find(slug)
    comparison = peer.compare(*peer.size, torch.float32)[-1]
    module: Any = comparison.reference
    draw_weights(module, torch.Generator().manual_seed(0))
    assert all((parameter != 0).all() for parameter in module.parameters())  # biases and tables too
    weights = []
    attention = getattr(module, "layer", module).attention
    with attention.register_forward_hook(lambda *args: weights.append(args[2][1])), torch.no_grad():
        module(peer.embed(*peer.size[:2], derive(0, "input")).float())
    entropy = torch.special.entr(weights[0]).sum(-1)
    most = math.log(weights[0].shape[-1])
    assert 0.3 * most < entropy.mean() < 0.75 * most


# Equal


@pytest.mark.parametrize("slug", SLUGS)
def test_equal_in_float64_forward_and_all_gradients(slug):
    evidence = run(find(slug), gradients=True)
    assert different(evidence) == set()
    table = slug.startswith("transformers-swin")
    for part in evidence.parts:
        # output with and without grad mode; gradients of x, qkv and proj (weight and bias each), the table
        assert part.numbers["tensors compared"] == 7 + (table or "bias" in part.claim)
        assert part.numbers["largest deviation"] < 1e-13
        assert part.numbers["tolerance"] < 1.1e-12 or "SDPA" in part.claim
    for form in ("matmul", "literal", "fused"):
        assert any(form in part.claim for part in evidence.parts)
    expected = {"transformers-vit": 3, "transformers-swin-4": 3, "torch-sdpa": 10}
    assert len(evidence.parts) == expected.get(slug, 6)


@pytest.mark.parametrize("slug", SLUGS)
def test_equal_in_float32(slug):
    assert different(run(find(slug), torch.float32)) == set()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("peer", [VIT, SWIN, SDPA], ids=lambda peer: peer.slug)
def test_equal_in_half_types(peer, dtype):
    assert different(run(peer, dtype, gradients=True)) == set()


def test_same_seed_same_numbers():
    first, second, other = (run(VIT, torch.float32, seed=seed).numbers["largest deviation"] for seed in (1, 1, 2))
    assert first == second != other


def test_reproduce_is_a_line_of_python():
    evidence = run(VIT, torch.float32, seed=5)
    namespace = {"equiv": __import__("equiv.peers"), "torch": torch}
    assert evidence.seed == 5
    assert eval(evidence.reproduce, namespace).verdict is Verdict.EQUAL


# Their code takes part: a change of it is seen


CHANGES = {
    "other scale": ("SwinAttention.forward", lambda f: lambda self, x, *a, **b: f(self, 1.001 * x, *a, **b), (0, 3)),
    "columns first": ("window_partition", lambda f: lambda x, w: f(x.transpose(1, 2), w), (0, 3)),
    "other direction": (
        "SwinLayer.cyclic_shift",
        lambda f: lambda self, x, reverse=False: f(self, x, not reverse),
        (3,),
    ),
    "no mask": ("SwinLayer.get_attn_mask", lambda f: lambda *a, **b: None, (3,)),
    "masks of other windows": (
        "SwinLayer.get_attn_mask",
        lambda f: lambda *a, **b: None if (mask := f(*a, **b)) is None else mask.roll(1, 0),
        (3,),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_their_code_is_seen(change, modeling, monkeypatch):
    path, changed, shifts = CHANGES[change]
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, modeling.swin)
    monkeypatch.setattr(owner, name, changed(getattr(owner, name)))
    forms = ("matmul", "conv, literal,", "conv, fused,")
    expected = {f"{form} with shift {shift} equals SwinLayer" for form in forms for shift in shifts}
    assert different(run(SWIN)) == expected


def test_mask_of_minus_infinity_cannot_be_told_from_minus_100(monkeypatch):
    """exp(−100) is 4e-44; it would show only where logits differ by about 65 or more. Not a claim of ours."""
    monkeypatch.setattr(peers, "MASK", -math.inf)
    assert different(run(SWIN)) == set()
    monkeypatch.setattr(peers, "MASK", -30.0)
    assert len(different(run(SWIN))) == 3


def test_eager_attention_of_transformers_has_float32_accuracy_in_float64(monkeypatch):
    """Why float64 runs on their SDPA path; when this fails, their eager softmax is float64 and can be used."""
    monkeypatch.setattr(
        peers, "_choose_implementation", lambda attention, _: setattr(attention.config, "_attn_implementation", "eager")
    )
    deviations = [part.numbers["largest deviation"] for part in run(VIT).parts]
    assert all(1e-9 < deviation < 1e-5 for deviation in deviations)


# Wrong weights and wrong operators are refused


def _rows(qkv, order):
    """The thirds of qkv in another order."""
    return torch.cat([qkv.chunk(3)[i] for i in order])


WRONG_NAMES = {
    "k and v swapped": lambda name, t: _rows(t, (0, 2, 1)) if "qkv" in name else t,
    "q and k swapped": lambda name, t: _rows(t, (1, 0, 2)) if "qkv" in name else t,
    "heads of qkv in another order": lambda name, t: t.roll(8, 0) if "qkv" in name else t,
    "output projection transposed": lambda name, t: t.T if name == "proj.weight" else t,
    "table for key minus query": lambda name, t: t.flip(0) if "table" in name else t,
    "heads of the table in another order": lambda name, t: t.roll(1, 1) if "table" in name else t,
    "no query bias": lambda name, t: torch.cat((0 * t[:24], t[24:])) if name == "qkv.bias" else t,
}


@pytest.mark.parametrize(
    ("peer", "wrong"),
    [(peer, wrong) for peer in (VIT, SWIN) for wrong in WRONG_NAMES if "table" not in wrong or peer is SWIN],
)
def test_wrong_weights_are_refused_in_every_form(peer, wrong, monkeypatch):
    right, change = peers.our_names, WRONG_NAMES[wrong]
    monkeypatch.setattr(peers, "our_names", lambda theirs: {name: change(name, t) for name, t in right(theirs).items()})
    evidence = run(peer, torch.float32)
    assert len(different(evidence)) == len(evidence.parts)


def _no_scale(patch):
    patch.setattr(matmul.attention, "logit_scale", lambda activation, dim: 1.0)


def _other_direction(patch):
    roll = torch.Tensor.roll
    patch.setattr(torch.Tensor, "roll", lambda x, shifts, dims: roll(x, tuple(-s for s in shifts), dims))


def _transposed_bias(patch):
    bias: Any = matmul.heads.MultiHead._bias
    patch.setattr(matmul.heads.MultiHead, "_bias", lambda self: bias(self).transpose(1, 2))


def _wrong_axis(patch):
    activate = conv.apply.activate
    patch.setattr(conv.apply, "activate", lambda z, activation, dim: activate(z, activation, 4))


def _scale_of_fused(patch):
    sdpa = conv.apply._sdpa
    patch.setattr(conv.apply, "_sdpa", lambda q, k, v, bias, scale: sdpa(q, k, v, bias, 1.001 * scale))


@pytest.mark.parametrize(
    ("break_it", "form", "parts"),
    [
        (_no_scale, "matmul", 2),
        (_other_direction, "matmul", 1),
        (_transposed_bias, "matmul", 2),
        (_wrong_axis, "conv, literal", 2),
        (_scale_of_fused, "conv, fused", 2),
    ],
)
def test_a_broken_form_is_refused_and_the_others_are_not(break_it, form, parts, monkeypatch):
    # their modules use none of what is broken: torch.roll, not Tensor.roll
    break_it(monkeypatch)
    refused = different(run(SWIN))
    assert len(refused) == parts
    assert all(claim.startswith(form) for claim in refused)


def test_a_bug_in_gradients_only_is_refused(monkeypatch):
    second = conv.apply.second_kernels
    monkeypatch.setattr(conv.apply, "second_kernels", lambda maps, kernels: second(maps, kernels.detach()))
    assert different(run(VIT)) == set()
    assert different(run(VIT, gradients=True)) == {"conv, literal, equals ViTAttention"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_sdpa_with_a_wrong_bias_is_refused(dtype, monkeypatch):
    bias: Any = peers.TorchSDPA.bias
    monkeypatch.setattr(peers.TorchSDPA, "bias", lambda self: None if self.grid is None else bias(self).mT)
    evidence = run(SDPA, dtype)
    assert different(evidence) == {part.claim for part in evidence.parts if "with bias" in part.claim}


# Without the packages


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for slug in THEIRS:
        evidence = run(find(slug))
        assert evidence.verdict is Verdict.UNKNOWN
        assert evidence.reason == "transformers is missing: pip install equiv[peers]"
    assert run(SDPA, torch.float32).verdict is Verdict.EQUAL


# By name: while its submodules are imported, transformers puts another object in sys.modules.
@pytest.mark.parametrize("version", ["4.57.6", "5.8.1"])
def test_old_transformers(version, monkeypatch):
    monkeypatch.setattr("transformers.__version__", version)
    evidence = run(VIT)
    assert evidence.verdict is Verdict.UNKNOWN
    assert evidence.reason == f"transformers {version} is older than 5.9: pip install equiv[peers]"


@pytest.mark.parametrize("version", ["5.9.0", "5.10.0.dev0", "6.0.0rc1"])
def test_recent_transformers(version, monkeypatch):
    monkeypatch.setattr("transformers.__version__", version)
    assert run(VIT, torch.float32).verdict is Verdict.EQUAL


@pytest.mark.parametrize(("peer", "attention"), [(VIT, "vit.ViTAttention"), (SWIN, "swin.SwinAttention")])
@pytest.mark.parametrize("change", ["another parameter", "another name", "another signature"])
def test_changed_transformers(peer, attention, change, modeling, monkeypatch):
    owner = operator.attrgetter(attention)(modeling)
    init = owner.__init__

    def changed(self, *args, **named):
        init(self, *args, **named)
        if change == "another parameter":
            self.temperature = torch.nn.Parameter(torch.ones(1))
        else:
            self.query = self._modules.pop("q_proj")

    def impossible(self):
        init(self)

    monkeypatch.setattr(owner, "__init__", impossible if change == "another signature" else changed)
    evidence = run(peer)
    assert evidence.verdict is Verdict.UNKNOWN
    assert evidence.reason.startswith("the third-party module is not as expected (")
    assert evidence.reason.endswith("): pip install equiv[peers]")


def test_a_layer_that_hands_nothing_to_drop_path_is_unknown(modeling, monkeypatch):
    monkeypatch.setattr(modeling.swin.SwinLayer, "forward", lambda self, x, size: (x, None))
    assert run(SWIN).verdict is Verdict.UNKNOWN


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    evidence = run(SDPA)
    assert evidence.verdict is Verdict.UNKNOWN
    assert evidence.reason == "pictures are read with Pillow, which is missing: pip install equiv[peers]"


def test_nothing_is_silenced():
    before = warnings.filters[:]
    run(VIT, torch.float32)
    assert warnings.filters == before
