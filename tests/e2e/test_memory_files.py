"""What saves and checkpoints write of a VM's memory is one format: each is of use for the other."""
import json

import pytest

from harness.records import put, see, shell, start_with_two_disks
from harness.saving import RESTORE_REFUSED, host, start  # noqa: F401


@pytest.fixture
def disks(host):
    """A VM with two disks, of both formats."""
    return start_with_two_disks(host, "64M")


def memory_file(host, vm, checkpoint):
    return json.loads(host.ctl.ok("checkpoint", "inspect", vm, checkpoint))["memory_file"]


def test_either_can_be_gone_on_from_and_be_a_checkpoint(host, vm):
    place = host.folder
    create = ("checkpoint", "create", vm)
    ways = {"saved": ("save", vm, "--live", "--to"),
            "bare": (*create, "bare", "--memory-only", "--no-metadata", "--memspec"),
            "still": (*create, "still", "--memory-only", "--memspec"),
            "live": (*create, "live", "--memory-only", "--live", "--memspec"),
            "small": (*create, "small", "--memory-only", "--compress", "zstd", "--memspec")}
    for name, way in ways.items():
        shell(host, vm, f"echo {name} > /tmp/note")
        host.ctl.ok(*way, place / name)
    shell(host, vm, "echo own > /tmp/note")
    host.ctl.ok(*create, "own", "--memory-only")
    files = {name: place / name for name in ways} | {"own": memory_file(host, vm, "own")}
    for name, file in files.items():
        host.ctl.ok("stop", "--force", vm)
        start(host, vm, "--from", file)
        assert shell(host, vm, "cat /tmp/note") == name
        assert host.outside(file).exists()
    # And the other way round.
    for name in ("saved", "bare"):
        host.ctl.ok("checkpoint", "define", vm, name, "--memory-file", place / name)
        host.ctl.ok("checkpoint", "revert", vm, name)
        assert shell(host, vm, "cat /tmp/note") == name


def test_memory_of_a_checkpoint_that_has_disks_is_for_revert(host, disks):
    vm = disks
    put(host, vm, "then", 1)
    shell(host, vm, "echo then > /tmp/note")
    host.ctl.ok("checkpoint", "create", vm, "a", "--live")
    put(host, vm, "later", 1)
    host.ctl.ok("stop", "--force", vm)
    refused = host.ctl.run("start", "--from", memory_file(host, vm, "a"), vm)
    assert refused.returncode == RESTORE_REFUSED, refused
    assert "checkpoint revert" in refused.stderr, refused
    assert host.ctl.state(vm) == "stopped" and not host.processes("qemu-system")
    host.ctl.ok("checkpoint", "revert", vm, "a")
    assert shell(host, vm, "cat /tmp/note") == "then" and see(host, vm, 1) == "then"
