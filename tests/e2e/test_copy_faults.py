"""Disks that come along with their VM, and whoever fails at whatever point of that: the VM is there
once, goes on with all that its guest was told is on its disks, and no half copy is left."""
import pytest

from harness import oracles
from harness.build import is_sanitized
from harness.disk_copies import (SLOW, VM, apart, assert_goes_on,  # noqa: F401
                                 assert_nothing_lost, assert_nothing_of_it, begin_slowly, copies,
                                 disks)
from harness.records import (ROOT, number, on_disks, shell, standing, start_with_two_disks,
                             start_writer)
from harness.waiting import wait_for

FILLED = 48  # MiB of a disk, so that its copy takes a while
TIMED_OUT = 7
# What becomes of the VM: it goes on at the source or at the destination, or has ended there.
STAYS, MOVES, ENDS_HERE, ENDS_THERE = range(4)

# By who fails.
UNVOTED = {"source's daemon": STAYS, "destination's daemon": STAYS, "network": STAYS,
           "destination's vmm": STAYS, "source's vmm": ENDS_HERE}
VOTING = {**UNVOTED, "source's vmm": MOVES}
COMMITTED = {"source's daemon": MOVES, "destination's daemon": MOVES, "network": MOVES,
             "source's vmm": MOVES, "destination's vmm": STAYS}
GRANTED = {**COMMITTED, "destination's vmm": ENDS_THERE}
# By where whose daemon stands still meanwhile; None is while the disks are copied. Last is which half
# of the faults there a sanitizer sees, so that it sees each before the commit and after it.
AT = {None: (None, UNVOTED, 0),
      "LISTENING.before": ("destination", {fault: STAYS for fault in
                                           ("destination's daemon", "destination's vmm")}, None),
      "MIRROR.same": ("source", UNVOTED, 1),
      "MIRROR.sealed": ("source", UNVOTED, 0),
      "MIRROR.received": ("destination", VOTING, 1),
      "COMMIT.after": ("source", COMMITTED, 0),
      "GRANTED.after": ("destination", GRANTED, 0),
      "RUNNING.after": ("destination", {"destination's daemon": MOVES}, None)}


def faults_at(point):
    """All (who fails, what becomes of the VM); what it does not live through comes last."""
    _, outcomes, half = AT[point]
    faults = sorted(outcomes.items(), key=lambda each: each[1])
    return faults[half::2] if is_sanitized() and half is not None else faults


@pytest.fixture
def writing(apart):  # noqa: F811
    """The hosts, and the process that writes to a VM's disks on the first."""
    start_with_two_disks(apart[0], "256M", FILLED)
    return apart, start_writer(apart[0], VM)


def strike(hosts, owner, fault, frozen):
    """What fails is there again afterwards, but for the network. The daemon that stands still goes
    on, unless it is what fails."""
    side, _, part = fault.partition("'s ")
    victim = {"source": owner, "destination": hosts.other(owner), "network": owner}[side]
    if not part:
        victim.unplug()
    elif part == "vmm":
        victim.kill_vmm()
    else:
        victim.kill()
    if frozen is not None and (part != "daemon" or victim is not frozen):
        frozen.thaw()
    if part == "daemon":
        victim.come_back()


def await_parted(owner, migration, outcome):
    """The hosts have noticed that they cannot reach each other."""
    if outcome == STAYS:
        assert migration.wait(180) != 0
    else:
        oracles.wait_for_state(owner, VM, "in_doubt")


def assert_files(other, arrived_before, owns_more):
    """Of what came to a host's own folder there is left what its VM runs from, if there is one, and
    what lay there before."""
    wanted = set(arrived_before)
    if owns_more:
        wanted |= {other.outside(disk["file"]) for disk in disks(other)}
        assert len(wanted) == len(arrived_before) + 2
    wait_for(lambda: set(copies(other)) == wanted, f"not {wanted} alone is left")


def assert_settled(hosts, owner, outcome):
    """The VM is where it is to be, and nowhere else; where that is."""
    other = hosts.other(owner)
    keeper = owner if outcome in (STAYS, ENDS_HERE) else other
    if outcome in (STAYS, MOVES):
        assert oracles.settle(hosts, VM) is keeper
    else:
        oracles.settle_lost(hosts, VM, keeper)
    runs = keeper if outcome in (STAYS, MOVES) else None
    oracles.assert_one_copy(hosts, runs)
    oracles.assert_journals_agree(hosts)
    oracles.assert_nothing_left(hosts, runs)
    return keeper


def fail_once(hosts, owner, writer, begin, frozen, fault, outcome):
    """A migration during which somebody fails; who has the VM then."""
    other = hosts.other(owner)
    done = number(owner, VM, "/tmp/done")
    files = [disk["file"] for disk in disks(owner)]
    arrived_before = copies(other)
    with begin(owner, other) as migration:
        if frozen is not None:
            frozen.wait_frozen()
        strike(hosts, owner, fault, frozen)
        if fault == "network":
            await_parted(owner, migration, outcome)
            owner.plug()
        keeper = assert_settled(hosts, owner, outcome)
    if outcome in (ENDS_HERE, ENDS_THERE):
        keeper.ctl.start(VM)
    assert_files(other, arrived_before, keeper is other)
    # They are whoever's made them, whether the VM is still there or not.
    assert all(owner.outside(file).exists() for file in files)
    if keeper is owner:
        assert [disk["file"] for disk in disks(owner)] == files
    if outcome in (ENDS_HERE, ENDS_THERE):
        assert min(on_disks(keeper, VM)) >= done
        return keeper
    if outcome == STAYS:
        assert_nothing_of_it(owner, other, arrived_before)
    assert_goes_on(keeper)
    assert_nothing_lost(keeper, writer)
    return keeper


