"""Disks that are full, or fail: whatever file of a checkpoint or a snapshot that is, the VM goes on with
all it has written."""
import pytest

from harness.filling import WRITE, digest, enlarge, made_digest, small_folder
from harness.records import ROOT, put, see, shell
from harness.saving import REFUSED, host  # noqa: F401
from harness.shared_disk import FailingDisk
from harness.waiting import wait_for

FAILED = 1


@pytest.fixture
def small(host, isolated):
    """A folder with little room, which has the only disk of a VM that runs."""
    folder = small_folder(host, "12m")
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "root.qcow2", "1G"], check=True)
    host.ctl.create("vm", "256M", 1, "--disk", f"name=root,file={folder}/root.qcow2,format=qcow2")
    host.ctl.start("vm")
    return folder


def names(host, folder):
    return sorted(host.run(["ls", folder], capture_output=True, text=True).stdout.split())


def checkpoints(host):
    return host.ctl.json("checkpoint", "list", "vm").get("checkpoints", [])


def await_full(host):
    wait_for(lambda: host.ctl.state("vm") == "paused", "it does not stand still")
    why = host.ctl.vm("vm")["state_reason"]
    assert "its disk root" in why and "has no room left" in why, why


def test_a_vm_whose_disk_is_full_stands_still_and_goes_on(host, small):
    with host.ctl.attach("exec", "vm", "--", "sh", "-c", f"{WRITE}; echo written") as client:
        await_full(host)
        # Whoever resumes it too early has it paused again, and the next daemon knows why it is.
        for _ in range(3):
            host.ctl.ok("vm", "resume", "vm")
            await_full(host)
        host.restart()
        await_full(host)
        assert client.output() == b""
        enlarge(host, small)
        host.ctl.ok("vm", "resume", "vm")
        assert client.wait() == 0 and client.output() == b"written\n"
    assert host.ctl.state("vm") == "running" and host.ctl.vm("vm")["state_reason"] == ""
    assert digest(host) == made_digest(host)


def test_a_vm_whose_disk_is_full_can_be_saved(host, small):
    process = host.ctl.ok("exec", "-d", "vm", "--", "sh", "-c", WRITE).strip()
    await_full(host)
    host.ctl.ok("stop", "--save", "vm")
    enlarge(host, small)
    host.ctl.ok("start", "vm")
    assert host.ctl.state("vm") == "paused"
    host.ctl.ok("vm", "resume", "vm")
    with host.ctl.attach("attach", "vm", process) as client:
        assert client.wait() == 0
    assert digest(host) == made_digest(host)


def test_an_overlay_that_has_no_room_is_none(host, small):
    put(host, "vm", "before", 1)
    host.run(["sh", "-c", f"cat /dev/zero > {small}/filler"], capture_output=True)
    refused = host.ctl.run("checkpoint", "create", "vm", "a", "--disk-only")
    assert refused.returncode == REFUSED, refused
    assert "No space left" in refused.stderr, refused
    assert checkpoints(host) == [] and names(host, small) == ["filler", "root.qcow2"]
    host.run(["rm", small / "filler"], check=True)
    put(host, "vm", "after", 2)
    host.ctl.ok("checkpoint", "create", "vm", "a", "--disk-only")
    assert see(host, "vm", 1) == "before" and see(host, "vm", 2) == "after"


@pytest.mark.parametrize("runs", [True, False])
def test_what_cannot_be_merged_stays_where_it_is(host, small, runs):
    over = host.folder / "over.qcow2"
    host.ctl.ok("checkpoint", "create", "vm", "a", "--disk-only", "--diskspec",
                f"root,file={over}")
    shell(host, "vm", WRITE)
    written = digest(host)
    assert written == made_digest(host)
    if not runs:
        host.ctl.ok("stop", "vm")
    failed = host.ctl.run("checkpoint", "delete", "vm", "a")
    assert failed.returncode == REFUSED, failed
    assert "only half deleted" in failed.stderr and "No space left" in failed.stderr, failed
    assert [each["name"] for each in checkpoints(host)] == ["a"]
    assert host.outside(over).exists()
    if runs:
        assert host.ctl.state("vm") == "running" and digest(host) == written
    enlarge(host, small)
    host.ctl.ok("checkpoint", "delete", "vm", "a")
    assert checkpoints(host) == [] and not host.outside(over).exists()
    if not runs:
        host.ctl.start("vm")
    assert digest(host) == written
    host.run(["qemu-img", "check", "-U", "-q", small / "root.qcow2"], check=True)


def test_a_snapshot_that_has_no_room_is_none(host, small):
    put(host, "vm", "before", 1)
    failed = host.ctl.run("snapshot", "save", "vm", "t", "--devices", "root", "--vmstate", "root")
    assert failed.returncode == FAILED, failed
    assert "could not be taken, and the VM is RUNNING" in failed.stderr, failed
    assert "QEMU could not save the snapshot 't': Error while writing VM state" in failed.stderr
    assert "; QEMU said: " in failed.stderr, failed
    assert host.ctl.json("snapshot", "list", "vm").get("snapshots", []) == []
    assert host.ctl.state("vm") == "running"
    assert see(host, "vm", 1) == "before"
    # What it has used up to then it keeps for later.
    enlarge(host, small)
    put(host, "vm", "after", 2)
    host.ctl.ok("snapshot", "save", "vm", "t", "--devices", "root", "--vmstate", "root")
    host.ctl.ok("snapshot", "load", "vm", "t")
    assert see(host, "vm", 2) == "after"


def test_a_vm_whose_storage_fails_goes_on_when_that_is_back(host, small):
    put(host, "vm", "before", 1)
    with FailingDisk(host, "read") as disk, host.ctl.attach(
            "exec", "vm", "--", "sh", "-c", f"echo 3 > /proc/sys/vm/drop_caches; dd if={ROOT} "
            "bs=4096 skip=1 count=1 2>/dev/null | tr -d '\\0'") as client:
        wait_for(lambda: host.ctl.state("vm") == "paused", "it does not stand still")
        assert "fails with an I/O error" in host.ctl.vm("vm")["state_reason"]
        disk.mend()
        host.ctl.ok("vm", "resume", "vm")
        assert client.wait() == 0 and client.output() == b"before\n"
