"""Disks that go to other files of their host, while their VM runs and while it does not."""
import pytest

from harness.records import (await_number, make_disks, number, on_disks, put, see, shell,
                             start_writer)
from harness.saving import REFUSED, host, kills_the_vmm  # noqa: F401

MIB = 1 << 20
# Where a daemon dies, and whether the disk is in its new file then.
POINTS = {"DISK_MOVE.recorded": False, "DISK_MOVE.reserved": False, "DISK_MOVE.placed": False,
          "DISK_MOVE.settled": True}


def make(host, kind="qcow2"):
    """A VM with a disk that is in a folder, and another folder."""
    host.run(["mkdir", host.folder / "there"], check=True)
    file = host.folder / f"root.{kind}"
    host.ctl.ok("disk", "create", file, "--size", "1G", "--format", kind)
    host.ctl.create("vm", "256M", 1, "--disk", f"name=root,file={file},format={kind}")
    return file


def is_in(host, file, other):
    """The only file of the only disk of the VM."""
    [disk] = host.ctl.json("disk", "list", "vm")["disks"]
    assert disk["file"] == str(file) and not disk.get("trouble"), disk
    assert host.outside(file).exists() and not host.outside(other).exists()
    return disk


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_it_moves_while_the_guest_writes(host, kind):
    file = make(host, kind)
    host.ctl.start("vm")
    writer = start_writer(host, "vm")
    before = number(host, "vm", "/tmp/begun")
    said = host.ctl.ok("disk", "move", "vm", "root", f"{host.folder}/there/")
    there = host.folder / "there" / file.name
    assert f"disk root is in {there} now" in said
    await_number(host, "vm", before + 20)
    disk = is_in(host, there, file)
    assert int(disk["bytes"]) == 1024 * MIB and int(disk["used_bytes"]) < 64 * MIB, disk
    shell(host, "vm", f"kill -STOP {writer}")
    done = number(host, "vm", "/tmp/done")
    assert on_disks(host, "vm")[0] in (done, done + 1)
    [job] = host.ctl.json("job", "list", "--all", "--kind", "disk")["jobs"]
    assert job["state"] == "JOB_STATE_DONE", job
    # Whoever comes next finds it there.
    host.restart()
    host.ctl.ok("stop", "--force", "vm")
    host.ctl.start("vm")
    assert on_disks(host, "vm")[0] >= done
    # And back, with the VM paused.
    host.ctl.ok("vm", "pause", "vm")
    host.ctl.ok("disk", "move", "vm", "root", file)
    host.ctl.ok("vm", "resume", "vm")
    is_in(host, file, there)
    assert on_disks(host, "vm")[0] >= done


@pytest.mark.parametrize("runs", [True, False])
def test_what_lies_below_stays_where_it_is(host, runs):
    make_disks(host, "base")
    host.run(["mkdir", host.folder / "there"], check=True)
    file, there = host.folder / "root.qcow2", host.folder / "there" / "root.qcow2"
    host.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 64M 64k", host.folder / "base.qcow2"],
             check=True, capture_output=True)
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
              host.folder / "base.qcow2", file], check=True)
    host.ctl.create("vm", "256M", 1, "--disk", f"name=root,file={file}")
    host.ctl.start("vm")
    put(host, "vm", "above", 1)
    if not runs:
        host.ctl.ok("stop", "vm")
    host.ctl.ok("disk", "move", "vm", "root", there, "--keep")
    if not runs:
        host.ctl.start("vm")
    assert see(host, "vm", 1) == "above"
    put(host, "vm", "later", 2)
    host.ctl.ok("stop", "vm")
    for place, byte in ((4096, 0x61), (64 * MIB, 7)):
        host.run(["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {byte} {place} 1", there],
                 check=True)
    # A copy of that moment.
    host.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x61 4096 1", "-c",
              "read -P 0 8192 512", file], check=True)
    used = int(host.ctl.json("disk", "list", "vm")["disks"][0]["used_bytes"])
    assert used < 8 * MIB, "what is below came along"


