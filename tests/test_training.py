"""Training parity: both forms learn alike, what is broken does not, and what cannot be compared is not EQUAL."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from equiv import cli, convergence, curves, training
from equiv.convergence import ACTIVATIONS, Curve, Spread, recipes, summarise
from equiv.ladder.evidence import Verdict
from equiv.training import FORMS, MODELS, REFERENCE, TOLERANCE, Recipe, build, digits, parity

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
command = importlib.import_module("equiv.cli.train")  # as an attribute it is the command itself
CONV = [name for name in FORMS if name != REFERENCE]


def losses(recipe: Recipe, model: nn.Module) -> list[float]:
    return list(training.train(model, recipe, digits(recipe.dtype)))


# The two forms


@pytest.mark.parametrize("model", MODELS)
def test_both_forms_learn_alike_for_200_steps(model: str) -> None:
    run = parity(Recipe(model, steps=200, batch=8))
    assert run.evidence.verdict is Verdict.EQUAL, run.evidence
    reference = run.forms[REFERENCE].losses
    assert len(reference) == 200
    assert sum(reference[-20:]) / 20 < 0.75 * reference[0]  # it did learn
    assert run.forms[REFERENCE].accuracy > 0.4  # by chance 0.1
    assert list(run.forms) == [REFERENCE, *CONV]
    for name, part in zip(CONV, run.evidence.parts, strict=True):
        ours = run.forms[name].losses
        assert (
            max(abs(a - b) for a, b in zip(ours, reference, strict=True)) == part.numbers["largest deviation"] <= 1e-9
        )
        assert name in part.claim
        assert part.numbers["deviation of test logits"] < 1e-9
        assert part.numbers["deviation of other weights"] < 1e-9
    # the forms were not one and the same computation
    assert any(part.numbers["largest deviation"] > 0 for part in run.evidence.parts)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    run = parity(Recipe("swin", steps=4, batch=4, activation=activation))
    assert run.evidence.verdict is Verdict.EQUAL, run.evidence


def conv_form(recipe: Recipe, **options: object) -> nn.Module:
    """The literal conv form with other options, and the initial weights of the reference."""
    kind, usual = MODELS[recipe.model]
    model = kind(**usual | training.COMMON | FORMS["conv literal"] | {"dtype": recipe.dtype} | options)
    model.load_state_dict(build(recipe).state_dict())
    return model


class Detached(nn.Module):
    """The same function, whose attention in the first block has no gradient."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model = build(recipe, "conv fused")
        self.model.get_submodule("blocks.0.attn").register_forward_hook(lambda module, inputs, y: y.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class Reversed(nn.Module):
    """The same function of a batch in another order: not the function that the labels belong to."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model = build(recipe, "conv fused")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x.flip(0))


BUGS = {  # model, builder, first step at which the losses must differ
    "activation": ("deit", lambda recipe: conv_form(recipe, activation="scaling"), 0),
    "gradient": ("deit", Detached, 1),
    "other seed": ("deit", lambda recipe: build(dataclasses.replace(recipe, seed=1)), 0),
    "order of the images": ("deit", Reversed, 0),
    "eps of LayerNorm": ("deit", lambda recipe: conv_form(recipe, eps=1.1e-6), 0),
    "no shift": ("swin", lambda recipe: conv_form(recipe, shifts=(0, 0)), 0),
    "shift by one less": ("swin", lambda recipe: conv_form(recipe, shifts=(1, 1)), 0),
    "no mask": ("swin", lambda recipe: conv_form(recipe, mask_value=-1e-300), 0),
    "weak mask": ("swin", lambda recipe: conv_form(recipe, mask_value=-15.0), 0),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_different(bug: str) -> None:
    model, builder, step = BUGS[bug]
    evidence = parity(Recipe(model, steps=3, batch=4), {"buggy": builder}).evidence
    assert evidence.verdict is Verdict.DIFFERENT
    assert evidence.numbers["largest deviation"] > TOLERANCE
    assert f"first at step {step}: got" in evidence.reason


@pytest.mark.parametrize("form", CONV)
def test_a_scale_that_is_wrong_by_a_millionth_is_different(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from equiv.conv import apply

    right = apply.logit_scale
    monkeypatch.setattr(apply, "logit_scale", lambda name, dim: right(name, dim) * (1 + 1e-6))
    evidence = parity(Recipe("deit", steps=3), {form: lambda recipe: build(recipe, form)}).evidence
    assert evidence.verdict is Verdict.DIFFERENT


def test_one_wrong_form_is_enough() -> None:
    good, bad = (lambda recipe: build(recipe, "conv fused")), BUGS["activation"][1]
    evidence = parity(Recipe("deit", steps=2, batch=4), {"good": good, "bad": bad}).evidence
    assert evidence.verdict is Verdict.DIFFERENT
    assert [part.verdict for part in evidence.parts] == [Verdict.EQUAL, Verdict.DIFFERENT]
    assert evidence.reason.startswith("bad form")


# What cannot be compared


def test_a_reference_that_overflows_is_unknown() -> None:
    evidence = parity(Recipe("deit", steps=4, batch=4, lr=1e200)).evidence
    assert evidence.verdict is Verdict.UNKNOWN
    assert "not all finite" in evidence.reason


class Overflows(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model = build(recipe)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) * math.nan


def test_a_candidate_that_overflows_is_different() -> None:
    evidence = parity(Recipe("deit", steps=2, batch=4), {"nan": Overflows}).evidence
    assert evidence.verdict is Verdict.DIFFERENT
    assert evidence.numbers["largest deviation"] == math.inf


def test_a_parameter_that_never_moved_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(recipe: Recipe, form: str = REFERENCE) -> nn.Module:
        model = build(recipe, form)
        model.get_submodule("head").requires_grad_(False)
        return model

    monkeypatch.setattr(training, "build", frozen)
    evidence = parity(Recipe("deit", steps=2, batch=4)).evidence
    assert evidence.verdict is Verdict.UNKNOWN
    assert "no step moved head.bias, head.weight" in evidence.reason


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Recipe("vit"), "`model`='vit', but should be one of 'deit', 'swin' [Recipe]"),
        (lambda: Recipe("deit", steps=0), "`steps`=0, but should be an integer of at least 1 [Recipe]"),
        (lambda: Recipe("deit", lr=0.0), "`lr`=0.0, but should be a finite positive number [Recipe]"),
        (lambda: build(Recipe("deit"), "fused"), "`form`='fused', but should be one of"),
        (
            lambda: parity(Recipe("deit", dtype=torch.float32)),
            "`recipe.dtype`=torch.float32, but should be torch.float64",
        ),
        (lambda: parity(Recipe("deit"), {}), "`candidates`=[], but should be one builder or more"),
        (lambda: parity(Recipe("deit"), {REFERENCE: build}), "`candidates`=['matmul'], but should be"),
        (
            lambda: losses(Recipe("deit", batch=1438), nn.Identity()),
            "`batch`=1438, but should be at most the 1437 images",
        ),
    ],
)
def test_wrong_arguments(call, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        call()


# Key biases: gradients that are 0 but for rounding


def test_key_biases_drift_with_a_tiny_eps_and_the_losses_do_not() -> None:
    usual = parity(Recipe("deit", steps=20)).evidence.parts[1].numbers
    assert usual["deviation of key biases"] < 1e-9
    tiny = parity(Recipe("deit", steps=20, eps=1e-30)).evidence
    assert tiny.verdict is Verdict.EQUAL
    numbers = tiny.parts[1].numbers
    assert numbers["deviation of key biases"] > 1e-3  # steps of full size and random sign
    assert max(numbers["deviation of other weights"], numbers["deviation of test logits"]) < 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_key_biases_change_nothing_under_softmax(form: str) -> None:
    model, x = build(Recipe("deit"), form), digits().test[0][:4]
    before = model(x)
    bias = model.get_parameter("blocks.0.attn.qkv.bias")
    for third, same in ((1, True), (0, False), (2, False)):
        with torch.no_grad():
            bias.zero_().view(3, -1)[third] += torch.linspace(-1, 1, 32, dtype=torch.float64)
        assert bool((model(x) - before).abs().max() < 1e-12) is same


# Data and order


def test_digits_are_split_once_and_standardised_by_the_training_part() -> None:
    first, again = digits(), digits(torch.float32)
    assert torch.equal(first.train[1], again.train[1])
    assert again.test[0].dtype == torch.float32
    images = torch.cat((first.train[0], first.test[0])).flatten(1)
    assert images.shape == (1797, 64)
    assert len(images.unique(dim=0)) == 1797  # every one different, so none in both parts
    assert abs(first.train[0].mean()) < 1e-12
    assert abs(first.train[0].std() - 1) < 1e-12
    for _, labels in (first.train, first.test):
        assert labels.bincount(minlength=10).min() > 0.08 * len(labels)


class Spy(nn.Module):
    """A model that notes which images it sees: each is its own number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10))
        self.seen: list[list[int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.flatten().int().tolist())
        return self.weight.expand(len(x), 10)


def order(seed: int) -> list[list[int]]:
    numbers = torch.arange(22.0).view(-1, 1, 1, 1)
    part, spy = (numbers, torch.zeros(22, dtype=torch.long)), Spy()
    list(training.train(spy, Recipe("deit", steps=8, batch=5, seed=seed), training.Digits(part, part)))
    return spy.seen


def test_epochs_are_permutations_that_follow_from_the_seed() -> None:
    seen = order(3)
    assert [len(batch) for batch in seen] == [5] * 8
    for epoch in (seen[:4], seen[4:]):
        assert len({number for batch in epoch for number in batch}) == 20
    assert seen[:4] != seen[4:]
    assert seen == order(3) != order(4)


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(Recipe("swin"))
    assert torch.equal(torch.rand(3), expected)


def test_attention_is_far_from_uniform_at_the_start() -> None:
    """Otherwise a wrong key would hardly show: the weights of a query's 17 kernels would all be 1/17."""
    model, found = build(Recipe("deit")), list[torch.Tensor]()
    qkv = model.get_submodule("blocks.0.attn.qkv")
    qkv.register_forward_hook(lambda module, inputs, y: found.append(y))
    model(digits().test[0])
    q, k, _ = found[0].unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / 4).softmax(-1)
    assert weights.amax(-1).mean() > 3 / 17


