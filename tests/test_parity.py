"""Whole models against each other and three libraries: equal if they are, different if one of them is changed."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from equiv import cli, conv, libraries, models, parity
from equiv.ladder.evidence import Verdict
from equiv.models import weights

SIZE = (48, 64)


def check(dtype=torch.float64, name="vit_tiny", size=SIZE, **options):
    return parity.check_model(name, dtype, "cpu", 5, image_size=size, **options)


@pytest.fixture
def changed(monkeypatch):
    """Gives the conv form of every model that is made a change."""

    def change(how):
        create = models.create

        def made(name, form="matmul", **options):
            model = create(name, form=form, **options)
            if form == "conv":
                how(model)
            return model

        monkeypatch.setattr("equiv.networks.models.create", made)

    return change


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_forms_and_libraries_are_equal(dtype):
    evidence = check(dtype)
    assert evidence.verdict is Verdict.EQUAL
    claims = [part.claim for part in evidence.parts]
    assert claims[:2] == [f"conv form, {lowering} equals matmul form" for lowering in ("literal", "fused")]
    for library in ("transformers", "timm"):  # torchvision takes square images only
        assert f"{library} equals matmul form" in claims
        assert (f"matmul form equals {library}" in claims) == (dtype != torch.float64)
    assert "not compared with torchvision: torchvision's ViT takes square images only" in evidence.scope
    assert "evaluation mode, loss and all its gradients in training mode" in evidence.scope
    assert evidence.numbers["compared with"] == ["conv form, literal", "conv form, fused", "transformers", "timm"]
    for part in evidence.parts:
        assert part.numbers["tensors compared"] == 12 + 2 + 1 + 152  # blocks, logits in two modes, loss, gradients
    if dtype == torch.float64:
        assert max(part.numbers["deviation of the logits"] for part in evidence.parts) <= 1e-11
        assert max(part.numbers["largest deviation of a gradient"] for part in evidence.parts) <= 1e-10
        assert evidence.numbers["top-1 agreement"] == 1


def test_swin_is_compared_with_the_mask_of_the_libraries():
    """Maps that whole windows do not tile; 7×8 locations in the last stage, which transformers does not shift."""
    evidence = check(name="swin_tiny", size=(196, 228))
    assert evidence.verdict is Verdict.EQUAL
    claims = {part.claim for part in evidence.parts}
    moved = "matmul form, shifts=(3, 3, 3, 0)"
    assert f"transformers equals {moved}" in claims
    assert f"conv form, literal, shifts=(3, 3, 3, 0), mask_value=-100.0 equals {moved}" in claims
    assert "torchvision equals matmul form" in claims
    assert "not compared with timm: its Swin shifts before it pads" in evidence.scope


def test_the_first_diverging_block_is_named(changed):
    def how(model):
        model.blocks[5].mlp.register_forward_hook(lambda module, args, output: output * 1.001)

    changed(how)
    evidence = check()
    assert evidence.verdict is Verdict.DIFFERENT
    # blocks 5 to 11, the logits in both modes and the loss
    assert "conv form, literal equals matmul form: first of 10 diverging stages: output blocks.5:" in evidence.reason


def test_a_wrong_scale_in_an_operator_is_found(monkeypatch):
    scale = conv.apply.logit_scale
    monkeypatch.setattr("equiv.conv.apply.logit_scale", lambda *arguments: 1.0001 * scale(*arguments))
    evidence = check(torch.float32)
    assert evidence.verdict is Verdict.DIFFERENT
    assert "output blocks.0" in evidence.reason


def test_a_wrong_gradient_is_found(changed):
    def how(model):
        inner = model.blocks[3].mlp.forward
        model.blocks[3].mlp.forward = lambda x: inner(0.5 * x + 0.5 * x.detach())

    changed(how)
    evidence = check()
    assert evidence.verdict is Verdict.DIFFERENT
    assert "gradient of" in evidence.reason


@pytest.mark.parametrize("training", [False, True])
def test_what_is_wrong_in_one_mode_only_is_found(changed, training):
    def how(model):
        def wrong(module, args, output):
            return 1.01 * output if module.training is training else output

        model.blocks[5].mlp.register_forward_hook(wrong)

    changed(how)
    evidence = check()
    assert evidence.verdict is Verdict.DIFFERENT
    assert ("output logits for the loss" in evidence.reason) is training


def test_another_eps_in_a_library_is_found(monkeypatch):
    build = libraries.build

    def changed(library, *arguments, **options):
        model = build(library, *arguments, **options)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm) and library == "transformers":
                module.eps = 1e-5
        return model

    monkeypatch.setattr("equiv.networks.libraries.build", changed)
    evidence = check()
    assert evidence.verdict is Verdict.DIFFERENT
    assert evidence.reason.startswith("transformers equals matmul form: first of 15 diverging stages: output blocks.0")


def test_a_missing_library_is_said_and_a_missing_transformers_unknown(monkeypatch):
    load = libraries.load

    def missing(name):
        def find(library):
            if library == name:
                raise libraries.Unavailable(f"{library} is missing")
            return load(library)

        monkeypatch.setattr("equiv.networks.libraries.load", find)

    missing("timm")
    evidence = check(gradients=False)
    assert evidence.verdict is Verdict.EQUAL
    assert "not compared with timm: timm is missing" in evidence.scope
    missing("transformers")
    evidence = check(gradients=False)
    assert evidence.verdict is Verdict.UNKNOWN
    assert "not compared with it: transformers is missing" in evidence.reason


def test_a_conversion_that_repeats_elements_is_unknown(monkeypatch):
    convert = weights.convert

    def repeating(state):
        found = convert(state)
        found["blocks.1.norm1.bias"] = found["blocks.0.norm1.bias"]
        return found

    monkeypatch.setattr("equiv.networks.weights.convert", repeating)
    evidence = check(gradients=False)
    assert evidence.verdict is Verdict.UNKNOWN
    assert "loses or repeats elements" in evidence.reason


def test_shared_parameters_are_refused(monkeypatch):
    create = models.create
    monkeypatch.setattr(
        "equiv.networks.models.create",
        lambda name, **options: create(name, sharing="layerwise", rank=4, **options),
    )
    evidence = check(name="linformer_vit_tiny", gradients=False)
    assert evidence.verdict is Verdict.UNKNOWN
    assert "shares parameters" in evidence.reason


# The command


def equiv(*arguments):
    return CliRunner().invoke(cli.main, ["verify", *map(str, arguments)], prog_name="equiv")


def test_own_pictures_and_weights(tmp_path):
    from PIL import Image
    from safetensors.torch import save_file

    model = models.create("vit_tiny", image_size=(32, 32), classes=1000)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    Image.effect_noise((50, 40), 80).save(tmp_path / "noise.png")
    files = ["--weights", tmp_path / "vit.safetensors", "--image", tmp_path / "noise.png", "--image-size", "32"]
    result = equiv("vit_tiny", *files, "--dtype", "float64", "--forward-only", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert f"noise.png and its mirror image, 32×32; the weights of {tmp_path}" in row["scope"]
    assert row["reproduce"].startswith("equiv verify vit_tiny --image")
    assert "not compared with" not in row["scope"]


def test_a_checkpoint_that_does_not_fit_is_unknown(tmp_path):
    from safetensors.torch import save_file

    save_file(models.create("vit_tiny", image_size=(48, 48)).state_dict(), tmp_path / "vit.safetensors")
    result = equiv("vit_tiny", "--weights", tmp_path / "vit.safetensors", "--image-size", "32", "--dtype", "float64")
    assert result.exit_code == 2
    assert "pos_embed" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["vit_tin"], "should be vit_tiny"),
        (["vit_tiny", "--weights", "nothing.pth"], "`--weights`='nothing.pth', but should be random, own or a file"),
        (["vit_tiny", "--image", "nothing.png"], "File 'nothing.png' does not exist"),
        (["vit_tiny", "--image-size", "0x3"], "`--image-size`='0x3', but should be a positive integer, or two"),
        (["GlobalAttention", "--image-size", "32"], "a model, as --image-size is for models only"),
        (["--image-size", "32"], "a model, as --image-size is for models only"),
    ],
)
def test_wrong_usage(arguments, expected):
    result = equiv(*arguments)
    assert result.exit_code == 2
    assert expected in " ".join(result.stderr.split())
