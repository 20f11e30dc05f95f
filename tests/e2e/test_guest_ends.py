"""A guest that ends by itself while it is saved or kept: what there was before can be used, and nothing
half-made is left."""
import signal

import pytest

from harness.checkpoints import names
from harness.qmp import Qmp
from harness.records import make_disks, put, see, shell, start_with
from harness.saving import USAGE, host, own_files, start  # noqa: F401
from harness.waiting import wait_for

END = "echo o > /proc/sysrq-trigger"


@pytest.fixture
def disk(host):
    """A VM that runs and has a disk, on which something is kept."""
    make_disks(host, "root")
    start_with(host, "root")
    put(host, "vm", "kept", 1)
    return "vm"


def ends_unseen(host, vm, *command):
    """The guest ends while ferryd stands still, which hears of that and of the command at once; how
    that ends."""
    host.ctl.ok("exec", "-d", vm, "--", "sh", "-c", f"sleep 2; {END}")
    host.signal_daemon(signal.SIGSTOP)
    with Qmp(host) as qmp, host.ctl.attach(*command) as asking:
        wait_for(lambda: qmp.ask("query-status")["status"] == "shutdown", "it does not end")
        host.thaw()
        asking.wait()
    wait_for(lambda: host.ctl.state(vm) in ("stopped", "failed"), "it is not seen to have ended")
    assert not host.processes("qemu-system")
    return asking.wait()


def test_it_is_not_saved(host, disk):
    for command in (["save"], ["stop", "--save"]):
        ended = ends_unseen(host, disk, *command, disk)
        # What has stopped by itself needs not be stopped.
        assert ended != USAGE and (command[0] == "stop" or ended != 0), (command, ended)
        assert not own_files(host, disk)
        host.ctl.start(disk)
        assert see(host, disk, 1) == "kept"


def test_a_former_file_is_still_of_use(host, vm):
    former, later = host.folder / "former.ferry", host.folder / "later.ferry"
    shell(host, vm, "echo then > /tmp/note")
    host.ctl.ok("save", "--live", "--to", former, vm)
    assert ends_unseen(host, vm, "save", "--live", "--to", later, vm) not in (0, USAGE)
    assert [path.name for path in host.outside(host.folder).glob("*.ferry*")] == ["former.ferry"]
    start(host, vm, "--from", former)
    assert shell(host, vm, "cat /tmp/note") == "then"


def test_a_guest_that_went_on_and_ended_is_in_its_file(host, vm):
    file = host.folder / "whole.ferry"
    host.freeze_at("SAVE.sealed")
    host.ctl.ok("exec", "-d", vm, "--", "sh", "-c", f"sleep 8; [ -e /tmp/stay ] || {END}")
    with host.ctl.attach("save", "--live", "--to", file, vm) as saving:
        host.wait_frozen()
        with Qmp(host) as qmp:
            wait_for(lambda: qmp.ask("query-status")["status"] == "shutdown", "it does not end")
        host.thaw()
        assert saving.wait() == 0, saving.errors()
    wait_for(lambda: host.ctl.state(vm) == "stopped", "it is not seen to have ended")
    start(host, vm, "--from", file)
    shell(host, vm, "touch /tmp/stay")


def test_former_checkpoints_are_still_of_use(host, disk):
    shell(host, disk, "echo then > /tmp/note")
    host.ctl.ok("checkpoint", "create", disk, "a")
    for name, *options in (("b",), ("c", "--live")):
        ended = ends_unseen(host, disk, "checkpoint", "create", disk, name, *options)
        assert ended not in (0, USAGE), (name, ended)
        assert names(host, disk) == ["a"]
        assert len(list(host.outside(host.folder).glob("*.qcow2"))) == 2
        host.ctl.ok("checkpoint", "revert", disk, "a")
        assert shell(host, disk, "cat /tmp/note") == "then" and see(host, disk, 1) == "kept"


def test_former_snapshots_are_still_of_use(host, disk):
    shell(host, disk, "echo then > /tmp/note")
    where = ("--devices", "root", "--vmstate", "root")
    host.ctl.ok("snapshot", "save", disk, "a", *where)
    assert ends_unseen(host, disk, "snapshot", "save", disk, "b", *where) not in (0, USAGE)
    host.ctl.start(disk)
    listed = host.ctl.json("snapshot", "list", disk)["snapshots"]
    assert [each["tag"] for each in listed] == ["a"]
    host.ctl.ok("snapshot", "load", disk, "a")
    assert shell(host, disk, "cat /tmp/note") == "then" and see(host, disk, 1) == "kept"
