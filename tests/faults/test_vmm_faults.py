"""QEMU dies, on either host and at every stage. Rows 7 to 10 of docs/failure-matrix.md."""
from harness.trial import assert_failed, assert_succeeded, last_word



def test_row_07_source_vmm_killed_before_switchover(trial):
    with trial.migrate_slowly() as mover:
        trial.source.kill_vmm()
        assert_failed(mover, "nowhere")
    trial.settle_lost(failed_at=trial.source)


def test_row_08_source_vmm_killed_after_the_destination_loaded_its_state(bare_hosts, make_trial):
    source, destination = bare_hosts
    destination.freeze_at("PREPARED.before")
    with make_trial() as trial, trial.migrate() as mover:
        destination.wait_frozen()
        source.kill_vmm()
        destination.thaw()
        assert_succeeded(mover, destination)
        trial.settle(destination)


def test_row_09_destination_vmm_killed_in_pre_copy(trial):
    with trial.migrate_slowly() as mover:
        trial.destination.kill_vmm()
        assert_failed(mover, trial.source.address)
    trial.settle(trial.source)


def test_row_09_destination_vmm_killed_while_the_source_is_stopped(bare_hosts, make_trial):
    """Before its state has left, before the COMMIT, and between the COMMIT and the GO."""
    source, destination = bare_hosts
    source.freeze_at("QUIESCED.after")
    with make_trial() as trial:
        for point in ("QUIESCED.after", "COMMIT.before", "COMMIT.after"):
            source.freeze_at(point)
            with trial.migrate() as mover:
                source.wait_frozen()
                destination.kill_vmm()
                source.thaw()
                assert_failed(mover, source.address)
            trial.settle(source)
        trial.source.ctl.migrate(trial.vm, trial.destination)
        trial.settle(destination)


def test_row_09_destination_vmm_killed_around_its_vote(bare_hosts, make_trial):
    source, destination = bare_hosts
    with make_trial() as trial:
        for point in ("PREPARED.before", "PREPARED.after"):
            destination.freeze_at(point)
            with trial.migrate() as mover:
                destination.wait_frozen()
                destination.kill_vmm()
                destination.thaw()
                assert_failed(mover, source.address)
            trial.settle(source)


def test_row_10_destination_vmm_killed_between_go_and_running(bare_hosts, make_trial):
    destination = bare_hosts[1]
    destination.freeze_at("GRANTED.after")
    with make_trial() as trial, trial.migrate() as mover:
        destination.wait_frozen()
        destination.kill_vmm()
        destination.thaw()
        last_word(mover)
        trial.settle_lost(failed_at=destination)


def test_row_10_destination_vmm_killed_once_it_runs(trial):
    with trial.migrate() as mover:
        assert_succeeded(mover, trial.destination)
    trial.destination.kill_vmm()
    trial.settle_lost(failed_at=trial.destination)
