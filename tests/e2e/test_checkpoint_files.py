"""VMs that are made of checkpoints, and checkpoints in files of their users' own."""
import json

import pytest

from harness.checkpoints import file_of
from harness.records import put, see, shell, start_with_two_disks
from harness.saving import REFUSED, USAGE, host  # noqa: F401
from harness.waiting import wait_for


@pytest.fixture
def disks(host):
    """One with two disks, of both formats, that runs."""
    return start_with_two_disks(host, "64M")


def names(host, vm):
    return [each["name"] for each in host.ctl.json("checkpoint", "list", vm).get("checkpoints", [])]


def files(host):
    return sorted(path.name for path in host.outside(host.folder).glob("*.qcow2"))


def overlay(host, name, below, below_format="qcow2"):
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", host.folder / below, "-F",
              below_format, host.folder / name], check=True)


def inspect(host, vm, name):
    return json.loads(host.ctl.ok("checkpoint", "inspect", vm, name))


def vms(host):
    return sorted(each["name"] for each in host.ctl.vms())


def test_a_clone_with_memory_goes_on_beside_the_other(host, disks):
    vm = disks
    put(host, vm, "then", 1)
    shell(host, vm, "echo here > /tmp/note; (while :; do sleep 1; done) >/dev/null 2>&1 &")
    host.ctl.ok("checkpoint", "create", vm, "a", "--live")
    put(host, vm, "later", 1)
    shell(host, vm, "echo later > /tmp/note")
    made = host.ctl.ok("checkpoint", "restore-as", vm, "a", "vm-2")
    assert "its start goes on from there" in made
    assert host.ctl.state("vm-2") == "saved" and host.ctl.state(vm) == "running"
    assert files(host) == ["data.a.qcow2", "data.vm-2.qcow2", "root.a.qcow2", "root.qcow2",
                           "root.vm-2.qcow2"]
    host.ctl.ok("start", "vm-2")
    assert shell(host, "vm-2", "cat /tmp/note") == "here"
    assert see(host, "vm-2", 1) == "then"
    assert shell(host, vm, "cat /tmp/note") == "later"
    assert see(host, vm, 1) == "later"
    assert host.ctl.vm(vm)["id"] != host.ctl.vm("vm-2")["id"]
    # Each is its own from here on.
    put(host, "vm-2", "two", 1)
    assert see(host, vm, 1) == "later"
    host.ctl.ok("checkpoint", "delete", vm, "a")
    assert see(host, "vm-2", 1) == "two"
    host.restart()
    for name, word in ((vm, "later"), ("vm-2", "here")):
        assert shell(host, name, "cat /tmp/note") == word
    host.ctl.ok("stop", "vm-2")
    for name in ("root", "data"):
        host.run(["qemu-img", "check", "-q", host.folder / f"{name}.vm-2.qcow2"], check=True)


def test_a_clone_of_disks_alone_boots(host, disks):
    vm = disks
    put(host, vm, "then", 1)
    host.ctl.ok("checkpoint", "create", vm, "a", "--disk-only")
    put(host, vm, "later", 1)
    copy = host.folder / "elsewhere.qcow2"
    host.ctl.ok("checkpoint", "restore-as", vm, "a", "vm-2", "--diskspec", f"root,file={copy}")
    assert host.ctl.state("vm-2") == "stopped"
    again = host.ctl.run("checkpoint", "restore-as", vm, "a", "vm-2")
    assert again.returncode not in (0, USAGE) and "exists" in again.stderr, again
    over = host.ctl.run("checkpoint", "restore-as", vm, "a", "vm-3", "--diskspec",
                        f"root,file={copy}")
    assert over.returncode not in (0, USAGE) and vms(host) == ["vm", "vm-2"], over
    host.ctl.start("vm-2")
    assert see(host, "vm-2", 1) == "then"
    assert see(host, vm, 1) == "later"


