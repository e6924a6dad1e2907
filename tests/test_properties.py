"""Both forms compute the same, for operators, options, shapes, layouts, values and dtypes that Hypothesis draws."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import Phase, event, given, settings

from equiv.catalogue import LOWERINGS
from equiv.errors import NotEquivalent
from equiv.ladder.evidence import Verdict
from equiv.testing import reproduce
from equiv.testing.strategies import HALF, OPERATORS, Drawn, cases, command, dtypes, runs


def obstacle(drawn: Drawn, dtype: torch.dtype, reason: str) -> str:
    """The known obstacle, if that is why nothing could be said; empty otherwise."""
    if dtype is torch.float16 and drawn.pattern == "large" and "the reference itself overflows" in reason:
        return "overflow of the reference"
    if dtype in HALF and reason.startswith("rounding alone may change half of"):
        return "the case is ill-conditioned"
    return ""


@pytest.mark.parametrize("operator", OPERATORS)
def test_both_forms_agree(operator):
    outcomes: Counter[str] = Counter()

    @given(runs(operator))
    def forms_agree(run):
        drawn, dtype = run
        for evidence in reproduce.check(drawn, dtype):
            known = evidence.verdict is Verdict.UNKNOWN and obstacle(drawn, dtype, evidence.reason)
            outcomes[known or evidence.verdict.name] += 1
            event(known or evidence.verdict.name)
            if evidence.verdict is not Verdict.EQUAL and not known:
                raise NotEquivalent(str(evidence), evidence)

    forms_agree()
    assert outcomes["EQUAL"] >= 0.8 * outcomes.total(), outcomes


def test_a_failure_shows_the_shrunken_case_and_its_command(monkeypatch):
    """A bug in the conv form, for three tokens and more, is found, shrunk and reported to be run again."""
    from equiv.conv import LinearAttention

    correct = LinearAttention.forward
    monkeypatch.setattr(LinearAttention, "forward", lambda self, x: correct(self, x) * (1 + (x.shape[1] > 2)))

    monkeypatch.setattr(reproduce, "LOWERINGS", ("fused",))  # for speed

    @settings(max_examples=100, database=None, phases=(Phase.generate, Phase.shrink))
    @given(runs("LinearAttention"))
    def forms_agree(run):
        for evidence in reproduce.check(*run):
            if evidence.verdict is Verdict.DIFFERENT:
                raise NotEquivalent(str(evidence), evidence)

    with pytest.raises(NotEquivalent, match=r"DIFFERENT: conv .* equals matmul for LinearAttention") as failure:
        forms_agree()
    line = next(line for line in str(failure.value).splitlines() if "reproduce: " in line)
    assert 'python -m equiv.testing.reproduce \'{"operator":"LinearAttention",' in line
    assert '"shape":[1,3,1]' in line


@given(cases(), dtypes())
def test_a_case_survives_json(drawn, dtype):
    assert Drawn.from_json(drawn.to_json()) == drawn
    assert drawn.to_json() in command(drawn, dtype)
    torch.testing.assert_close(Drawn.from_json(drawn.to_json()).input(dtype), drawn.input(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_the_command_tells_by_its_exit_status(monkeypatch, capsys, lowering):
    text = '{"operator":"LinearAttention","args":[4,2],"shape":[1,3,4]}'
    assert reproduce.main([text, "--dtype", "float64"]) == 0
    assert capsys.readouterr().out.count("EQUAL: conv") == len(LOWERINGS)

    from equiv.conv import LinearAttention

    correct = LinearAttention.forward
    wrong = {"fused": 1.0, "literal": 1.0} | {lowering: 1.01}
    monkeypatch.setattr(LinearAttention, "forward", lambda self, x: correct(self, x) * wrong[self.lowering])
    assert reproduce.main([text]) == 1
    assert f"DIFFERENT: conv ({lowering})" in capsys.readouterr().out

    monkeypatch.setattr(LinearAttention, "forward", lambda self, x: [][0])
    assert reproduce.main([text]) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "Expecting value"),
        ("[]", "but should be a JSON object"),
        ('{"operator":"LinearAttention"}', "but should be a JSON object with operator, args and shape"),
        ('{"operator":"Linear","args":[4,2],"shape":[1,3,4]}', "`pair`='Linear', but should be one of"),
        ('{"operator":"LinearAttention","args":[4,3],"shape":[1,3,4]}', "`heads`=3, but should be a divisor"),
        ('{"operator":"LinearAttention","args":[4,2],"shape":[1,3,4],"layout":"round"}', "`layout`='round', but"),
        ('{"operator":"LinearAttention","args":[4,2],"shape":[1,3,4],"speed":9}', "and at most args"),
    ],
)
def test_the_command_explains_a_wrong_case(text, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        reproduce.main([text])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err
