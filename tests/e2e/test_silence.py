"""Transfers in which the other end falls silent without a word."""
import signal

import pytest

from harness.mover import SLOW
from harness.oracles import wait_for_state
from test_migration import assert_nothing_left, open_migration


def assert_called_off(source, vm, mover, session, reasons):
    """The migration failed, and the VM runs on where it was."""
    mover.wait(120)
    ended = source.ctl.json("migration", "show", session)
    assert ended["outcome"] == "SESSION_OUTCOME_FAILED"
    assert ended["reason"] in reasons, ended
    assert ended["vm_location"] == source.address
    wait_for_state(source, vm, "running")
    assert source.ctl.exec(vm, "echo", "here").stdout == "here\n"


def test_a_destination_that_takes_no_byte_ends_the_transfer(bare_hosts):
    source, destination = bare_hosts
    source.flags = ["--stall-timeout", "3"]
    bare_hosts.start()
    source.ctl.create("vm")
    source.ctl.start("vm")
    mover, session = open_migration(bare_hosts, "vm", *SLOW)
    with mover:
        (pid, _), = destination.processes("qemu-system")
        # Its daemon answers as ever; the VMM does not.
        destination.signal_process(pid, signal.SIGSTOP)
        assert_called_off(source, "vm", mover, session, ("transfer_stalled",))
    assert_nothing_left(destination, "vm")
    source.ctl.migrate("vm", destination)


@pytest.mark.usefixtures("isolated")
def test_a_host_that_vanishes_without_a_word_is_noticed(two_hosts, vm):
    source, destination = two_hosts
    mover, session = open_migration(two_hosts, vm, *SLOW)
    with mover:
        destination.run(["ip", "link", "set", "ferry0", "down"], check=True)
        assert_called_off(source, vm, mover, session, ("connection_lost",))
        assert_nothing_left(destination, vm)
        destination.run(["ip", "link", "set", "ferry0", "up"], check=True)
    source.ctl.migrate(vm, destination)
