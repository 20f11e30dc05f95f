"""What a checkpoint may be told: what it is of, how its memory is written, and how it leaves the VM; and
its job, which can be watched and cancelled."""
import pytest

from harness.checkpoints import (SLOWLY, UNHURRIED, assert_nothing_is_left, await_memory, file_of,
                                 names)
from harness.ctl import number as amount
from harness.records import (assert_one_instant, await_number, disk_options, make_disks, number,
                             on_disks, put, see, shell, start_with_two_disks, start_writer)
from harness.saving import REFUSED, USAGE, host  # noqa: F401
from harness.waiting import wait_for

CANCELLED = 6


@pytest.fixture
def disks(host):
    """A VM with two disks, of both formats."""
    return start_with_two_disks(host, "1G")


@pytest.mark.parametrize("way", ["--live", None])
def test_one_that_is_cancelled_is_merged_back(host, disks, way):
    vm = disks
    writer = start_writer(host, vm)
    options = [way] if way else []
    with host.ctl.attach("checkpoint", "create", vm, "x", *options, *SLOWLY) as taking:
        job = await_memory(host)
        assert job["vm_name"] == vm, job
        with host.ctl.attach("job", "watch", job["id"]) as watching:
            host.ctl.ok("job", "cancel", job["id"])
            assert watching.wait() == CANCELLED, watching.errors()
        assert taking.wait(240) == CANCELLED, taking.errors()
    # By the time that it has ended.
    assert_nothing_is_left(host, vm)
    before = number(host, vm, "/tmp/done")
    await_number(host, vm, before + 20)
    shell(host, vm, f"kill -STOP {writer}")
    done = number(host, vm, "/tmp/done")
    assert done <= on_disks(host, vm)[-1] <= done + 1
    assert host.ctl.json("job", "inspect", job["id"])["state"] == "JOB_STATE_CANCELLED"


def test_one_is_seen_from_its_beginning_to_its_end(host, disks):
    vm = disks
    with host.ctl.attach("checkpoint", "create", vm, "x", "--live", *UNHURRIED) as taking:
        job = await_memory(host)
        told = host.ctl.json("job", "watch", job["id"], timeout=180)
        assert taking.wait(240) == 0, taking.errors()
    amounts = [amount(each["progress"], "done") for each in told
               if each.get("progress", {}).get("unit") == "JOB_UNIT_BYTES"]
    assert amounts and amounts == sorted(amounts) and amounts[-1] > 0, amounts
    assert told[-1]["state"] == "JOB_STATE_DONE", told[-1]
    assert names(host, vm) == ["x"]


@pytest.mark.parametrize("way", [["--live"], []])
def test_whoever_pauses_the_vm_meanwhile_finds_it_paused(host, disks, way):
    vm = disks
    writer = start_writer(host, vm)
    with host.ctl.attach("checkpoint", "create", vm, "x", *way, *UNHURRIED) as taking:
        await_memory(host)
        host.ctl.ok("vm", "pause", vm)
        refused = host.ctl.run("vm", "resume", vm)
        assert refused.returncode == REFUSED and "checkpoint" in refused.stderr, refused
        assert taking.wait(240) == 0, taking.errors()
    assert host.ctl.state(vm) == "paused"
    host.ctl.ok("vm", "resume", vm)
    later = number(host, vm, "/tmp/done")
    await_number(host, vm, later + 20)
    host.ctl.ok("checkpoint", "revert", vm, "x", "--running")
    assert_one_instant(host, vm, writer, later + 20)


@pytest.mark.parametrize("way", [["--live"], []])
def test_the_vm_can_be_paused_afterwards(host, disks, way):
    vm = disks
    writer = start_writer(host, vm)
    host.ctl.ok("checkpoint", "create", vm, "x", "--paused", *way)
    assert host.ctl.state(vm) == "paused"
    host.ctl.ok("vm", "resume", vm)
    later = number(host, vm, "/tmp/done") + 20
    await_number(host, vm, later)
    host.ctl.ok("checkpoint", "revert", vm, "x", "--running")
    assert_one_instant(host, vm, writer, later)