# Convergence


def test_recipes_share_weights_and_order_between_activations() -> None:
    chosen = recipes(["deit"], steps=2, seeds=2)
    assert [(one.seed, one.activation) for one in chosen] == [(seed, name) for seed in (0, 1) for name in ACTIVATIONS]
    states = [build(one).state_dict() for one in chosen]
    for state in states[1:4]:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])
    assert not torch.equal(states[4]["head.weight"], states[0]["head.weight"])


def test_a_curve_is_what_was_trained() -> None:
    recipe = Recipe("deit", steps=7, dtype=torch.float32)
    model = build(recipe)
    expected = losses(recipe, model)
    curve = convergence.converge(recipe, looks=2)
    assert curve.steps == [4, 7]
    assert curve.losses == pytest.approx([sum(expected[:4]) / 4, sum(expected[4:]) / 3])
    assert curve.accuracies[-1] == training.predict(model, digits(torch.float32))[1]
    other = convergence.converge(dataclasses.replace(recipe, activation="scaling"), looks=2)
    assert other.losses != curve.losses


def test_summary_compares_seed_by_seed() -> None:
    made = [
        Curve("deit", "softmax", 0, [1, 4], [3.0, 1.0], [0.2, 0.5]),
        Curve("deit", "softmax", 1, [1, 4], [3.0, 2.0], [0.2, 0.7]),
        Curve("deit", "scaling", 0, [1, 4], [2.0, 1.0], [0.9, 0.5]),
        Curve("deit", "scaling", 1, [1, 4], [7.0, 1.0], [0.9, 0.8]),
    ]
    first, second = summarise(made)
    assert first.run_loss == Spread(1.875, 1.5, 2.25)
    assert second.run_loss == Spread(1.875, 1.25, 2.5)
    assert (second.faster, second.better, second.seeds) == (1, 1, 2)
    assert second.accuracy == Spread(0.65, 0.5, 0.8)
    assert (first.faster, first.better) == (None, None)
    with pytest.raises(ValueError, match=r"`seeds`=\[0\], but should be those of softmax, \[0, 1\]"):
        summarise(made[:3])


