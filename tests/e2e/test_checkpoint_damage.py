"""A checkpoint's memory that was damaged: found wherever that is, before any guest runs."""
import json
import struct

import pytest

from harness.records import put, see, shell, start_with_two_disks
from harness.saving import REFUSED, RESTORE_REFUSED, USAGE, host  # noqa: F401

INDEX = 176  # at the file's end, as saved_file_format.h has it


@pytest.fixture
def disks(host):
    """A VM with two disks, of both formats."""
    return start_with_two_disks(host, "64M")


def places(whole):
    """A byte in each section of the file, by the section's name."""
    index = len(whole) - INDEX
    parts = struct.unpack_from("<6Q", whole, index)
    sections = {"prologue": (0, 32), "index": (index, INDEX - 32), "seal": (len(whole) - 32, 32)}
    sections |= {name: parts[2 * i:2 * i + 2] for i, name in enumerate(("head", "memory", "tail"))}
    return {name: at + length // 2 for name, (at, length) in sections.items()}


def damaged(whole):
    """What may have become of the file, by what was done to it."""
    for name, at in places(whole).items():
        yield name, whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1:]
    yield "cut", whole[:-1]
    yield "half", whole[:len(whole) // 2]
    yield "empty", b""


@pytest.mark.parametrize("options", [(), ("--compress", "zstd")])
def test_it_is_found_before_the_vm_is_ended(host, disks, options):
    vm = disks
    put(host, vm, "then", 1)
    shell(host, vm, "echo then > /tmp/note")
    host.ctl.ok("checkpoint", "create", vm, "a", "--live", *options)
    put(host, vm, "later", 1)
    shell(host, vm, "echo later > /tmp/note")
    file = host.outside(json.loads(host.ctl.ok("checkpoint", "inspect", vm, "a"))["memory_file"])
    whole = file.read_bytes()
    for name, bad in damaged(whole):
        file.write_bytes(bad)
        refused = host.ctl.run("checkpoint", "revert", vm, "a")
        assert refused.returncode == RESTORE_REFUSED, (name, refused)
        assert file.name in refused.stderr, (name, refused)
        # It runs on as if nobody had asked.
        assert host.ctl.state(vm) == "running" and len(host.processes("qemu-system")) == 1, name
        assert shell(host, vm, "cat /tmp/note") == "later" and see(host, vm, 1) == "later", name
        clone = host.ctl.run("checkpoint", "restore-as", vm, "a", "vm-2")
        assert clone.returncode == REFUSED and file.name in clone.stderr, (name, clone)
        assert host.ctl.state("vm-2") == "absent", name
    names = {path.name for path in host.outside(host.folder).glob("*.qcow2")}
    assert names == {"root.qcow2", "root.a.qcow2", "data.a.qcow2"}
    # So it is for a VM that does not run.
    host.ctl.ok("stop", vm)
    refused = host.ctl.run("checkpoint", "revert", vm, "a")
    assert refused.returncode == RESTORE_REFUSED and host.ctl.state(vm) == "stopped", refused
    file.write_bytes(whole)
    host.ctl.ok("checkpoint", "revert", vm, "a")
    assert shell(host, vm, "cat /tmp/note") == "then" and see(host, vm, 1) == "then"


def test_no_checkpoint_is_defined_of_it(host, vm):
    memory = host.folder / "memory.ferry"
    shell(host, vm, "echo then > /tmp/note")
    host.ctl.ok("save", "--live", "--to", memory, vm)
    file = host.outside(memory)
    whole = file.read_bytes()
    define = ("checkpoint", "define", vm, "a", "--memory-file", memory)
    for name, bad in damaged(whole):
        file.write_bytes(bad)
        refused = host.ctl.run(*define)
        # Of what is no such file at all it cannot be known that it was one.
        expected = USAGE if name == "empty" else REFUSED
        assert refused.returncode == expected and str(memory) in refused.stderr, (name, refused)
    assert "a" not in host.ctl.ok("checkpoint", "list", vm).split()
    file.write_bytes(whole)
    host.ctl.ok(*define)
    shell(host, vm, "echo later > /tmp/note")
    host.ctl.ok("checkpoint", "revert", vm, "a")
    assert shell(host, vm, "cat /tmp/note") == "then"
