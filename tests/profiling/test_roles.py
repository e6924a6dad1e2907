"""Roles are found where the table says, and looking for them changes nothing."""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from equiv import catalogue, conv, matmul
from equiv.models import create
from equiv.profiling import roles
from equiv.profiling.roles import MODULES, NEEDED, ROLES, SCOPES, annotate, missing

VIT: dict[str, Any] = {"image_size": 32, "dim": 12, "depth": 1, "heads": 2, "classes": 3}
SWIN: dict[str, Any] = {"dim": 6, "depths": (2,), "heads": (2,), "window": 4, "classes": 3}

DWNET: dict[str, Any] = {"dim": 6, "depths": (1, 1), "kernel_size": 3, "classes": 3}
RESNET: dict[str, Any] = {"depths": (1,), "width": 4, "classes": 3}


def subjects() -> list[tuple[str, str, nn.Module, torch.Tensor]]:
    """Name, form, module and input: every case of the catalogue, and small models, in all forms."""
    found = []
    for pair in catalogue.PAIRS:
        for number, case in enumerate(pair.cases):
            for form in ("matmul", "literal", "fused"):
                name = "matmul" if form == "matmul" else "conv"
                found.append((f"{pair.name}-{number}-{form}", name, pair.build(form, case), torch.randn(case.shape)))
    einsum = matmul.LinearWindowAttention(8, 2, window=3, shift=1)
    einsum.masking = "einsum"
    found.append(("masking-einsum", "matmul", einsum, torch.randn(1, 8, 5, 7)))
    found.append(("normed", "conv", nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.randn(2, 3, 4, 4)))
    small = {"vit_tiny": VIT, "swin_tiny": SWIN, "dwnet_tiny": DWNET, "dconv_resnet50": RESNET}
    for family, options in small.items():
        for form in ("matmul", "conv"):
            model = create(family, form=form, **options)
            found.append((f"{family}-{form}", form, model.eval(), torch.randn(1, 3, 32, 32)))
    return found


SUBJECTS = subjects()


def hits(model: nn.Module, x: torch.Tensor) -> "Counter[tuple[str, str, str]]":
    with annotate(model) as annotation:
        model(x)
    return annotation.hits


@pytest.mark.parametrize(("form", "model", "x"), [s[1:] for s in SUBJECTS], ids=[s[0] for s in SUBJECTS])
def test_what_an_operator_cannot_do_without_is_met(form: str, model: nn.Module, x: torch.Tensor) -> None:
    found = {role for _, _, role in hits(model, x)}
    assert found <= ROLES.keys()
    assert missing(model, form, found) == []
    for role in found - {"bias", "bank", "paired (fused)"}:  # not needed, or in place of others
        without = found - {role}
        kinds = {type(module).__name__ for module in model.modules()}
        if any(role in (n[form] if isinstance(n, dict) else n) for kind, n in NEEDED.items() if kind in kinds):
            assert any(gap.endswith(f": {role}") for gap in missing(model, form, without))


def test_every_entry_of_the_table_is_met_and_every_role_used() -> None:
    met: Counter[tuple[str, str, str]] = Counter()
    for _, _, model, x in SUBJECTS:
        met += hits(model, x)
    expected = set()
    for scope in SCOPES:
        for call, role in scope.inline.items():
            expected |= {(scope.where, call, one) for one in ((role,) if isinstance(role, str) else role)}
        if scope.role is not None:
            expected.add((scope.where, "", scope.role))
    assert expected - met.keys() == set()
    classes = {where for where, _, _ in met} - {scope.where for scope in SCOPES}
    assert classes == {"Linear", "Conv2d", "Conv1x1", "TokenConv1x1", "LayerNorm", "BatchNorm2d"}
    assert {role for _, _, role in met} == ROLES.keys()
    assert {role for _, role in MODULES} <= ROLES.keys()
    assert set(NEEDED) == {pair.name for pair in catalogue.PAIRS}


