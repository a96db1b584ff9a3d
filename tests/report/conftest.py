from collections.abc import Iterator

import pytest

from tests.conftest import figures
from tests.report.examples import make_metrics, make_model


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def metrics():
    return make_metrics()


@pytest.fixture(scope="module", autouse=True)
def with_figures() -> Iterator[None]:
    """These tests look at them."""
    with figures():
        yield
