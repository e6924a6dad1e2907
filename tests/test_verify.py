"""The jobs behind ``equiv verify``, and how their evidence is summed up."""

import math
import subprocess
import sys

import pytest
import torch

from equiv import catalogue, conv, verify
from equiv.ladder import floating
from equiv.ladder.evidence import Evidence, Verdict, combine
from equiv.ladder.floating import DTYPES
from equiv.verify import Job, Subject


class FakePeer:
    name, slug = "someone's attention, small", "someones"
    error: Exception | None = None

    def check(self, dtype, device, seed, gradients):
        if self.error is not None:
            raise self.error
        numbers = {"largest deviation": 1e-3, "tolerance": 1e-2, "seconds": 0.1}
        scope = f"{dtype} {device} {gradients}"
        return Evidence(Verdict.EQUAL, claim="peer", scope=scope, numbers=numbers, seed=seed)


@pytest.fixture(autouse=True)
def peer(monkeypatch: pytest.MonkeyPatch) -> FakePeer:
    """One quick peer instead of the real ones."""
    fake = FakePeer()
    monkeypatch.setattr("equiv.peers.PEERS", (fake,), raising=False)
    return fake


def part(verdict: str, claim: str, deviation: float | None = None, tolerance: float = 1.0) -> Evidence:
    numbers = {"seconds": 0.5, "tensors compared": 3}
    if deviation is not None:
        numbers |= {"largest deviation": deviation, "tolerance": tolerance}
    reason = "" if verdict == "EQUAL" else f"because of {claim}"
    return Evidence(Verdict[verdict], claim, "here", ("trust",), numbers, reason=reason)


def run(name: str, dtype: str = "float32", seed: int = 1, gradients: bool = True) -> Evidence:
    (job,), _ = verify.jobs(verify.subjects([name]), [dtype], ["cpu"], gradients)
    return job.run(seed)


# Summing up


@pytest.mark.parametrize(
    ("verdicts", "expected", "reason"),
    [
        (["EQUAL", "EQUAL"], "EQUAL", ""),
        (["EQUAL", "UNKNOWN"], "UNKNOWN", "part 1: because of part 1"),
        (["UNKNOWN", "EQUAL", "DIFFERENT", "DIFFERENT"], "DIFFERENT", "part 2: because of part 2"),
        ([], "UNKNOWN", "there are no parts"),
    ],
)
def test_combine_takes_the_worst_verdict_and_names_the_first_part_with_it(
    verdicts: list[str], expected: str, reason: str
) -> None:
    parts = [part(verdict, f"part {index}") for index, verdict in enumerate(verdicts)]
    both = combine(parts, "claim", "scope")
    assert both.verdict is Verdict[expected]
    assert both.reason == reason
    assert both.parts == tuple(parts)


def test_combine_shows_the_part_nearest_to_its_tolerance() -> None:
    parts = [
        part("EQUAL", "large deviation", 0.5, 1.0),
        part("EQUAL", "near its tolerance", 0.009, 0.01),
        part("EQUAL", "exact", 0.0, 0.0),
        part("UNKNOWN", "not measured"),
    ]
    both = combine(parts, "claim", "scope")
    assert both.numbers == {
        "parts": 4,
        "seconds": 2.0,
        "tensors compared": 12,
        "largest deviation": 0.009,
        "tolerance": 0.01,
        "worst part": "near its tolerance",
    }
    assert both.assumptions == ("trust",)
    beyond = combine([*parts, part("DIFFERENT", "should be exact", 1e-9, 0.0)], "claim", "scope")
    assert beyond.numbers["worst part"] == "should be exact"
    lost = combine([*parts, part("DIFFERENT", "infinite", math.inf, 1.0)], "claim", "scope")
    assert lost.numbers["worst part"] == "infinite"


# Jobs


def test_without_names_all_pairs_peers_and_two_models() -> None:
    names = [subject.name for subject in verify.subjects()]
    assert names == [pair.name for pair in catalogue.PAIRS] + [FakePeer.name, "deit_small", "swin_tiny"]
    found, notes = verify.jobs(verify.subjects(), [], ["cpu"])
    assert [job.dtype for job in found if job.subject.name == "deit_small"] == ["float64", "float32", "bfloat16"]
    found, notes = verify.jobs(verify.subjects(), list(DTYPES), ["cpu"])
    assert len({(job.subject.name, job.dtype, job.device) for job in found}) == len(found) == 4 * len(names)
    assert notes == []


def test_names_repeated_count_once() -> None:
    chosen = verify.subjects(["LinearAttention", "someones", "LinearAttention"])
    assert [subject.name for subject in chosen] == ["LinearAttention", FakePeer.name]
    assert len(verify.jobs(chosen, ["float32", "float32"], ["cpu", "cpu"])[0]) == 2


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("GlobalAtention", "GlobalAttention"),
        ("windowattention", "WindowAttention"),
        ("involution", "Involution2d"),
        ("someone", "someones"),
        ("zzz", "one of GlobalAttention, "),
    ],
)
def test_unknown_name_proposes_the_nearest(name: str, proposed: str) -> None:
    with pytest.raises(ValueError, match=f"^`PAIR`='{name}', but should be .*{proposed}.* \\[equiv verify\\]$"):
        verify.subjects([name])


