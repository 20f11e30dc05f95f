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
