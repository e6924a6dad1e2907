"""Both forms compute the same, for operators, options, shapes, layouts, values and dtypes that Hypothesis draws."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from typing import Any

import pytest
import torch
from hypothesis import Phase, event, given, settings

from equiv import matmul
from equiv.catalogue import LOWERINGS
from equiv.errors import NotEquivalent
from equiv.ladder.draws import LAYOUTS, PATTERNS
from equiv.ladder.evidence import Verdict
from equiv.testing import reproduce
from equiv.testing.strategies import HALF, OPERATORS, PRECISE, Drawn, cases, command, dtypes, runs


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


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_strategies_cover_what_there_is(operator):
    """Every option, choice, layout, pattern and dtype, and the shapes that are special."""
    seen: defaultdict[str, set[Any]] = defaultdict(set)
    parameters = inspect.signature(getattr(matmul, operator)).parameters
    options = [name for name in parameters if name not in ("device", "dtype", "mixing")]

    @settings(max_examples=300, database=None, derandomize=True, phases=(Phase.generate,))
    @given(runs(operator))
    def look(run):
        drawn, dtype = run
        values = dict(zip(options, drawn.args, strict=False)) | drawn.options
        for name in options:
            seen[name].add(values.get(name, parameters[name].default))
        *_, height, width = drawn.shape
        facts = {"one head": drawn.args[1:] == (1,), "one token": drawn.shape[1] == 1, "odd": height % 2 and width % 2}
        facts |= {"one location": height == width == 1, "higher": height > width, "wider": height < width}
        facts |= {"training": drawn.training, "a pair": type(values.get("shift")) is tuple, "padding": False}
        if "window" in options:
            facts["padding"] = height % values["window"] > 0
        seen["facts"] |= {name for name, fact in facts.items() if fact}
        for name, value in {"dtype": dtype, "batch": drawn.shape[0], **vars(drawn)}.items():
            if name in ("dtype", "batch", "layout", "pattern"):
                seen[name].add(value)

    look()
    assert (seen["layout"], seen["pattern"]) == (set(LAYOUTS), set(PATTERNS))
    assert (seen["dtype"], seen["batch"]) == ({*PRECISE, *HALF}, {1, 2, 3})
    choices = {"sharing": 4, "bias_table": 2, "values": 3, "variant": 2, "mask_value": 3, "temperature": 4, "window": 4}
    choices["activation"] = 2 if operator.startswith("Linear") else 6
    for name in options:
        assert len(seen[name]) >= choices.get(name, 2), (name, seen[name])
    if "heads" in options:
        assert "one head" in seen["facts"]
    if "window" in options:
        assert {"a pair", "padding"} <= seen["facts"]
    if "channels" in options or "window" in options:
        assert {"higher", "wider", "odd", "one location"} <= seen["facts"]
    else:
        assert "one token" in seen["facts"]
    assert ("training" in seen["facts"]) is ("group_channels" in options)


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
