"""Counts by fvcore against numbers worked out by hand, and Tables 2 and 3 against the paper's."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from equiv import cli, models, tables
from equiv.counting import Counts, count
from equiv.models import TABLE2, TABLE3

META: dict = {"device": "meta"}


def image(*size):
    return torch.zeros(1, 3, *size, **META)


@pytest.mark.parametrize("activation", ["softmax", "scaling_relu"])
def test_counts_of_a_vit_by_hand(activation):
    """One multiply-accumulate is one FLOP, LayerNorm costs 5 an element; the head is not run."""
    n, d, hidden, layers = 3 * 4 + 1, 24, 96, 2
    model = models.VisionTransformer(
        image_size=(24, 32), patch_size=8, dim=d, depth=layers, heads=3, classes=9, activation=activation, **META
    )
    patches = (n - 1) * 3 * 8 * 8 * d
    attention = n * d * 3 * d + 2 * n * n * d + n * d * d
    mlp = 2 * n * d * hidden
    norms = 5 * n * d * (2 * layers + 1)
    activations = (n - 1) * d + layers * (n * 3 * d + 3 * n * n + n * d + n * d + n * hidden + n * d)
    parameters = (3 * 64 + 1) * d + d + n * d + 2 * d + (d + 1) * 9
    parameters += layers * (4 * d + (d + 1) * 3 * d + (d + 1) * d + (d + 1) * hidden + (hidden + 1) * d)
    want = Counts(patches + layers * (attention + mlp) + norms, parameters, activations)
    assert count(model, image(24, 32)) == want


def test_counts_change_with_the_model():
    small = count(models.create("deit_tiny", depth=2, **META), image(224, 224))
    larger = count(models.create("deit_tiny", depth=3, **META), image(224, 224))
    assert larger.flops > small.flops
    assert larger.parameters > small.parameters
    assert larger.activations > small.activations
    other = count(models.create("deit_tiny", depth=2, attention="linear", **META), image(224, 224))
    assert other.flops < small.flops
    assert other.parameters == small.parameters


def test_the_literal_conv_form_of_deit_costs_what_the_matmul_form_does():
    """A convolution 1×1 with N kernels is the product with the N keys: the same operations. (Swin's conv form, without
    masks, multiplies fewer: the excluded pairs.)"""
    one, other = (models.create("deit_tiny", form=form, depth=2) for form in ("matmul", "conv"))
    x = torch.zeros(1, 3, 224, 224)
    assert count(one, x) == count(other, x)


def test_counting_leaves_the_mode_alone():
    model = models.create("deit_tiny", depth=1, **META)
    for training in (True, False):
        count(model.train(training), image(224, 224))
        assert model.training is training


# What paper.md, section 4, lists as reproduced: written down before this code was.
RAW = {
    "deit_small_rel_scaling": (4543485888, 22027504, 10351104),
    "deit_base_rel_depthwise": (15826360800, 79434232, 16481280),
    "swin_tiny_rel_depthwise": (4141357048, 26850376, 14112000),
    "swin_base_rel_scaling": (15468005002, 87768224, 38930304),
    "swin_base_rel_depthwise": (14191920600, 80776608, 30256128),
}


def test_swin_base_masks_by_einsum_and_swin_tiny_by_elements():
    """The two code paths that Table 3 implies; without the option the row does not match."""
    counted = count(models.create("swin_base_rel_scaling", masking="elementwise", **META), image(224, 224))
    assert tables.Cost("", counted, TABLE3["swin_base_rel_scaling"]).matches == (False, True, False)
    counted = count(models.create("swin_tiny_rel_scaling", masking="einsum", **META), image(224, 224))
    assert not all(tables.Cost("", counted, TABLE3["swin_tiny_rel_scaling"]).matches)


# The commands


def equiv(*arguments):
    return CliRunner().invoke(cli.main, arguments, prog_name="equiv")


@pytest.fixture(scope="module")
def rows():
    """Table 3, counted once."""
    return list(tables.costs(list(TABLE3)))


@pytest.mark.parametrize("name", RAW)
def test_raw_counts(rows, name):
    (row,) = (row for row in rows if row.model == name)
    assert (row.counts.flops, row.counts.parameters, row.counts.activations) == RAW[name]


def test_table_3_has_44_matches_and_one_difference(rows, monkeypatch):
    monkeypatch.setattr("equiv.tables.costs", lambda names: iter(rows))
    result = equiv("table", "3")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[-2:] == [
        "44 of 45 numbers match the paper to the printed digits",
        "difference: deit_base_rel_depthwise has 15.826 GFLOPs, the paper prints 15.830",
    ]
    assert sum(line.count("≠") for line in lines) == 1
    assert sum(line.count(" =") for line in lines) == 44


def test_table_3_is_counted_not_stored(monkeypatch):
    """A changed model changes the table."""
    monkeypatch.setattr("equiv.tables.create", lambda name, **options: models.create(name, mlp_ratio=3.0, **options))
    rows = list(tables.costs(list(TABLE3)[:2]))
    assert not any(match for row in rows for match in row.matches[:2])


def test_table_3_as_json(rows, monkeypatch):
    monkeypatch.setattr("equiv.tables.costs", lambda names: iter(rows))
    rows = json.loads(equiv("table", "3", "--json").stdout)
    assert [row["model"] for row in rows] == list(TABLE3)
    assert sum(sum(row["match"].values()) for row in rows) == 44
    assert rows[0]["flops"] == 4607954304
    assert rows[0]["paper"] == {"flops": "4.608", "parameters": "22.051", "activations": "11.947"}


def test_table_2_builds_all_19_rows():
    rows = json.loads(equiv("table", "2", "--json").stdout)
    assert len(rows) == len(TABLE2) == 19
    # top-1 accuracies as in the paper's Table 2, from top to bottom
    deit = [80.53, 77.17, 78.15, 80.03, 80.96, 80.45, 80.93, 78.82, 80.09, 80.64]
    swin = [81.13, 80.02, 81.15, 81.24, 81.22, 81.56, 80.50, 79.99, 80.57]
    assert [row["accuracy"] for row in rows] == deit + swin
    for row in rows:
        words = row["model"].split("_")
        assert row["position"] == {"abs": "absolute", "rel": "relative"}[words[2]]
        assert row["pooling"] == ("average" if "gap" in words or words[0] == "swin" else "class_token")
        assert row["activation"] == "_".join(word for word in words[3:] if word != "gap")
    assert "the paper reports" in equiv("table", "2").stdout
    assert "| model | activation |" in equiv("table", "2", "--markdown").stdout


def test_models_lists_what_is_asked_for():
    lines = equiv("models", "deit_tiny", "swin_tiny").stdout.splitlines()
    assert lines[-2].split() == ["swin_tiny", "SwinTransformer", "4.508", "28.288", "17.054"]
    rows = json.loads(equiv("models", "deit_tiny", "--json", "-").stdout)
    assert rows == [{"model": "deit_tiny", "flops": 1258219200, "parameters": 5717416, "activations": 5973636}]
    result = equiv("models", "deit_smal")
    assert result.exit_code == 2
    assert "should be deit_small" in result.stderr


def test_a_missing_fvcore_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fvcore.nn", None)
    result = equiv("table", "3")
    assert result.exit_code != 0
    assert "fvcore is missing: pip install equiv[tables]" in result.stderr
