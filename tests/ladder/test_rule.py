"""The interim rule on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from equiv.ladder.rule import Different, Norms, Unknown, check_structure, deviations

U = 2.0**-9  # unit roundoff of bfloat16


def one(got, low, want, name="output 0", dtype=torch.bfloat16, **others):
    """The comparison of the tensor ``name``; ``others`` are further oracle tensors, met exactly."""
    exact = {key.replace("_", " "): torch.tensor(value) for key, value in others.items()}
    got, low, want = ({name: torch.tensor(x, dtype=torch.float64)} | exact for x in (got, low, want))
    return {found.name: found for found in deviations(got, low, want, dtype)}[name]


def test_twice_the_error_of_the_reference_plus_four_roundings():
    # errors: reference 0.25; allowed 2·0.25 + 4u·2
    found = one([2.0, 1.5], [2.25, 1.0], [2.0, 1.0])
    assert found.share == pytest.approx(0.5 / (0.5 + 4 * U * 2))
    assert found.deviation == pytest.approx(0.5 / 2)
    assert found.tolerance == pytest.approx((0.5 + 4 * U * 2) / 2)


def test_the_root_mean_square_refuses_what_the_maximum_allows():
    # The reference is off in one element, the candidate by the same in all: the maximum alone would accept it.
    want = [4.0] * 100
    found = one([4.25] * 100, [4.25] + [4.0] * 99, want)
    assert found.share == pytest.approx(0.25 / (2 * 0.025 + 4 * U * 4))
    assert "rms" in found.text


def test_float64_allows_1e_12_of_the_largest_element():
    assert one([1e3, 1.0 + 0.9e-9], [1e3, 1.0], [1e3, 1.0], dtype=torch.float64).share == pytest.approx(0.9, rel=1e-3)
    assert one([1e3, 1.0 + 1.1e-9], [1e3, 1.0], [1e3, 1.0], dtype=torch.float64).share > 1


def test_gradients_are_measured_against_a_sixteenth_of_the_largest():
    small = {"name": "gradient of k", "gradient_of_v": [16.0]}
    assert one([4 * U * 0.9], [0.0], [0.0], **small).share == pytest.approx(0.9)
    assert one([4 * U * 1.1], [0.0], [0.0], **small).share == pytest.approx(1.1)
    # an output is not: where 0 is expected, and the reference gives it, 0 it must be
    assert one([4 * U * 0.9], [0.0], [0.0], gradient_of_v=[16.0]).share == math.inf


def test_sensitivity_is_added_to_both_norms():
    want = {"output 0": torch.tensor([1.0, 1.0], dtype=torch.float64)}
    got = {"output 0": torch.tensor([1.1, 1.1], dtype=torch.float64)}
    (found,) = deviations(got, want, want, torch.bfloat16, {"output 0": Norms(0.2, 0.2)})
    assert found.share == pytest.approx(0.1 / (0.2 + 4 * U))


def test_what_decides_nothing_is_marked():
    assert one([1.0], [1.2], [1.0]).decisive
    assert not one([1.0], [1.3], [1.0]).decisive  # 2·0.3 of 1
    # a gradient that cancels to nothing has nothing to decide
    assert one([0.01], [0.5], [0.0], name="gradient of k", gradient_of_v=[16.0]).decisive


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("got", "want", "what"),
    [
        ([1.0, 1.0], [1.0, NAN], "finite where the expected value is not"),
        ([1.0, 1.0], [1.0, INF], "finite where the expected value is not"),
        ([1.0, NAN], [1.0, 1.0], "not finite where the expected value is"),
        ([1.0, INF], [1.0, NAN], "NaN and infinity mixed up"),
        ([1.0, NAN], [1.0, INF], "NaN and infinity mixed up"),
        ([1.0, -INF], [1.0, INF], "infinity of the other sign"),
    ],
)
def test_non_finite_values_must_agree_in_kind(got, want, what):
    with pytest.raises(Different, match=rf"output 0: {what}, 1 of 2 elements, first at \(1,\)"):
        one(got, want, want)


def test_non_finite_values_that_agree_do_not_hide_the_others():
    assert one([NAN, INF, 1.0], [NAN, INF, 1.0], [NAN, INF, 1.0]).share == 0
    assert one([NAN, INF, 2.0], [NAN, INF, 1.0], [NAN, INF, 1.0]).share > 1


def test_a_reference_that_overflows_decides_nothing():
    with pytest.raises(Unknown, match="the reference itself overflows in this dtype at 1 elements"):
        one([1.0, 1.0], [1.0, INF], [1.0, 1.0])


def test_structure():
    x = {"output 0": torch.zeros(2, 3)}
    check_structure(x, x, x)
    with pytest.raises(Different, match="output 0 has shape"):
        check_structure({"output 0": torch.zeros(3, 2)}, x, x)
    with pytest.raises(Different, match=r"output 0 has dtype torch.float64, expected torch.float32"):
        check_structure({"output 0": torch.zeros(2, 3).double()}, x, x)
    with pytest.raises(Different, match="lacks"):
        check_structure({}, x, x)
    with pytest.raises(Unknown, match="no tensor"):
        check_structure({}, {}, {})
    empty = {"output 0": torch.zeros(0, 3), "gradient of x0": torch.zeros(2)}
    with pytest.raises(Unknown, match="empty"):
        check_structure(empty, empty, empty)


def test_integers_must_be_equal():
    x = {"output 0": torch.tensor([1, 2])}
    (found,) = deviations(x, x, x, torch.float32)
    assert found.share == 0
    with pytest.raises(Different, match="1 of 2 elements"):
        list(deviations({"output 0": torch.tensor([1, 3])}, x, x, torch.float32))


@pytest.mark.parametrize("where", [0, 17, 999])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_seen(where, bad):
    want = torch.randn(1000, dtype=torch.float64)
    got = want.clone()
    got[where] = bad
    with pytest.raises(Different, match="not finite where the expected value is"):
        list(deviations({"output 0": got}, {"output 0": want}, {"output 0": want}, torch.float64))


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_differences_of_huge_values_are_seen(size):
    want = torch.full((5,), size, dtype=torch.float64)
    (found,) = deviations({"output 0": -want}, {"output 0": want}, {"output 0": want}, torch.float64)
    assert found.share > 1
    assert "deviation" in found.text