@pytest.mark.parametrize("point", POINTS)
def test_a_daemon_that_dies_leaves_one_file(host, point):
    file = make(host)
    there = host.folder / "there" / file.name
    host.ctl.start("vm")
    put(host, "vm", "before", 1)
    host.die_at(point, "disk", "move", "vm", "root", there)
    assert see(host, "vm", 1) == "before"
    put(host, "vm", "after", 2)
    now, other = (there, file) if POINTS[point] else (file, there)
    # Whose a former file is a later daemon cannot know.
    assert host.outside(other).exists() == POINTS[point]
    host.run(["rm", "-f", other], check=True)
    host.ctl.ok("disk", "move", "vm", "root", other)
    is_in(host, other, now)
    host.ctl.ok("stop", "vm")
    host.ctl.start("vm")
    assert see(host, "vm", 1) == "before" and see(host, "vm", 2) == "after"


@pytest.mark.parametrize("point", ["DISK_MOVE.reserved", "DISK_MOVE.placed"])
def test_a_vmm_that_dies_leaves_one_file(host, point):
    file = make(host)
    there = host.folder / "there" / file.name
    host.ctl.start("vm")
    put(host, "vm", "before", 1)
    ended = kills_the_vmm(host, point, "disk", "move", "vm", "root", there)
    assert ended.wait() != 0 or point == "DISK_MOVE.placed", ended.errors()
    host.ctl.start("vm")
    assert see(host, "vm", 1) == "before"
    left = [str(each) for each in (file, there) if host.outside(each).exists()]
    [disk] = host.ctl.json("disk", "list", "vm")["disks"]
    assert left == [disk["file"]], (left, disk)


def test_a_folder_without_room_costs_nothing(host):
    file = make(host)
    there = host.folder / "there"
    host.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", there], check=True)
    host.ctl.start("vm")
    put(host, "vm", "before", 1)
    shell(host, "vm", "head -c 4000000 /dev/urandom | dd of=/dev/sda bs=1M seek=1 conv=fsync "
                      "2>/dev/null")
    # Somebody else is faster.
    host.freeze_at("DISK_MOVE.reserved")
    with host.ctl.attach("disk", "move", "vm", "root", f"{there}/") as moving:
        host.wait_frozen()
        host.run(["dd", "if=/dev/zero", f"of={there}/other", "bs=1M", "count=7"], check=True,
                 capture_output=True)
        host.thaw()
        assert moving.wait() != 0
    is_in(host, file, there / file.name)
    put(host, "vm", "after", 2)
    refused = host.ctl.run("disk", "move", "vm", "root", f"{there}/")
    assert refused.returncode != 0 and "are free where it is to be" in refused.stderr, refused
    host.run(["rm", there / "other"], check=True)
    host.ctl.ok("disk", "move", "vm", "root", f"{there}/")
    assert see(host, "vm", 1) == "before" and see(host, "vm", 2) == "after"
    host.ctl.ok("disk", "move", "vm", "root", file)
    host.ctl.ok("stop", "vm")
    host.run(["umount", there], check=True)


def test_a_file_that_is_there_is_nobodys_to_take(host):
    file = make(host)
    other = host.folder / "there" / "root.qcow2"
    host.run(["touch", other], check=True)
    host.ctl.start("vm")
    refused = host.ctl.run("disk", "move", "vm", "root", f"{host.folder}/there/")
    assert refused.returncode == REFUSED and "exists already" in refused.stderr, refused
    assert host.outside(other).read_text() == ""
    put(host, "vm", "before", 1)
    host.ctl.ok("checkpoint", "create", "vm", "a", "--disk-only")
    refused = host.ctl.run("disk", "move", "vm", "root", f"{host.folder}/there/other")
    assert refused.returncode == REFUSED and "it has checkpoints (a)" in refused.stderr, refused
    host.ctl.ok("checkpoint", "delete", "vm", "a")
    host.ctl.ok("disk", "move", "vm", "root", f"{host.folder}/there/other")
    is_in(host, host.folder / "there" / "other", file)
    assert see(host, "vm", 1) == "before"
