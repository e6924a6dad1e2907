"""What ``equiv profile`` wrote, seen through TensorBoard and its PyTorch profiler plugin, and in a browser."""

import base64
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from equiv.profiling import run
from equiv.profiling.roles import PREFIX, ROLES
from equiv.profiling.run import Profile, Target

T = TypeVar("T")
PATIENCE = 120  # seconds; the plugin parses each trace in a process of its own

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tensorboard", "torch_tb_profiler"))),
    reason="TensorBoard or its plugin is missing: pip install equiv[profile]",
)


def until(ready: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        got = ready()
        if got is not None:
            return got
        time.sleep(0.2)
    raise TimeoutError(what)


@contextlib.contextmanager
def server(*command: str, log: Path, announced: str) -> Iterator[str]:
    """A process that is killed at the end, with all that it started; the text ``announced`` matches in its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:

        def seen() -> str | None:
            assert process.poll() is None, log.read_text()
            match = re.search(announced, log.read_text())
            return None if match is None else match[1]

        yield until(seen, log.read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> list[Profile]:
    options = {"dim": 24, "depth": 1, "heads": 3, "classes": 5}
    target = Target("vit_tiny", image_size=32, options=options)
    done = run.run(target, run.FORMS, 2, tmp_path_factory.mktemp("logs"))
    return [one for one in done if one is not None]


@pytest.fixture(scope="module")
def board(profiles: list[Profile], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where TensorBoard listens, once the plugin has read both runs."""
    logdir = str(profiles[0].folder.parents[1])
    command = (sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--host", "127.0.0.1", "--port", "0")
    log = tmp_path_factory.mktemp("board") / "log"
    with server(*command, log=log, announced=r"at (http://127\.0\.0\.1:\d+)/") as url:

        def loaded() -> bool | None:
            return True if len(fetch(url, "runs")["runs"]) == 2 else None

        until(loaded, "the plugin reads both runs")
        yield url


def fetch(url: str, route: str, /, **arguments: str) -> Any:
    address = f"{url}/data/plugin/pytorch_profiler/{route}?{urllib.parse.urlencode(arguments)}"
    with urllib.request.urlopen(address, timeout=60) as response:
        return json.loads(response.read())


def test_the_plugin_shows_both_runs(board: str, profiles: list[Profile]) -> None:
    names = fetch(board, "runs")["runs"]
    assert names == ["vit_tiny/conv-literal", "vit_tiny/matmul"]
    for name in names:
        assert fetch(board, "views", run=name) == ["Overview", "Operator", "Trace", "Memory"]
        assert fetch(board, "workers", run=name, view="Operator") == ["equiv"]
        assert fetch(board, "spans", run=name, worker="equiv") == ["1"]
        overview = fetch(board, "overview", run=name, worker="equiv", span="1")
        assert len(overview["steps"]["rows"]) == 2


def test_the_operator_view_shows_the_roles(board: str, profiles: list[Profile]) -> None:
    for one in profiles:
        place = {"run": f"vit_tiny/{one.form}", "worker": "equiv", "span": "1", "group_by": "Operation"}
        rows = {row["name"]: row for row in fetch(board, "operation/table", **place)["data"]}
        shown = {name.removeprefix(PREFIX) for name in rows if name.startswith(PREFIX)}
        forward = {part.role for part in one.summary.parts if part.calls}
        backward = {f"{part.role} (backward)" for part in one.summary.parts if part.backward and part.role in ROLES}
        assert shown == forward | backward
        assert {"first kernel", "activation", "second kernel", "static convolution", "bank"} <= shown
        assert ("selection" in shown) == (one.form == "conv-literal")
        for part in one.summary.parts:
            if part.calls:
                row = rows[PREFIX + part.role]
                assert row["calls"] == part.calls * one.summary.steps
                # microseconds of all steps, rounded; nothing but the bias lies inside another role, and there is none
                assert row["host_total_duration"] == pytest.approx(1e3 * part.forward * one.summary.steps, abs=1)
                assert row["host_self_duration"] <= row["host_total_duration"]
        pie = fetch(board, "operation", **place)["host_total_time"]["rows"]
        assert f"{PREFIX}static convolution" in [name for name, _ in pie]


def test_the_diff_view_compares_the_forms(board: str, profiles: list[Profile]) -> None:
    place = {"worker": "equiv", "span": "1", "exp_worker": "equiv", "exp_span": "1"}
    address = f"{board}/data/plugin/pytorch_profiler/diff?" + urllib.parse.urlencode(
        place | {"run": "vit_tiny/matmul", "exp_run": "vit_tiny/conv-literal"}
    )
    with urllib.request.urlopen(address, timeout=60) as response:
        assert response.status == 200


def test_scalars_are_shown(board: str, profiles: list[Profile]) -> None:
    def read() -> Any:
        with urllib.request.urlopen(f"{board}/data/plugin/scalars/tags", timeout=60) as response:
            tags = json.loads(response.read())
        return tags if len(tags) == 2 else None

    tags = until(read, "the scalars of both runs")
    assert {"time_ms/step", "peak_MB/step", "time_ms/first kernel"} <= tags["vit_tiny/matmul"].keys()
    assert {"deviation/output", "deviation/gradients"} <= tags["vit_tiny/conv-literal"].keys()


# In a browser

#: The plugin's page draws nothing before Google's charts are loaded from the net. In their place: charts that do
#: nothing, so that the page shows its tables, but no pies.
CHARTS = """
const nothing = new Proxy(function () {}, {
  get: (_, key) => key === Symbol.toPrimitive ? () => 0 : nothing,
  apply: () => nothing,
  construct: () => nothing,
});
window.google = {charts: {load: async () => {}}, visualization: nothing};
"""
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's name, in the WebDriver standard
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """As much of the WebDriver protocol as is needed here."""

    def __init__(self, driver: str) -> None:
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1400"]
        # Nothing is fetched from elsewhere, whether there is a network or not.
        arguments.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        self.root = driver
        wanted = {"goog:chromeOptions": {"args": arguments, "binary": CHROMIUM}}
        self.root += "/session/" + self.call("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def call(self, path: str, body: Any = None, method: str = "POST") -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.root + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.loads(response.read())["value"]

    def find(self, xpath: str) -> str:
        def found() -> str | None:
            try:
                name: str = self.call("/element", {"using": "xpath", "value": xpath})[ELEMENT]
            except urllib.error.HTTPError as error:
                if error.code != 404:  # no such element
                    raise
                return None
            return name

        return until(found, f"{xpath} on the page")

    def click(self, xpath: str) -> None:
        self.call(f"/element/{self.find(xpath)}/click")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    if CHROMIUM is None or driver is None:
        pytest.skip("there is no Chromium with its driver here (Debian: chromium, chromium-driver)")
    announced = r"started successfully on port (\d+)"
    with server(driver, "--port=0", log=tmp_path / "driver", announced=announced) as port:
        one = Browser(f"http://127.0.0.1:{port}")
        try:
            yield one
        finally:
            one.call("", method="DELETE")


def test_the_page(board: str, profiles: list[Profile], browser: Browser, tmp_path: Path) -> None:
    command = {"cmd": "Page.addScriptToEvaluateOnNewDocument", "params": {"source": CHARTS}}
    browser.call("/goog/cdp/execute", command)
    browser.call("/url", {"url": f"{board}/#pytorch_profiler"})
    browser.call("/frame", {"id": {ELEMENT: browser.find("//iframe")}})
    for one in sorted(profiles, key=lambda one: one.form):  # the first run is shown first, each in its overview
        if one.form == "matmul":
            browser.click("//div[@role='button'][text()='vit_tiny/conv-literal']")
            browser.click("//li[@role='option'][text()='vit_tiny/matmul']")
        browser.find(f"//div[@role='button'][text()='vit_tiny/{one.form}']")
        browser.click("//div[@role='button'][text()='Overview']")
        browser.click("//li[@role='option'][text()='Operator']")
        browser.find("//*[text()='Operator View']")
        for role in ("static convolution", "normalisation"):  # long enough to be among the first, on the first page
            browser.find(f"//td[text()='{PREFIX}{role}']")
        picture = base64.b64decode(browser.call("/screenshot", method="GET"))
        assert picture.startswith(b"\x89PNG")
        (tmp_path / f"{one.form}.png").write_bytes(picture)
