"""Snapshots inside disks: memory and disks go back to one instant, or nothing changes, or the VM is
ended with the reason."""
from harness import box
from harness.records import (assert_one_instant, await_number, make_disks, number, shell,
                             start_with, start_writer)
from harness.saving import REFUSED, USAGE, host  # noqa: F401
from harness.snapshots import DISKS, disks, snapshots, take  # noqa: F401
from harness.waiting import wait_for

OWN_FAILURE = 125
FAILED = 1
SNAPSHOT_TABLE_AT = 64  # where the header of a qcow2 file says where that is


def test_memory_and_disk_are_of_one_instant(host, disks):
    vm = disks
    writer = start_writer(host, vm)
    take(host, vm, "then")
    after_save = number(host, vm, "/tmp/begun")
    for _ in range(2):
        await_number(host, vm, after_save + 20)
        later = number(host, vm, "/tmp/done")
        host.ctl.ok("snapshot", "load", vm, "then")
        assert host.ctl.state(vm) == "running"
        assert_one_instant(host, vm, writer, later)
    listed = snapshots(host, vm)["then"]
    assert listed["loadable"] and listed["devices"] == ["data", "root"]
    assert int(listed["vm_state_bytes"]) > 10 << 20
    host.ctl.ok("snapshot", "delete", vm, "then")
    assert snapshots(host, vm) == {}
    assert host.ctl.exec(vm, "echo", "here").stdout == "here\n"


def test_from_any_instant_to_any_other(host, disks):
    vm = disks
    writer = start_writer(host, vm)
    take(host, vm, "then")
    await_number(host, vm, number(host, vm, "/tmp/begun") + 20)
    least = number(host, vm, "/tmp/done")
    take(host, vm, "later")
    host.ctl.ok("snapshot", "load", vm, "then")
    assert_one_instant(host, vm, writer, least)
    host.ctl.ok("snapshot", "load", vm, "later")
    assert number(host, vm, "/tmp/done") >= least
    assert_one_instant(host, vm, writer, 1 << 30)


def test_whoever_is_attached_is_told_and_processes_are_those_of_then(host, disks):
    vm = disks
    with host.ctl.attach("exec", "-i", vm, "--", "cat") as client:
        client.write(b"before\n")
        client.wait_until(lambda output: output == b"before\n")
        process = host.ctl.processes(vm)[0]["id"]
        ticker = host.ctl.ok("exec", "-d", vm, "--", "sh", "-c",
                             "while :; do echo line; sleep 0.1; done").strip()
        wait_for(lambda: host.ctl.ok("logs", vm, ticker), "it prints nothing")
        take(host, vm, "then")
        client.write(b"after\n")
        client.wait_until(lambda output: output == b"before\nafter\n")
        late = host.ctl.ok("exec", "-d", vm, "--", "sleep", "1000").strip()
        host.ctl.ok("snapshot", "load", vm, "then")
        assert client.wait() == OWN_FAILURE
        assert "went back to snapshot then" in client.errors()
    now = {str(each["id"]) for each in host.ctl.processes(vm)}
    assert str(process) in now and ticker in now and late not in now
    wait_for(lambda: "went back to an earlier state" in host.ctl.run("logs", vm, ticker).stderr,
             "its log has no mark")
    # What there is can be attached to, and goes on from then.
    with host.ctl.attach("attach", vm, str(process)) as client:
        client.write(b"again\n")
        client.wait_until(lambda output: output.endswith(b"again\n"))
        client.close_stdin()
        assert client.wait() == 0
        assert b"after" not in client.output()
    assert host.ctl.exec(vm, "echo", "here").stdout == "here\n"


def test_one_that_came_back_paused_and_has_not_run_since(host, disks):
    vm = disks
    host.ctl.ok("vm", "pause", vm)
    host.ctl.ok("save", vm)
    host.ctl.ok("start", vm)
    assert host.ctl.state(vm) == "paused"
    take(host, vm, "then")
    host.ctl.ok("snapshot", "load", vm, "then")
    host.ctl.ok("snapshot", "delete", vm, "then")
    host.ctl.ok("vm", "resume", vm)
    assert host.ctl.exec(vm, "echo", "here").stdout == "here\n"


def test_paused_stays_paused_and_a_restart_of_the_daemon_changes_nothing(host, disks):
    vm = disks
    shell(host, vm, "echo then > /tmp/note")
    host.ctl.ok("vm", "pause", vm)
    take(host, vm, "then")
    assert host.ctl.state(vm) == "paused"
    # A VMM that has written a snapshot is no migration's destination.
    host.restart()
    assert host.ctl.state(vm) == "paused"
    host.ctl.ok("vm", "resume", vm)
    shell(host, vm, "echo now > /tmp/note")
    host.ctl.ok("snapshot", "load", vm, "then")
    assert host.ctl.state(vm) == "paused"
    host.restart()
    assert host.ctl.state(vm) == "paused"
    host.ctl.ok("vm", "resume", vm)
    assert shell(host, vm, "cat /tmp/note") == "then"


