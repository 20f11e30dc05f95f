"""Disks that come to a VM, go from it and grow, while it runs and while it does not."""
import pytest

from harness import box, proc
from harness.records import shell
from harness.saving import REFUSED, host  # noqa: F401
from harness.shared_disk import hosts  # noqa: F401
from harness.waiting import wait_for

MIB = 1 << 20
TIMED_OUT = 7


def disks(host, vm="vm"):
    return {each["name"]: each for each in host.ctl.json("disk", "list", vm).get("disks", [])}


def device(lun):
    """The guest may give its disks other names with each boot, but not other places."""
    return f"/dev/$(ls /sys/bus/scsi/devices/0:0:0:{lun}/block)"


def write(host, lun, text, place=0):
    shell(host, "vm", f"echo {text} | dd of={device(lun)} bs=4096 seek={place} conv=notrunc,fsync "
                      "2>/dev/null")


def read(host, lun, place=0):
    return shell(host, "vm", "echo 3 > /proc/sys/vm/drop_caches; "
                             f"dd if={device(lun)} bs=4096 skip={place} count=1 2>/dev/null | "
                             "tr -d '\\0'")


def size(host, lun):
    return int(shell(host, "vm", f"cat /sys/bus/scsi/devices/0:0:0:{lun}/block/*/size")) * 512


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_a_disk_comes_grows_stays_and_goes(host, kind):
    file = host.folder / f"data.{kind}"
    host.ctl.create("vm")
    host.ctl.start("vm")
    assert disks(host) == {}
    host.ctl.ok("disk", "create", file, "--size", "64M", "--format", kind)
    again = host.ctl.run("disk", "create", file, "--size", "64M")
    assert again.returncode == REFUSED and "exists already" in again.stderr, again
    host.ctl.ok("disk", "attach", "vm", f"name=data,file={file},format={kind}")
    assert size(host, 0) == 64 * MIB
    write(host, 0, "before")
    host.ctl.ok("disk", "resize", "vm", "data", "96M")
    assert size(host, 0) == 96 * MIB
    write(host, 0, "end", 96 * MIB // 4096 - 1)
    smaller = host.ctl.run("disk", "resize", "vm", "data", "64M")
    assert smaller.returncode == REFUSED and "not made smaller" in smaller.stderr, smaller
    seen = disks(host)["data"]
    assert int(seen["bytes"]) == 96 * MIB and int(seen["used_bytes"]) < 8 * MIB, seen
    # It is the VM's, whoever dies or is started again.
    host.restart()
    assert read(host, 0) == "before"
    host.ctl.ok("stop", "vm")
    host.ctl.ok("disk", "resize", "vm", "data", "128M")
    host.ctl.start("vm")
    assert size(host, 0) == 128 * MIB
    assert read(host, 0) == "before" and read(host, 0, 96 * MIB // 4096 - 1) == "end"
    host.ctl.ok("disk", "detach", "vm", "data")
    assert shell(host, "vm", "ls /sys/bus/scsi/devices | grep -c 0:0:0:0 || true") == "0"
    assert disks(host) == {} and host.outside(file).exists()
    gone = host.ctl.run("disk", "detach", "vm", "data")
    assert gone.returncode == REFUSED and "has no disk of its own" in gone.stderr, gone


def test_others_stay_where_they_are(host):
    for name in ("one", "two", "three"):
        host.ctl.ok("disk", "create", host.folder / f"{name}.qcow2", "--size", "16M")
    host.ctl.create("vm", "256M", 1, "--disk", f"name=one,file={host.folder}/one.qcow2")
    host.ctl.start("vm")
    for name in ("two", "three"):
        host.ctl.ok("disk", "attach", "vm", f"name={name},file={host.folder}/{name}.qcow2")
    write(host, 2, "third")
    host.ctl.ok("disk", "detach", "vm", "two")
    host.ctl.ok("disk", "detach", "vm", "one")
    assert read(host, 2) == "third"
    host.ctl.ok("stop", "--save", "vm")
    refused = host.ctl.run("disk", "attach", "vm", f"name=two,file={host.folder}/two.qcow2")
    assert refused.returncode == REFUSED and "SAVED" in refused.stderr, refused
    host.ctl.ok("start", "vm")
    assert read(host, 2) == "third"
    host.ctl.ok("stop", "vm")
    host.ctl.start("vm")
    assert read(host, 2) == "third"
    host.ctl.ok("disk", "attach", "vm", f"name=two,file={host.folder}/two.qcow2")
    assert {name: disk["lun"] for name, disk in disks(host).items()} == {"three": 2, "two": 0}
    host.ctl.ok("checkpoint", "create", "vm", "a", "--live")
    write(host, 2, "later")
    refused = host.ctl.run("disk", "detach", "vm", "two")
    assert refused.returncode == REFUSED and "it has checkpoints (a)" in refused.stderr, refused
    host.ctl.ok("checkpoint", "revert", "vm", "a")
    assert read(host, 2) == "third"
    host.ctl.ok("checkpoint", "delete", "vm", "a")
    host.ctl.ok("disk", "detach", "vm", "two")


def test_a_daemon_that_dies_leaves_what_its_vmm_has(host):
    file = host.folder / "data.qcow2"
    host.ctl.create("vm")
    host.ctl.start("vm")
    host.ctl.ok("disk", "create", file, "--size", "16M")
    host.die_at("DISK.recorded", "disk", "attach", "vm", f"name=data,file={file}")
    assert disks(host) == {}
    host.die_at("DISK.plugged", "disk", "attach", "vm", f"name=data,file={file}")
    assert sorted(disks(host)) == ["data"]
    write(host, 0, "before")
    host.die_at("DISK.unplugged", "disk", "detach", "vm", "data")
    assert disks(host) == {}
    host.ctl.ok("disk", "attach", "vm", f"name=data,file={file}")
    assert read(host, 0) == "before"


def test_a_vmm_that_gives_no_answer_may_have_it_and_can_be_relieved_of_it(host):
    file = host.folder / "data.qcow2"
    host.ctl.create("vm")
    host.ctl.start("vm")
    host.ctl.ok("disk", "create", file, "--size", "16M")
    [(pid, _)] = host.processes("qemu-system")
    hung = host.outside("/proc") / str(pid)
    host.run(["kill", "-STOP", str(pid)], check=True)
    wait_for(lambda: proc.state((hung / "stat").read_text()) == "T", "it does not stop")
    silent = host.ctl.run("disk", "attach", "vm", f"name=data,file={file}")
    assert silent.returncode == TIMED_OUT and "disk detach vm data" in silent.stderr, silent
    host.run(["kill", "-CONT", str(pid)], check=True)
    host.ctl.ok("disk", "detach", "vm", "data")
    host.ctl.ok("disk", "attach", "vm", f"name=data,file={file}")
    write(host, 0, "here")
    assert read(host, 0) == "here"


def test_what_is_no_disk_is_refused_and_leaves_the_vm_as_it_is(host):
    host.ctl.create("vm")
    host.ctl.start("vm")
    missing = host.ctl.run("disk", "attach", "vm", f"name=data,file={host.folder}/none.qcow2")
    assert missing.returncode != 0 and "none.qcow2" in missing.stderr, missing
    host.run(["sh", "-c", f"echo text > {host.folder}/text"], check=True)
    text = host.ctl.run("disk", "attach", "vm", f"name=data,file={host.folder}/text")
    assert text.returncode != 0, text
    assert disks(host) == {} and shell(host, "vm", "echo runs") == "runs"
    # One that another VM writes to.
    host.ctl.ok("disk", "create", host.folder / "data.qcow2", "--size", "16M")
    host.ctl.create("other", "256M", 1, "--disk", f"name=data,file={host.folder}/data.qcow2")
    host.ctl.start("other")
    used = host.ctl.run("disk", "attach", "vm", f"name=data,file={host.folder}/data.qcow2")
    assert used.returncode == REFUSED and "lock" in used.stderr, used
    assert disks(host) == {}


def test_a_disk_that_came_goes_with_its_vm(hosts, tmp_path):
    source, destination = hosts
    source.ctl.ok("disk", "create", tmp_path / "data.qcow2", "--size", "16M")
    source.ctl.ok("disk", "attach", "vm", f"name=data,file={tmp_path}/data.qcow2")
    source.ctl.ok("disk", "detach", "vm", "root")
    write(source, 1, "before")
    source.ctl.migrate("vm", destination)
    assert read(destination, 1) == "before"
    destination.ctl.ok("disk", "resize", "vm", "data", "32M")
    assert size(destination, 1) == 32 * MIB
    destination.ctl.ok("disk", "attach", "vm", f"name=root,file={tmp_path}/root.qcow2")
    assert sorted(disks(destination)) == ["data", "root"]
    destination.ctl.migrate("vm", source)
    assert read(source, 1) == "before"
    source.ctl.ok("stop", "vm")
    source.ctl.start("vm")
    assert read(source, 1) == "before"


def room(host, container):
    """What its writable file system has, in bytes."""
    words = host.ctl.ok("exec", "--container", container, "--", "stat", "-f", "-c", "%b %S",
                        "/").split()
    return int(words[0]) * int(words[1])


def test_what_a_container_writes_to_grows_with_its_filesystem(host, tmp_path):
    box.import_into(host, tmp_path)
    host.ctl.create("vm")
    host.ctl.start("vm")
    host.ctl.ok("run", "-d", "--name", "shop", "--vm", "vm", "--scratch-size", "64M", box.NAME, "sh",
                "-c", "while :; do echo tick >> /tmp/log; sleep 0.1; done")
    before = room(host, "shop")
    assert 32 * MIB < before < 64 * MIB
    short = next(name for name, each in disks(host).items() if each.get("container_id"))
    host.ctl.ok("disk", "resize", "vm", "shop", "256M")
    assert 192 * MIB < room(host, "shop") < 256 * MIB
    host.ctl.ok("exec", "--container", "shop", "--", "sh", "-c",
                "head -c 100000000 /dev/zero > /tmp/large")
    assert int(disks(host)[short]["bytes"]) == 256 * MIB
    smaller = host.ctl.run("disk", "resize", "vm", short, "128M")
    assert smaller.returncode == REFUSED and "not made smaller" in smaller.stderr, smaller
    # Also under its id, and after a restart.
    host.restart()
    host.ctl.ok("disk", "resize", "vm", short, "512M")
    assert 384 * MIB < room(host, "shop") < 512 * MIB
    assert box.inspect(host, "shop")["spec"]["scratch"]["size_bytes"] == str(512 * MIB)
