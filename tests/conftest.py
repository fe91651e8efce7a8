"""What every test finds ready: threads, seeds, hypothesis, real data, a compiler backend."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).resolve().parents[1]
# Of those that run tests side by side (pytest-xdist).
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, min(4, os.cpu_count() or 1) // WORKERS)

# Everywhere the same examples, so that a failure can be run again. --hypothesis-profile=search looks further.
settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=30,
    print_blob=True,
    # Fixtures here hold nothing that an example could change.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("search", settings.get_profile("repeatable"), derandomize=False, max_examples=500)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    # The tensors of the tests are small: more threads only wait for one another.
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test draws the same numbers, alone or among others."""
    torch.manual_seed(0)


def data_folder() -> Path:
    return Path(os.environ.get("CONVBIAS_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, which is not part of the repository."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder; set CONVBIAS_DATA to the one that holds it")
    return folder


@functools.cache
def working_compiler() -> str | None:
    """The C++ compiler that Inductor can use, or None.

    It has to build against Python.h with OpenMP, as Inductor's own code does; a compiler without the
    headers would fail in the middle of a test.
    """
    include = sysconfig.get_path("include")
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        command = shlex.split(name or "")
        if not command or shutil.which(command[0]) is None:
            continue
        check = [*command, "-x", "c++", "-fsyntax-only", "-fopenmp", f"-I{include}", "-"]
        source = "#include <Python.h>\n#include <omp.h>\nint main() { return 0; }\n"
        if subprocess.run(check, input=source.encode(), capture_output=True, check=False).returncode == 0:
            return name
    return None


@pytest.fixture(scope="session")
def compile_backend() -> str:
    """What to give to ``torch.compile(backend=…)``: Inductor where it can build, else its front half."""
    compiler = working_compiler()
    if compiler is None:
        return "aot_eager"
    os.environ["CXX"] = compiler  # Inductor looks for $CXX or g++ alone.
    return "inductor"


def pytest_report_header(config: pytest.Config) -> list[str]:
    compiler = working_compiler()
    backend = f"inductor, with {compiler}" if compiler else "aot_eager: no C++ compiler that finds Python.h"
    data = data_folder() if data_folder().is_dir() else "absent, its tests skip (CONVBIAS_DATA says where)"
    return [f"torch {torch.__version__}, {THREADS} threads; compiled by {backend}", f"real data: {data}"]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium. On CI one must be there; elsewhere the tests of pages skip without."""
    names = (os.environ.get("CONVBIAS_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        reason = "no Chromium on the PATH; install one, or set CONVBIAS_CHROMIUM to where it is"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    from convbias.explaining import write

    path = tmp_path_factory.mktemp("page") / "explain.html"
    write(path)
    return path.as_uri()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    made.set_default_timeout(10_000)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, file: str) -> Iterator[Page]:
    """The page, opened; it must not complain, nor ask for anything but itself."""
    opened = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file)
    yield opened
    assert complaints == []
    assert {url.split("#")[0] for url in asked if not url.startswith("data:")} <= {file}


@pytest.fixture(scope="module")
def calculator(browser: Browser, file: str) -> Iterator[Page]:
    """The page as a calculator: what it computes is asked of it, without looking at the screen."""
    opened = browser.new_page()
    opened.goto(file)
    yield opened
    opened.close()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own kernels in training steps of few numbers too, where torch's single steps are as fast."""
    from convbias.ops import choice

    monkeypatch.setattr(choice, "SMALL_STEP", 0)


@pytest.fixture
def no_small_images() -> Iterator[None]:
    """Own kernels, and all in place, for images of few numbers too."""
    from convbias import functional
    from convbias.ops import choice
    from convbias.ops.few import few_of

    def forget() -> None:
        # Which calls are small is looked up.
        few_of.cache_clear()
        functional._known_plan.cache_clear()

    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "SMALL", 0)
        yield
    forget()
