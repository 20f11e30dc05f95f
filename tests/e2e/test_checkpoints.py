"""Checkpoints: memory and disks of one instant in files, to go back to as often as one likes."""
import json
import re

import pytest

from harness import box
from harness.checkpoints import assert_told_of_room
from harness.records import (assert_one_instant, await_number, disk_options, make_disks, number,
                             put, see, shell, start_with_two_disks, start_writer)
from harness.saving import REFUSED, USAGE, host  # noqa: F401
from harness.waiting import wait_for

FAILED = 1
OWN_FAILURE = 125
NOT_FOUND = 4


@pytest.fixture
def disks(host):
    """A VM with two disks, of both formats."""
    return start_with_two_disks(host, "1G")


def checkpoints(host, vm):
    listed = host.ctl.json("checkpoint", "list", vm).get("checkpoints", [])
    return {each["name"]: each for each in listed}


def take(host, vm, name, *options):
    host.ctl.ok("checkpoint", "create", vm, name, *options)
    return checkpoints(host, vm)[name]


def files(host):
    """Of disks, without the raw one."""
    return sorted(path.name for path in host.outside(host.folder).glob("*.qcow2"))


def memory_files(host):
    return list(host.outside(host.state / "checkpoints").glob("*/*"))


def test_memory_and_disks_are_of_one_instant(host, disks):
    vm = disks
    writer = start_writer(host, vm)
    for name, options, method in (("live", ["--live"], "live"), ("still", [], "stopped")):
        made = take(host, vm, name, *options)
        assert made["method"] == method and made["whole"] and made["current"]
        after = number(host, vm, "/tmp/begun")
        for _ in range(2):
            await_number(host, vm, after + 20)
            later = number(host, vm, "/tmp/done")
            host.ctl.ok("checkpoint", "revert", vm, name)
            assert host.ctl.state(vm) == "running"
            assert_one_instant(host, vm, writer, later)
    # From any point of the tree to any other.
    host.ctl.ok("checkpoint", "revert", vm, "live")
    assert_one_instant(host, vm, writer, after)
    host.ctl.ok("checkpoint", "revert", vm, "still")
    assert_one_instant(host, vm, writer, after + 20)


def test_what_came_after_is_merged_where_it_belongs(host, disks):
    vm = disks
    put(host, vm, "one", 1)
    take(host, vm, "a", "--live")
    put(host, vm, "two", 2)
    take(host, vm, "b", "--disk-only")
    put(host, vm, "three", 3)
    assert len(files(host)) == 5
    host.ctl.ok("checkpoint", "delete", vm, "b")
    assert list(checkpoints(host, vm)) == ["a"] and len(files(host)) == 3
    for i, word in enumerate(("one", "two", "three"), 1):
        assert see(host, vm, i) == word
    # One in the middle, while the VM is stopped; the later one can still be gone back to.
    take(host, vm, "c")
    put(host, vm, "four", 4)
    host.ctl.ok("stop", vm)
    host.ctl.ok("checkpoint", "delete", vm, "a")
    assert list(checkpoints(host, vm)) == ["c"] and len(files(host)) == 3
    assert len(memory_files(host)) == 1
    host.ctl.start(vm)
    assert see(host, vm, 4) == "four"
    host.ctl.ok("checkpoint", "revert", vm, "c")
    assert see(host, vm, 3) == "three"
    assert see(host, vm, 4) == ""
    host.ctl.ok("checkpoint", "delete", vm, "c")
    assert files(host) == ["root.qcow2"] and memory_files(host) == []
    assert see(host, vm, 2) == "two"
    host.run(["qemu-img", "check", "-U", "-q", host.folder / "root.qcow2"], check=True)


FAR = 100_000  # blocks from where the writer of records is


def take_three(host, vm):
    """Three checkpoints that follow each other, with a word before each and one after."""
    for i, name in enumerate(("a", "b", "c"), 1):
        put(host, vm, f"before-{name}", FAR + i)
        take(host, vm, name, "--live")
    put(host, vm, "now", FAR + 4)


