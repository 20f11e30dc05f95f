"""A guest that writes to its disks faster than they are copied is slowed down, as far as it may be,
until they are; and only for as long as its migration takes."""
import pytest

from harness import oracles
from harness.ctl import number as count
from harness.disk_copies import (VM, apart, assert_goes_on, assert_nothing_lost,  # noqa: F401
                                 assert_nothing_of_it, copies_disks)
from harness.qmp import Qmp
from harness.records import ROOT, shell, start_with_two_disks, start_writer
from harness.waiting import wait_for

MIB = 1 << 20
TIMED_OUT = 7
FILLED = 48  # MiB of a disk, so that its copy takes a while
# More than may be left when the memory begins to move, again and again, and not through the guest's
# memory.
FAST = f"""
head -c {MIB} /dev/urandom > /tmp/one
until [ -e /tmp/stop ]; do
  for at in $(seq 32 95); do
    dd if=/tmp/one of={ROOT} bs=1M seek=$at conv=notrunc oflag=direct 2>/dev/null || exit
  done
  echo > /tmp/once
done
"""
# Less than that, and more than what the memory needs.
LIMIT = ("--max-bandwidth", "8M")


@pytest.fixture
def busy(apart):  # noqa: F811
    """The hosts, and the process that writes records to a VM's disks on the first, beside one that
    writes a lot."""
    source = apart[0]
    start_with_two_disks(source, "256M", FILLED)
    writer = start_writer(source, VM)
    source.ctl.ok("exec", "-d", VM, "--", "sh", "-c", FAST)
    wait_for(lambda: source.ctl.exec(VM, "ls", "/tmp/once").returncode == 0, "it does not write")
    return apart, writer


def write_limits(host):
    """What QEMU has for each device that the guest may write to: bytes and writes per second."""
    with Qmp(host) as qmp:
        disks = [device["inserted"] for device in qmp.ask("query-block") if "inserted" in device]
    return [(disk["bps_wr"], disk["iops_wr"]) for disk in disks if not disk["ro"]]


def unlimited(host):
    limits = write_limits(host)
    return len(limits) == 2 and all(limit == (0, 0) for limit in limits)


def begin(hosts):
    """A migration for which the guest is slowed down, while its disks are copied."""
    source, destination = hosts
    assert unlimited(source)
    migration = source.ctl.attach("migrate", VM, "--to", destination.address, *LIMIT)
    wait_for(lambda: copies_disks(source), "no disk is being copied")
    wait_for(lambda: all(limit > (0, 0) for limit in write_limits(source)), "it is not slowed down")
    return migration


def session_of(host):
    [session] = host.ctl.sessions()
    return host.ctl.session(session["session_id"])


def test_it_is_slowed_down_and_moves(busy):
    hosts, writer = busy
    source, destination = hosts
    with begin(hosts) as migration:
        assert migration.wait(300) == 0, migration.errors()
        said = migration.output().decode() + migration.errors()
    assert "disk writes slowed to" in said, said
    assert count(session_of(source)["progress"], "disk_write_limit") >= MIB
    assert oracles.settle(hosts, VM) is destination
    assert unlimited(destination)
    assert_goes_on(destination)
    shell(destination, VM, "touch /tmp/stop")
    assert_nothing_lost(destination, writer)


@pytest.mark.parametrize("how", ["called-off", "daemon-died"])
def test_it_writes_as_it_will_again_when_it_stays(busy, how):
    hosts, writer = busy
    source, destination = hosts
    with begin(hosts) as migration:
        if how == "called-off":
            source.ctl.ok("migration", "cancel", session_of(source)["session_id"])
        else:
            source.kill()
            source.come_back()
        assert migration.wait(120) != 0
    assert oracles.settle(hosts, VM) is source
    wait_for(lambda: unlimited(source), "it is still slowed down")
    assert_nothing_of_it(source, destination)
    shell(source, VM, "touch /tmp/stop")
    assert_nothing_lost(source, writer)


def test_one_that_may_not_be_slowed_down_stays_as_fast_as_it_is(busy):
    hosts, writer = busy
    source, destination = hosts
    told = source.ctl.run("migrate", VM, "--to", destination.address, *LIMIT, "--no-throttle",
                          "--timeout", "30s")
    assert told.returncode == TIMED_OUT, told
    assert "slowed" not in told.stdout + told.stderr, told
    assert count(session_of(source)["progress"], "disk_write_limit") == 0
    assert oracles.settle(hosts, VM) is source
    shell(source, VM, "touch /tmp/stop")
    assert_nothing_lost(source, writer)