def test_memory_alone_is_for_vms_that_cannot_write_to_disks(host):
    make_disks(host, "root", "other")
    host.ctl.create("writes", "256M", 1, *disk_options(host, "root"))
    read_only = disk_options(host, "other")
    read_only[1] += ",ro"
    host.ctl.create("reads", "256M", 1, *read_only)
    for vm in ("writes", "reads"):
        host.ctl.start(vm)
    refused = host.ctl.run("checkpoint", "create", "writes", "x", "--memory-only")
    assert refused.returncode == REFUSED and "root" in refused.stderr, refused
    shell(host, "reads", "echo then > /tmp/note")
    host.ctl.ok("checkpoint", "create", "reads", "x", "--memory-only", "--live")
    shell(host, "reads", "echo later > /tmp/note")
    host.ctl.ok("checkpoint", "revert", "reads", "x")
    assert shell(host, "reads", "cat /tmp/note") == "then"
    assert names(host, "writes") == [] and names(host, "reads") == ["x"]


def test_a_disk_can_be_left_out(host, disks):
    vm = disks
    left_out = ("--diskspec", "data,snapshot=no")
    refused = host.ctl.run("checkpoint", "create", vm, "x", *left_out)
    assert refused.returncode in (REFUSED, USAGE) and "data" in refused.stderr, refused
    data = "/dev/$(ls /sys/bus/scsi/devices/0:0:0:1/block)"
    write = f"| dd of={data} conv=notrunc,fsync 2>/dev/null"
    put(host, vm, "then", 1)
    shell(host, vm, f"echo then {write}")
    host.ctl.ok("checkpoint", "create", vm, "x", "--disk-only", *left_out,
                "--diskspec", "root,snapshot=external")
    assert file_of(host, vm, "data") == str(host.folder / "data.raw")
    assert file_of(host, vm, "root") != str(host.folder / "root.qcow2")
    put(host, vm, "later", 1)
    shell(host, vm, f"echo later {write}")
    host.ctl.ok("stop", vm)
    host.ctl.ok("checkpoint", "revert", vm, "x", "--running")
    assert see(host, vm, 1) == "then"
    assert shell(host, vm, f"head -n 1 {data}") == "later"


def test_memory_is_written_as_it_is_asked_for(host, vm, tmp_path):
    key = host.folder / "key"
    host.outside(key).write_bytes(bytes(range(32)))
    host.outside(key).chmod(0o600)
    shell(host, vm, "echo then > /tmp/note")
    for name, options in (("past", ["--bypass-cache"]), ("small", ["--compress", "zstd"]),
                          ("secret", ["--key-file", key])):
        host.ctl.ok("checkpoint", "create", vm, name, *options)
        shell(host, vm, f"echo {name} > /tmp/note")
        host.ctl.ok("checkpoint", "revert", vm, name)
        assert shell(host, vm, "cat /tmp/note") == "then", name
    host.ctl.ok("stop", "--save", vm, "--bypass-cache")
    host.ctl.ok("start", vm)
    assert shell(host, vm, "cat /tmp/note") == "then"


def test_files_that_are_there_already_are_nobodys_to_overwrite(host, disks):
    vm = disks
    there = host.folder / "there.qcow2"
    host.outside(there).write_bytes(b"somebody's")
    for options in (["--diskspec", f"root,file={there}"], ["--memspec", there]):
        refused = host.ctl.run("checkpoint", "create", vm, "x", *options)
        assert refused.returncode == REFUSED and "there.qcow2" in refused.stderr, refused
        assert host.outside(there).read_bytes() == b"somebody's"
        assert names(host, vm) == []
        assert file_of(host, vm, "root") == str(host.folder / "root.qcow2")


def test_a_guest_that_ends_meanwhile_has_nothing_half_made(host, disks):
    vm = disks
    put(host, vm, "kept", 1)
    with host.ctl.attach("checkpoint", "create", vm, "x", "--live", *SLOWLY) as taking:
        await_memory(host)
        # As a guest does it, without a word to anybody.
        host.ctl.run("exec", vm, "--", "sh", "-c", "echo o > /proc/sysrq-trigger")
        assert taking.wait(240) not in (0, USAGE), taking.errors()
    wait_for(lambda: host.ctl.state(vm) in ("stopped", "failed"), "it does not end")
    assert_nothing_is_left(host, vm)
    host.ctl.start(vm)
    assert see(host, vm, 1) == "kept"
