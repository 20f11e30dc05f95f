"""What else is done to a VM and its disks, and snapshots inside them: one excludes the other, or
waits for it."""
import pytest

from harness import workload
from harness.ctl import number as amount
from harness.qmp import Qmp
from harness.records import ROOT, put, see, shell
from harness.saving import REFUSED, host  # noqa: F401
from harness.shared_disk import hosts  # noqa: F401
from harness.snapshots import DISKS, disks, snapshots, take  # noqa: F401
from harness.waiting import wait_for

FAILED = 1
ONE = ("--devices", "root", "--vmstate", "root")


def under_way(host, kind):
    return host.ctl.json("job", "list", "--kind", kind).get("jobs", [])


def checkpoints(host, vm):
    return [each["name"] for each in
            host.ctl.json("checkpoint", "list", vm).get("checkpoints", [])]


def refused(host, text, *words):
    result = host.ctl.run(*words)
    assert result.returncode == REFUSED and text in result.stderr, result


class Slowed:
    """Something that copies what is in the VM's first disk, and does not get far until it is let
    go."""

    def __init__(self, host, job, point, *words):
        """job -- What QEMU calls it.
        point -- A failpoint of ferryd's just before it lets the VMM copy."""
        self._job = job
        host.freeze_at(point)
        self.done = host.ctl.attach(*words)
        host.wait_frozen()
        self._qmp = Qmp(host)
        self._qmp.insist("block-job-set-speed", host.thaw, device=job, speed=1 << 10)

    def let_go(self):
        [job] = self._qmp.ask("query-block-jobs")
        assert job["status"] == "running", job
        self._qmp.ask("block-job-set-speed", device=self._job, speed=0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._qmp.close()
        self.done.close()


def test_checkpoints_and_snapshots_exclude_each_other(host, disks):
    vm = disks
    take(host, vm, "t")
    for options in ([], ["--live"], ["--disk-only"]):
        refused(host, "it has snapshots in its disks (t)", "checkpoint", "create", vm, "a",
                *options)
    assert checkpoints(host, vm) == []
    host.ctl.ok("snapshot", "load", vm, "t")
    host.ctl.ok("snapshot", "delete", vm, "t")
    for options in (["--live"], ["--disk-only"]):
        host.ctl.ok("checkpoint", "create", vm, "a", *options)
        refused(host, "it has checkpoints (a)", "snapshot", "save", vm, "t", *DISKS)
        assert snapshots(host, vm) == {} and host.ctl.state(vm) == "running"
        host.ctl.ok("checkpoint", "delete", vm, "a")
    take(host, vm, "t")
    host.ctl.ok("snapshot", "load", vm, "t")


def test_none_is_taken_while_a_checkpoint_writes_its_memory(host, disks):
    vm = disks
    with host.ctl.attach("checkpoint", "create", vm, "a", "--live", "--compress", "zstd",
                         "--compress-level", "19") as taking:
        wait_for(lambda: any(amount(each.get("progress", {}), "done") for each in
                             under_way(host, "checkpoint")), "none of its memory is written")
        why = "while a checkpoint is taken"
        refused(host, why, "snapshot", "save", vm, "t", *DISKS)
        refused(host, why, "snapshot", "load", vm, "t")
        refused(host, why, "snapshot", "delete", vm, "t")
        [job] = under_way(host, "checkpoint")
        host.ctl.ok("job", "cancel", job["id"])
        assert taking.wait() != 0
    assert checkpoints(host, vm) == []
    take(host, vm, "t")


@pytest.mark.parametrize("way", ["move", "merge"])
@pytest.mark.parametrize("first", ["snapshot", "checkpoint"])
def test_what_comes_while_files_are_copied_waits(host, disks, way, first):
    vm = disks
    there = host.folder / "there.qcow2"
    copying = ("disk-root-move", "DISK_MOVE.reserved", "disk", "move", vm, "root", there)
    if way == "merge":
        host.ctl.ok("checkpoint", "create", vm, "a", "--disk-only")
        copying = ("disk-root-merge", "CHECKPOINT.merging", "checkpoint", "delete", vm, "a")
    # More than QEMU copies at once, whatever its speed.
    shell(host, vm, f"{workload.PROGRAM} random --bytes {32 << 20} | "
                    f"dd of={ROOT} bs=1M seek=64 conv=fsync 2>/dev/null")
    put(host, vm, "then", 1)
    take_it = {"snapshot": ("snapshot", "save", vm, "t", *DISKS),
               "checkpoint": ("checkpoint", "create", vm, "b", "--disk-only")}
    with Slowed(host, *copying) as slowed, host.ctl.attach(*take_it[first]) as taking:
        wait_for(lambda: any(each["what"] != "delete a" for each in under_way(host, first)),
                 "it does not begin")
        assert host.ctl.state(vm) == "running"
        slowed.let_go()
        assert slowed.done.wait() == 0, slowed.done.errors()
        ended = taking.wait()
    file = there if way == "move" else host.folder / "root.qcow2"
    assert [each["file"] for each in host.ctl.json("disk", "list", vm)["disks"]] == [
        str(file), str(host.folder / "data.qcow2")]
    if first == "snapshot":
        # It is of what was copied.
        assert ended == 0, taking.errors()
        put(host, vm, "now", 1)
        host.ctl.ok("snapshot", "load", vm, "t")
    else:
        # It was planned for other files.
        assert ended == FAILED and "changed meanwhile" in taking.errors(), taking.errors()
        assert checkpoints(host, vm) == []
        host.ctl.ok(*take_it[first])
        put(host, vm, "now", 1)
        host.ctl.ok("checkpoint", "revert", vm, "b", "--running")
    assert see(host, vm, 1) == "then"


def test_none_is_taken_while_the_vm_moves(hosts):
    source, destination = hosts
    with source.ctl.start_migration("vm", destination, "--max-bandwidth", "1M") as migrating:
        wait_for(lambda: any(amount(each.get("progress", {}), "total") for each in
                             under_way(source, "migration")), "nothing moves")
        for words in (("save", "vm", "t", *ONE), ("load", "vm", "t"), ("delete", "vm", "t")):
            refused(source, "under way", "snapshot", *words)
        [session] = [each["session_id"] for each in source.ctl.sessions()]
        source.ctl.ok("migration", "cancel", session)
        assert migrating.wait() != 0
    wait_for(lambda: not source.ctl.vm("vm")["session_id"], "the session does not end")
    assert source.ctl.state("vm") == "running" and snapshots(source, "vm") == {}
    put(source, "vm", "then", 1)
    take(source, "vm", "t", *ONE)
    put(source, "vm", "now", 1)
    source.ctl.ok("snapshot", "load", "vm", "t")
    assert see(source, "vm", 1) == "then"
    # And what has some does not move.
    refused(source, "has snapshots", "migrate", "vm", "--to", destination.address)