def test_what_is_not_remembered_can_be_defined(host, disks):
    vm = disks
    memory = host.folder / "memory.ferry"
    put(host, vm, "then", 1)
    shell(host, vm, "echo then > /tmp/note")
    lost = host.ctl.run("checkpoint", "create", vm, "a", "--no-metadata")
    assert lost.returncode == USAGE, lost
    host.ctl.ok("checkpoint", "create", vm, "a", "--no-metadata", "--memspec", memory)
    assert names(host, vm) == []
    assert files(host) == ["data.a.qcow2", "root.a.qcow2", "root.qcow2"]
    put(host, vm, "later", 1)
    shell(host, vm, "echo later > /tmp/note")
    host.restart()
    assert see(host, vm, 1) == "later"
    assert files(host) == ["data.a.qcow2", "root.a.qcow2", "root.qcow2"]
    disks = ["--diskspec", f"root,file={host.folder}/root.qcow2"]
    half = host.ctl.run("checkpoint", "define", vm, "b", *disks, "--memory-file", memory)
    assert half.returncode == REFUSED and "data" in half.stderr, half
    disks += ["--diskspec", f"data,file={host.folder}/data.raw"]
    wrong = host.ctl.run("checkpoint", "define", vm, "b", "--diskspec",
                         f"root,file={host.folder}/data.raw")
    assert wrong.returncode == REFUSED and "does not lie over" in wrong.stderr, wrong
    host.ctl.ok("checkpoint", "define", vm, "b", *disks, "--memory-file", memory,
                "--description", "found again")
    seen = json.loads(host.ctl.ok("checkpoint", "inspect", vm, "b"))
    assert seen["description"] == "found again" and seen["current"] and seen["whole"]
    host.ctl.ok("checkpoint", "revert", vm, "b")
    assert shell(host, vm, "cat /tmp/note") == "then"
    assert see(host, vm, 1) == "then"
    # What the VM wrote until then was its user's to remove.
    assert "root.a.qcow2" in files(host)


def test_what_is_defined_has_its_key_its_parent_and_what_goes_on_from_it(host, disks):
    vm = disks
    key, other, memory = (host.folder / name for name in ("key", "other", "memory.ferry"))
    for byte, file in enumerate((key, other)):
        host.outside(file).write_bytes(bytes([byte]) * 32)
        host.outside(file).chmod(0o600)
    shell(host, vm, "echo then > /tmp/note")
    specs = {}
    for name, *options in (("a", "--memspec", memory, "--key-file", key), ("b", "--disk-only"),
                           ("c", "--disk-only")):
        specs[name] = [word for disk in ("root", "data")
                       for word in ("--diskspec", f"{disk},file={file_of(host, vm, disk)}")]
        host.ctl.ok("checkpoint", "create", vm, name, "--no-metadata", *options)
    shell(host, vm, "echo later > /tmp/note")
    define = ("checkpoint", "define", vm)
    for options, text in (([], "needs its key file"), (["--key-file", other], "key"),
                          (["--key-file", key, "--parent", "nope"], "nope")):
        refused = host.ctl.run(*define, "a", *specs["a"], "--memory-file", memory, *options)
        assert refused.returncode == REFUSED and text in refused.stderr, refused
    assert host.ctl.run(*define, "a", *specs["a"], "--key-file", key).returncode == USAGE
    host.ctl.ok(*define, "a", *specs["a"], "--memory-file", memory, "--key-file", key, "--current")
    assert inspect(host, vm, "a")["current"]
    host.ctl.ok(*define, "b", *specs["b"], "--parent", "a")
    assert inspect(host, vm, "b")["parent"] == "a" and not inspect(host, vm, "b").get("current")
    refused = host.ctl.run(*define, "c", *specs["c"], "--parent", "a")
    assert refused.returncode == REFUSED and "those of b" in refused.stderr, refused
    host.ctl.ok(*define, "c", *specs["c"])
    made = {name: inspect(host, vm, name) for name in "abc"}
    assert made["c"]["parent"] == "b" and made["c"]["current"]
    assert not made["a"].get("current") and not made["b"].get("current")
    host.ctl.ok("checkpoint", "revert", vm, "a")
    assert shell(host, vm, "cat /tmp/note") == "then"


