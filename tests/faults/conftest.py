"""Fixtures of the failure matrix: those of the end-to-end tests, and a VM that is watched."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))

from harness import booted  # noqa: E402
from harness.fixtures import *  # noqa: E402, F401, F403
from harness.trial import Trial  # noqa: E402


@pytest.fixture
def trial(two_hosts, vm):
    """A VM that runs on the first host, with somebody who talks to a process in it."""
    with Trial(two_hosts, vm) as made:
        yield made


@pytest.fixture
def make_trial(bare_hosts):
    """Makes such a VM on hosts whose daemons are started only now, with their flags as they are."""
    made = []

    def make():
        booted.give(bare_hosts[0])
        bare_hosts.start()
        made.append(Trial(bare_hosts, booted.run_on(bare_hosts[0])))
        return made[0]

    yield make
    for trial in made:
        trial.close()
