"""One thread a process; shapes checked at first calls; figures drawn where asked for."""

from __future__ import annotations

import functools
import gc
import math
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The suite runs several processes side by side, and its tensors are small.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import jaxtyping
import pytest
import torch
from matplotlib.figure import Figure
from tyro import _unsafe_cache

from tests import typechecking
from tests.commands.conftest import TINY

# Before anything imports the package: the hook rewrites its modules as they load.
typechecking.install()

from nelbo.evidence import sample_reading  # noqa: E402
from nelbo.training import allowance, pace, rehearsal, threads  # noqa: E402

torch.set_num_threads(1)
# On a busy machine an example may take any time.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=50)
hypothesis.settings.load_profile("suite")

# Hundreds of runs of a few steps need not be evaluated as closely as users' runs are, nor be
# reported twice, nor looked at. Before the modules that read these.
allowance.LEAST, allowance.SOON = 0.3, math.inf
sample_reading.READ_AT_END = 64
# Nor does it matter there which setting is the faster one.
pace.STEPS = rehearsal.REPEATS = threads.REPEATS = 1

from nelbo.cli import main  # noqa: E402
from nelbo.commands import train  # noqa: E402
from nelbo.training.kinds import kind  # noqa: E402
from nelbo.training.kinds.pixel import report  # noqa: E402

report.STRIP_STEPS, report.MOST_STRIP_STEPS = 3, 3
kind.GRIDS = (4,)

_savefig = Figure.savefig


def _undrawn(figure: Figure, file: Any, **options: Any) -> None:
    """An empty page of the figure's size in place of an SVG; other formats as they are."""
    if options.get("format") != "svg":
        _savefig(figure, file, **options)
        return
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    file.write(f'<svg viewBox="0 0 {width} {height}"></svg>')


# Laying out its figures takes half the time of such a run.
Figure.savefig = _undrawn  # type: ignore[method-assign]


@contextmanager
def figures() -> Iterator[None]:
    """Reports with their figures, for the tests that look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _savefig)
        yield


@pytest.fixture
def drawn() -> Iterator[None]:
    """As `figures`."""
    with figures():
        yield


# What is written need not outlive the machine: a process that is killed leaves it to be read.
os.fsync = lambda handle: None

# Thousands of command lines are parsed: what tyro reads off an option's type and docstring, half of
# the time that it takes, stays from one to the next.
_unsafe_cache.clear_cache = lambda: None

_train_stages = train.train_stages


@contextmanager
def reports(written: bool) -> Iterator[None]:
    """Whether `nelbo train` goes on to bound, samples and report, half of a run of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_stages", functools.partial(_train_stages, report=written))
        yield


@pytest.fixture(scope="module")
def unreported() -> Iterator[None]:
    """For tests of what is trained, and of what is said about it before."""
    with reports(False):
        yield


# Where the longest files are: they come first, so that no process is left with one at the end.
_LONGEST = ("commands", "training", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; within them the order stays."""
    items.sort(key=lambda item: item.path.parent.name not in _LONGEST)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now stays: to look for garbage in it takes half a second each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


@pytest.fixture
def ends_with_the_model() -> Iterator[None]:
    """As `unreported`, for one test."""
    with reports(False):
        yield


@pytest.fixture(scope="session")
def run_path(tmp_path_factory) -> Path:
    """A small trained run of digits, which the tests of the commands read."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    with reports(True):
        main(["train", "digits", "--out", str(path), "--steps", "12", *TINY])
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> None:
    """The suite's decoded pictures do not stay in the user's cache; its processes share them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["NELBO_CACHE"] = str(shared / "cache")


@pytest.fixture(autouse=True)
def shape_checks() -> None:
    """Each test checks the first calls of each function, and the same item of a list every time."""
    typechecking.checks.clear()
    random.seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def without_shape_checks():
    """As users run: the suite's own checker would see a wrong number of dimensions first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
