"""``equiv profile``: what it measures, writes and prints."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from equiv import catalogue, cli
from equiv.cli.profile import DTYPES, FORMS, LOWERINGS
from equiv.ladder import floating
from equiv.profiling import roles, run
from equiv.profiling.roles import PREFIX, ROLES
from equiv.profiling.run import Profile, Target
from equiv.profiling.trace import BETWEEN, OTHER, summarise

TINY: dict[str, Any] = {"dim": 24, "depth": 2, "heads": 3, "classes": 5}


def equiv(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["profile", *arguments], prog_name="equiv")


def measure(target: Target, folder: Path, forms: tuple[str, ...] = run.FORMS, steps: int = 2) -> list[Profile]:
    done = list(run.run(target, forms, steps, folder))
    assert len(done) == run.count(forms, steps)
    return [one for one in done if one is not None]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[Profile]:
    target = Target("vit_tiny", batch=2, image_size=32, options=TINY, dtype="float64", seed=3)
    return measure(target, tmp_path_factory.mktemp("runs"))


def events(trace: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(trace.read_text())["traceEvents"]
    return found


def test_two_runs_lie_side_by_side(measured: list[Profile]) -> None:
    assert [one.form for one in measured] == ["matmul", "conv-literal"]
    assert [one.folder.name for one in measured] == ["matmul", "conv-literal"]
    assert {one.folder.parent.name for one in measured} == {"vit_tiny"}
    for one in measured:
        names = sorted(path.name for path in one.folder.iterdir())
        assert len(names) == 2
        # the name that torch.profiler.tensorboard_trace_handler gives: worker.nanoseconds.pt.trace.json
        assert re.fullmatch(r"equiv\.\d{19}\.pt\.trace\.json", names[0])
        assert names[1].startswith("events.out.tfevents.")
        assert one.trace == one.folder / names[0]


def test_times_by_role_add_up_to_the_step(measured: list[Profile]) -> None:
    for one in measured:
        summary = one.summary
        assert (summary.steps, summary.clock) == (2, "cpu")
        times = {part.role: part.time for part in summary.parts}
        assert min(times.values()) >= -1e-3
        assert sum(times.values()) == pytest.approx(summary.step, rel=1e-9)
        assert sum(time for role, time in times.items() if role not in (OTHER, BETWEEN)) < summary.step
        assert one.median > 0
        # What operators with gradients do takes time in both directions.
        assert all(part.forward > 0 and part.backward > 0 for part in summary.parts if part.role in PAIR_AND_STATIC)


PAIR_AND_STATIC = ("static convolution", *roles.PAIRED, "normalisation", "MLP activation")


def test_calls_and_memory_are_those_of_the_model(measured: list[Profile]) -> None:
    for one in measured:
        parts = {part.role: part for part in one.summary.parts}
        calls = {role: parts[role].calls for role in (*PAIR_AND_STATIC, "bank")}
        expected = {
            "static convolution": 1 + 4 * 2 + 1,
            "activation": 2,
            "normalisation": 5,
            "MLP activation": 2,
            "bank": 2,
        }
        assert {role: calls[role] for role in expected} == expected
        # of two images and two layers, five tokens; 8 bytes a number: softmax, and GELU on 4 × 24 channels
        forward, backward = 2 * 2 * 3 * 5 * 5 * 8, 2 * 2 * 5 * 96 * 8
        assert forward <= parts["activation"].allocated <= 4 * forward
        assert parts["MLP activation"].allocated == pytest.approx(2 * backward, rel=0.01)
        assert 0 < one.summary.peak <= sum(part.allocated for part in one.summary.parts)
    ours, theirs = ({part.role for part in one.summary.parts} for one in measured)
    assert theirs - ours == {"selection"}  # a ViT's selects all; the textbook has no such thing


def test_forms_agree_in_float64(measured: list[Profile]) -> None:
    textbook, convolution = measured
    assert textbook.deviations == {}
    assert convolution.deviations.keys() == {"output", "gradients"}
    assert 0 < max(convolution.deviations.values()) < 1e-12


def test_traces_are_valid_and_summed_from_the_file(measured: list[Profile]) -> None:
    for one in measured:
        trace = json.loads(one.trace.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert summarise(trace) == one.summary
        found = {event["name"] for event in trace["traceEvents"] if event.get("cat") == "cpu_op"}
        named = {PREFIX + part.role for part in one.summary.parts if part.role in ROLES}
        assert named <= found
        assert f"{PREFIX}second kernel (backward)" in found
        for event in trace["traceEvents"]:
            assert all(key in event for key in run.REQUIRED.get(event["ph"], ("ph",))), event
        # Slices of a thread are nested or apart, or else viewers drop them.
        stack: list[float] = []
        slices = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["cat"] == "cpu_op"]
        for event in sorted(slices, key=lambda event: (event["ts"], -event["dur"])):
            while stack and stack[-1] <= event["ts"]:
                stack.pop()
            end = event["ts"] + event["dur"]
            assert not stack or end <= stack[-1] + 1e-3, event
            stack.append(end)
        steps = [event for event in trace["traceEvents"] if event["name"].startswith("ProfilerStep#")]
        assert len(steps) == 2


def test_scalars_are_written(measured: list[Profile]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for one in measured:
        accumulator = EventAccumulator(str(one.folder))
        accumulator.Reload()
        read = {tag: [event.value for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}
        single = {f"deviation/{name}": [value] for name, value in one.deviations.items()}
        single |= {f"time_ms/{part.role}": [part.time] for part in one.summary.parts}
        single |= {"peak_MB/step": [one.summary.peak / 1e6], "time_ms/step": [1e3 * s for s in one.seconds]}
        assert read == {tag: pytest.approx(values, rel=1e-6) for tag, values in single.items()}


def test_fused_forward_only(tmp_path: Path) -> None:
    target = Target("WindowAttention", lowering="fused", backward=False)
    (one,) = measure(target, tmp_path, ("conv",))
    parts = {part.role: part for part in one.summary.parts}
    assert "paired (fused)" in parts
    assert not parts.keys() & set(roles.PAIRED)
    assert all(part.backward == 0 for part in one.summary.parts)
    assert one.deviations.keys() == {"output"}
    again = measure(target, tmp_path, ("conv",))[0]  # a second trace beside the first one
    assert len(list(one.folder.glob("*.pt.trace.json"))) == 2
    assert again.deviations == one.deviations


@pytest.mark.parametrize("name", ["dwnet_tiny", "dconv_resnet18"])
def test_networks_with_batchnorm_give_numbers_and_forms_share_their_weights(name: str) -> None:
    """Depth matters here: with drawn statistics, twelve dynamic convolutions overflow."""
    target = Target(name, image_size=32, dtype="float64", seed=5)
    x = target.input()
    textbook, convolution = (run._results(target.build(form), x, backward=True) for form in run.FORMS)
    assert all(torch.isfinite(tensor).all() for tensor in textbook)
    assert textbook[0].std() > 1e-3
    assert len(textbook) > 50
    assert max(run._deviations(convolution, textbook).values()) <= 1e-9


def test_a_wrong_form_deviates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equiv.conv.apply.logit_scale", lambda activation, dim: 1 / dim)
    (one,) = measure(Target("GlobalAttention", dtype="float64"), tmp_path, ("conv",), steps=1)
    assert min(one.deviations.values()) > 1e-3


def test_a_role_that_is_not_met_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tuple(scope for scope in roles.SCOPES if scope.where != "equiv.conv.apply:activate")
    monkeypatch.setattr(roles, "SCOPES", kept)
    with pytest.raises(RuntimeError, match="no operator was met in these roles: GlobalAttention: activation"):
        measure(Target("GlobalAttention"), tmp_path, ("conv",), steps=1)
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vit_tinny"}, r"`TARGET`='vit_tinny', but should be vit_tiny.*\(nearest\)"),
        ({"name": "GlobalAttentoin"}, r"should be GlobalAttention.*\(nearest\)"),
        ({"name": "GlobalAttention", "image_size": 32}, "None for an operator"),
        ({"name": "vit_tiny", "batch": 0}, "`batch`=0"),
        ({"name": "vit_tiny", "dtype": "int8"}, "`dtype`='int8'"),
        ({"name": "vit_tiny", "device": "tpu"}, "`device`='tpu'"),
        ({"name": "vit_tiny", "lowering": "best"}, "`lowering`='best'"),
    ],
)
def test_bad_targets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Target(**options)


def test_incomplete_events_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="an event of the trace lacks dur"):
        run.write({"traceEvents": [{"ph": "X", "name": "a", "cat": "b", "pid": 1, "tid": 1, "ts": 0}]}, tmp_path / "t")
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write({"traceEvents": [], "time": math.nan}, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


# The command


def test_the_command(tmp_path: Path) -> None:
    output, logdir = tmp_path / "out.json", tmp_path / "my runs"
    result = equiv("LinearAttention", "--logdir", str(logdir), "--steps", "1", "--batch", "4", "--json", str(output))
    assert result.exit_code == 0, result.output
    data = json.loads(output.read_text())
    assert [one["form"] for one in data["runs"]] == ["matmul", "conv-literal"]
    assert data["target"]["batch"] == 4
    assert f"open: tensorboard --logdir '{logdir}'" in result.output
    for one in data["runs"]:
        assert one["scalars"] is True
        assert f"trace: {one['trace']}\n" in result.output
        assert summarise(json.loads(Path(one["trace"]).read_text())).peak == one["peak_bytes"]
        assert f"{one['form']}: {1e3 * one['seconds'][0]:.2f} ms a step without profiler" in result.output
        for role in one["roles"]:
            (line,) = (line for line in result.output.splitlines() if line.startswith(role["role"] + " "))
            assert f"{role['forward_ms'] + role['backward_ms']:.2f}" in line.split()
    lines = result.output.splitlines()
    assert lines[1].split()[0] == "matmul"
    assert max(map(len, lines[: lines.index("")])) <= 80
    assert re.search(r"conv-literal deviates from matmul: output \d\.\de-\d\d, gradients", result.output)


def test_json_on_stdout(tmp_path: Path) -> None:
    arguments = ("--steps", "1", "--form", "conv", "--forward-only", "--dtype", "bfloat16", "--json", "-")
    result = equiv("DepthwiseAttention", "--logdir", str(tmp_path), *arguments)
    (one,) = json.loads(result.stdout)["runs"]
    assert one["form"] == "conv-literal"
    assert all(role["backward_ms"] == 0 for role in one["roles"])
    assert "depth-wise kernel" in result.stderr


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = equiv("LinearAttention", "--logdir", str(tmp_path), "--steps", "1")
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.rglob("*.pt.trace.json"))) == 2
    assert list(tmp_path.rglob("*tfevents*")) == []
    assert "note: scalars were not written" in result.output
    assert "pip install equiv[profile]" in result.output


def test_results_that_are_no_numbers_are_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equiv.conv.apply.activate", lambda z, activation, dim: z * math.nan)
    output = tmp_path / "out.json"
    result = equiv("GlobalAttention", "--steps", "1", "--logdir", str(tmp_path), "--json", str(output))
    assert "deviates from matmul: output nan, gradients nan" in result.output
    assert "the forms cannot be compared" in result.output
    assert result.exit_code == 2
    assert json.loads(output.read_text())["runs"][1]["deviations"] == {"output": "nan", "gradients": "nan"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vit_tinny",), "vit_tiny"),
        (("vit_tiny", "--image-size", "33"), "`patch_size`=16, but should be a divisor"),
        (("swin_tiny", "--image-size", "32"), "H and W at least 7"),
        (("GlobalAttention", "--logdir", "{file}/runs"), "--logdir"),
        (("GlobalAttention", "--form", "einsum"), "einsum"),
        (("GlobalAttention", "--steps", "0"), "--steps"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = equiv("--logdir", str(tmp_path), *(word.format(file=tmp_path / "file") for word in arguments))
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_choices_are_those_of_the_work() -> None:
    assert (run.FORMS, catalogue.LOWERINGS, tuple(floating.DTYPES)) == (FORMS, LOWERINGS, DTYPES)


@pytest.mark.gpu
def test_on_a_gpu_times_are_those_of_its_kernels(tmp_path: Path) -> None:
    target = Target("vit_tiny", image_size=32, options=TINY, device="cuda")
    for one in measure(target, tmp_path):
        assert one.summary.clock == "device"
        assert sum(part.time for part in one.summary.parts) == pytest.approx(one.summary.step, rel=0.05)
        assert all(part.forward > 0 for part in one.summary.parts if part.role in PAIR_AND_STATIC)
        assert all(part.backward > 0 for part in one.summary.parts if part.role in PAIR_AND_STATIC)
        assert 0 < one.summary.peak < torch.cuda.max_memory_allocated()
