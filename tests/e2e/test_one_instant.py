"""Whatever a VM goes on from, its memory and all of its disks are of one instant."""
import pytest

from harness.records import (assert_goes_on, assert_memory_went_back, assert_one_instant,
                             await_number, last_on_host, number, start_with_two_disks, start_writer)
from harness.saving import RESTORE_REFUSED, host, save, start  # noqa: F401


@pytest.fixture
def disks(host):
    """A VM with two disks, of both formats."""
    return start_with_two_disks(host, "1G")


def files(host):
    """Those disks, in the order in which the guest has them."""
    return (host.folder / "root.qcow2", "qcow2"), (host.folder / "data.raw", "raw")


def go_on_for_a_while(host, vm):
    """The number of a record that the VM has not begun before."""
    later = number(host, vm, "/tmp/begun") + 20
    await_number(host, vm, later)
    return later


def test_a_saved_vm_goes_on_from_there(host, disks):
    writer = start_writer(host, disks)
    for options in ((), ("--compress", "zstd", "--compress-workers", "2"), ("--bypass-cache",)):
        save(host, disks, *options)
        last = last_on_host(host, *files(host))
        start(host, disks)
        assert_goes_on(host, disks, writer, last)


def test_a_file_of_ones_own_is_of_its_disks_until_they_are_written_to(host, disks):
    writer = start_writer(host, disks)
    file = host.folder / "moment.ferry"
    host.ctl.ok("save", "--to", file, disks)
    last = last_on_host(host, *files(host))
    start(host, disks, "--from", file)
    assert_goes_on(host, disks, writer, last)
    host.ctl.ok("stop", "--force", disks)
    refused = host.ctl.run("start", "--from", file, disks)
    assert refused.returncode == RESTORE_REFUSED and "was written to" in refused.stderr, refused
    assert host.ctl.state(disks) == "stopped" and not host.processes("qemu-system")


def test_memory_that_is_saved_while_its_vm_lives_on_is_of_one_instant(host, vm):
    writer = start_writer(host, vm)
    file = host.folder / "moment.ferry"
    host.ctl.ok("save", "--live", "--to", file, vm)
    for _ in range(2):
        later = go_on_for_a_while(host, vm)
        host.ctl.ok("stop", "--force", vm)
        start(host, vm, "--from", file)
        assert_memory_went_back(host, vm, writer, later)


def test_memory_of_a_checkpoint_is_gone_on_from_until_its_disks_are_written_to(host, disks):
    writer = start_writer(host, disks)
    host.ctl.ok("checkpoint", "create", disks, "a", "--halt")
    memory = host.ctl.json("checkpoint", "inspect", disks, "a")["memory_file"]
    start(host, disks, "--from", memory)
    assert_one_instant(host, disks, writer)
    go_on_for_a_while(host, disks)
    host.ctl.ok("stop", "--force", disks)
    refused = host.ctl.run("start", "--from", memory, disks)
    assert refused.returncode == RESTORE_REFUSED and "checkpoint revert" in refused.stderr, refused
    host.ctl.ok("checkpoint", "revert", disks, "a")
    assert_one_instant(host, disks, writer)


def test_another_vm_is_of_the_instant_that_it_was_made_of(host, disks):
    writer = start_writer(host, disks)
    for name, way in (("live", ["--live"]), ("still", [])):
        host.ctl.ok("checkpoint", "create", disks, name, *way)
        later = go_on_for_a_while(host, disks)
        host.ctl.ok("checkpoint", "restore-as", disks, name, f"vm-{name}")
        host.ctl.ok("start", f"vm-{name}")
        assert_one_instant(host, f"vm-{name}", writer, later)
        host.ctl.ok("stop", "--force", f"vm-{name}")


def test_what_is_defined_is_of_the_instant_at_which_it_was_made(host, disks):
    writer = start_writer(host, disks)
    memory = host.folder / "memory.ferry"
    host.ctl.ok("checkpoint", "create", disks, "a", "--no-metadata", "--live", "--memspec", memory)
    later = go_on_for_a_while(host, disks)
    host.ctl.ok("checkpoint", "define", disks, "b", "--memory-file", memory,
                "--diskspec", f"root,file={host.folder}/root.qcow2",
                "--diskspec", f"data,file={host.folder}/data.raw")
    for _ in range(2):
        host.ctl.ok("checkpoint", "revert", disks, "b")
        assert_one_instant(host, disks, writer, later)
        later = go_on_for_a_while(host, disks)
