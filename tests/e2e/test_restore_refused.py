"""What was saved by others than those who are to restore it, or of another machine: refused before
the guest runs, kept, named, and given up for a boot only if that is asked for."""
import hashlib
import struct

import pytest

from harness.records import make_disks, put, see, start_with
from harness.saving import (REFUSED, RESTORE_REFUSED, host, own_file, own_files, save,  # noqa: F401
                            start)
from test_preflight import FEATURE, MACHINE, MODEL, VERSION, restart_with_qemu

INDEX, SEAL, HEAD_DIGEST = 176, 32, 72  # as saved_file_format.h has them


def as_of_another_version(whole):
    """The file as it would be with another version of what is inside it, sealed as it should be."""
    data = bytearray(whole)
    index = len(data) - INDEX
    head, length = struct.unpack_from("<QQ", data, index)
    assert data[head:head + 2] == b"\x08\x01"  # SavedHead.schema_version
    data[head + 1] = 77
    digest = hashlib.sha256(data[head:head + length]).digest()
    data[index + HEAD_DIGEST:index + HEAD_DIGEST + len(digest)] = digest
    data[-SEAL:] = hashlib.sha256(data[:32] + data[index:-SEAL]).digest()
    return bytes(data)


def assert_refused(host, vm, file, *words):
    """The VM cannot go on from that file, which is its own, and is told which and why."""
    before = host.outside(file).read_bytes()
    state = host.ctl.state(vm)
    way = () if state == "saved" else ("--from", file)
    refused = host.ctl.run("start", *way, vm)
    assert refused.returncode == RESTORE_REFUSED, refused
    for word in (str(file), "--or-boot", *words):
        assert word in refused.stderr, (word, refused)
    assert host.ctl.state(vm) == state and not host.processes("qemu-system")
    assert host.outside(file).read_bytes() == before


def assert_boots_instead(host, vm, *way):
    """With a warning; returns it."""
    booted = host.ctl.run("start", "--or-boot", *way, vm)
    assert booted.returncode == 0 and "Warning:" in booted.stderr, booted
    assert host.ctl.exec(vm, "cat", "/tmp/note").returncode != 0
    return booted.stderr


def with_its_own_qemu(host):
    host.stop()
    host.flags = []
    host.start()


def test_another_qemu_is_told_field_by_field(host, vm):
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo then > /tmp/note")
    save(host, vm)
    for change, field in ((MACHINE, "machine_type"), (FEATURE, "avx2"),
                          (VERSION, "backend_version")):
        restart_with_qemu(host, [change])
        assert_refused(host, vm, host.ctl.vm(vm)["saved"]["file"], field)
    with_its_own_qemu(host)
    start(host, vm)
    assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == "then\n"
    save(host, vm)
    file = own_file(host, vm)
    restart_with_qemu(host, [VERSION])
    assert f"{file.name}.refused" in assert_boots_instead(host, vm)
    assert [each.name for each in own_files(host, vm)] == [f"{file.name}.refused"]


def test_a_cpu_model_that_the_host_lacks(host):
    host.ctl.create("pinned", "256M", 1, "--cpu-model", "Nehalem")
    host.ctl.start("pinned")
    host.ctl.ok("exec", "pinned", "--", "sh", "-c", "echo then > /tmp/note")
    save(host, "pinned")
    restart_with_qemu(host, [MODEL])
    assert_refused(host, "pinned", host.ctl.vm("pinned")["saved"]["file"], "cpu_model", "Nehalem")
    # What else the host's CPUs can do is nothing to it.
    restart_with_qemu(host, [FEATURE])
    start(host, "pinned")
    assert host.ctl.exec("pinned", "cat", "/tmp/note").stdout == "then\n"


def test_another_version_of_what_was_saved(host, vm):
    file = host.folder / "moment.ferry"
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo then > /tmp/note")
    host.ctl.ok("save", "--live", "--to", file, vm)
    host.ctl.ok("stop", "--force", vm)
    whole = host.outside(file).read_bytes()
    newer = bytearray(whole)
    newer[8] += 1  # the version of the file's own format
    for other, words in ((bytes(newer), "version 2"), (as_of_another_version(whole), "version 77")):
        host.outside(file).write_bytes(other)
        assert_refused(host, vm, file, words)
        assert str(file) in assert_boots_instead(host, vm, "--from", file)
        assert host.outside(file).read_bytes() == other
        host.ctl.ok("stop", "--force", vm)
    host.outside(file).write_bytes(whole)
    start(host, vm, "--from", file)
    assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == "then\n"


@pytest.fixture
def saved(host):
    """A VM with a disk that is saved."""
    make_disks(host, "root")
    start_with(host, "root")
    put(host, "vm", "then", 1)
    save(host, "vm")
    return "vm"


def test_another_disk_is_found_whatever_has_become_of_it(host, saved):
    disk = host.folder / "root.qcow2"
    aside = host.folder / "aside.qcow2"
    file = host.ctl.vm(saved)["saved"]["file"]
    host.run(["mv", disk, aside], check=True)
    assert_refused(host, saved, file, "root.qcow2")
    # Not even one that is the same to the last byte and second.
    host.run(["cp", "--preserve=all", aside, disk], check=True)
    assert_refused(host, saved, file, "is another file")
    host.run(["qemu-img", "resize", "-q", disk, "2G"], check=True)
    assert_refused(host, saved, file, "root")
    host.run(["mv", aside, disk], check=True)
    host.run(["sh", "-c", f"printf '' >> {disk}; touch {disk}"], check=True)
    assert_refused(host, saved, file, "was written to")
    assert "root.qcow2 was written to" in assert_boots_instead(host, saved)
    assert see(host, saved, 1) == "then"


def test_a_saved_vm_is_changed_only_where_that_changes_nothing(host, saved):
    make_disks(host, "other")
    others = f"name=other,file={host.folder}/other.qcow2,format=qcow2"
    for command in (("disk", "attach", saved, others), ("disk", "detach", saved, "root"),
                    ("disk", "resize", saved, "root", "2G"),
                    ("disk", "move", saved, "root", host.folder / "elsewhere.qcow2")):
        refused = host.ctl.run(*command)
        assert refused.returncode == REFUSED and "SAVED" in refused.stderr, refused
        assert f"ferryctl start {saved}" in refused.stderr, refused
    host.ctl.ok("vm", "set", saved, "--save-on-stop", "yes", "--autostart", "yes")
    started = host.ctl.run("start", saved)
    assert started.returncode == 0 and not started.stderr, started
    assert see(host, saved, 1) == "then"
    host.ctl.ok("stop", saved)
    assert host.ctl.state(saved) == "saved"


def test_a_file_of_another_configuration_is_refused(host, vm):
    make_disks(host, "root")
    file = host.folder / "moment.ferry"
    host.ctl.ok("save", "--live", "--to", file, vm)
    host.ctl.ok("stop", "--force", vm)
    host.ctl.ok("disk", "attach", vm, f"name=root,file={host.folder}/root.qcow2,format=qcow2")
    assert_refused(host, vm, file, "its disks are not those of the VM")
    assert_boots_instead(host, vm, "--from", file)
    put(host, vm, "here", 1)
    host.ctl.ok("stop", "--force", vm)
    host.ctl.ok("disk", "detach", vm, "root")
    start(host, vm, "--from", file)
