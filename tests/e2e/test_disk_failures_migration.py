"""VMs whose disk fails on one host go on on another, whoever dies on their way there."""
import contextlib

import pytest

from harness.records import ROOT, put
from harness.shared_disk import FailingDisk, hosts  # noqa: F401
from harness.waiting import wait_for

READ = (f"echo 3 > /proc/sys/vm/drop_caches; dd if={ROOT} bs=4096 skip=1 count=1 2>/dev/null | "
        "tr -d '\\0'")
WRITE = f"echo later! | dd of={ROOT} bs=4096 seek=1 conv=notrunc,fsync 2>/dev/null && echo done"
ROLLED_BACK = 5
FAILS = "fails with an I/O error"


def await_paused(host, why):
    wait_for(lambda: host.ctl.state("vm") == "paused", "it does not stand still")
    wait_for(lambda: why in host.ctl.vm("vm")["state_reason"], "it does not say why")


@contextlib.contextmanager
def standing_still(host, what, script):
    """The VM's disk does not do that; and a client whose process waits for it."""
    with FailingDisk(host, what) as disk, host.ctl.attach("exec", "vm", "--", "sh", "-c",
                                                          script) as client:
        await_paused(host, FAILS)
        yield disk, client


def dies_at(host, point):
    host.flags = ["--failpoint", point]
    host.restart()


def comes_back(host):
    host.wait_daemon()
    host.flags = []
    host.start()


@pytest.mark.parametrize("point", [None, "GRANTED.before", "GRANTED.after", "RUNNING.before",
                                   "RUNNING.after"])
def test_a_vm_whose_storage_fails_moves_to_where_it_does_not(hosts, point):
    source, destination = hosts
    put(source, "vm", "before", 1)
    if point is not None:
        dies_at(destination, point)
    with standing_still(source, "read", READ) as (_, client):
        with source.ctl.attach("migrate", "vm", "--to", destination.address) as migrate:
            if point is not None:
                comes_back(destination)
            migrate.wait()
        await_paused(destination, "a disk of its fails")
        assert client.output() == b""
        destination.ctl.ok("vm", "resume", "vm")
        assert client.wait() == 0 and client.output() == b"before\n"
    assert destination.ctl.state("vm") == "running"
    assert source.ctl.vms() == []


@pytest.mark.parametrize("who, point", [(1, "LISTENING.before"), (1, "PREPARED.before"),
                                        (0, "QUIESCED.after"), (0, "COMMIT.before")])
def test_a_migration_that_fails_leaves_a_vm_whose_storage_fails_paused(hosts, who, point):
    source, destination = hosts
    put(source, "vm", "before", 1)
    dies_at(hosts[who], point)
    with standing_still(source, "read", READ) as (disk, client):
        with source.ctl.attach("migrate", "vm", "--to", destination.address) as migrate:
            comes_back(hosts[who])
            assert migrate.wait() != 0
        await_paused(source, FAILS)
        assert disk.run_state() != "running"
        assert client.output() == b""
        disk.mend()
        source.ctl.ok("vm", "resume", "vm")
        assert client.wait() == 0 and client.output() == b"before\n"
    assert destination.ctl.vms() == []


def test_what_could_not_be_written_is_written_at_the_destination(hosts):
    source, destination = hosts
    put(source, "vm", "before", 1)
    with standing_still(source, "write", WRITE) as (_, client):
        source.ctl.migrate("vm", destination)
        await_paused(destination, "a disk of its fails")
        assert client.output() == b""
        destination.ctl.ok("vm", "resume", "vm")
        assert client.wait() == 0 and client.output() == b"done\n"
    assert destination.ctl.exec("vm", "sh", "-c", READ).stdout == "later!\n"


def test_a_disk_that_cannot_be_written_back_keeps_its_vm(hosts):
    source, destination = hosts
    put(source, "vm", "before", 1)
    with standing_still(source, "flush", WRITE) as (_, client):
        failed = source.ctl.run("migrate", "vm", "--to", destination.address)
        assert failed.returncode == ROLLED_BACK, failed
        assert "cannot be written back" in failed.stderr, failed
        await_paused(source, FAILS)
        assert destination.ctl.vms() == []
        source.ctl.ok("stop", "--force", "vm")
        assert client.wait() != 0 and client.output() == b""
