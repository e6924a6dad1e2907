"""The pytest plugin, on small suites that pytester writes and runs.

No machine that runs these tests needs a GPU, so a CUDA device is *simulated*: in this process by replacing
`equiv.testing.plugin._cuda_device_name`, in subprocesses by a stub of torch, which is quick to import as well. What a
real device adds (its name, that TF32 changes results) is in the tests marked `gpu` at the end.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from equiv.ladder import tf32
from equiv.testing import plugin, profiles

ROOT = Path(plugin.__file__).parents[2]
Run = Callable[..., pytest.RunResult]

SUITE = """
    import pytest

    def test_plain(): pass

    @pytest.mark.slow
    def test_slow(): pass

    @pytest.mark.gpu
    def test_gpu(): pass

    @pytest.mark.gpu
    @pytest.mark.slow
    def test_slow_gpu(): pass

    def test_device(device): assert device.type in ("cpu", "cuda")
"""  # 3 tests are marked gpu: two here, and test_device[cuda]

TORCH_STUB = """
    from contextlib import nullcontext
    from types import SimpleNamespace

    __version__ = "0.stub"
    cuda = SimpleNamespace(
        is_available=lambda: {cuda}, device_count=lambda: 1, get_device_name=lambda i: "Simulated device"
    )
    version = SimpleNamespace(cuda="99.9")
    def operator(): return SimpleNamespace(fp32_precision="none")
    backends = SimpleNamespace(
        cuda=SimpleNamespace(matmul=operator()),
        cudnn=SimpleNamespace(conv=operator(), rnn=operator(), allow_tf32=True),
        mkldnn=SimpleNamespace(matmul=operator()),
        __allow_nonbracketed_mutation=nullcontext,
    )
    def get_float32_matmul_precision(): return "highest"
    def set_float32_matmul_precision(value): pass
    def device(name): return SimpleNamespace(type=name)
"""


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites inside load this plugin, and no other that happens to be installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the suite written before, in this process; `cuda` is the device that it shall see."""
    pytester.makeini("[pytest]\nmarkers = slow: takes long")

    def run_suite(*args: str, cuda: str | None = None) -> pytest.RunResult:
        monkeypatch.setattr(plugin, "_cuda_device_name", lambda: cuda)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *args, plugins=[plugin])

    return run_suite


@pytest.fixture
def run_outside(pytester: pytest.Pytester) -> Run:
    """Run it in a process of its own, with the stub of torch, with or without a CUDA device."""

    def run_suite(*args: str, cuda: bool = False) -> pytest.RunResult:
        pytester.makepyfile(torch=TORCH_STUB.format(cuda=cuda))
        plugins = "-p", "equiv.testing.plugin", "-p", "xdist.plugin", "-p", "no:cacheprovider"
        return pytester.run(sys.executable, "-m", "pytest", *plugins, *args, timeout=60)

    return run_suite


def lines(result: pytest.RunResult) -> str:
    return "\n".join((*result.outlines, *result.errlines))


# ---- it costs nothing ------------------------------------------------------------------------------------------------

UNRELATED = """
    import sys
    import pytest

    @pytest.fixture(params=["a", "b"])
    def device(request): return request.param

    def test_own_fixture(device): assert device in "ab"

    @pytest.mark.parametrize("dtype", [1, 2])
    def test_own_parameter(dtype): assert dtype in (1, 2)

    def test_fails(): assert False
"""


def test_imports_nothing_in_a_suite_that_does_not_use_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(UNRELATED)
    pytester.makeconftest("""
        import sys

        def pytest_unconfigure():
            print("imported:", sorted({"torch", "hypothesis", "numpy", "rich", "click"} & {*sys.modules}))
    """)
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "equiv.testing.plugin", timeout=60)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["imported: []"])


def test_seeds_alone_import_no_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(equiv_seed):\n    import sys\n    assert 'torch' not in sys.modules")
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "equiv.testing.plugin", timeout=60)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["equiv: Hypothesis profile none; seed * (--equiv-seed)"])


