"""Checkpoints of disks whose guest has frozen its filesystems meanwhile."""
import json

import pytest

from harness import box, workload
from harness.build import build_folder
from harness.records import disk_options, make_disks, put, see
from harness.saving import REFUSED, USAGE, host, kills_the_vmm  # noqa: F401
from harness.waiting import wait_for

# Nothing of it is synced by itself: what is on the disk is there because somebody saw to that.
WRITER = "i=0; while :; do i=$((i+1)); echo $i >> /log; echo $i > /dev/shm/done; done"
QUIESCED = ("--disk-only", "--quiesce")


@pytest.fixture
def web(host, tmp_path):
    """A container that writes numbers to a file on its ext4, one after the other."""
    box.import_into(host, tmp_path)
    host.ctl.create("vm")
    host.ctl.start("vm")
    host.ctl.ok("run", "-d", "--name", "web", "--vm", "vm", box.NAME, "sh", "-c",
                WRITER)
    assert_writes(host)
    return "vm"


def number(host):
    """The last one that was written."""
    seen = host.ctl.run("exec", "--container", "web", "--", "cat", "/dev/shm/done")
    return int(seen.stdout or 0)


def assert_writes(host):
    before = number(host)
    wait_for(lambda: number(host) > before + 100, "the container does not write")


def last_write(host):
    """When the container's disk was written to last, as its host sees it."""
    disk, = host.outside(host.state / "containers").glob("*/scratch.qcow2")
    return disk.stat().st_mtime_ns


def checkpoint(host, name):
    return json.loads(host.ctl.ok("checkpoint", "inspect", "vm", name))


def names(host):
    listed = host.ctl.json("checkpoint", "list", "vm").get("checkpoints", [])
    return [each["name"] for each in listed]


def image_of(host, made):
    """The container's disk as the checkpoint has it."""
    image = host.folder / f"{made['name']}.img"
    disk = made["disks"][0]["file"]
    host.run(["qemu-img", "convert", "-U", "-O", "raw", disk, image], check=True)
    return image


def console_said(host, word):
    logs = host.outside(host.state / "vm").glob("*/console.log*")
    return any(word in log.read_bytes() for log in logs)


def features(host, image):
    shown = host.run(["dumpe2fs", "-h", image], check=True, capture_output=True, text=True).stdout
    return next(line for line in shown.splitlines() if line.startswith("Filesystem features:"))


def test_what_is_kept_needs_no_repair_and_holds_all_that_was_written(host, web):
    host.ctl.ok("checkpoint", "create", web, "plain", "--disk-only")
    before = number(host)
    line = host.ctl.ok("checkpoint", "create", web, "clean", *QUIESCED)
    assert "quiesced" in line
    assert_writes(host)
    made = checkpoint(host, "clean")
    assert made["quiesced"] and not checkpoint(host, "plain").get("quiesced")
    # Whoever mounts the other one has its journal played back first.
    assert "needs_recovery" in features(host, image_of(host, checkpoint(host, "plain")))
    image = image_of(host, made)
    assert "needs_recovery" not in features(host, image)
    host.run(["e2fsck", "-fn", image], check=True, capture_output=True)
    written = host.run(["debugfs", "-R", "cat /upper/log", image], check=True, capture_output=True,
                       text=True).stdout.split()
    assert written == [str(i + 1) for i in range(len(written))] and len(written) >= before
    # It is one like others otherwise.
    host.ctl.ok("checkpoint", "delete", web, "clean")
    assert_writes(host)
    host.ctl.ok("checkpoint", "revert", web, "plain", "--running")
    assert host.ctl.state(web) == "running"


def test_a_daemon_that_dies_while_they_are_frozen_leaves_the_guest_writing(host, web):
    for point in ("CHECKPOINT.frozen", "CHECKPOINT.recorded", "CHECKPOINT.overlaid"):
        host.die_at(point, "checkpoint", "create", web, "half", *QUIESCED)
        wait_for(lambda: not names(host), point)
        assert_writes(host)
        assert len(host.processes("qemu-system")) == 1, point
    host.ctl.ok("checkpoint", "create", web, "whole", *QUIESCED)
    assert_writes(host)