def words(host, vm):
    return [see(host, vm, FAR + i) for i in (1, 3, 4)]


def test_one_below_others_goes_while_the_vm_writes(host, disks):
    vm = disks
    writer = start_writer(host, vm)
    take_three(host, vm)
    host.ctl.ok("checkpoint", "delete", vm, "b")
    assert list(checkpoints(host, vm)) == ["a", "c"] and len(files(host)) == 5
    host.ctl.ok("checkpoint", "delete", vm, "a")
    assert list(checkpoints(host, vm)) == ["c"] and len(files(host)) == 3
    assert host.ctl.state(vm) == "running"
    await_number(host, vm, number(host, vm, "/tmp/done") + 20)
    assert words(host, vm) == ["before-a", "before-c", "now"]
    later = number(host, vm, "/tmp/begun")
    await_number(host, vm, later)
    # What is left is right without its VMM, too.
    host.ctl.ok("stop", "--force", vm)
    for name in files(host):
        host.run(["qemu-img", "check", "-q", host.folder / name], check=True)
    host.ctl.ok("checkpoint", "revert", vm, "c")
    assert_one_instant(host, vm, writer, later)
    assert words(host, vm) == ["before-a", "before-c", ""]


def test_a_paused_vm_stays_paused_and_its_checkpoint_goes(host, disks):
    vm = disks
    host.ctl.ok("vm", "pause", vm)
    made = take(host, vm, "p", "--live")
    # What its user paused must not run, so it was written the other way.
    assert made["method"] == "stopped" and host.ctl.state(vm) == "paused"
    host.ctl.ok("checkpoint", "revert", vm, "p")
    assert host.ctl.state(vm) == "paused"
    # It has not run since it came back.
    take(host, vm, "q")
    host.ctl.ok("checkpoint", "delete", vm, "q")
    host.ctl.ok("checkpoint", "delete", vm, "p")
    assert host.ctl.state(vm) == "paused" and files(host) == ["root.qcow2"]
    host.ctl.ok("vm", "resume", vm)
    assert shell(host, vm, "echo here") == "here"


def test_whoever_is_attached_goes_on_or_is_told(host, disks):
    vm = disks
    with host.ctl.attach("exec", "-i", vm, "--", "cat") as client:
        client.write(b"before\n")
        client.wait_until(lambda output: output == b"before\n")
        process = host.ctl.processes(vm)[0]["id"]
        take(host, vm, "then", "--live")
        client.write(b"after\n")
        client.wait_until(lambda output: output == b"before\nafter\n")
        late = host.ctl.ok("exec", "-d", vm, "--", "sleep", "1000").strip()
        host.ctl.ok("checkpoint", "revert", vm, "then")
        assert client.wait() == OWN_FAILURE
    assert "went back to checkpoint then" in client.errors()
    assert late not in [str(each["id"]) for each in host.ctl.processes(vm)]
    with host.ctl.attach("attach", vm, str(process)) as client:
        client.write(b"again\n")
        client.wait_until(lambda output: output == b"again\n")
        client.close_stdin()
        assert client.wait() == 0


def test_logs_say_where_their_vm_went_back(host, disks):
    vm = disks
    count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
    process = host.ctl.ok("exec", "-d", vm, "--", "sh", "-c", count).strip()

    def await_lines(least):
        wait_for(lambda: len(host.ctl.ok("logs", vm, process).splitlines()) >= least, "no output")

    await_lines(5)
    take(host, vm, "then", "--live")
    await_lines(60)
    with host.ctl.attach("logs", "-f", vm, process) as follower:
        follower.wait_until(lambda output: output.count(b"\n") >= 60)
        host.ctl.ok("checkpoint", "revert", vm, "then")
        assert follower.wait() == FAILED
        assert "went back to checkpoint then" in follower.errors()
    before = len(host.ctl.ok("logs", vm, process).splitlines())
    await_lines(before + 5)
    # The mark is not its daemon's alone.
    host.restart()
    logs = host.ctl.run("logs", vm, process)
    numbers = [int(line) for line in logs.stdout.split()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) < 60, logs
    mark = int(re.search(r"at byte (\d+) of stdout, its VM went back", logs.stderr)[1])
    assert 5 <= logs.stdout[:mark].count("\n") < len(numbers), logs
    assert host.ctl.run("logs", "--since", mark + 1, vm, process).stderr == ""


