"""Traces of ``torch.profiler``: roles written into them, and sums by role read out of them.

A trace is the JSON object of Chrome's trace event format, which Perfetto and TensorBoard's PyTorch profiler plugin
read: slices (``ph`` "X") with start ``ts`` and duration ``dur`` in microseconds, nested by time on each thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from equiv.profiling.roles import PREFIX, ROLES

STEP = "ProfilerStep#"
BACKWARD = "autograd::engine::evaluate_function: "
OTHER, BETWEEN = "other operators", "between operators"
HOST, DEVICE = ("cpu_op", "user_annotation"), ("kernel", "gpu_memcpy", "gpu_memset")

Event = dict[str, Any]


@dataclasses.dataclass
class Part:
    """What one role takes in one step, on average over the steps.

    Attributes:
        role: a key of :data:`equiv.profiling.roles.ROLES`; :data:`OTHER`: operators without a role (residual sums,
            padding, heads laid side by side); :data:`BETWEEN`: the rest of the step, when no operator ran (Python), or
            on a GPU no kernel.
        forward: milliseconds, without those of other roles inside.
        backward: milliseconds of the gradients of what the role did.
        calls: slices of the role, in the forward pass; 0 for the last two.
        allocated: bytes of new tensors, kept or not.
    """

    role: str
    forward: float = 0.0
    backward: float = 0.0
    calls: float = 0.0
    allocated: float = 0.0

    @property
    def time(self) -> float:
        """Forward and backward, in milliseconds."""
        return self.forward + self.backward


@dataclasses.dataclass(frozen=True)
class Summary:
    """A trace by role.

    Attributes:
        steps: how many were profiled.
        step: milliseconds of a step, under the profiler, on average.
        clock: ``"cpu"``, or ``"device"`` where kernels of a GPU were traced: then times are theirs.
        peak: bytes, the most that tensors of one step held at once, without what was there before it.
        parts: in the order of ROLES, those that occurred; their times add up to ``step``, but where kernels overlap.
    """

    steps: int
    step: float
    clock: str
    peak: int
    parts: tuple[Part, ...]


@dataclasses.dataclass
class _Slice:
    event: Event
    role: str | None
    backward: bool
    in_step: bool
    within: float = 0.0  # microseconds of the slices directly inside


def finish(trace: Event) -> Event:
    """The trace with what its readers need to see roles, changed in place.

    1. Slices of roles become operators (``cat`` "cpu_op"): the plugin's operator view leaves out annotations.
    2. Each operator has its role among its arguments.
    3. Operators of the backward pass lie in slices of the role whose gradients they compute, named "… (backward)".

    Example:
        >>> slice = {"ph": "X", "cat": "user_annotation", "name": "equiv::bank", "tid": 1, "ts": 0.0, "dur": 9.0}
        >>> finish({"traceEvents": [slice]})["traceEvents"][0]["cat"]
        'cpu_op'
    """
    around: dict[int, Event] = {}
    for one in _walk(trace):
        event = one.event
        if event["name"].startswith(PREFIX):
            event["cat"] = "cpu_op"
        elif one.role is not None:
            event.setdefault("args", {})["Role"] = one.role
            if event["name"].startswith(BACKWARD):
                wanted = ("ph", "cat", "pid", "tid", "ts", "dur")
                around[id(event)] = {"name": f"{PREFIX}{one.role} (backward)"} | {key: event[key] for key in wanted}
    # The outer of two slices that cover the same time must come first.
    events = trace["traceEvents"]
    trace["traceEvents"] = [new for old in events for new in ((around[id(old)], old) if id(old) in around else (old,))]
    return trace


def summarise(trace: Event) -> Summary:
    """Add up the trace by role.

    Raises:
        ValueError: there is no profiled step in the trace, or a name that starts like a role's and is none.

    Example:
        >>> step = {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#1", "tid": 1, "ts": 0.0, "dur": 9000.0}
        >>> summarise({"traceEvents": [step]}).parts
        (Part(role='between operators', forward=9.0, backward=0.0, calls=0.0, allocated=0.0),)
    """
    parts = {role: Part(role) for role in (*ROLES, OTHER, BETWEEN)}
    slices = [one for one in _walk(trace) if not one.event["name"].endswith(" (backward)")]
    steps = [one.event for one in slices if one.event["name"].startswith(STEP)]
    if not steps:
        raise ValueError("the trace holds no step of the profiler")
    device = [event for event in trace["traceEvents"] if event.get("cat") in DEVICE]
    launched_by: dict[Any, tuple[str, bool]] = {}
    ends: list[tuple[float, float, str]] = []
    for one in slices:
        event = one.event
        role = BETWEEN if event["name"].startswith(STEP) else one.role or OTHER
        if role not in parts:
            raise ValueError(f"{event['name']!r} is no role")
        launched_by[event.get("args", {}).get("External id")] = (role, one.backward)
        if role != BETWEEN:
            ends.append((event["ts"], event["ts"] + event["dur"], role))
        if one.in_step and not device:
            _add(parts[role], event["dur"] - one.within, one.backward)
        parts[role].calls += event["name"] == PREFIX + role
    for event in device:
        role, backward = launched_by.get(event.get("args", {}).get("External id"), (OTHER, False))
        _add(parts[role], event["dur"], backward)
    peak = _memory(trace, steps, ends, parts)
    total = sum(event["dur"] for event in steps)
    # Times are still microseconds of all steps here.
    if device:
        parts[BETWEEN].forward = max(total - sum(part.time for part in parts.values()), 0.0)
    for part in parts.values():
        part.forward, part.backward = (time / 1e3 / len(steps) for time in (part.forward, part.backward))
        part.calls, part.allocated = part.calls / len(steps), part.allocated / len(steps)
    seen = tuple(part for part in parts.values() if part.time or part.calls)
    return Summary(len(steps), total / 1e3 / len(steps), "device" if device else "cpu", peak, seen)


def _add(part: Part, time: float, backward: bool) -> None:
    if backward:
        part.backward += time
    else:
        part.forward += time


def _walk(trace: Event) -> Iterator[_Slice]:
    """Every slice of the host with its role, thread by thread, in the order in which they began.

    An operator of the backward pass belongs to the operator of the forward pass that has its sequence number: the last
    one, as those before, which called it, left the making of the gradient's node to it.
    """
    threads: dict[Any, list[Event]] = {}
    for event in trace["traceEvents"]:
        if event.get("ph") == "X" and event.get("cat") in HOST:
            threads.setdefault(event["tid"], []).append(event)
    # The forward pass runs on the thread with the steps, which is walked first.
    order = sorted(threads, key=lambda tid: not any(event["name"].startswith(STEP) for event in threads[tid]))
    owners: dict[Any, str | None] = {}
    for tid in order:
        done: list[_Slice] = []
        stack: list[_Slice] = []
        for event in sorted(threads[tid], key=lambda event: (event["ts"], -event["dur"])):
            while stack and event["ts"] >= stack[-1].event["ts"] + stack[-1].event["dur"]:
                stack.pop()
            name, number = event["name"], event.get("args", {}).get("Sequence number")
            if stack:
                one = _Slice(event, stack[-1].role, stack[-1].backward, stack[-1].in_step)
            else:
                one = _Slice(event, None, False, name.startswith(STEP))
            if name.startswith(BACKWARD):
                one.backward, one.role = True, owners.get(number)
            elif name.startswith(PREFIX):
                one.role = name.removeprefix(PREFIX).removesuffix(" (backward)")
            elif number is not None and not one.backward:
                owners[number] = one.role
            if stack:
                stack[-1].within += event["dur"]
            stack.append(one)
            done.append(one)
        yield from done


def _memory(trace: Event, steps: list[Event], slices: list[tuple[float, float, str]], parts: dict[str, Part]) -> int:
    """Add to the parts what they allocated; return the highest level that one step reached above where it began."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "i" and event.get("name") == "[memory]"]
    changes = [(event["ts"], event["args"]["Bytes"], event["args"].get("Device Type")) for event in events]
    changes.sort(key=lambda change: change[0])
    if any(device for _, _, device in changes):  # 0 is the CPU, which only feeds the other
        changes = [change for change in changes if change[2]]
    slices = sorted(slices)
    peak, index = 0, 0
    stack: list[tuple[float, float, str]] = []
    for step in sorted(steps, key=lambda step: step["ts"]):
        level = 0
        for ts, size, _ in changes:
            if not step["ts"] <= ts <= step["ts"] + step["dur"]:
                continue
            level += size
            peak = max(peak, level)
            while index < len(slices) and slices[index][0] <= ts:
                stack = [outer for outer in stack if outer[1] > slices[index][0]]
                stack.append(slices[index])
                index += 1
            stack = [outer for outer in stack if outer[1] >= ts]
            if size > 0:
                parts[stack[-1][2] if stack else OTHER].allocated += size
    return peak