def test_what_is_refused_changes_nothing(host, disks):
    vm = disks
    take(host, vm, "there")
    save = ("snapshot", "save", vm)
    for words, code, text in (
            ((*save, "t", *DISKS, "--live"), USAGE, "while the guest stands still"),
            ((*save, "t", "--vmstate", "root"), USAGE, "--devices"),
            ((*save, "17", *DISKS), USAGE, "qemu-img takes those for an id"),
            ((*save, "t", "--devices", "root,nope", "--vmstate", "root"), USAGE, "no disk 'nope'"),
            ((*save, "t", "--devices", "root,data", "--vmstate", "x"), USAGE, "not one of the disks"),
            ((*save, "t", "--devices", "root", "--vmstate", "root"), REFUSED, "data too"),
            ((*save, "there", *DISKS), REFUSED, "already"),
            (("snapshot", "load", vm, "nope"), REFUSED, "has no snapshot nope"),
            (("snapshot", "delete", vm, "nope"), REFUSED, "has no snapshot nope"),
            (("migrate", vm, "--to", "10.99.7.2:7717"), REFUSED, "has snapshots")):
        refused = host.ctl.run(*words)
        assert refused.returncode == code, refused
        assert text in refused.stderr, refused
        assert host.ctl.state(vm) == "running", words
    assert list(snapshots(host, vm)) == ["there"]
    assert host.ctl.exec(vm, "echo", "here").stdout == "here\n"
    host.ctl.ok("stop", vm)
    refused = host.ctl.run("snapshot", "load", vm, "there")
    assert refused.returncode == REFUSED and "ferryctl start" in refused.stderr, refused
    assert not snapshots(host, vm)["there"].get("loadable", False)


def test_tags_that_some_disks_lack_and_those_of_others(host, disks):
    vm = disks
    take(host, vm, "half")
    take(host, vm, "twice")
    host.ctl.ok("stop", vm)
    host.run(["qemu-img", "snapshot", "-d", "half", host.folder / "data.qcow2"], check=True)
    host.run(["qemu-img", "snapshot", "-c", "twice", host.folder / "data.qcow2"], check=True)
    for name in ("root", "data", "data"):
        host.run(["qemu-img", "snapshot", "-c", "theirs", host.folder / f"{name}.qcow2"],
                 check=True)
    host.ctl.start(vm)
    listed = host.ctl.ok("snapshot", "list", vm)
    assert "half (partial)" in listed and "not taken by Ferry" in listed, listed
    assert "several of that tag" in listed, listed
    for tag, text in (("half", "Scsi/0/1"), ("theirs", "was not taken by Ferry"),
                      ("twice", "Scsi/0/1 has 2 snapshots 'twice'")):
        refused = host.ctl.run("snapshot", "load", vm, tag)
        assert refused.returncode == REFUSED and text in refused.stderr, refused
        assert host.ctl.run("snapshot", "save", vm, tag, *DISKS).returncode == REFUSED
        assert host.ctl.state(vm) == "running"
        host.ctl.ok("snapshot", "delete", vm, tag)
    assert snapshots(host, vm) == {}


def test_a_failed_load_leaves_the_vm_failed_and_not_running(host, disks):
    vm = disks
    with host.ctl.attach("exec", "-i", vm, "--", "cat") as client:
        client.write(b"here\n")
        client.wait_until(lambda output: output == b"here\n")
        take(host, vm, "then")
        # Its memory is damaged; that shows only when it is read.
        file = host.outside(host.folder / "root.qcow2")
        with file.open("r+b") as disk:
            content = disk.read()
            at = content.index(b"QEVM")
            disk.seek(at)
            disk.write(b"XXXX")
        failed = host.ctl.run("snapshot", "load", vm, "then")
        assert failed.returncode not in (0, REFUSED, USAGE), failed
        assert "snapshot load failed" in failed.stderr, failed
        assert "QEMU could not load the snapshot 'then'" in failed.stderr, failed
        assert "; QEMU said: " in failed.stderr, failed
        assert client.wait() != 0
    assert host.ctl.state(vm) == "failed"
    assert "snapshot load failed" in host.ctl.vm(vm)["state_reason"]
    assert not host.processes("qemu-system")
    host.ctl.start(vm)
    assert host.ctl.exec(vm, "echo", "here").stdout == "here\n"
    host.ctl.ok("snapshot", "delete", vm, "then")


