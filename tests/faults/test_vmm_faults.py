"""QEMU dies, on either host and at every stage. Rows 7 to 10 of docs/failure-matrix.md."""
from harness import oracles
from harness.mover import assert_failed, assert_succeeded


def test_row_07_source_vmm_killed_before_switchover(trial):
    with trial.migrate_slowly() as mover:
        trial.source.kill_vmm()
        assert_failed(mover, "nowhere", "source_vm_died")
    trial.settle_lost(failed_at=trial.source)


def test_row_08_source_vmm_killed_after_the_destination_loaded_its_state(trial):
    source, destination = trial.source, trial.destination
    with trial.frozen_at(destination, "PREPARED.before") as mover:
        source.kill_vmm()
        destination.thaw()
        assert_succeeded(mover, destination)
    trial.settle(destination)


def test_row_09_destination_vmm_killed_in_pre_copy(trial):
    with trial.migrate_slowly() as mover:
        trial.destination.kill_vmm()
        assert_failed(mover, trial.source.address, "aborted")
    trial.settle(trial.source)


def test_row_09_destination_vmm_killed_while_the_source_is_stopped(trial):
    """Before its state has left, before the COMMIT, and between the COMMIT and the GO."""
    source, destination = trial.source, trial.destination
    for point, reason in (("QUIESCED.after", "aborted"),
                          ("COMMIT.before", "destination_vm_died"),
                          ("COMMIT.after", "destination_vm_died")):
        with trial.frozen_at(source, point) as mover:
            destination.kill_vmm()
            source.thaw()
            assert_failed(mover, source.address, reason)
        trial.settle(source)
    source.ctl.migrate(trial.vm, destination)
    trial.settle(destination)


def test_row_09_destination_vmm_killed_around_its_vote(trial):
    source, destination = trial.source, trial.destination
    for point in ("PREPARED.before", "PREPARED.after"):
        with trial.frozen_at(destination, point) as mover:
            destination.kill_vmm()
            destination.thaw()
            assert_failed(mover, source.address, "destination_vm_died")
        trial.settle(source)


def test_row_10_destination_vmm_killed_between_go_and_running(trial):
    destination = trial.destination
    with trial.frozen_at(destination, "GRANTED.after") as mover:
        destination.kill_vmm()
        destination.thaw()
        assert_failed(mover, "nowhere", "vm_died_after_switchover")
    trial.settle_lost(failed_at=destination)
    oracles.assert_granted_and_lost(trial.source, destination)


def test_row_10_destination_vmm_killed_once_it_runs(trial):
    with trial.migrate() as mover:
        assert_succeeded(mover, trial.destination)
    trial.destination.kill_vmm()
    trial.settle_lost(failed_at=trial.destination)
