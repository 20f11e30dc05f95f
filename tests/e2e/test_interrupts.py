"""Signals to `ferryctl migrate`: asking for a migration's end, and leaving it to the daemon."""
import json
import pathlib
import signal
import threading

import pytest

from harness.mover import SLOW
from harness.oracles import wait_for_state
from harness.relay import Relay
from harness.rpc import Rpc
from harness.waiting import wait_for
from test_migration import assert_nothing_left, open_migration

# Slow enough that a signal falls into the transfer, fast enough to end soon.
GENTLE = ("--max-bandwidth", "10M")
CTRL_C = b"\x03"


def wait_until_said(client, text):
    wait_for(lambda: text in client.errors(), f"{text!r} was not said: {client.errors()!r}")


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << (number - 1))
    return False


def test_ctrl_c_on_a_terminal_calls_the_migration_off(two_hosts, vm):
    source, destination = two_hosts
    with source.ctl.terminal("migrate", vm, "--to", destination.address, *SLOW) as terminal:
        terminal.wait_for(b"Pass 1")
        terminal.type(CTRL_C)
        terminal.wait_for(b"Cancelling")
        assert terminal.wait() == 6
        terminal.wait_for(b"cancelled")
        assert terminal.is_restored()
    wait_for_state(source, vm, "running")
    assert_nothing_left(destination, vm)


def test_an_interrupt_calls_the_migration_off_in_json_too(two_hosts, vm):
    source, destination = two_hosts
    mover, session = open_migration(two_hosts, vm, *SLOW)
    with mover:
        mover.signal(signal.SIGINT)
        assert mover.wait() == 6
        assert "Cancelling" in mover.errors()
        last = json.loads(mover.output().splitlines()[-1])
        assert last["session_id"] == session
        assert last["vm_location"] == source.address
    wait_for_state(source, vm, "running")
    assert_nothing_left(destination, vm)


def test_an_interrupt_before_the_daemon_answers_counts(two_hosts, vm):
    source, destination = two_hosts
    source.signal_daemon(signal.SIGSTOP)
    with source.ctl.attach("migrate", vm, "--to", destination.address, *SLOW) as mover:
        wait_for(lambda: catches(mover.pid, signal.SIGINT), "ferryctl takes no interrupts")
        mover.signal(signal.SIGINT)
        source.signal_daemon(signal.SIGCONT)
        assert mover.wait() == 6, mover.errors()
    wait_for_state(source, vm, "running")
    assert_nothing_left(destination, vm)


def test_a_second_interrupt_leaves_the_migration_to_the_daemon(two_hosts, vm):
    source, _ = two_hosts
    mover, session = open_migration(two_hosts, vm, *SLOW)
    with mover:
        source.signal_daemon(signal.SIGSTOP)
        try:
            mover.signal(signal.SIGINT)
            wait_until_said(mover, "Ctrl-C again")
            mover.signal(signal.SIGINT)
            assert mover.wait() == 130
            assert f"migration watch {session}" in mover.errors()
        finally:
            source.signal_daemon(signal.SIGCONT)
    source.ctl.run("migration", "cancel", session)
    wait_for_state(source, vm, "running")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_migration_outlives_its_client(two_hosts, vm, number):
    source, destination = two_hosts
    mover, session = open_migration(two_hosts, vm, *GENTLE)
    with mover:
        mover.signal(number)
        if number == signal.SIGKILL:
            assert mover.wait() == -number
        else:
            assert mover.wait() == 128 + number
            assert f"migration watch {session}" in mover.errors()
    assert source.ctl.run("migration", "watch", session).returncode == 0
    assert destination.ctl.state(vm) == "running"
    assert destination.ctl.exec(vm, "echo", "hello").stdout == "hello\n"
    assert_nothing_left(source, vm)


@pytest.mark.usefixtures("isolated")
def test_past_the_point_of_no_return_an_interrupt_is_told_so(bare_hosts):
    source, destination = bare_hosts
    destination.flags = Relay.flags
    bare_hosts.start()
    source.ctl.create("vm")
    source.ctl.start("vm")
    stopped = threading.Event()

    def stop_the_destination_after_its_vote():
        # The record is durable before the vote leaves, so here is the vote at the latest.
        records = [session.commit_record for session in peer.sessions()] if not stopped.is_set() \
            else []
        if "PREPARED" in records:
            destination.signal_daemon(signal.SIGSTOP)
            stopped.set()

    with Rpc(destination) as peer, Rpc(source) as own, \
            Relay(source, destination, stop_the_destination_after_its_vote) as relay, \
            source.ctl.attach("migrate", "vm", "--to", destination.address) as mover:
        wait_for(lambda: relay.failure or stopped.is_set() or not mover.running(), "no vote came")
        assert stopped.is_set(), (relay.failure, mover.errors())
        try:
            wait_for(lambda: own.sessions()[0].commit_record == "COMMIT", "it is not committed")
            mover.signal(signal.SIGINT)
            wait_until_said(mover, "past its point of no return")
            assert mover.running()
        finally:
            destination.signal_daemon(signal.SIGCONT)
        assert mover.wait(120) == 0, mover.errors()
    assert destination.ctl.state("vm") == "running"
    assert_nothing_left(source, "vm")