def test_a_load_that_fails_between_two_disks_leaves_nothing_running(host, disks):
    vm = disks
    shell(host, vm, "for disk in /dev/sd?; do echo then | dd of=$disk conv=fsync 2>/dev/null; done")
    take(host, vm, "then")
    # Where the snapshot of the second disk has its clusters: an offset that can be none.
    with host.outside(host.folder / "data.qcow2").open("r+b") as disk:
        disk.seek(SNAPSHOT_TABLE_AT)
        disk.seek(int.from_bytes(disk.read(8), "big"))
        disk.seek(int.from_bytes(disk.read(8), "big"))
        disk.write((1 << 63 | 512).to_bytes(8, "big"))
    failed = host.ctl.run("snapshot", "load", vm, "then")
    assert failed.returncode == FAILED, failed
    why = "Could not load snapshot 'then' on 'disk-data-fmt'"
    assert why in failed.stderr and "QEMU said: qcow2: Marking image as corrupt" in failed.stderr
    assert host.ctl.state(vm) == "failed"
    assert "snapshot load failed" in host.ctl.vm(vm)["state_reason"]
    assert why in host.ctl.vm(vm)["state_reason"]
    assert not host.processes("qemu-system")


def test_one_that_a_disk_does_not_take_is_in_none(host):
    make_disks(host, "root")
    # Each of its clusters can be used only once.
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "refcount_bits=1",
              host.folder / "data.qcow2", "1G"], check=True)
    host.run(["qemu-io", "-c", "write 0 64k", host.folder / "data.qcow2"], check=True,
             capture_output=True)
    vm = start_with(host, "root", "data")
    shell(host, vm, "echo then > /tmp/note")
    failed = host.ctl.run("snapshot", "save", vm, "t", *DISKS)
    assert failed.returncode == FAILED, failed
    assert "could not be taken, and the VM is RUNNING" in failed.stderr, failed
    assert ("QEMU could not save the snapshot 't': Could not create snapshot 't' on "
            "'disk-data-fmt'") in failed.stderr, failed
    assert snapshots(host, vm) == {}
    assert host.ctl.state(vm) == "running" and shell(host, vm, "cat /tmp/note") == "then"


def test_a_disk_whose_data_is_elsewhere_takes_none(host):
    make_disks(host, "root")
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o",
              f"data_file={host.folder}/data.raw", host.folder / "data.qcow2", "1G"], check=True)
    vm = start_with(host, "root", "data")
    for memory in ("root", "data"):
        refused = host.ctl.run("snapshot", "save", vm, "t", *DISKS[:2], "--vmstate", memory)
        assert refused.returncode == REFUSED, refused
        assert "cannot hold snapshots: its data is in" in refused.stderr, refused
        assert host.ctl.state(vm) == "running"
    assert snapshots(host, vm) == {}


def test_containers_come_back_as_they_were(host, tmp_path):
    box.import_into(host, tmp_path)
    host.ctl.create("vm")
    host.ctl.start("vm")
    web, ended, in_web = box.run_web_and_job(host, "vm")
    assert in_web("sh", "-c", "echo then > /note").returncode == 0
    refused = host.ctl.run("snapshot", "save", "vm", "then", "--devices", web, "--vmstate", web)
    assert refused.returncode == REFUSED and ended[:16] in refused.stderr, refused
    disks = ("--devices", f"{web},{ended}", "--vmstate", web)
    take(host, "vm", "then", *disks)
    states = {name: box.state(host, name) for name in ("web", "job")}
    assert in_web("sh", "-c", "echo now > /note; touch /new").returncode == 0
    host.ctl.ok("container", "stop", "-t", "0", "web")
    assert box.state(host, "web") == "stopped"
    host.ctl.ok("snapshot", "load", "vm", "then")
    assert {name: box.state(host, name) for name in ("web", "job")} == states
    assert in_web("cat", "/note").stdout == "then\n"
    assert in_web("ls", "/new").returncode != 0
    # It is the container that it was: it can be stopped, and another one be made.
    host.ctl.ok("container", "stop", "-t", "0", "web")
    assert box.state(host, "web") == "stopped"
    host.ctl.ok("run", "-d", "--name", "more", "--vm", "vm", "box", "cat")
    refused = host.ctl.run("snapshot", "load", "vm", "then")
    assert refused.returncode == REFUSED, refused
    host.ctl.ok("container", "rm", "-f", "more")
    host.ctl.ok("snapshot", "load", "vm", "then")
    assert box.state(host, "web") == "running"
    host.ctl.ok("container", "rm", "-f", "job")
    refused = host.ctl.run("snapshot", "load", "vm", "then")
    assert refused.returncode == REFUSED, refused
    assert host.ctl.state("vm") == "running"