def test_float64_does_not_exist_on_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "devices", lambda: ("cpu", "mps"))
    chosen = verify.subjects(["LinearAttention"])
    found, notes = verify.jobs(chosen, ["float64", "float32"], ["cpu", "mps"])
    assert [(job.dtype, job.device) for job in found] == [("float64", "cpu"), ("float32", "cpu"), ("float32", "mps")]
    assert notes == ["float64 does not exist on mps: not checked there"]
    with pytest.raises(ValueError, match="`--dtype`='float64', but should be a dtype that mps has"):
        verify.jobs(chosen, ["float64"], ["mps"])


def test_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert verify.devices() == ("cpu",)
    with pytest.raises(ValueError, match="`--device`='cuda', but should be a device of this machine: cpu"):
        verify.jobs(verify.subjects(), ["float32"], ["cuda"])


def test_job_passes_everything_to_the_peer() -> None:
    evidence = run("someones", "float16", gradients=False)
    assert evidence.scope == "torch.float16 cpu False"
    assert evidence.seed == 1
    assert evidence.reproduce == "equiv verify someones --dtype float16 --device cpu --seed 1 --forward-only"


def test_unexpected_exception_is_unknown(peer: FakePeer) -> None:
    peer.error = KeyError("gone\nmore")
    evidence = run("someones")
    assert evidence.verdict is Verdict.UNKNOWN
    assert evidence.reason.startswith("unexpected KeyError: ")
    assert "test_verify.py:" in evidence.reason
    assert evidence.reproduce == "equiv verify someones --dtype float32 --device cpu --seed 1"


def test_jobs_have_seeds_of_their_own_which_do_not_depend_on_the_process() -> None:
    seen: dict[str, list[int]] = {}

    def note(dtype, device, seed, gradients):
        seen.setdefault(f"{dtype} {device}", []).append(seed)
        raise NotImplementedError

    for subject in (Subject("a", (), note), Subject("b", (), note)):
        for dtype in ("float32", "float16"):
            for device in ("cpu", "cuda"):
                Job(subject, dtype, device).run(5)
    # The same draws on every device; others for every subject and dtype.
    assert seen["torch.float32 cpu"] == seen["torch.float32 cuda"]
    assert len(set(seen["torch.float32 cpu"] + seen["torch.float16 cpu"])) == 4
    code = "from equiv.ladder.draws import derive; print(derive(5, 'a', 'float32'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == seen["torch.float32 cpu"][0]
    assert 0 <= int(printed) < 2**31


# Pairs


@pytest.mark.parametrize("dtype", DTYPES)
def test_pair_is_checked_in_every_case_and_lowering(dtype: str) -> None:
    evidence = run("LinearAttention", dtype)
    cases = catalogue.find("LinearAttention").cases
    assert evidence.verdict is Verdict.EQUAL, evidence
    assert len(evidence.parts) == evidence.numbers["parts"] == 2 * len(cases)
    for case in cases:
        for lowering in catalogue.LOWERINGS:
            claim = f"conv.LinearAttention{case}, {lowering}, equals matmul.LinearAttention"
            assert [one.claim for one in evidence.parts].count(claim) == 1
    assert "gradients" in evidence.scope
    assert all("gradients" in one.scope and "random weights" in one.scope for one in evidence.parts)
    assert all(one.numbers["largest deviation"] <= one.numbers["tolerance"] for one in evidence.parts)


class WrongOnce(conv.LinearAttention):
    """Wrong in one case of the catalogue and in one lowering: without biases of q, k, v."""

    def forward(self, x):
        y = super().forward(x)
        return y if self.qkv_bias or self.lowering == "fused" else -y


class WrongGradient(conv.LinearAttention):
    def forward(self, x):
        return super().forward(1.5 * x - 0.5 * x.detach())


class Fails(conv.LinearAttention):
    def forward(self, x):
        raise RuntimeError("no kernel for this device")


def test_bug_in_one_case_and_lowering_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "LinearAttention", WrongOnce)
    evidence = run("LinearAttention", "bfloat16")
    assert evidence.verdict is Verdict.DIFFERENT
    case = catalogue.find("LinearAttention").cases[1]
    assert evidence.reason.startswith(f"conv.LinearAttention{case}, literal, equals matmul.LinearAttention: ")
    assert [one.verdict is Verdict.DIFFERENT for one in evidence.parts] == [False, False, True, False, False, False]
    assert evidence.numbers["largest deviation"] > evidence.numbers["tolerance"]


def test_gradients_are_compared_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "LinearAttention", WrongGradient)
    evidence = run("LinearAttention")
    assert evidence.verdict is Verdict.DIFFERENT
    assert "gradient of x0" in evidence.reason
    forward = run("LinearAttention", gradients=False)
    assert forward.verdict is Verdict.EQUAL
    assert "gradients" not in forward.scope + "".join(one.scope for one in forward.parts)
    assert forward.reproduce.endswith(" --forward-only")


def test_operator_that_cannot_run_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "LinearAttention", Fails)
    evidence = run("LinearAttention")
    assert evidence.verdict is Verdict.UNKNOWN
    assert "no kernel for this device" in evidence.reason


def test_inputs_do_not_repeat_the_numbers_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = floating.check

    def spy(candidate, reference, inputs, **options):
        generator = torch.Generator().manual_seed(options["seed"])
        drawn.append((inputs[0], torch.randn(inputs[0].shape, generator=generator, dtype=torch.float64)))
        return original(candidate, reference, inputs, **options)

    monkeypatch.setattr(verify, "check", spy)
    run("LinearAttention")
    assert all(not torch.equal(*pair) for pair in drawn)
