"""One thread a test process, and every shape annotation of the package checked as it runs."""

from __future__ import annotations

import os

# The suite runs several processes side by side, and its tensors are small.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import pytest
import torch

import tests.typechecking  # noqa: F401 - the hook finds it by name

# Before anything imports the package: the hook rewrites its modules as they load.
jaxtyping.install_import_hook("nelbo", "tests.typechecking.check")

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> None:
    """The suite's decoded pictures do not stay in the user's cache."""
    os.environ["NELBO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def little_time_after_training() -> None:
    """Hundreds of runs of a few steps need not be evaluated as closely as users' runs are."""
    from nelbo.commands.training import allowance

    allowance.LEAST = 2.0


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def without_shape_checks():
    """As users run: the suite's own checker would see a wrong number of dimensions first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
