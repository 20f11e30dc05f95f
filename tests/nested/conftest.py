"""Fixtures of the tests with nested machines."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))

from outer_host import OuterHosts  # noqa: E402


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    hosts = item.funcargs.get("outer_hosts") if hasattr(item, "funcargs") else None
    if report.failed and hosts:
        report.sections.append(("outer machines", hosts.logs()))


@pytest.fixture
def outer_hosts():
    """Two hosts with kernels of their own, and their daemons."""
    with OuterHosts() as hosts:
        yield hosts