def test_containers_come_back_as_they_were(host, tmp_path):
    box.import_into(host, tmp_path)
    host.ctl.create("vm")
    host.ctl.start("vm")
    _, _, in_web = box.run_web_and_job(host, "vm")
    assert in_web("sh", "-c", "echo then > /note; sync").returncode == 0
    made = take(host, "vm", "then", "--live")
    assert made["containers"] == 2 and len(made["disks"]) == 2, made
    states = {name: box.state(host, name) for name in ("web", "job")}
    for _ in range(2):
        assert in_web("sh", "-c", "echo now > /note; touch /new; sync").returncode == 0
        host.ctl.ok("container", "stop", "-t", "0", "web")
        assert box.state(host, "web") == "stopped"
        host.ctl.ok("checkpoint", "revert", "vm", "then")
        assert {name: box.state(host, name) for name in ("web", "job")} == states
        assert in_web("cat", "/note").stdout == "then\n"
        assert in_web("ls", "/new").returncode != 0
    # What came since is in the way, and the VM is left as it is.
    host.ctl.ok("run", "-d", "--name", "more", "--vm", "vm", "box", "cat")
    refused = host.ctl.run("checkpoint", "revert", "vm", "then")
    assert refused.returncode != 0 and "was made since" in refused.stderr, refused
    assert host.ctl.state("vm") == "running" and box.state(host, "web") == "running"
    host.ctl.ok("container", "rm", "-f", "more")
    host.restart()
    host.ctl.ok("checkpoint", "delete", "vm", "then")
    assert in_web("cat", "/note").stdout == "then\n"
    # It is the container that it was, with a disk that can be taken out.
    host.ctl.ok("container", "rm", "-f", "web")
    host.ctl.ok("container", "rm", "-f", "job")
    assert host.ctl.exec("vm", "echo", "here").stdout == "here\n"


def test_logs_of_a_container_that_has_ended_say_where_its_vm_went_back(host, tmp_path):
    box.import_into(host, tmp_path)
    host.ctl.create("vm")
    host.ctl.start("vm")
    host.ctl.ok("run", "-d", "--name", "ticker", "--vm", "vm", box.NAME, "sh", "-c",
                "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done")

    def await_lines(least):
        wait_for(lambda: len(host.ctl.ok("logs", "ticker").splitlines()) >= least, "no output")

    await_lines(5)
    take(host, "vm", "then", "--live")
    host.ctl.ok("checkpoint", "revert", "vm", "then")
    await_lines(len(host.ctl.ok("logs", "ticker").splitlines()) + 5)
    mark = re.search(r"at byte \d+ of stdout, its VM went back", host.ctl.run("logs", "ticker").stderr)
    host.ctl.ok("container", "stop", "-t", "0", "ticker")
    host.ctl.ok("stop", "--force", "vm")
    host.restart()
    assert mark[0] in host.ctl.run("logs", "ticker").stderr


def test_a_vm_that_goes_with_its_container_is_not_halted(host, tmp_path):
    """Its checkpoint would go with it, too."""
    box.import_into(host, tmp_path)
    host.ctl.ok("run", "-d", "--rm", "--name", "shop", box.NAME, "cat", "/dev/zero")
    halted = host.ctl.run("checkpoint", "create", "shop", "x", "--live", "--halt")
    assert halted.returncode == REFUSED and "--rm" in halted.stderr, halted
    assert checkpoints(host, "shop") == {} and memory_files(host) == []
    assert box.state(host, "shop") == "running"
    take(host, "shop", "x", "--live")
    assert box.state(host, "shop") == "running"