def test_committed_results_are_those_of_the_readme() -> None:
    folder = Path(__file__).parents[1] / "benchmarks" / "convergence"
    data = json.loads((folder / "convergence.json").read_text(encoding="utf-8"))
    made = [Curve(**curve) for curve in data["curves"]]
    assert len(made) == 40
    assert [dataclasses.asdict(row) for row in summarise(made)] == data["summary"]
    table = (folder / "README.md").read_text(encoding="utf-8")
    for row in summarise(made):
        line = next(
            line
            for line in table.splitlines()
            if line.split("|")[0].split()[:1] == [row.model] and ACTIVATIONS[row.activation] in line.split()
        )
        cells = [command._spread(row.run_loss, 3), command._spread(row.accuracy, 1, 100)]
        assert all(cell in line for cell in cells), (line, cells)


# The command


def equiv(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.main, arguments, prog_name="equiv")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def masked(text: str) -> list[str]:
    return re.sub(r"\d[\d.]*(e[-+]\d+)?", "#", re.sub("─+", "", text)).split()


def test_readme_shows_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = equiv("train", "parity", "--steps", "2", "--plot", "curves.png", "--json", "out.json")
    assert result.exit_code == 0
    shown = re.search(r"\$ equiv train parity.*?\n(.*?)```", README, flags=re.DOTALL)
    assert shown is not None
    assert masked(result.stdout) == masked(shown[1])
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert data["verdict"] == "EQUAL"
    assert {name: list(forms) for name, forms in data["losses"].items()} == {name: list(FORMS) for name in MODELS}
    assert len(data["losses"]["swin"]["conv fused"]) == 2
    assert {path.name for path in Path().iterdir()} == {"curves.png", "out.json"}


