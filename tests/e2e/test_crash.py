"""Daemons that die between any two steps of a migration. Whatever happened, once they are back the
VM runs on exactly one host, its client has missed and repeated nothing, and it can move again."""
import itertools
import signal

from harness import oracles, workload

SOURCE = ("OPEN", "TRANSFER", "QUIESCED", "COMMIT", "RELEASED")
DESTINATION = ("IMPORTED", "LISTENING", "PREPARED", "GRANTED", "RUNNING")


def wait_for_death(host):
    """The daemon ends by its failpoint; returns without a word otherwise."""
    assert host.wait_daemon() in (-signal.SIGKILL, 128 + signal.SIGKILL)


def crash_at(hosts, vm, owner, dying, point):
    """A migration from `owner` in which the daemon `dying` dies at `point`; the new owner."""
    dying.flags = ["--failpoint", point]
    dying.restart()
    other = hosts.other(owner)
    with owner.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        with owner.ctl.attach("migrate", vm, "--to", other.address) as migrate:
            wait_for_death(dying)
            dying.flags = []
            dying.start()
            new_owner = oracles.assert_all(hosts, vm, client)
        client.close_stdin()
        assert client.wait() == 0, client.errors()
    return new_owner


def crash_at_all(hosts, vm, records, moment, dies_on_source):
    owner = hosts[0]
    for record in records:
        dying = owner if dies_on_source else hosts.other(owner)
        before = owner
        owner = crash_at(hosts, vm, owner, dying, f"{record}.{moment}")
        committed = record in ("RELEASED", "GRANTED", "RUNNING") or (
            (record, moment) == ("COMMIT", "after")) or (record, moment) == ("PREPARED", "never")
        if committed:
            assert owner is not before, record
        elif record != "PREPARED":
            assert owner is before, record
    # And it still moves as if nothing had been.
    owner.ctl.migrate(vm, hosts.other(owner))
    assert hosts.other(owner).ctl.exec(vm, "echo", "here").stdout == "here\n"


def test_clients_follow_while_their_source_stays_dead(two_hosts, vm):
    """They learnt where to go when the session opened."""
    source, destination = two_hosts
    source.flags = ["--failpoint", "RELEASED.before"]
    source.restart()
    with source.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        with source.ctl.attach("migrate", vm, "--to", destination.address):
            wait_for_death(source)
            client.write(b"still there\n")
            client.wait_until(lambda output: b"echo still there\n" in output)
        source.flags = []
        source.start()
        assert oracles.assert_all(two_hosts, vm, client) is destination
        client.close_stdin()
        assert client.wait() == 0, client.errors()


def test_source_dies_before_each_of_its_records(two_hosts, vm):
    crash_at_all(two_hosts, vm, SOURCE, "before", dies_on_source=True)


def test_source_dies_after_each_of_its_records(two_hosts, vm):
    crash_at_all(two_hosts, vm, SOURCE, "after", dies_on_source=True)


def test_destination_dies_before_each_of_its_records(two_hosts, vm):
    crash_at_all(two_hosts, vm, DESTINATION, "before", dies_on_source=False)


def test_destination_dies_after_each_of_its_records(two_hosts, vm):
    crash_at_all(two_hosts, vm, DESTINATION, "after", dies_on_source=False)


def test_both_die_after_commit(two_hosts, vm):
    """The GO was written and never sent; neither daemon knows more than its journal."""
    hosts = two_hosts
    owner, other = hosts
    owner.flags = ["--failpoint", "COMMIT.after"]
    owner.restart()
    with owner.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        with owner.ctl.attach("migrate", vm, "--to", other.address) as migrate:
            wait_for_death(owner)
            other.kill()
        owner.flags = []
        for host in itertools.chain((owner,), (other,)):
            host.start()
        assert oracles.assert_all(hosts, vm, client) is other


def cancelled_migration(hosts, vm, dying, point):
    """A migration from the first host that is called off, with a daemon that dies over it."""
    owner, other = hosts
    dying.flags = ["--failpoint", point]
    dying.restart()
    with owner.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        before = {session["session_id"] for session in owner.ctl.sessions()}
        with owner.ctl.attach("migrate", vm, "--to", other.address, "--max-bandwidth", "10M"):
            oracles.wait_for_new_record(owner, "TRANSFER")
            session, = {session["session_id"] for session in owner.ctl.sessions()} - before
            owner.ctl.run("migration", "cancel", session, timeout=60)
            wait_for_death(dying)
            dying.flags = []
            dying.start()
            assert oracles.assert_all(hosts, vm, client) is owner, point
        client.close_stdin()
        assert client.wait() == 0, client.errors()


def test_source_dies_around_its_abort(two_hosts, vm):
    for moment in ("before", "after"):
        cancelled_migration(two_hosts, vm, two_hosts[0], f"ABORT.{moment}")


def test_destination_dies_around_its_refusal(two_hosts, vm):
    for moment in ("before", "after"):
        cancelled_migration(two_hosts, vm, two_hosts[1], f"REFUSED.{moment}")


def test_source_dies_around_its_reclaim(two_hosts, vm):
    """The destination had voted, lost its copy with its daemon, and gives the VM back."""
    owner, other = two_hosts
    for moment in ("before", "after"):
        other.flags = ["--failpoint", "GRANTED.before"]
        other.restart()
        owner.flags = ["--failpoint", f"RECLAIMED.{moment}"]
        owner.restart()
        with owner.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client:
            client.wait_until(lambda output: b"tick" in output)
            with owner.ctl.attach("migrate", vm, "--to", other.address):
                wait_for_death(other)
                (qemu, _), = other.processes("qemu-system")
                other.signal_process(qemu, signal.SIGKILL)
                other.flags = []
                other.start()
                wait_for_death(owner)
                owner.flags = []
                owner.start()
                assert oracles.assert_all(two_hosts, vm, client) is owner
            client.close_stdin()
            assert client.wait() == 0, client.errors()
    owner.ctl.migrate(vm, other)
    assert other.ctl.exec(vm, "echo", "there").stdout == "there\n"