def test_a_vmm_that_dies_while_they_are_frozen_costs_the_checkpoint_alone(host, web):
    died = kills_the_vmm(host, "CHECKPOINT.frozen", "checkpoint", "create", web, "half", *QUIESCED)
    assert died.wait() not in (0, USAGE), died.errors()
    assert names(host) == []
    host.ctl.start(web)
    assert host.ctl.exec(web, "echo", "here").stdout == "here\n"


def test_a_daemon_that_stands_still_keeps_nobody_from_writing_for_ever(host, web):
    """The guest thaws by itself, and what was not frozen all the time is no such checkpoint."""
    host.freeze_at("CHECKPOINT.frozen")
    with host.ctl.attach("checkpoint", "create", web, "late", *QUIESCED) as running:
        host.wait_frozen()
        before = last_write(host)
        wait_for(lambda: last_write(host) > before, "the guest stays frozen", timeout=120)
        host.thaw()
        # A ferryd that stood still for so long is not waited for.
        assert running.wait() != 0, running.errors()
    wait_for(lambda: not names(host), "what was not frozen all the time is kept")
    assert_writes(host)


def test_who_cannot_freeze_is_refused(host, web):
    for options in (["--quiesce"], ["--quiesce", "--memory-only"], ["--quiesce", "--live"]):
        assert host.ctl.run("checkpoint", "create", web, "x", *options).returncode == USAGE, options
    host.ctl.ok("vm", "pause", web)
    refused = host.ctl.run("checkpoint", "create", web, "x", *QUIESCED)
    assert refused.returncode == REFUSED and "vm resume" in refused.stderr, refused
    host.ctl.ok("vm", "resume", web)
    # What somebody in the guest has frozen is not ours to thaw.
    find = "grep ' ext4 ' /proc/mounts | cut -d' ' -f2"
    point = host.ctl.exec(web, "sh", "-c", find).stdout.strip()
    assert host.ctl.exec(web, "fsfreeze", "--freeze", point).returncode == 0
    refused = host.ctl.run("checkpoint", "create", web, "x", *QUIESCED)
    assert refused.returncode == REFUSED and f"cannot freeze {point}" in refused.stderr, refused
    assert host.ctl.exec(web, "fsfreeze", "--unfreeze", point).returncode == 0
    assert names(host) == []
    assert_writes(host)
    host.ctl.ok("checkpoint", "create", web, "x", *QUIESCED)
    host.ctl.ok("stop", "--force", web)
    refused = host.ctl.run("checkpoint", "create", web, "y", *QUIESCED)
    assert refused.returncode == REFUSED and "without --quiesce" in refused.stderr, refused


def test_an_agent_that_hangs_is_given_up_and_thaws_what_it_froze(host, web):
    host.ctl.ok("exec", "-d", web, "--", "sh", "-c",
                f"{workload.PROGRAM} hold 1 --ms 60000 >/dev/console")
    wait_for(lambda: console_said(host, b"holding"), "it does not hang")
    failed = host.ctl.run("checkpoint", "create", web, "x", *QUIESCED)
    assert failed.returncode not in (0, USAGE), failed
    assert names(host) == [], failed
    assert not console_said(host, b"released"), "it hung for too short a time"
    wait_for(lambda: console_said(host, b"released"), "it hangs for ever")
    assert_writes(host)


def test_an_agent_of_an_older_guest_image_is_refused(host):
    """One that does not say that it can."""
    image = (build_folder() / "guest/initrd.img").read_bytes()
    assert b"FreezeSupported" in image
    older = host.folder / "older.img"
    host.outside(older).write_bytes(image.replace(b"FreezeSupported", b"FreezeUnheardOf"))
    host.initrd = older
    host.restart()
    make_disks(host, "root")
    host.ctl.create("vm", "256M", 1, *disk_options(host, "root"))
    host.ctl.start("vm")
    put(host, "vm", "kept", 1)
    refused = host.ctl.run("checkpoint", "create", "vm", "x", *QUIESCED)
    assert refused.returncode == REFUSED, refused
    assert "newer guest image" in refused.stderr and "without --quiesce" in refused.stderr, refused
    assert names(host) == [] and see(host, "vm", 1) == "kept"
    host.ctl.ok("checkpoint", "create", "vm", "x", "--disk-only")