def test_different_is_status_1_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equiv.conv.apply.logit_scale", lambda name, dim: 1.0)
    result = equiv("train", "parity", "--steps", "1", "--model", "deit", "--json", "-")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] == "DIFFERENT"
    assert "first at step 0: got" in result.stderr


def test_convergence_prints_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("train", "convergence", "--model", "deit", "--steps", "2", "--seeds", "1")
    result = equiv(*arguments, "--json", "-", "--plot", "curves.svg")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert [row["activation"] for row in data["summary"]] == list(ACTIVATIONS)
    assert len(re.findall(r"\d of 1", result.stderr)) == 6
    drawn = Path("curves.svg").read_bytes()
    curves.save(curves.draw_convergence([Curve(**curve) for curve in data["curves"]]), "again.svg")
    assert Path("again.svg").read_bytes() == drawn


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("parity", "--plot", "curves.pdf"), "`--plot`='curves.pdf', but should be a file ending in .png or .svg"),
        (("parity", "--plot", "no/curves.png"), "`--plot`='no/curves.png', but should be a file that can be written"),
        (("parity", "--model", "vit"), "'vit'"),
        (("parity", "--steps", "0"), "0 is not in the range"),
        (("convergence", "--seeds", "0"), "0 is not in the range"),
        (("convergence", "--json", "no/out.json"), "`--json`='no/out.json', but should be a file that can be written"),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...], text: str) -> None:
    result = equiv("train", *arguments)
    assert result.exit_code == 2
    assert text in result.stderr


@pytest.mark.parametrize(
    ("module", "package"), [("sklearn.datasets", "scikit-learn"), ("matplotlib.figure", "matplotlib")]
)
def test_missing_packages_are_status_2(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = equiv("train", "parity", "--plot", "curves.png")
    assert result.exit_code == 2
    assert f"{package} is missing: pip install equiv[train]" in result.stderr


def test_interrupt_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "predict", interrupted)
    result = equiv("train", "parity", "--steps", "1", "--json", "out.json", "--plot", "curves.png")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"
    assert list(Path().iterdir()) == []


def test_the_command_names_every_model() -> None:
    assert tuple(MODELS) == command.MODELS == tuple(curves.NAMES)
