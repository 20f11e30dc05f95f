"""Processes that print all they can: with readers that keep up, and with readers that stand still.
In the VM itself, and in a container."""
import contextlib
import signal
import subprocess

import pytest

from harness import flood
from harness.ctl import Ctl
from harness.waiting import wait_for

KILLED = 128 + signal.SIGKILL
IN_CONTAINER = ("--container", "web")

# All that a process may get rid of before it blocks, and what a daemon may need for that.
BUFFERS = 4 << 20
MEMORY_GROWTH_KIB = 16 * 1024

# A reader stands still because it is stopped, or because nobody takes what it prints.
STAND_STILL = (lambda reader: reader.signal(signal.SIGSTOP), flood.Flood.stand_still)
GO_ON = (lambda reader: reader.signal(signal.SIGCONT), flood.Flood.go_on)


@pytest.fixture(autouse=True)
def container(box_hosts, box_vm, tmp_path):
    """One in the VM that does nothing itself."""
    box_hosts[0].ctl.ok("run", "-d", "--name", "web", "--vm", box_vm, "--scratch-dir", tmp_path,
                        "box", "sleep", "100000")


def assert_ends_whole(host, vm, reader):
    """The process can be ended, and all that it printed has come."""
    reader.wait_for_more()
    host.ctl.ok("kill", "-s", "KILL", vm, str(reader.process))
    assert reader.wait(120) == KILLED, reader.errors()
    reader.assert_whole()


def test_readers_that_keep_up_get_all_of_it_over_three_migrations(box_hosts, box_vm):
    host = box_hosts[0]
    with contextlib.ExitStack() as open_readers:
        readers = [open_readers.enter_context(flood.start(host.ctl, box_vm, *where))
                   for where in ((box_vm,), IN_CONTAINER)]
        for reader in readers:
            reader.begin()
        for _ in range(3):
            for reader in readers:
                reader.wait_for_more()
            host.ctl.migrate(box_vm, box_hosts.other(host))
            host = box_hosts.other(host)
        for reader in readers:
            assert_ends_whole(host, box_vm, reader)


def test_readers_that_stand_still_for_a_minute_hold_up_their_processes_alone(box_hosts, box_vm):
    source, destination = box_hosts
    afar = Ctl(source)
    afar.address = source.address  # by TCP
    with contextlib.ExitStack() as open_readers:
        readers = [open_readers.enter_context(flood.start(ctl, box_vm, *where))
                   for ctl, where in ((afar, (box_vm,)), (source.ctl, IN_CONTAINER))
                   for _ in STAND_STILL]

        def printed(host):
            return [flood.printed(host, box_vm, reader) for reader in readers]

        for reader in readers:
            reader.begin()
        for reader in readers:
            reader.wait_for_more()
        resident = {host: host.resident_kib() for host in box_hosts}
        for reader, stand_still in zip(readers, STAND_STILL * 2):
            stand_still(reader)
        wait_for(lambda: printed(source) == printed(source),
                 "they print although nobody reads")
        stood = printed(source)
        received = [reader.received for reader in readers]
        assert all(sent - came < BUFFERS for sent, came in zip(stood, received))
        # As long as ferryctl looks for a process, and longer than a daemon waits for an answer.
        with pytest.raises(subprocess.TimeoutExpired):
            readers[1].wait(60)
        source.ctl.migrate(box_vm, destination)
        assert destination.ctl.exec(box_vm, "echo", "served").stdout == "served\n"
        # Nobody has got on, nor does a daemon keep what they do not take.
        assert printed(destination) == stood
        assert [reader.received for reader in readers] == received
        for host in box_hosts:
            assert host.resident_kib() - resident[host] < MEMORY_GROWTH_KIB, host.name
        for reader, go_on in zip(readers, GO_ON * 2):
            go_on(reader)
        for reader in readers:
            assert_ends_whole(destination, box_vm, reader)
