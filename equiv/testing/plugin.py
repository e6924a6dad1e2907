"""pytest plugin: honest GPU runs, fixtures for device, dtype and seed, explicit TF32, Hypothesis profiles.

It is active wherever equiv is installed beside pytest, and does nothing in a suite that uses none of it: torch and
Hypothesis are imported only when a test is marked ``gpu``, requests ``device`` or ``dtype``, or a profile is chosen.
``-p no:equiv`` (or ``addopts = "-p no:equiv"``) turns it off altogether.

- Mark ``gpu``: the test needs a CUDA device. ``pytest -m gpu`` cannot pass by skipping: without a device it is a usage
  error, with one it fails unless a GPU test was executed. A plain run without a device leaves these tests out and says
  so. ``--gpu-optional`` skips them instead.
- Fixtures ``device`` (cpu, cuda), ``dtype`` (float64, float32, bfloat16, float16) and ``equiv_seed`` (an int that
  depends on ``--equiv-seed`` and the test's id only). A project's own fixtures of these names win.
- TF32 is set for matmul *and* cuDNN convolution around every test that is marked ``gpu`` or requests ``device``:
  ``--equiv-tf32 off`` (default) or ``on``.
- ``--equiv-profile ci|dev|nightly`` (or the ini setting ``equiv_profile``) loads a Hypothesis profile.

Example:
    A test that runs once on each device that is present, for each of four dtypes::

        def test_softmax_sums_to_one(device, dtype, equiv_seed):
            torch.manual_seed(equiv_seed)
            x = torch.randn(3, 5, device=device, dtype=dtype)
            torch.testing.assert_close(x.softmax(-1).sum(-1), torch.ones(3, device=device, dtype=dtype))
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from equiv.errors import check_choice, message

if TYPE_CHECKING:
    import torch

_VALUES = {"device": ("cpu", "cuda"), "dtype": ("float64", "float32", "bfloat16", "float16")}
_EXECUTED = ("failed", "passed", "xfailed")
_OUTCOMES = (*_EXECUTED, "error", "skipped")  # where a test reports several, the first of these counts


@dataclass(eq=False)  # hashable, as a plugin has to be
class _Session:
    """What is known of this session; under xdist a worker finds `shared` out and the controller copies it."""

    seed: int
    profile: str = ""
    shared: dict[str, Any] = field(default_factory=dict)  # header, device, gpu_tests, gpu_run, left_out, refusal
    under_xdist: bool = False
    outcomes: dict[str, str] = field(default_factory=dict)  # of the GPU tests, by node id

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A GPU test counts as executed when its body ran: set-up alone is not enough, nor is a skip in the body."""
        if not getattr(report, "equiv_gpu", False) or report.outcome not in _OUTCOMES:
            return
        outcome: str = report.outcome
        if report.when != "call":
            outcome = "error" if report.failed else "skipped"
        elif report.skipped and hasattr(report, "wasxfail"):
            outcome = "xfailed"
        self.outcomes[report.nodeid] = min(outcome, self.outcomes.get(report.nodeid, outcome), key=_OUTCOMES.index)

    def none_executed(self, config: pytest.Config) -> bool:
        """Was this a GPU run on a machine with a device, and did it execute no GPU test?"""
        demanded = self.shared.get("gpu_run") and self.shared.get("device")
        exempt = config.option.equiv_gpu_optional or config.option.collectonly
        return bool(demanded and not exempt and not {*_EXECUTED} & {*self.outcomes.values()})