def test_what_a_container_wrote_outlives_a_daemon_that_dies_while_its_disk_changes_over(host,
                                                                                       tmp_path):
    box.import_into(host, tmp_path)
    host.ctl.create("vm")
    host.ctl.start("vm")
    _, _, in_web = box.run_web_and_job(host, "vm")
    for point in ("CHECKPOINT.placed", "CHECKPOINT.merged"):
        take(host, "vm", "then", "--live")
        assert in_web("sh", "-c", f"echo {point} > /note; sync").returncode == 0
        host.die_at(point, "checkpoint", "delete", "vm", "then")
        # It goes on, and so does the deletion.
        wait_for(lambda: not checkpoints(host, "vm") and memory_files(host) == [], point)
        assert host.ctl.state("vm") == "running"
        assert in_web("cat", "/note").stdout == f"{point}\n"
        assert len(host.processes("qemu-system")) == 1
    take(host, "vm", "last", "--live")
    assert in_web("sh", "-c", "echo after > /note; sync").returncode == 0
    host.ctl.ok("checkpoint", "revert", "vm", "last")
    assert in_web("cat", "/note").stdout == "CHECKPOINT.merged\n"


def test_a_stopped_vm_and_its_tree(host):
    make_disks(host, "root")
    host.ctl.create("vm", "256M", 1, *disk_options(host, "root"))
    refused = host.ctl.run("checkpoint", "create", "vm", "x")
    assert refused.returncode == REFUSED and "--disk-only" in refused.stderr, refused
    host.ctl.ok("checkpoint", "create", "vm", "clean", "--disk-only", "--description", "as made")
    host.ctl.start("vm")
    take(host, "vm", "b", "--halt")
    assert host.ctl.state("vm") == "stopped"
    host.ctl.ok("checkpoint", "revert", "vm", "clean")
    assert host.ctl.state("vm") == "stopped"
    host.ctl.ok("checkpoint", "create", "vm", "c", "--disk-only")
    tree = host.ctl.ok("checkpoint", "tree", "vm")
    assert [line.split()[-1] if "<-" not in line else "c" for line in tree.splitlines()][-1] == "c"
    assert host.ctl.run("checkpoint", "delete", "vm", "clean").returncode == REFUSED
    # Its memory is gone on from by hand.
    host.ctl.ok("checkpoint", "revert", "vm", "b", "--stopped")
    assert host.ctl.state("vm") == "saved"
    host.ctl.start("vm")
    assert shell(host, "vm", "echo here") == "here"
    inspected = json.loads(host.ctl.ok("checkpoint", "inspect", "vm", "clean"))
    assert inspected["description"] == "as made"
    assert host.ctl.run("checkpoint", "inspect", "vm", "nope").returncode == NOT_FOUND
    both = host.ctl.run("checkpoint", "create", "vm", "y", "--live", "--disk-only")
    assert both.returncode == USAGE


def test_a_full_disk_leaves_nothing(host, vm, isolated):
    """Of the memory's file; the VM runs on as before."""
    folder = host.folder / "small"
    host.run(["mkdir", folder], check=True)
    for room, *options in (("size=8m",), ("size=8m", "--live"), ("size=8m,nr_inodes=1",)):
        host.run(["mount", "-t", "tmpfs", "-o", room, "none", folder], check=True)
        refused = host.ctl.run("checkpoint", "create", vm, "x", "--memspec",
                               str(folder / "x.ferry"), *options)
        assert refused.returncode == REFUSED, refused
        assert_told_of_room(refused.stderr)
        assert shell(host, vm, "echo here") == "here"
        assert checkpoints(host, vm) == {}
        assert host.run(["ls", folder], capture_output=True).stdout == b""
        host.run(["umount", folder], check=True)
