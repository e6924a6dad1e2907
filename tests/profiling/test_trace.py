"""Sums by role, on traces written by hand, where every number is known."""

from typing import Any

import pytest

from equiv.profiling.trace import BETWEEN, OTHER, Summary, finish, summarise

Event = dict[str, Any]
ENGINE = "autograd::engine::evaluate_function: "


def operator(name: str, start: float, duration: float, tid: int = 1, **arguments: Any) -> Event:
    named = {key.replace("_", " ").capitalize(): value for key, value in arguments.items()}
    cat = "user_annotation" if name.startswith(("equiv::", "ProfilerStep#")) else "cpu_op"
    return {"ph": "X", "cat": cat, "name": name, "pid": 7, "tid": tid, "ts": start, "dur": duration, "args": named}


def memory(start: float, size: int, device: int = 0) -> Event:
    arguments = {"Bytes": size, "Device Type": device}
    return {"ph": "i", "name": "[memory]", "pid": 7, "tid": 1, "ts": start, "s": "t", "args": arguments}


def kernel(launcher: int, duration: float) -> Event:
    arguments = {"External id": launcher}
    return {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": 0.0, "dur": duration, "args": arguments}


def steps() -> list[Event]:
    """Two steps of 1000 and 3000 µs; what stands in the first takes, with 2·t in the second, 1.5·t on average."""
    events = []
    for step, (begin, unit) in enumerate(((0.0, 1.0), (2000.0, 2.0))):

        def at(
            name: str, start: float, duration: float, begin: float = begin, unit: float = unit, **arguments: Any
        ) -> Event:
            return operator(name, begin + unit * start, unit * duration, **arguments)

        first, second, third = (10 * step + number for number in (1, 2, 3))
        events += [
            operator(f"ProfilerStep#{step + 1}", begin, 1000 * unit),
            at("equiv::selection", 100, 200),  # 200, of which 50 are bias's
            at("aten::index", 110, 80, sequence_number=first),
            at("equiv::bias", 200, 50),
            at("aten::add", 210, 20, sequence_number=second),
            at("aten::cat", 400, 100, sequence_number=third),
            # composite operators call others with their number, and leave the gradient's node to the last
            at("aten::linear", 500, 60, sequence_number=third + 1),
            at("equiv::activation", 510, 40),
            at("aten::softmax", 515, 30, sequence_number=third + 1),
            at(ENGINE + "SoftmaxBackward0", 600, 70, sequence_number=third + 1),
            at("SoftmaxBackward0", 610, 50, sequence_number=third + 1),
            at("aten::mul", 620, 10, sequence_number=second),  # of the backward pass, in spite of its number
            at(ENGINE + "AddBackward0", 700, 30, sequence_number=second),
            at(ENGINE + "IndexBackward0", 740, 60, sequence_number=first),
            at(ENGINE + "CatBackward0", 800, 40, sequence_number=third),
            at(ENGINE + "AccumulateGrad", 850, 10),
        ]
    return events


def table(summary: Summary) -> dict[str, tuple[float, float, float]]:
    """Microseconds forward and backward, and calls."""
    return {p.role: (1e3 * p.forward, 1e3 * p.backward, p.calls) for p in summary.parts}


EXPECTED = {
    "selection": (1.5 * 150, 1.5 * 60, 1),
    "bias": (1.5 * 50, 1.5 * 30, 1),
    "activation": (1.5 * 40, 1.5 * 70, 1),
    OTHER: (1.5 * (100 + 20), 1.5 * 50, 0),
    BETWEEN: (1.5 * (1000 - 200 - 100 - 60 - 70 - 30 - 60 - 40 - 10), 0, 0),
}


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
def test_every_microsecond_is_counted_once(order: int) -> None:
    summary = summarise({"traceEvents": steps()[::order]})
    assert (summary.steps, summary.step, summary.clock) == (2, 1.5, "cpu")
    assert {role: pytest.approx(numbers) for role, numbers in EXPECTED.items()} == table(summary)
    assert sum(part.time for part in summary.parts) == pytest.approx(summary.step)


def test_what_lies_outside_of_the_steps_is_not_counted() -> None:
    outside = [operator("equiv::selection", 10000, 100), operator("aten::index", 10010, 50)]
    parts = table(summarise({"traceEvents": steps() + outside}))
    assert parts["selection"][:2] == pytest.approx(EXPECTED["selection"][:2])


def test_kernels_count_where_they_were_launched() -> None:
    """On a GPU the backward pass has a thread of its own, and the time is that of the kernels."""
    events = [
        operator("aten::other", 1, 2, tid=2),  # a thread that happens to come first
        operator("ProfilerStep#1", 0, 1000),
        operator("equiv::activation", 100, 10),
        operator("aten::softmax", 101, 8, sequence_number=4, external_id=11),
        operator("aten::add", 150, 8, external_id=12),
        operator(ENGINE + "SoftmaxBackward0", 300, 20, tid=2, sequence_number=4),
        operator("aten::_softmax_backward_data", 301, 18, tid=2, external_id=13),
    ]
    summary = summarise({"traceEvents": [*events, kernel(11, 300), kernel(12, 40), kernel(13, 500), kernel(99, 1)]})
    assert summary.clock == "device"
    assert table(summary) == {
        "activation": pytest.approx((300, 500, 1)),
        OTHER: pytest.approx((41, 0, 0)),
        BETWEEN: pytest.approx((159, 0, 0)),
    }


def test_memory_goes_to_the_innermost_role_and_the_peak_is_that_of_one_step() -> None:
    changes = [
        memory(50, 1000),  # in no operator
        memory(120, 4000),  # in aten::index of the selection
        memory(220, 300),  # in aten::add of the bias
        memory(290, -1000),
        memory(295, 20),  # in the selection, after the bias
        memory(950, -3320),
        memory(1500, 10**9),  # between the steps
        memory(2100, 4290),
    ]
    summary = summarise({"traceEvents": steps() + changes})
    allocated = {part.role: 2 * part.allocated for part in summary.parts if part.allocated}
    assert allocated == {"selection": 4020, "bias": 300, OTHER: 5290}
    assert summary.peak == 5300
    on_device = summarise({"traceEvents": [*steps(), *changes, memory(130, 77, device=1)]})
    assert {part.role: 2 * part.allocated for part in on_device.parts if part.allocated} == {"selection": 77}
    assert on_device.peak == 77


def test_roles_are_written_into_the_trace() -> None:
    trace = finish({"traceEvents": steps()})
    events = trace["traceEvents"]
    assert {event["cat"] for event in events if event["name"].startswith("equiv::")} == {"cpu_op"}
    assert {event["cat"] for event in events if event["name"].startswith("ProfilerStep#")} == {"user_annotation"}
    role = {event["name"]: event["args"].get("Role") for event in events[:18] if "args" in event}
    expected = {"aten::index": "selection", "aten::add": "bias", "aten::softmax": "activation", "aten::cat": None}
    assert {name: role[name] for name in expected} == expected
    for name, gradient in (
        ("SoftmaxBackward0", "activation"),
        ("AddBackward0", "bias"),
        ("IndexBackward0", "selection"),
    ):
        index = next(i for i, event in enumerate(events) if event["name"] == ENGINE + name)
        around, inside = events[index - 1], events[index]
        assert around["name"] == f"equiv::{gradient} (backward)"
        assert [around[key] for key in ("ph", "pid", "tid", "ts", "dur")] == [
            inside[key] for key in ("ph", "pid", "tid", "ts", "dur")
        ]
    assert sum(event["name"].endswith(" (backward)") for event in events) == 6
    assert {role: pytest.approx(numbers) for role, numbers in EXPECTED.items()} == table(summarise(trace))


@pytest.mark.parametrize(
    ("events", "message"),
    [([], "no step"), ([operator("ProfilerStep#1", 0, 9), operator("equiv::bnak", 1, 2)], "'equiv::bnak' is no role")],
)
def test_what_cannot_be_summed_is_an_error(events: list[Event], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summarise({"traceEvents": events})