_SESSION = pytest.StashKey[_Session]()
_SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("equiv", "equiv: GPU runs, TF32, seeds, Hypothesis profiles")

    def add(name: str, text: str, **options: Any) -> None:
        dest = "equiv_" + name.removeprefix("--").removeprefix("equiv-").replace("-", "_")
        group.addoption(name, dest=dest, help=text, **options)

    add("--gpu-optional", "without a CUDA device, skip the tests marked gpu, even with `-m gpu`", action="store_true")
    add(
        "--equiv-tf32",
        "off (default) or on, for matmul and cuDNN, in GPU tests and those that request device",
        default="off",
    )
    add("--equiv-seed", "seed of the session, from which equiv_seed is drawn (default: a new one)", metavar="INT")
    add("--equiv-profile", "Hypothesis profile with every field stated: ci, dev or nightly", metavar="NAME")
    parser.addini("equiv_profile", "the default of --equiv-profile", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device; `pytest -m gpu` is an error without one (equiv)")
    others = config.getoption("hypothesis_profile", None)  # Hypothesis' own option beats our ini setting
    profile = config.option.equiv_profile or ("" if others else config.getini("equiv_profile"))
    try:
        check_choice("--equiv-tf32", config.option.equiv_tf32, ("off", "on"), "pytest")
        session = config.stash[_SESSION] = _Session(_session_seed(config), profile)
        if profile and others:
            raise ValueError(message("--hypothesis-profile", others, "absent beside --equiv-profile", "pytest"))
        if profile:
            from equiv.testing import profiles

            check_choice("--equiv-profile", profile, profiles.NAMES, "pytest")
            previous = profiles.load(profile)
            config.add_cleanup(partial(sys.modules["hypothesis"].settings.load_profile, previous))
    except (ValueError, ImportError) as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(session, "equiv-session")


def _session_seed(config: pytest.Config) -> int:
    if hasattr(config, "workerinput"):  # an xdist worker: all of them use the controller's seed
        return int(config.workerinput["equiv_seed"])
    given = config.option.equiv_seed
    if given is None:
        return int.from_bytes(os.urandom(4), "big")
    if not re.fullmatch("[0-9]+", given):
        raise ValueError(message("--equiv-seed", given, "an integer of at least 0", "pytest"))
    return int(given)


# ---- the machine: tests replace the second function, and so simulate one ---------------------------------------------


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


def _cuda_device_name() -> str | None:
    """The CUDA devices and the version of CUDA, as text; None without a device, or without torch."""
    torch = _torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that is too old is a reason to see no device, not a failure
        if torch is None or not torch.cuda.is_available():
            return None
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    version = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    return f"{', '.join(names)} ({version})"


# ---- fixtures: of scope session, so that fixtures of every scope, and tests under `given`, can request them ----------


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn: cpu and, where there is one, cuda; a test marked ``gpu`` gets cuda only."""
    import torch

    return torch.device(_parameter(request))


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each floating dtype in turn: float64, float32, bfloat16, float16."""
    import torch

    value: torch.dtype = getattr(torch, _parameter(request))
    return value


@pytest.fixture
def equiv_seed(request: pytest.FixtureRequest) -> int:
    """A seed below 2^32 for this test: the same in every run with the same ``--equiv-seed``, in whatever order."""
    node = request.node
    name = f"{node.parent.nodeid}::{node.name}"  # not node.nodeid, to which xdist's --dist loadgroup adds the group
    digest = hashlib.sha256(f"{request.config.stash[_SESSION].seed} {name}".encode()).digest()
    seed = node.stash[_SEED] = int.from_bytes(digest[:4], "big")
    return seed


def _parameter(request: pytest.FixtureRequest) -> str:
    if not hasattr(request, "param"):  # requested too late to run the test once for each value
        expected = "an argument of the test or of one of its fixtures"
        pytest.fail(message("name", request.fixturename, expected, "request.getfixturevalue"), pytrace=False)
    return str(request.param)


@pytest.hookimpl(trylast=True)  # after the project's own parametrisation, which wins
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, values in _VALUES.items():
        if name not in metafunc.fixturenames or not _is_ours(metafunc._arg2fixturedefs, name):
            continue
        if any(name in call.params for call in metafunc._calls):  # by the project, with indirect=True
            continue
        params: list[Any] = list(values)
        if name == "device":
            cuda = pytest.param("cuda", marks=pytest.mark.gpu)
            params = [cuda] if metafunc.definition.get_closest_marker("gpu") else ["cpu", cuda]
        metafunc.parametrize(name, params, indirect=True)


def _is_ours(definitions: Mapping[str, Sequence[Any]], name: str) -> bool:
    """Is the fixture ``name`` in effect the one of this file, be it by way of one that overrides and requests it?"""
    for definition in reversed(definitions.get(name, ())):
        if definition.func.__module__ == __name__:
            return True
        if name not in definition.argnames:
            return False
    return False


def _requests(item: pytest.Item, *names: str) -> bool:
    info = getattr(item, "_fixtureinfo", None)
    return info is not None and any(_is_ours(info.name2fixturedefs, name) for name in names)


# ---- selection -------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: it sees what -m, -k and all other plugins have left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, Any, Any]:
    result = yield
    session = config.stash[_SESSION]
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    uses_torch = bool(gpu) or any(_requests(item, *_VALUES) for item in items)
    session.shared["device"] = _cuda_device_name() if uses_torch else None
    if uses_torch or session.profile or any(_requests(item, "equiv_seed") for item in items):
        session.shared["header"] = _header(config, uses_torch)
    if gpu:
        names = re.findall(r"[\w:+\-.\[\]\\/]+", config.option.markexpr)  # pytest's grammar of a name in -m
        session.shared |= {"gpu_tests": len(gpu), "gpu_run": "gpu" in names}
    if gpu and not session.shared["device"]:
        _do_without_device(config, items, gpu)
    if hasattr(config, "workeroutput"):
        config.workeroutput["equiv"] = session.shared
    return result


def _do_without_device(config: pytest.Config, items: list[pytest.Item], gpu: list[pytest.Item]) -> None:
    shared = config.stash[_SESSION].shared
    torch, tests = _torch(), _count(len(gpu))
    reason = f"torch {torch.__version__} sees no CUDA device" if torch else "torch is not installed"
    if config.option.equiv_gpu_optional:
        shared["left_out"] = f"{tests} skipped: {reason} (--gpu-optional)"
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason=f"equiv: {reason}"))
    elif shared["gpu_run"]:
        shared["refusal"] = (
            f"equiv: {tests} {'was' if len(gpu) == 1 else 'were'} selected by `-m {config.option.markexpr}`, "
            f"but {reason}: none could run. Run them on a CUDA machine, or pass --gpu-optional to skip them."
        )
        if not hasattr(config, "workeroutput"):
            raise pytest.UsageError(shared["refusal"])
        items.clear()  # an xdist worker must not die of it: the controller raises the error, once
    else:
        # Deselected, not skipped: a run that asks for nothing else then has exit status 5, and the cuda variants of all
        # tests that request `device` do not drown the skips that somebody should look at.
        shared["left_out"] = f"{tests} left out: {reason} (`pytest -m gpu` on a CUDA machine runs them)"
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def _count(tests: int) -> str:
    return f"{tests} GPU test{'' if tests == 1 else 's'}"