def test_a_daemon_that_dies_forgets_it_or_undoes_it(host, disks):
    vm = disks
    shell(host, vm, "echo here > /tmp/note")
    for point in ("CHECKPOINT.recorded", "CHECKPOINT.overlaid"):
        host.die_at(point, "checkpoint", "create", vm, "a", "--no-metadata", "--disk-only")
        wait_for(lambda: names(host, vm) == [] and files(host) == ["root.qcow2"], point)
        assert shell(host, vm, "cat /tmp/note") == "here", point
    memory = host.folder / "memory.ferry"
    for options in ([], ["--live", "--no-metadata"]):
        host.die_at("CHECKPOINT.sealed", "checkpoint", "create", vm, "a", "--memspec", memory,
                    *options)
        assert not host.outside(memory).exists(), options
        wait_for(lambda: names(host, vm) == [] and files(host) == ["root.qcow2"], options)
        assert shell(host, vm, "cat /tmp/note") == "here", options
    host.die_at("CHECKPOINT.whole", "checkpoint", "create", vm, "a", "--no-metadata",
                "--disk-only")
    assert names(host, vm) == []
    assert files(host) == ["data.a.qcow2", "root.a.qcow2", "root.qcow2"]
    assert shell(host, vm, "cat /tmp/note") == "here"


def test_files_that_are_there_are_used_and_left(host, disks):
    vm = disks
    put(host, vm, "then", 1)
    disks = ["--diskspec", f"root,file={host.folder}/mine.qcow2", "--diskspec",
             f"data,file={host.folder}/mine-data.qcow2"]
    create = ["checkpoint", "create", vm, "a", "--disk-only", "--reuse-existing", *disks]
    assert host.ctl.run(*create).returncode == REFUSED
    overlay(host, "mine-data.qcow2", "data.raw", "raw")
    # Over another file, written to, or of another size.
    overlay(host, "mine.qcow2", "data.raw", "raw")
    wrong = host.ctl.run(*create)
    assert wrong.returncode == REFUSED and "it is over" in wrong.stderr, wrong
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", host.folder / "root.qcow2",
              "-F", "qcow2", host.folder / "mine.qcow2", "2G"], check=True)
    wrong = host.ctl.run(*create)
    assert wrong.returncode == REFUSED and "bytes" in wrong.stderr, wrong
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", host.folder / "root.qcow2",
              "-F", "qcow2", host.folder / "mine.qcow2", "1G"], check=True)
    # Of the memory's file that is not said.
    memory = host.folder / "memory.ferry"
    host.outside(memory).write_bytes(b"somebody's")
    with_memory = [word for word in create if word != "--disk-only"]
    wrong = host.ctl.run(*with_memory, "--memspec", memory)
    assert wrong.returncode == REFUSED and "memory.ferry exists" in wrong.stderr, wrong
    assert host.outside(memory).read_bytes() == b"somebody's" and names(host, vm) == []
    host.die_at("CHECKPOINT.overlaid", *create)
    # They are their user's, also if it fails.
    wait_for(lambda: names(host, vm) == [], "it is undone")
    assert files(host) == ["mine-data.qcow2", "mine.qcow2", "root.qcow2"]
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", host.folder / "root.qcow2",
              "-F", "qcow2", host.folder / "mine.qcow2", "1G"], check=True)
    overlay_of_data = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b",
                       host.folder / "data.raw", "-F", "raw", host.folder / "mine-data.qcow2",
                       "64M"]
    host.run(overlay_of_data, check=True)
    host.ctl.ok(*create)
    put(host, vm, "later", 1)
    assert host.ctl.vm(vm)["spec"]["disks"][0]["file"] == str(host.folder / "mine.qcow2")
    host.ctl.ok("checkpoint", "delete", vm, "a")
    assert see(host, vm, 1) == "later"
    assert files(host) == ["root.qcow2"]
    # What has been written to is no empty overlay.
    host.ctl.ok("stop", vm)
    overlay(host, "mine.qcow2", "root.qcow2")
    host.run(["qemu-io", "-c", "write 0 64k", host.folder / "mine.qcow2"], check=True,
             capture_output=True)
    overlay(host, "mine-data.qcow2", "data.raw", "raw")
    wrong = host.ctl.run(*create)
    assert wrong.returncode == REFUSED and "has been written to" in wrong.stderr, wrong
