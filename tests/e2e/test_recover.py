"""`ferryctl migration recover`: what both hosts know, and a person's decision when one is lost."""
import pytest

from harness import oracles
from harness.ctl import CtlError
from test_crash import wait_for_death


def in_doubt(hosts, vm, point):
    """A migration whose destination dies at `point`, after COMMIT; returns its session's id."""
    owner, other = hosts
    other.flags = ["--failpoint", point]
    other.restart()
    before = {session["session_id"] for session in owner.ctl.sessions()}
    migrate = owner.ctl.attach("migrate", vm, "--to", other.address)
    with migrate:
        wait_for_death(other)
        other.flags = []
        session, = [session["session_id"] for session in owner.ctl.sessions()
                    if session["session_id"] not in before]
    assert owner.ctl.state(vm) == "in_doubt"
    return session


def assert_journals(hosts):
    oracles.assert_journals_agree(hosts)
    oracles.assert_journals_verify(hosts)


def force(owner, session, vm, decision):
    return owner.ctl.run("migration", "recover", session, "--force", decision, "--vm", vm,
                         timeout=60)


def die_over(owner, session, vm, decision, point):
    """The owner's daemon dies at `point` while it is being forced; then it is back."""
    owner.flags = ["--failpoint", point]
    owner.restart()
    oracles.wait_for_state(owner, vm, "in_doubt")
    assert force(owner, session, vm, decision).returncode != 0
    wait_for_death(owner)
    owner.flags = []
    owner.start()


def records(side):
    return [entry["record"] for entry in side["journal"]]


def test_a_stale_copy_ends_when_its_host_is_back(two_hosts, vm):
    """The destination was granted the VM and is gone. Its host comes back after all: it may run the
    VM for a moment, learns that it is stale, and ends it."""
    owner, other = two_hosts
    session = in_doubt(two_hosts, vm, "GRANTED.after")
    known = owner.ctl.json("migration", "recover", session)
    source, destination = known["sides"]
    assert records(source)[-1] == "COMMIT"
    assert source["vm_state"] == "VM_STATE_IN_DOUBT"
    assert other.address in source["next"]
    assert other.address in destination["address"] and destination["error"]
    text = owner.ctl.ok("migration", "recover", session)
    assert "The risk:" in text and "two running copies" in text

    # Not by mistake: the VM's name, and only what is in doubt.
    with pytest.raises(CtlError, match="is not about the VM 'other'"):
        owner.ctl.ok("migration", "recover", session, "--force", "run-here", "--vm", "other")
    assert owner.ctl.run("migration", "recover", session, "--force", "run-here").returncode == 2
    assert owner.ctl.state(vm) == "in_doubt"

    owner.ctl.ok("migration", "recover", session, "--force", "run-here", "--vm", vm)
    assert owner.ctl.state(vm) == "running"
    assert owner.ctl.exec(vm, "echo", "here").stdout == "here\n"
    assert any(event["type"] == "migration.forced" for event in owner.ctl.json("events"))

    # The decision is the journal's, not the daemon's.
    owner.kill()
    owner.start()
    assert owner.ctl.exec(vm, "echo", "here").stdout == "here\n"
    other.start()
    assert oracles.settle(two_hosts, vm) is owner
    oracles.assert_one_copy(two_hosts, owner)
    source, destination = owner.ctl.json("migration", "recover", session)["sides"]
    assert records(source)[-1] == "FORCED"
    assert records(destination)[-2:] == ["RUNNING", "SUPERSEDED"]
    oracles.assert_nothing_left(two_hosts, owner)
    assert_journals(two_hosts)
    # And it moves as ever.
    owner.ctl.migrate(vm, other)
    assert other.ctl.exec(vm, "echo", "there").stdout == "there\n"
    assert_journals(two_hosts)


def test_giving_up_leaves_the_vm_to_the_other_host(two_hosts, vm):
    owner, other = two_hosts
    session = in_doubt(two_hosts, vm, "GRANTED.after")
    owner.ctl.ok("migration", "recover", session, "--force", "give-up", "--vm", vm)
    assert owner.ctl.state(vm) == "absent"
    assert owner.processes("qemu-system") == []
    other.start()
    assert oracles.settle(two_hosts, vm) is other
    source, _ = owner.ctl.json("migration", "recover", session)["sides"]
    assert records(source)[-1] == "GIVEN_UP"
    assert other.ctl.exec(vm, "echo", "there").stdout == "there\n"
    assert_journals(two_hosts)


def test_source_dies_around_its_forced_decision(two_hosts, vm):
    """Before the record nothing is decided; after it a restarted daemon carries it out."""
    owner, other = two_hosts
    for moment in ("before", "after"):
        session = in_doubt(two_hosts, vm, "GRANTED.after")
        die_over(owner, session, vm, "run-here", f"FORCED.{moment}")
        if moment == "before":
            oracles.wait_for_state(owner, vm, "in_doubt")
            assert force(owner, session, vm, "run-here").returncode == 0
        oracles.wait_for_state(owner, vm, "running")
        assert owner.ctl.exec(vm, "echo", "here").stdout == "here\n"
        # The session does not wait for the host that is lost.
        assert owner.ctl.session(session)["done"]
        assert "has yet to be told" in owner.ctl.ok("migration", "show", session)
        other.start()
        assert oracles.settle(two_hosts, vm) is owner
        oracles.assert_one_copy(two_hosts, owner)
        assert_journals(two_hosts)


def test_source_dies_around_its_giving_up(two_hosts, vm):
    owner, other = two_hosts
    for moment in ("before", "after"):
        session = in_doubt((owner, other), vm, "GRANTED.after")
        die_over(owner, session, vm, "give-up", f"GIVEN_UP.{moment}")
        if moment == "before":
            oracles.wait_for_state(owner, vm, "in_doubt")
            assert force(owner, session, vm, "give-up").returncode == 0
        oracles.wait_for_state(owner, vm, "absent")
        other.start()
        assert oracles.settle(two_hosts, vm) is other
        oracles.assert_one_copy(two_hosts, other)
        assert_journals(two_hosts)
        owner, other = other, owner


def test_destination_dies_around_the_end_of_its_stale_copy(two_hosts, vm):
    owner, other = two_hosts
    for moment in ("before", "after"):
        session = in_doubt(two_hosts, vm, "GRANTED.after")
        assert force(owner, session, vm, "run-here").returncode == 0
        other.flags = ["--failpoint", f"SUPERSEDED.{moment}"]
        other.launch()  # it may hear of it, and die, before it answers us
        wait_for_death(other)
        other.flags = []
        other.start()
        assert oracles.settle(two_hosts, vm) is owner
        oracles.assert_one_copy(two_hosts, owner)
        oracles.assert_nothing_left(two_hosts, owner)
        assert_journals(two_hosts)
        assert owner.ctl.exec(vm, "echo", "here").stdout == "here\n"
