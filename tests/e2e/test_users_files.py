"""Whoever dies at whatever point of a save to a file of its user's that its VM does not go on from, or
of a start from one.

What becomes of both at each point is in harness/saving_points.py.
"""
import contextlib

import pytest

from harness.saving import REFUSED, host  # noqa: F401
from harness.victim import cases, every_death, strike
from harness.waiting import wait_for


@pytest.fixture
def file(host, vm, isolated):
    """Of a VM without disks, which may go back to it as often as one likes."""
    return host.folder / "moment.ferry"


def assert_is(host, vm, state):
    wait_for(lambda: host.ctl.state(vm) == state, f"it is not {state}")
    wait_for(lambda: len(host.processes("qemu-system")) == (1 if state == "running" else 0),
             "other VMMs than its own run")


def assert_went_back(host, vm):
    assert host.ctl.state(vm) == "running"
    assert host.ctl.exec(vm, "cat", "/tmp/before").stdout == "here\n"
    assert host.ctl.exec(vm, "ls", "/tmp/later").returncode != 0
    host.ctl.ok("exec", vm, "--", "touch", "/tmp/later")


@every_death
def test_live_save(host, vm, file, mortals):
    for dies, point, state, there in cases("live save to a file", mortals):
        strike(host, dies, point, "save", vm, "--live", "--to", file)
        assert_is(host, vm, state)
        wait_for(lambda: host.outside(file).exists() == there, "not what is to be of its file")
        if state != "running":
            host.ctl.start(vm)
        if there:
            host.ctl.ok("stop", "--force", vm)
            host.ctl.ok("start", vm, "--from", file)
        host.run(["rm", "-f", file], check=True)
        # Nothing of it is in the way of the next.
        host.ctl.ok("save", vm, "--live", "--to", file)
        host.run(["rm", file], check=True)


@every_death
def test_start(host, vm, file, mortals):
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo here > /tmp/before")
    host.ctl.ok("save", vm, "--live", "--to", file)
    content = host.outside(file).stat()
    host.ctl.ok("exec", vm, "--", "touch", "/tmp/later")
    for dies, point, state, _ in cases("start from a file", mortals):
        host.ctl.ok("stop", "--force", vm)
        strike(host, dies, point, "start", vm, "--from", file)
        assert_is(host, vm, state)
        now = host.outside(file).stat()
        assert (now.st_ino, now.st_size) == (content.st_ino, content.st_size)
        if state != "running":
            host.ctl.ok("start", vm, "--from", file)
        assert_went_back(host, vm)


def test_of_several_starts_from_one_file_at_once_one_is_taken(host, vm, file):
    host.ctl.ok("save", vm, "--live", "--to", file)
    host.ctl.ok("stop", "--force", vm)
    with contextlib.ExitStack() as started:
        starts = [started.enter_context(host.ctl.attach("start", vm, "--from", file))
                  for _ in range(4)]
        statuses = sorted(start.wait() for start in starts)
        assert statuses == [0, *[REFUSED] * 3], [start.errors() for start in starts]
    assert_is(host, vm, "running")