# ---- execution -------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not (item.get_closest_marker("gpu") or _requests(item, "device")) or not _torch():
        return (yield)
    from equiv.ladder import tf32

    with tf32.setting(item.config.option.equiv_tf32 == "on"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("gpu"):
        report.equiv_gpu = True  # type: ignore[attr-defined]  # it travels from xdist's workers to the controller
    if report.failed and _SEED in item.stash:
        again = f"pytest --equiv-seed={item.config.stash[_SESSION].seed} '{item.nodeid}'"
        report.sections.append(("equiv", f"equiv_seed={item.stash[_SEED]}; to draw it again: {again}"))
    return report


# ---- report ----------------------------------------------------------------------------------------------------------


def _header(config: pytest.Config, uses_torch: bool) -> str:
    session, hypothesis = config.stash[_SESSION], sys.modules.get("hypothesis")
    profile = session.profile or (hypothesis.settings.get_current_profile_name() if hypothesis else "none")
    parts = [f"Hypothesis profile {profile}", f"seed {session.seed} (--equiv-seed)"]
    if uses_torch and (torch := _torch()):
        from equiv.ladder import tf32

        with tf32.setting(config.option.equiv_tf32 == "on"):
            devices = ", ".join(filter(None, ("cpu", session.shared["device"])))
            parts = [f"torch {torch.__version__}", f"devices: {devices}", f"TF32: {tf32.describe()}", *parts]
    return f"equiv: {'; '.join(parts)}"


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return [text] if (text := config.stash[_SESSION].shared.get("header")) else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and session.config.stash[_SESSION].none_executed(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session, write = config.stash[_SESSION], terminalreporter.write_line
    shared, outcomes = session.shared, list(session.outcomes.values())
    if session.under_xdist and shared.get("header"):  # the controller collects nothing, so has printed no header
        write(shared["header"])
    if shared.get("left_out"):
        write(f"equiv: {shared['left_out']}", yellow=True)
    if shared.get("device") and shared.get("gpu_tests") and not config.option.collectonly:
        executed = sum(outcome in _EXECUTED for outcome in outcomes)
        counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in _OUTCOMES)
        write(f"equiv: {executed} of {_count(shared['gpu_tests'])} executed on {shared['device']}: {counts}")
    if session.none_executed(config):
        write(f"equiv: `-m {config.option.markexpr}` executed none: a GPU run cannot pass by skipping", red=True)


# ---- pytest-xdist: the workers collect and run, the controller judges and reports ------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["equiv_seed"] = node.config.stash[_SESSION].seed


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    session = node.config.stash[_SESSION]
    session.under_xdist = True
    session.shared |= getattr(node, "workeroutput", {}).get("equiv", {})  # nothing from a worker that crashed
    if session.shared.get("refusal"):
        raise pytest.UsageError(session.shared["refusal"])
