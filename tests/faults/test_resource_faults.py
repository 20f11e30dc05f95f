"""Hosts that lose their power or their sense of time. Rows 23 and 31 of docs/failure-matrix.md."""
import pathlib

import pytest

from harness import oracles
from harness.ctl import number
from harness.mover import assert_failed, assert_succeeded, wait_until_moving

FAKETIME = pathlib.Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def set_clock(host, offset):
    """Moves the host's wall clock, as its daemon sees it, in a running one too."""
    file = host.folder / f"{host.name}.clock"
    host.outside(file).write_text(f"{offset}\n")
    host.prefix = ["env", f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={file}",
                   "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"]


def test_row_23_clocks_differ_and_jump(bare_hosts, make_trial):
    """Only the daemons' wall clock is false, not the kernel's: it is they who decide."""
    source, destination = bare_hosts
    set_clock(source, "+1h")
    set_clock(destination, "-1h")
    with make_trial() as trial:
        with trial.migrate() as mover:
            assert_succeeded(mover, destination)
        trial.settle(destination)
        created = [number(host.ctl.sessions()[0], "created_unix_ms") for host in bare_hosts]
        assert created[0] - created[1] > 7_000_000  # what one does first bears the later time
        back = destination.ctl.start_migration(trial.vm, source, "--max-bandwidth", "40M")
        with back as mover:
            wait_until_moving(mover)
            set_clock(source, "-1h")
            set_clock(destination, "+1h")
            assert_succeeded(mover, source)
        trial.settle(source)


@pytest.mark.usefixtures("isolated")
def test_row_31_source_loses_power_in_pre_copy(trial):
    with trial.migrate_slowly() as mover:
        trial.source.lose_power()
        trial.source.start()
        assert_failed(mover, "nowhere", "daemon_restarted")
    trial.settle_lost(failed_at=trial.source)


@pytest.mark.usefixtures("isolated")
def test_row_31_source_loses_power_after_commit(trial):
    """The destination holds the whole state, and learns from the journal that it may run it."""
    source, destination = trial.source, trial.destination
    with trial.frozen_at(source, "COMMIT.after") as mover:
        source.lose_power()
        source.start()
        assert_succeeded(mover, destination)
    trial.settle(destination)


@pytest.mark.usefixtures("isolated")
def test_row_31_destination_loses_power_after_its_vote(trial):
    """Its copy is gone and was never granted: the source has the VM back."""
    source, destination = trial.source, trial.destination
    with trial.frozen_at(destination, "GRANTED.before") as mover:
        destination.lose_power()
        destination.start()
        assert_failed(mover, source.address, "daemon_restarted")
    trial.settle(source)


@pytest.mark.usefixtures("isolated")
def test_row_31_destination_loses_power_once_it_was_granted_the_vm(trial):
    """As with any host that loses power the VM is gone; nobody runs an older state of it."""
    destination = trial.destination
    with trial.frozen_at(destination, "GRANTED.after") as mover:
        destination.lose_power()
        destination.start()
        assert_failed(mover, "nowhere", "vm_died_after_switchover")
    trial.settle_lost(failed_at=destination)
    oracles.assert_granted_and_lost(trial.source, destination)