def test_changes_nothing_in_a_suite_that_does_not_use_it(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(UNRELATED)
    before = pytester.runpytest_inprocess("-v", "-p", "no:cacheprovider")
    after = run("-v")
    assert after.ret == before.ret == 1
    timeless = [re.sub(r"in \d+\.\d+s", "", lines(result)) for result in (before, after)]
    assert timeless[0] == timeless[1]


def test_the_mark_is_registered(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.gpu\ndef test(): pass")
    assert run("--strict-markers", cuda="Simulated device").ret == 0
    run("--markers").stdout.fnmatch_lines(["@pytest.mark.gpu: needs a CUDA device*"])


# ---- GPU runs without a device ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("expression", "count"), [("gpu", 3), ("gpu and not slow", 2), ("slow or gpu", 3)])
def test_a_gpu_run_without_a_device_is_a_usage_error(
    pytester: pytest.Pytester, run: Run, expression: str, count: int
) -> None:
    pytester.makepyfile(SUITE)
    result = run("-m", expression)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert lines(result).count("ERROR: ") == 1
    result.stderr.fnmatch_lines(
        [
            f"ERROR: equiv: {count} GPU tests were selected by `-m {expression}`, but torch {torch.__version__} sees "
            "no CUDA device: none could run. Run them on a CUDA machine, or pass --gpu-optional to skip them."
        ]
    )
    result.assert_outcomes(deselected=6 - count - (expression == "slow or gpu"))  # and no other outcome


def test_one_test_is_singular(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(SUITE)
    run("-m", "gpu", "-k", "slow").stderr.fnmatch_lines(["ERROR: equiv: 1 GPU test was selected by `-m gpu`, but *"])


def test_a_gpu_run_without_torch_is_a_usage_error(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(SUITE)
    monkeypatch.setitem(sys.modules, "torch", None)  # `import torch` then raises ModuleNotFoundError
    result = run("-m", "gpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*3 GPU tests were selected by `-m gpu`, but torch is not installed: none could run.*"]
    )
    result = run("-m", "gpu", "--gpu-optional")
    result.assert_outcomes(skipped=3, deselected=3)
    result = run("-k", "not device")
    result.assert_outcomes(passed=2, deselected=4)
    result.stdout.fnmatch_lines(["equiv: 2 GPU tests left out: torch is not installed (*"])


def test_without_torch_or_device_the_real_question_is_answered_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert plugin._cuda_device_name() is None
    monkeypatch.setitem(sys.modules, "torch", None)
    assert plugin._cuda_device_name() is None


def test_a_driver_warning_means_no_device_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plugin._cuda_device_name() is None


def test_gpu_optional_skips_with_the_reason(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(SUITE)
    result = run("-m", "gpu", "--gpu-optional", "-rs")
    assert result.ret == 0
    result.assert_outcomes(skipped=3, deselected=3)
    result.stdout.fnmatch_lines(
        [
            f"equiv: 3 GPU tests skipped: torch {torch.__version__} sees no CUDA device (--gpu-optional)",
            "SKIPPED * equiv: torch * sees no CUDA device",
        ]
    )


@pytest.mark.parametrize(("args", "count"), [((), 3), (("-m", "not slow"), 2)])
def test_a_plain_run_leaves_gpu_tests_out_and_says_so(
    pytester: pytest.Pytester, run: Run, args: tuple[str, ...], count: int
) -> None:
    pytester.makepyfile(SUITE)
    result = run(*args)
    assert result.ret == 0
    result.assert_outcomes(passed=count, deselected=6 - count)
    result.stdout.fnmatch_lines(
        [
            f"equiv: {count} GPU tests left out: torch {torch.__version__} sees no CUDA device "
            "(`pytest -m gpu` on a CUDA machine runs them)"
        ]
    )


@pytest.mark.parametrize("expression", ["not gpu", "not gpu and not slow"])
def test_naming_gpu_to_exclude_it_is_not_a_gpu_run(pytester: pytest.Pytester, run: Run, expression: str) -> None:
    pytester.makepyfile(SUITE)
    result = run("-m", expression)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*left out*")


def test_a_plain_run_of_gpu_tests_alone_does_not_pass(pytester: pytest.Pytester, run: Run) -> None:
    path = pytester.makepyfile(SUITE)
    assert run(f"{path.name}::test_gpu").ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize("cuda", [None, "Simulated device"])
def test_nothing_selected_is_pytests_own_status(pytester: pytest.Pytester, run: Run, cuda: str | None) -> None:
    pytester.makepyfile(SUITE)
    result = run("-m", "gpu", "-k", "plain", cuda=cuda)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.no_fnmatch_line("equiv*")


def test_only_the_mark_counts_not_a_folder_or_name(pytester: pytest.Pytester, run: Run) -> None:
    folder = pytester.mkdir("gpu")
    (folder / "test_gpu.py").write_text("def test_gpu(): pass")
    result = run()
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("equiv*")


def test_collect_only_keeps_the_guarantee(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(SUITE)
    assert run("-m", "gpu", "--collect-only").ret == pytest.ExitCode.USAGE_ERROR
    assert run("-m", "gpu", "--collect-only", cuda="Simulated device").ret == 0  # nothing executed, nothing claimed
    result = run("--collect-only", "-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*::test_device?cpu?", "equiv: 3 GPU tests left out: *"])
    result.stdout.no_fnmatch_line("*::test_device?cuda?")


def test_what_other_plugins_deselect_last_is_not_counted(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(SUITE)
    pytester.makeconftest("""
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_collection_modifyitems(items):
            yield
            items[:] = [item for item in items if "slow" not in item.name]
    """)
    run("-m", "gpu").stderr.fnmatch_lines(["ERROR: equiv: 2 GPU tests were selected*"])


# ---- GPU runs with a (simulated) device ------------------------------------------------------------------------------

OUTCOMES = """
    import pytest
    pytestmark = pytest.mark.gpu

    @pytest.fixture
    def broken(): raise RuntimeError
    @pytest.fixture
    def broken_at_the_end(): yield; raise RuntimeError

    def test_passes(): pass
    def test_passes_too(broken_at_the_end): pass
    def test_fails(): assert False
    @pytest.mark.xfail
    def test_fails_as_expected(): assert False
    @pytest.mark.xfail(run=False)
    def test_is_not_run(): pass
    def test_is_not_set_up(broken): pass
    def test_skips_itself(): pytest.skip("why not")
    @pytest.mark.skip
    def test_is_skipped(): pass
"""


def test_the_summary_counts_what_was_executed(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(OUTCOMES)
    run("-m", "gpu", cuda="NVIDIA Simulated (CUDA 99.9)").stdout.fnmatch_lines(
        [
            "equiv: 4 of 8 GPU tests executed on NVIDIA Simulated (CUDA 99.9): "
            "1 failed, 2 passed, 1 xfailed, 1 error, 3 skipped"
        ]
    )


@pytest.mark.parametrize("test", ["test_is_skipped", "test_skips_itself", "test_is_not_run"])
def test_a_gpu_run_that_executes_none_fails(pytester: pytest.Pytester, run: Run, test: str) -> None:
    pytester.makepyfile(OUTCOMES)
    result = run("-m", "gpu", "-k", test, cuda="Simulated device")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["equiv: `-m gpu` executed none: a GPU run cannot pass by skipping"])
    assert run("-k", test, cuda="Simulated device").ret == 0  # a plain run promises nothing
    assert run("-m", "gpu", "-k", test, "--gpu-optional", cuda="Simulated device").ret == 0
    assert run("-m", "gpu", "-k", f"{test} or test_passes_too or test_fails_as", cuda="Simulated device").ret == 1


def test_a_gpu_run_that_executes_some_passes(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(OUTCOMES)
    result = run("-m", "gpu", "-k", "test_is_skipped or test_fails_as_expected", cuda="Simulated device")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*cannot pass by skipping*")


# ---- pytest-xdist ----------------------------------------------------------------------------------------------------


def test_xdist_refuses_a_gpu_run_once(pytester: pytest.Pytester, run_outside: Run) -> None:
    pytester.makepyfile(SUITE)
    result = run_outside("-n", "2", "-m", "gpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = "equiv: 3 GPU tests were selected by `-m gpu`, but torch 0.stub sees no CUDA device: none could run."
    assert lines(result).count(text) == 1
    assert "Traceback" not in lines(result)
    assert "passed" not in lines(result)


def test_xdist_leaves_out_and_reports_once_and_shares_the_seed(pytester: pytest.Pytester, run_outside: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.gpu
        def test_gpu(): pass

        @pytest.mark.xdist_group("group")
        @pytest.mark.parametrize("i", range(4))
        def test(i, equiv_seed, tmp_path_factory):
            assert False, f"drawn {i}: {equiv_seed}"
    """)
    result = run_outside("-n", "2", "--dist", "loadgroup", "-v")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert lines(result).count("equiv: 1 GPU test left out: torch 0.stub sees no CUDA device") == 1
    (seed,) = {*re.findall(r"seed (\d+) \(--equiv-seed\)", lines(result))}
    result.stdout.fnmatch_lines([f"equiv_seed=*; to draw it again: pytest --equiv-seed={seed} *"])
    alone = run_outside("--equiv-seed", seed)
    drawn = [sorted({*re.findall(r"drawn \d: \d+", lines(result))}) for result in (result, alone)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 4


def test_xdist_sums_up_on_the_controller(pytester: pytest.Pytester, run_outside: Run) -> None:
    pytester.makepyfile(OUTCOMES)
    result = run_outside("-n", "2", "-m", "gpu", cuda=True)
    text = "equiv: 4 of 8 GPU tests executed on Simulated device (CUDA 99.9): 1 failed, 2 passed, 1 xfailed"
    assert lines(result).count(text) == 1
    result = run_outside("-n", "2", "-m", "gpu", "-k", "skip", cuda=True)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert lines(result).count("equiv: `-m gpu` executed none: a GPU run cannot pass by skipping") == 1


# ---- fixtures --------------------------------------------------------------------------------------------------------


def collected(result: pytest.RunResult) -> list[str]:
    return [line.split("::")[-1] for line in result.outlines if "::" in line]


def test_device_and_dtype_are_parametrised(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest, torch

        def test(device, dtype):
            assert torch.zeros(2, device=device, dtype=dtype).dtype is dtype
            assert device == torch.device("cpu")

        def test_device(device): pass

        @pytest.mark.gpu
        def test_gpu(device): pass

        @pytest.fixture(scope="module")
        def model(device, dtype): return device

        def test_indirect(model): pass
    """)
    dtypes = ["float64", "float32", "bfloat16", "float16"]
    found = collected(run("--collect-only", "-q", cuda="Simulated device"))
    pairs = [f"{device}-{dtype}" for device in ("cpu", "cuda") for dtype in dtypes]
    expected = [f"test[{pair}]" for pair in pairs] + [f"test_indirect[{pair}]" for pair in pairs]
    assert sorted(found) == sorted([*expected, "test_device[cpu]", "test_device[cuda]", "test_gpu[cuda]"])
    found = collected(run("--collect-only", "-q", "-m", "gpu", cuda="Simulated device"))
    assert len(found) == 10
    assert all("cuda" in name for name in found)
    run().assert_outcomes(passed=9, deselected=10)


PARAMETRISED_BY_THE_PROJECT = {
    "fixture": "def test(device): assert device == 'mine'",
    "mark": "@pytest.mark.parametrize('device', ['a', 'b'])\ndef test(device): assert device in 'ab'",
    "mark, indirect": (
        "@pytest.mark.parametrize('device', ['cpu', 'meta'], indirect=True)\n"
        "def test(device): assert device.type in ('cpu', 'meta')"
    ),
    "hook": "def test(device): assert device in 'ab'",
    "class": (
        "class Test:\n    @pytest.fixture\n    def device(self): return 1\n\n"
        "    def test(self, device): assert device == 1"
    ),
}


@pytest.mark.parametrize("case", PARAMETRISED_BY_THE_PROJECT)
def test_the_projects_own_device_wins(pytester: pytest.Pytester, run: Run, case: str) -> None:
    conftest = {
        "fixture": "import pytest\n@pytest.fixture\ndef device(): return 'mine'",
        "hook": "def pytest_generate_tests(metafunc): metafunc.parametrize('device', ['a', 'b'])",
    }
    pytester.makeconftest(conftest.get(case, ""))
    pytester.makepyfile("import pytest\n" + PARAMETRISED_BY_THE_PROJECT[case])
    result = run()
    result.assert_outcomes(passed=1 if case in ("fixture", "class") else 2)
    if case != "mark, indirect":  # this one uses our fixture, so it gets our header and TF32
        result.stdout.no_fnmatch_line("equiv*")


def test_a_fixture_that_overrides_and_requests_ours_is_parametrised(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.fixture
        def device(device): return f"<{device}>"

        def test(device): assert device == "<cpu>"
    """)
    run().assert_outcomes(passed=1, deselected=1)


def test_a_late_request_is_an_error_not_one_silent_device(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test(request): request.getfixturevalue('dtype')")
    result = run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    expected = "`name`='dtype', but should be an argument of the test or of one of its fixtures"
    result.stdout.fnmatch_lines([f"*{expected} [[]request.getfixturevalue]"])


def test_hypothesis_accepts_the_fixtures(pytester: pytest.Pytester, run_outside: Run) -> None:
    pytester.makepyfile("""
        from hypothesis import given, strategies

        @given(strategies.integers())
        def test(device, n): assert device.type == "cpu"
    """)
    run_outside("-p", "_hypothesis_pytestplugin").assert_outcomes(passed=1, deselected=1)


# ---- seeds -----------------------------------------------------------------------------------------------------------

SEEDS = """
    import pytest

    @pytest.mark.parametrize("i", range(3))
    def test_a(i, equiv_seed): print(f"drawn a{i} {equiv_seed}")

    class TestIt:
        def test_b(self, equiv_seed): print(f"drawn b {equiv_seed}"); assert 0 <= equiv_seed < 2**32
"""


def drawn(result: pytest.RunResult) -> dict[str, str]:
    return dict(re.findall(r"drawn (\w+) (\d+)", lines(result)))


def test_a_seed_depends_on_the_session_and_the_test_alone(pytester: pytest.Pytester, run: Run) -> None:
    name = pytester.makepyfile(SEEDS).name
    seeds = drawn(run("-s", "--equiv-seed", "7"))
    assert len({*seeds.values()}) == 4
    assert drawn(run("-s", "--equiv-seed", "7", f"{name}::TestIt", f"{name}::test_a[2]", f"{name}::test_a[0]")) == {
        key: seeds[key] for key in ("b", "a2", "a0")
    }
    assert not {*seeds.values()} & {*drawn(run("-s", "--equiv-seed", "8")).values()}


def test_the_header_reproduces_a_random_session(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(SEEDS)
    first, second = run("-s"), run("-s")
    assert drawn(first) != drawn(second)
    (seed,) = re.findall(r"seed (\d+) \(--equiv-seed\)", lines(first))
    assert drawn(run("-s", "--equiv-seed", seed)) == drawn(first)


def test_a_failure_shows_its_seed(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test(equiv_seed): assert equiv_seed < 0\ndef test_passes(equiv_seed): pass")
    result = run("--equiv-seed", "5")
    (shown,) = re.findall(r"equiv_seed=(\d+); to draw it again: pytest --equiv-seed=5 '(\S+)'", lines(result))
    assert f"assert {shown[0]} < 0" in lines(result)
    assert shown[1].endswith(".py::test")


# ---- TF32 ------------------------------------------------------------------------------------------------------------

BACKENDS: Any = torch.backends


def switches() -> dict[str, object]:
    """All switches, old and new; the old ones raise where they disagree with the new ones."""

    def old(read: Callable[[], object]) -> object:
        try:
            return read()
        except RuntimeError:
            return "disagrees"

    new = {
        "all": BACKENDS,
        "cuDNN": BACKENDS.cudnn,
        "matmul": BACKENDS.cuda.matmul,
        "conv": BACKENDS.cudnn.conv,
        "rnn": BACKENDS.cudnn.rnn,
        "CPU matmul": BACKENDS.mkldnn.matmul,
    }
    return {name: operator.fp32_precision for name, operator in new.items()} | {
        "old matmul": old(lambda: BACKENDS.cuda.matmul.allow_tf32),
        "old precision": old(torch.get_float32_matmul_precision),
        "old cuDNN": old(lambda: BACKENDS.cudnn.allow_tf32),
    }


@pytest.fixture
def defaults() -> Iterator[None]:
    """PyTorch's defaults before and after."""

    def reset() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_float32_matmul_precision("highest")
            BACKENDS.cudnn.allow_tf32 = True
        BACKENDS.fp32_precision = BACKENDS.cudnn.fp32_precision = "none"
        BACKENDS.cuda.matmul.fp32_precision = BACKENDS.mkldnn.matmul.fp32_precision = "none"

    reset()
    assert tf32.describe() == "matmul off, cuDNN convolution on"
    yield
    reset()


def old_switches(matmul: bool, cudnn: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        BACKENDS.cuda.matmul.allow_tf32, BACKENDS.cudnn.allow_tf32 = matmul, cudnn


def new_switches(value: str) -> None:
    BACKENDS.cuda.matmul.fp32_precision = BACKENDS.cudnn.conv.fp32_precision = value


PROJECTS = {
    "defaults": lambda: None,
    "old, on": lambda: old_switches(True, True),
    "old, off": lambda: old_switches(False, False),
    "old, medium": lambda: torch.set_float32_matmul_precision("medium"),
    "new, on": lambda: new_switches("tf32"),
    "new, off": lambda: new_switches("ieee"),
    "all off": lambda: setattr(BACKENDS, "fp32_precision", "ieee"),
    "all on": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "all of cuDNN off": lambda: setattr(BACKENDS.cudnn, "fp32_precision", "ieee"),
}


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("project", PROJECTS)
def test_tf32_is_set_and_restored_whatever_the_project_set(project: str, on: bool) -> None:
    PROJECTS[project]()
    before = switches()
    with tf32.setting(on):
        inside = switches()
        assert tf32.describe() == ("matmul on, cuDNN convolution on" if on else "matmul off, cuDNN convolution off")
        assert inside["conv"] == inside["rnn"] == inside["matmul"] == ("tf32" if on else "ieee")
        assert inside["CPU matmul"] == "ieee"
        if "disagrees" not in before.values():  # then nothing of PyTorch's may raise inside either
            assert (inside["old matmul"], inside["old cuDNN"]) == (on, on)
            with BACKENDS.cudnn.flags(enabled=False):
                pass
    assert switches() == before


@pytest.mark.usefixtures("defaults")
def test_tf32_is_restored_as_inherited_where_it_was() -> None:
    BACKENDS.fp32_precision = "ieee"
    with tf32.setting(False):
        pass
    BACKENDS.fp32_precision = "tf32"
    assert BACKENDS.cuda.matmul.fp32_precision == BACKENDS.mkldnn.matmul.fp32_precision == "tf32"


@pytest.mark.usefixtures("defaults")
def test_tf32_is_restored_after_an_error_and_where_the_flags_are_frozen() -> None:
    before = switches()
    with pytest.raises(ZeroDivisionError), tf32.setting(True):
        raise ZeroDivisionError
    assert switches() == before
    program = "import torch; torch.backends.disable_global_flags()\n"  # as importing torch.testing._internal does
    program += "from equiv.ladder import tf32\nwith tf32.setting(True): print(tf32.describe())"
    output = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout == "matmul on, cuDNN convolution on\n"


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("state", ["off", "on"])
def test_tf32_is_set_around_device_and_gpu_tests_alone(pytester: pytest.Pytester, run: Run, state: str) -> None:
    pytester.makepyfile("""
        import pytest
        from equiv.ladder import tf32

        @pytest.fixture
        def set_up(): print("set-up", tf32.describe())

        def test_plain(): print("plain", tf32.describe())
        def test_device(device, set_up): print(device.type, tf32.describe())
        @pytest.mark.gpu
        def test_gpu(): print("gpu", tf32.describe())
        def test_plain_again(): print("again", tf32.describe())
    """)
    result = run("-s", "--equiv-tf32", state, cuda="Simulated device")
    both = f"matmul {state}, cuDNN convolution {state}"
    default = "matmul off, cuDNN convolution on"
    result.stdout.fnmatch_lines([f"equiv: torch *; TF32: {both}; *"])
    for name, expected in {
        "plain": default, "set-up": both, "cpu": both, "cuda": both, "gpu": both, "again": default,
    }.items():  # fmt: skip
        assert f"{name} {expected}" in lines(result)


# ---- header ----------------------------------------------------------------------------------------------------------


def test_the_header_states_what_the_results_depend_on(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test(device): pass")
    result = run("--equiv-seed", "3", "--equiv-profile", "dev")
    assert lines(result).count("equiv: torch") == 1
    version = torch.__version__
    result.stdout.fnmatch_lines(
        [
            f"equiv: torch {version}; devices: cpu; TF32: matmul off, cuDNN convolution off; "
            "Hypothesis profile dev; seed 3 (--equiv-seed)"
        ]
    )
    result = run(cuda="NVIDIA Simulated (CUDA 99.9)")
    result.stdout.fnmatch_lines([f"equiv: torch {version}; devices: cpu, NVIDIA Simulated (CUDA 99.9); TF32: *"])


# ---- Hypothesis profiles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", profiles.NAMES)
def test_every_field_of_a_profile_is_stated(name: str) -> None:
    parameters = {*inspect.signature(hypothesis.settings.__init__).parameters} - {"self", "parent"}
    fields = profiles.fields(name)
    assert {*fields} == parameters
    assert fields["deadline"] is None
    assert fields["print_blob"] is True
    assert fields["derandomize"] is False  # examples are drawn after the programs under test are fixed
    hypothesis.settings(**fields)


def test_profiles_grow() -> None:
    examples = [profiles.fields(name)["max_examples"] for name in ("dev", "ci", "nightly")]
    assert examples == sorted({*examples})


PROFILE_TEST = """
    from hypothesis import settings

    def test(): print("max_examples", settings().max_examples, settings.get_current_profile_name())
"""


@pytest.mark.parametrize("how", ["option", "ini"])
def test_a_profile_is_loaded_when_asked_for_and_gone_afterwards(pytester: pytest.Pytester, run: Run, how: str) -> None:
    before, own = hypothesis.settings.get_current_profile_name(), hypothesis.settings.get_profile("ci")
    pytester.makepyfile(PROFILE_TEST)
    if how == "ini":
        pytester.makeini("[pytest]\nequiv_profile = nightly")
    result = run("-s", *(("--equiv-profile", "nightly") if how == "option" else ()))
    result.stdout.fnmatch_lines(["*max_examples 2000 equiv-nightly*"])
    assert hypothesis.settings.get_current_profile_name() == before
    assert hypothesis.settings.get_profile("ci") is own  # Hypothesis' own


def test_without_a_profile_hypothesis_keeps_its_own(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(PROFILE_TEST)
    name = hypothesis.settings.get_current_profile_name()
    run("-s").stdout.fnmatch_lines([f"*max_examples {hypothesis.settings().max_examples} {name}*"])


def test_hypothesis_own_option_beats_our_ini_setting_and_contradicts_our_option(
    pytester: pytest.Pytester, run_outside: Run
) -> None:
    pytester.makepyfile(PROFILE_TEST)
    pytester.makeini("[pytest]\nequiv_profile = nightly")
    args = "-s", "-p", "_hypothesis_pytestplugin", "--hypothesis-profile", "default"
    run_outside(*args).stdout.fnmatch_lines(["*max_examples * default*"])
    result = run_outside(*args, "--equiv-profile", "dev")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: `--hypothesis-profile`='default', but should be absent beside --equiv-profile *"]
    )


# ---- bad options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--equiv-tf32", "yes"], "`--equiv-tf32`='yes', but should be one of 'off', 'on' [pytest]"),
        (["--equiv-seed", "-3"], "`--equiv-seed`='-3', but should be an integer of at least 0 [pytest]"),
        (["--equiv-seed", "x"], "`--equiv-seed`='x', but should be an integer of at least 0 [pytest]"),
        (["--equiv-profile", "x"], "`--equiv-profile`='x', but should be one of 'ci', 'dev', 'nightly' [pytest]"),
    ],
)
def test_a_wrong_option_is_a_usage_error(pytester: pytest.Pytester, run: Run, args: list[str], text: str) -> None:
    pytester.makepyfile(SUITE)
    result = run(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {text}" in result.errlines


# ---- with a real device ----------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_real_device_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_inprocess("-m", "gpu", plugins=[plugin])
    assert result.ret == 0
    device = f"{torch.cuda.get_device_name(0)}*(CUDA {torch.version.cuda})"
    result.stdout.fnmatch_lines([f"equiv: 3 of 3 GPU tests executed on {device}: 0 failed, 3 passed, *"])


@pytest.mark.gpu
@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("operation", ["matmul", "conv2d"])
def test_tf32_changes_results_and_off_means_off(operation: str) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no TF32 before Ampere")
    generator = torch.Generator("cuda").manual_seed(0)
    if operation == "matmul":
        a, b = (torch.randn(512, 512, device="cuda", generator=generator) for _ in range(2))
        function: Callable[..., torch.Tensor] = torch.matmul
    else:
        a = torch.randn(4, 64, 32, 32, device="cuda", generator=generator)
        b = torch.randn(64, 64, 3, 3, device="cuda", generator=generator)
        function = torch.nn.functional.conv2d
    exact = function(a.double(), b.double())
    errors = {}
    for on in (False, True):
        with tf32.setting(on):
            errors[on] = ((function(a, b) - exact).norm() / exact.norm()).item()
    assert errors[False] < 1e-5 < errors[True] < 1e-2
