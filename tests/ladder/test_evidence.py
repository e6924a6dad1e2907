"""Evidence cannot be misread or dropped."""

from __future__ import annotations

import json

import pytest

from equiv import Evidence, Verdict
from equiv.ladder.evidence import worst

EQUAL = Evidence(Verdict.EQUAL, claim="f equals g", scope="everything", numbers={"deviation": 1 / 3}, seed=7)


def test_no_truth_value():
    with pytest.raises(TypeError, match="look at its `verdict`"):
        assert EQUAL
    with pytest.raises(TypeError, match="compare it"):
        assert EQUAL.verdict


def test_a_verdict_needs_its_reason():
    with pytest.raises(ValueError, match="does not fit"):
        Evidence(Verdict.DIFFERENT, claim="f equals g", scope="everything")
    with pytest.raises(ValueError, match="does not fit"):
        Evidence(Verdict.EQUAL, claim="f equals g", scope="everything", reason="but")


def test_text_and_json():
    summary = Evidence(Verdict.UNKNOWN, claim="all", scope="everything", reason="no GPU", parts=(EQUAL,))
    assert str(summary).splitlines()[:2] == ["UNKNOWN: all", "  reason: no GPU"]
    assert "  deviation: 0.333" in str(EQUAL).splitlines()
    data = json.loads(json.dumps(summary.to_dict()))
    assert data["verdict"] == "UNKNOWN"
    assert data["parts"][0]["seed"] == 7


def test_the_worst_verdict_wins_and_none_is_unknown():
    equal, different, unknown = Verdict.EQUAL, Verdict.DIFFERENT, Verdict.UNKNOWN
    assert worst([equal, unknown, different]) is different
    assert worst([equal, unknown]) is unknown
    assert worst([equal, equal]) is equal
    assert worst([]) is unknown
