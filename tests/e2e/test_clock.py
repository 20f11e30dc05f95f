"""The guest's time of day is the host's, whenever a process is told something."""
import time

import pytest

from harness import workload

# The promise, beside what the way to the process and back leaves open.
CLOSE_NS = 20_000_000
HOUR_NS = 3600 * 1_000_000_000


class Clock:
    """A process of the guest that tells the time when it is asked."""

    def __init__(self, client):
        self._client = client
        self._asked = 0
        self._monotonic = 0

    def ask(self):
        """Asks, without waiting for the answer."""
        self._asked += 1
        self._client.write(b"ask%d\n" % self._asked)

    def answer(self):
        """What the guest's clock says. Its monotonic clock never goes back."""
        end = b" ask%d\n" % self._asked
        self._client.wait_until(lambda output: output.endswith(end))
        realtime, monotonic = self._client.output().splitlines()[-1].split()[1:3]
        assert int(monotonic) >= self._monotonic
        self._monotonic = int(monotonic)
        return int(realtime)

    def assert_close(self):
        before = time.time_ns()
        self.ask()
        told = self.answer()
        assert before - CLOSE_NS <= told <= time.time_ns() + CLOSE_NS


@pytest.fixture
def clock(two_hosts, vm):
    with workload.attach(two_hosts[0], vm, "clock") as client:
        yield Clock(client)


def set_back(host, vm):
    """Sets the guest's clock an hour back."""
    then = (time.time_ns() - HOUR_NS) // 1_000_000_000
    result = host.ctl.exec(vm, "date", "-s", f"@{then}")
    assert result.returncode == 0, result.stderr


def test_it_is_right_after_a_boot(two_hosts):
    host = two_hosts[0]
    host.ctl.create("fresh")
    host.ctl.start("fresh")
    with workload.attach(host, "fresh", "clock") as client:
        Clock(client).assert_close()


def test_it_is_right_after_a_migration(two_hosts, vm, clock):
    clock.assert_close()
    host = two_hosts[0]
    for _ in range(2):
        host.ctl.migrate(vm, two_hosts.other(host))
        host = two_hosts.other(host)
        clock.assert_close()
    # Where it was not the standstill that made it wrong, too.
    set_back(host, vm)
    clock.ask()
    assert clock.answer() < time.time_ns() - HOUR_NS // 2
    host.ctl.migrate(vm, two_hosts.other(host))
    clock.assert_close()


def test_what_is_told_to_a_paused_guest_reaches_it_after_its_clock_is_set(two_hosts, vm, clock):
    host = two_hosts[0]
    clock.assert_close()
    set_back(host, vm)
    host.ctl.ok("vm", "pause", vm)
    clock.ask()
    before = time.time_ns()
    host.ctl.ok("vm", "resume", vm)
    told = clock.answer()
    assert before - CLOSE_NS <= told <= time.time_ns() + CLOSE_NS
    # And it is not only the pause's own length that is made up for.
    host.ctl.ok("vm", "pause", vm)
    paused = time.monotonic()
    while time.monotonic() < paused + 2:
        assert host.ctl.state(vm) == "paused"
    clock.ask()
    before = time.time_ns()
    host.ctl.ok("vm", "resume", vm)
    told = clock.answer()
    assert before - CLOSE_NS <= told <= time.time_ns() + CLOSE_NS


def test_a_daemon_that_starts_again_finds_the_clock_right(two_hosts, vm, clock):
    host = two_hosts[0]
    set_back(host, vm)
    host.stop()
    host.start()
    clock.assert_close()