def begin_at_once(source, destination):
    return source.ctl.attach("migrate", VM, "--to", destination.address)


def fail_all(writing, point):
    """Everybody in turn, while a daemon stands still at a point."""
    hosts, writer = writing
    owner = hosts[0]
    for fault, outcome in faults_at(point):
        print(f"{fault} fails at {point}")  # for whoever sees this fail
        frozen = {"source": owner, "destination": hosts.other(owner), None: None}[AT[point][0]]
        begin = begin_slowly
        if frozen is not None:
            begin = begin_at_once
            frozen.freeze_at(point)
        owner = fail_once(hosts, owner, writer, begin, frozen, fault, outcome)
    # And it still moves as if nothing had been.
    owner.ctl.migrate(VM, hosts.other(owner))


def test_while_they_are_copied(writing):
    fail_all(writing, None)


def test_before_the_destination_awaits_them(writing):
    fail_all(writing, "LISTENING.before")


def test_once_they_are_the_same(writing):
    fail_all(writing, "MIRROR.same")


def test_once_they_are_sealed(writing):
    fail_all(writing, "MIRROR.sealed")


def test_once_they_have_come(writing):
    fail_all(writing, "MIRROR.received")


def test_after_the_commit(writing):
    fail_all(writing, "COMMIT.after")


def test_once_the_vm_is_granted(writing):
    fail_all(writing, "GRANTED.after")


def test_once_it_runs(writing):
    """Its disks are still marked as drafts."""
    fail_all(writing, "RUNNING.after")


# 24 MiB behind the records.
WRITE = f"""
head -c {1 << 20} /dev/urandom > /tmp/one
for at in $(seq 32 55); do
  dd if=/tmp/one of={ROOT} bs=1M seek=$at conv=notrunc,fsync 2>/dev/null || exit
done
"""
HEAVY = f"while :; do {WRITE} echo > /tmp/once; done"


def written(host):
    """The digest of that."""
    return shell(host, VM, "echo 3 > /proc/sys/vm/drop_caches; "
                           f"dd if={ROOT} bs=1M skip=32 count=24 2>/dev/null | md5sum")


def test_a_destination_that_fills_up_behind_the_copy_costs_nothing(writing):
    """What the guest writes has no room there any more, once all that there was is copied."""
    hosts, writer = writing
    source, destination = hosts
    folder = destination.state / "disks"
    destination.run(["mkdir", folder], check=True)
    destination.run(["mount", "-t", "tmpfs", "-o", "size=2g", "none", folder], check=True)
    # So slowly memory moves only if little is written to it.
    with standing(source, VM, writer), \
            source.ctl.attach("migrate", VM, "--to", destination.address, *SLOW) as migration:
        oracles.wait_for_new_record(source, "TRANSFER")
        # Somebody else has taken what there was when it began.
        destination.run(["mount", "-o", f"remount,size={FILLED + 12}m", folder], check=True)
        shell(source, VM, WRITE)
        assert migration.wait(180) != 0
        said = migration.output().decode() + migration.errors()
        assert "No space left" in said, said
    assert oracles.settle(hosts, VM) is source
    assert_nothing_of_it(source, destination)
    seen = written(source)
    destination.run(["umount", folder], check=True)
    source.ctl.migrate(VM, destination)
    assert written(destination) == seen
    assert_nothing_lost(destination, writer)


@pytest.fixture
def heavy(writing):
    """The same beside a process that writes as much as it can."""
    source = writing[0][0]
    source.ctl.ok("exec", "-d", VM, "--", "sh", "-c", HEAVY)
    wait_for(lambda: source.ctl.exec(VM, "ls", "/tmp/once").returncode == 0, "it does not write")
    return writing


def test_a_guest_that_writes_a_lot_moves_or_is_told_why_not(heavy):
    hosts, writer = heavy
    source, destination = hosts
    migrated = source.ctl.run("migrate", VM, "--to", destination.address, "--timeout", "60s")
    print(migrated)  # for whoever sees this fail
    owner = oracles.settle(hosts, VM)
    if migrated.returncode == 0:
        assert owner is destination
    else:
        assert owner is source and "disk" in migrated.stderr
        assert_nothing_of_it(source, destination)
    assert_goes_on(owner)
    assert_nothing_lost(owner, writer)


def test_a_guest_that_writes_faster_than_the_network_carries_is_told_why_it_stays(heavy):
    hosts, writer = heavy
    source, destination = hosts
    # What there is to copy takes longer, without what is written meanwhile.
    refused = source.ctl.run("migrate", VM, "--to", destination.address, "--max-bandwidth", "4M",
                             "--timeout", "8s")
    assert refused.returncode == TIMED_OUT, refused
    assert "its disks were not copied yet" in refused.stderr, refused
    assert oracles.settle(hosts, VM) is source
    assert_nothing_of_it(source, destination)
    assert_nothing_lost(source, writer)
