"""Disks that are full while checkpoints are taken of VMs that write, gone back to, and cloned: whichever
file has no room, the VM goes on with all it has written."""
import pytest

from harness.checkpoints import (SLOWLY, assert_nothing_is_left, assert_told_of_room, await_memory,
                                 file_of, names)
from harness.filling import WRITE, digest, enlarge, made_digest, small_folder
from harness.records import (await_number, make_disks, number, on_disks, put, see, shell,
                             start_with, start_with_two_disks, start_writer)
from harness.saving import REFUSED, USAGE, host  # noqa: F401
from harness.waiting import wait_for


@pytest.fixture
def patient(host):
    """A daemon that gives an agent time: on a slow machine a guest does little while its memory is
    written behind its back."""
    host.flags = ["--answer-timeout", "120"]
    host.restart()


@pytest.mark.parametrize("way", [["--live"], []])
def test_memory_without_room_is_merged_back_under_a_guest_that_writes(host, isolated, way):
    small = small_folder(host, "8m")
    vm = start_with_two_disks(host, "1G")
    writer = start_writer(host, vm)
    failed = host.ctl.run("checkpoint", "create", vm, "x", "--memspec", small / "x.ferry", *way)
    assert failed.returncode == REFUSED, failed
    assert_told_of_room(failed.stderr)
    assert_nothing_is_left(host, vm)
    assert host.run(["ls", small], capture_output=True).stdout == b""
    await_number(host, vm, number(host, vm, "/tmp/done") + 20)
    shell(host, vm, f"kill -STOP {writer}")
    done = number(host, vm, "/tmp/done")
    assert done <= on_disks(host, vm)[-1] <= done + 1


def test_an_overlay_that_is_full_while_memory_is_written_makes_the_guest_wait(host, patient,
                                                                              isolated):
    small = small_folder(host, "12m")
    make_disks(host, "root")
    start_with(host, "root")
    with host.ctl.attach("checkpoint", "create", "vm", "x", "--live", *SLOWLY, "--diskspec",
                         f"root,file={small}/over.qcow2") as taking:
        await_memory(host)
        with host.ctl.attach("exec", "vm", "--", "sh", "-c", f"{WRITE}; echo written") as client:
            wait_for(lambda: host.ctl.state("vm") == "paused", "it does not stand still",
                     timeout=240)
            assert taking.wait(240) == 0, taking.errors()
            assert "has no room left" in host.ctl.vm("vm")["state_reason"]
            enlarge(host, small)
            host.ctl.ok("vm", "resume", "vm")
            assert client.wait() == 0 and client.output() == b"written\n"
    written = made_digest(host)
    assert digest(host) == written
    host.ctl.ok("checkpoint", "delete", "vm", "x")
    assert digest(host) == written and file_of(host, "vm", "root").endswith("/root.qcow2")


def test_what_cannot_be_merged_back_is_kept_until_it_can(host, patient, isolated):
    """The memory's file is full, and so is the disk under the one that was written to meanwhile."""
    base, small = small_folder(host, "12m", "base"), small_folder(host, "100m")
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", base / "root.qcow2", "1G"], check=True)
    host.ctl.create("vm", "256M", 1, "--disk", f"name=root,file={base}/root.qcow2,format=qcow2")
    host.ctl.start("vm")
    over = host.folder / "over.qcow2"
    with host.ctl.attach("checkpoint", "create", "vm", "x", "--live", *SLOWLY, "--memspec",
                         small / "x.ferry", "--diskspec", f"root,file={over}") as taking:
        await_memory(host)
        shell(host, "vm", WRITE)
        host.run(["sh", "-c", f"cat /dev/zero > {small}/filler"], capture_output=True)
        assert taking.wait(240) == REFUSED, taking.errors()
        assert "half of it is left" in taking.errors(), taking.errors()
        assert "ferryctl checkpoint delete vm x" in taking.errors(), taking.errors()
    written = made_digest(host)
    assert digest(host) == written and host.ctl.state("vm") == "running"
    assert "(incomplete)" in host.ctl.ok("checkpoint", "list", "vm")
    enlarge(host, base)
    host.ctl.ok("checkpoint", "delete", "vm", "x")
    assert names(host, "vm") == [] and not host.outside(over).exists()
    assert digest(host) == written
    host.run(["qemu-img", "check", "-U", "-q", base / "root.qcow2"], check=True)


def test_going_back_without_room_changes_nothing(host, isolated):
    small = small_folder(host, "12m")
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", small / "root.qcow2", "1G"], check=True)
    host.ctl.create("vm", "256M", 1, "--disk", f"name=root,file={small}/root.qcow2,format=qcow2")
    host.ctl.start("vm")
    put(host, "vm", "then", 1)
    host.ctl.ok("checkpoint", "create", "vm", "a")
    put(host, "vm", "later", 1)
    before = file_of(host, "vm", "root")
    host.run(["sh", "-c", f"cat /dev/zero > {small}/filler"], capture_output=True)
    refused = host.ctl.run("checkpoint", "revert", "vm", "a")
    assert refused.returncode == REFUSED and "No space left" in refused.stderr, refused
    assert host.ctl.state("vm") == "running" and file_of(host, "vm", "root") == before
    assert see(host, "vm", 1) == "later"
    host.run(["rm", small / "filler"], check=True)
    host.ctl.ok("checkpoint", "revert", "vm", "a")
    assert see(host, "vm", 1) == "then"


def test_a_clone_without_room_is_none(host, isolated):
    small = small_folder(host, "1m")
    vm = start_with_two_disks(host, "64M")
    shell(host, vm, WRITE)
    host.ctl.ok("checkpoint", "create", vm, "a")
    clone = ("checkpoint", "restore-as", vm, "a", "two")
    before = sorted(path.name for path in host.outside(host.folder).glob("*.qcow2"))
    # What there is no room for is known before it is begun, where that can be known.
    refused = host.ctl.run(*clone, "--diskspec", f"root,file={small}/root.qcow2")
    assert refused.returncode == REFUSED, refused
    assert "bytes, and " in refused.stderr and " are free" in refused.stderr, refused
    host.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", host.state / "saved"], check=True)
    failed = host.ctl.run(*clone)
    assert failed.returncode not in (0, USAGE), failed
    assert " bytes are free" in failed.stderr and "whole copies" in failed.stderr, failed
    assert sorted(path.name for path in host.outside(host.folder).glob("*.qcow2")) == before
    assert host.run(["ls", small], capture_output=True).stdout == b""
    assert [each["name"] for each in host.ctl.vms()] == ["vm"]
    host.run(["umount", host.state / "saved"], check=True)
    host.ctl.ok(*clone)
    assert host.ctl.state("two") == "saved"