IN, OUT = ["static convolution", "bank"], ["static convolution"]
PAIRED = ["first kernel", "activation", "second kernel"]
MERGED = ["merged kernel", "kernel merging", "merged kernel"]  # first the queries are scaled


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (matmul.GlobalAttention(8, 2), [*IN, *PAIRED, *OUT]),
        (conv.GlobalAttention(8, 2, lowering="literal"), [*IN, "selection", *PAIRED, "selection", *OUT]),
        (conv.GlobalAttention(8, 2, activation="scaling"), [*IN, "selection", *PAIRED, "selection", *OUT]),
        (conv.GlobalAttention(8, 2), [*IN, "selection", "paired (fused)", "selection", *OUT]),
        (matmul.LinearAttention(8, 2), [*IN, *MERGED, *OUT]),
        # whose merged kernel is the work of the functions that are second kernels elsewhere
        (conv.LinearAttention(8, 2, lowering="literal"), [*IN, "selection", *MERGED, "selection", *OUT]),
        (conv.LinearAttention(8, 2), [*IN, "selection", *MERGED, "selection", *OUT]),
    ],
)
def test_roles_come_in_the_order_of_the_formula(
    operator: nn.Module, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Recorder(roles.Annotation):
        def _slice(self, where, call, role):
            order.append(role)
            return super()._slice(where, call, role)

    monkeypatch.setattr(roles, "Annotation", Recorder)
    hits(operator, torch.randn(1, 5, 8))
    assert [role for role, _ in itertools.groupby(order)] == expected


def test_nothing_is_left_behind() -> None:
    model = create("swin_tiny", form="conv", **SWIN)
    x = torch.randn(1, 3, 32, 32)
    before = {scope.where: getattr(*roles._owner(scope.where)) for scope in SCOPES}
    bound = vars(conv.base)["split_heads"]
    expected = model(x)
    with annotate(model):
        assert getattr(*roles._owner("equiv.conv.apply:activate")) is not before["equiv.conv.apply:activate"]
        assert vars(conv.base)["split_heads"] is not bound  # where it was imported to
        assert torch.equal(model(x), expected)
    with pytest.raises(ValueError, match="should be of shape"), annotate(model):
        model(x[0])
    assert {where: getattr(*roles._owner(where)) for where in before} == before
    assert vars(conv.base)["split_heads"] is bound
    assert all("forward" not in vars(module) for module in model.modules())
    assert torch.equal(model(x), expected)


def test_an_unknown_call_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second product in a function with a role for one only."""
    kept = tuple(scope for scope in SCOPES if scope.where != "equiv.matmul.attention:attend")
    short = roles.Scope("equiv.matmul.attention:attend", inline={"matmul": ("first kernel",)})
    monkeypatch.setattr(roles, "SCOPES", (*kept, short))
    with pytest.raises(RuntimeError, match=r"attend calls matmul more often than the 1 times with a role"):
        hits(matmul.GlobalAttention(8, 2), torch.randn(1, 5, 8))


@pytest.mark.parametrize("where", ["equiv.conv.apply:no_such", "equiv.matmul.window:WindowAttention.forward"])
def test_a_wrong_name_is_an_error(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a function that is not there, and of a method that is defined in a base class."""
    monkeypatch.setattr(roles, "SCOPES", (roles.Scope(where, "bank"),))
    with pytest.raises(AttributeError, match="not defined there"), annotate(nn.Identity()):
        pass


def test_a_fused_pair_stands_for_its_three_parts_only() -> None:
    model = conv.WindowAttention(8, 2, window=3)
    assert missing(model, "conv", {"paired (fused)", "static convolution"}) == ["WindowAttention: selection"]
    assert missing(model, "conv", {"selection", "static convolution", "activation"}) == [
        "WindowAttention: first kernel",
        "WindowAttention: second kernel",
    ]
