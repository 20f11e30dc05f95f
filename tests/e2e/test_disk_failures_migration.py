"""VMs whose disk fails on one host go on on another, whoever dies on their way there."""
import pytest

from harness.records import ROOT, put
from harness.shared_disk import hosts, reads_that_fail  # noqa: F401
from harness.waiting import wait_for

READ = (f"echo 3 > /proc/sys/vm/drop_caches; dd if={ROOT} bs=4096 skip=1 count=1 2>/dev/null | "
        "tr -d '\\0'")


def await_paused(host):
    wait_for(lambda: host.ctl.state("vm") == "paused", "it does not stand still")


@pytest.mark.parametrize("point", [None, "GRANTED.before", "GRANTED.after",
                                   "RUNNING.before", "RUNNING.after"])
def test_a_vm_whose_storage_fails_moves_to_where_it_does_not(hosts, point):
    source, destination = hosts
    put(source, "vm", "before", 1)
    if point is not None:
        destination.flags = ["--failpoint", point]
        destination.restart()
    with reads_that_fail(source), source.ctl.attach("exec", "vm", "--", "sh", "-c",
                                                    READ) as client:
        await_paused(source)
        assert "fails with an I/O error" in source.ctl.vm("vm")["state_reason"]
        with source.ctl.attach("migrate", "vm", "--to", destination.address) as migrate:
            if point is not None:
                destination.wait_daemon()
                destination.flags = []
                destination.start()
            migrate.wait()
        await_paused(destination)
        assert client.output() == b""
        destination.ctl.ok("vm", "resume", "vm")
        assert client.wait() == 0 and client.output() == b"before\n"
    assert destination.ctl.state("vm") == "running"
    assert source.ctl.vms() == []


def test_a_migration_that_fails_leaves_a_vm_whose_storage_fails_paused(hosts):
    source, destination = hosts
    put(source, "vm", "before", 1)
    destination.flags = ["--failpoint", "LISTENING.before"]
    destination.restart()
    with reads_that_fail(source) as mend, source.ctl.attach("exec", "vm", "--", "sh", "-c",
                                                            READ) as client:
        await_paused(source)
        failed = source.ctl.run("migrate", "vm", "--to", destination.address)
        assert failed.returncode != 0, failed
        await_paused(source)
        mend()
        source.ctl.ok("vm", "resume", "vm")
        assert client.wait() == 0 and client.output() == b"before\n"
