"""Fixtures of the tests with nested machines."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))

from harness.fixtures import pytest_runtest_makereport  # noqa: E402, F401
from outer_host import OuterHosts  # noqa: E402


@pytest.fixture
def outer_hosts():
    """Two hosts with kernels of their own, and their daemons."""
    with OuterHosts() as hosts:
        yield hosts
