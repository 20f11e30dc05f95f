"""The hosts lose each other, before, in and after the blackout. Rows 11 to 14 of
docs/failure-matrix.md.

What is cut is the cable between the two network namespaces, or a relay on the session connection.
"""
import time

import pytest

from harness.mover import assert_failed, assert_succeeded
from harness.oracles import wait_for_state
from harness.qmp import Qmp
from harness.relay import Relay

pytestmark = pytest.mark.usefixtures("isolated")
# Of the bytes behind the cut: in its message, in the devices' state, and in what QEMU sends last.
OFFSETS = (0, 1, 700, 8000, 40000)


def test_row_11_cable_pulled_in_pre_copy(trial):
    with trial.migrate_slowly() as mover:
        trial.destination.unplug()
        assert_failed(mover, trial.source.address, "connection_lost")
        trial.destination.plug()
    trial.settle(trial.source)


def test_row_11_session_connection_cut_or_silent_in_pre_copy(bare_hosts, make_trial):
    source, destination = bare_hosts
    destination.flags = Relay.flags
    with make_trial() as trial:
        for fault in (Relay.cut, Relay.stop):
            with Relay(source, destination) as relay, trial.migrate_slowly() as mover:
                fault(relay, 20000)
                assert_failed(mover, source.address, "connection_lost")
                assert relay.struck.is_set()
            trial.settle(source)


def test_row_11_memory_damaged_on_its_way(bare_hosts, make_trial):
    """Found when the digests are compared, before anything may run."""
    source, destination = bare_hosts
    destination.flags = Relay.flags
    with make_trial() as trial, Relay(source, destination) as relay:
        relay.flip(3_000_000)
        with trial.migrate() as mover:
            assert_failed(mover, source.address, "aborted")
            assert relay.struck.is_set()
        trial.settle(source)


def test_row_12_session_connection_cut_in_the_blackout(bare_hosts, make_trial):
    fault_in_the_blackout(bare_hosts, make_trial, Relay.cut, "connection_lost")


def test_row_12_session_connection_damaged_in_the_blackout(bare_hosts, make_trial):
    # By what is hit: a frame's header, the saved state, or the memory.
    fault_in_the_blackout(bare_hosts, make_trial, Relay.flip, "connection_lost", "data_loss",
                          "aborted")


def test_row_12_session_connection_silent_in_the_blackout(bare_hosts, make_trial):
    fault_in_the_blackout(bare_hosts, make_trial, Relay.stop, "connection_lost",
                          offsets=OFFSETS[3:4])


def fault_in_the_blackout(hosts, make_trial, fault, *reasons, offsets=OFFSETS):
    source, destination = hosts
    destination.flags = Relay.flags
    with make_trial() as trial:
        for offset in offsets:
            # The guest is stopped, and its state has not left.
            with Relay(source, destination) as relay, \
                    trial.frozen_at(source, "QUIESCED.after") as mover:
                fault(relay, offset)
                source.thaw()
                assert_failed(mover, source.address, *reasons)
                assert relay.struck.is_set()
            trial.settle(source)


def test_row_13_cable_pulled_between_commit_and_go(trial):
    source, destination = trial.source, trial.destination
    with trial.frozen_at(source, "COMMIT.after") as mover:
        source.unplug()
        source.thaw()
        wait_for_state(source, trial.vm, "in_doubt")
        assert destination.ctl.state(trial.vm) == "incoming"
        session, = source.ctl.sessions()
        assert session["vm_location"] == "in doubt"
        assert not session.get("done")
        source.plug()
        assert_succeeded(mover, destination)
    trial.settle(destination)


def test_row_13_go_lost_with_the_session_connection(bare_hosts, make_trial):
    """The other way between the daemons stands, and the word takes that."""
    source, destination = bare_hosts
    destination.flags = Relay.flags
    with make_trial() as trial, Relay(source, destination) as relay, \
            trial.frozen_at(source, "COMMIT.after") as mover:
        relay.cut()
        stands_since = time.monotonic()
        source.thaw()
        stood = 0
        while True:
            asked = time.monotonic()
            if destination.ctl.state(trial.vm) != "incoming":
                break
            stood = asked - stands_since
        assert_succeeded(mover, destination)
        # The guest stood still until the word had come.
        arrived, = destination.ctl.sessions()
        assert arrived["statistics"]["blackout_ms"] >= stood * 1000 > 0
        trial.settle(destination)


def test_row_14_cable_pulled_before_done(trial):
    source, destination = trial.source, trial.destination
    with trial.frozen_at(destination, "RUNNING.after") as mover:
        destination.unplug()
        destination.thaw()
        wait_for_state(destination, trial.vm, "running")
        assert destination.ctl.exec(trial.vm, "echo", "here").stdout == "here\n"
        wait_for_state(source, trial.vm, "in_doubt")
        # The source keeps its copy, stopped, until it has heard of the other one.
        with Qmp(source) as qmp:
            assert qmp.ask("query-status")["status"] == "postmigrate"
        destination.plug()
        assert_succeeded(mover, destination)
    trial.settle(destination)
