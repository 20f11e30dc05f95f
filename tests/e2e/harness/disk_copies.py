"""Disks that come along with their VM to a host that does not see them."""
import pytest

from .ctl import number as count
from .qmp import Qmp
from .records import await_number, number, on_disks, shell, standing
from .waiting import wait_for

VM = "vm"
SLOW = ("--max-bandwidth", "4M")


@pytest.fixture
def apart(two_hosts):
    """Two hosts of which neither sees the other's files."""
    if not two_hosts.isolated:
        pytest.skip(f"the hosts have one file system: {two_hosts.refusal}")
    return two_hosts


def disks(host):
    return host.ctl.json("disk", "list", VM)["disks"]


def copies(host):
    """What lies in the host's own folder of disks."""
    folder = host.outside(host.state / "disks")
    return sorted(entry for entry in folder.rglob("*") if entry.is_file())


def assert_goes_on(host):
    """The guest writes to its disks."""
    await_number(host, VM, number(host, VM, "/tmp/done") + 5)


def assert_nothing_of_it(source, destination, former=()):
    """No half copy at the destination, beside those that lay there before, and no mirror at the
    source, whose guest goes on writing."""
    assert copies(destination) == sorted(former)
    assert destination.ctl.vms() == [] and destination.processes("qemu-system") == []
    with Qmp(source) as qmp:
        assert qmp.ask("query-jobs") == []
        nodes = [node["node-name"] for node in qmp.ask("query-named-block-nodes", flat=True)]
    assert [name for name in nodes if name.endswith("-peer")] == []
    assert_goes_on(source)


def assert_nothing_lost(host, writer):
    """Each record that was acknowledged is on each disk."""
    with standing(host, VM, writer):
        begun, done = number(host, VM, "/tmp/begun"), number(host, VM, "/tmp/done")
        last = on_disks(host, VM)
        assert last and all(done <= each <= begun for each in last), (done, begun, last)


def copies_disks(host):
    """Whether a migration from here is at its disks."""
    for session in host.ctl.sessions():
        if not session.get("done"):
            progress = host.ctl.session(session["session_id"]).get("progress") or {}
            return 0 < count(progress, "disk_done_bytes")
    return False


def begin_slowly(source, destination):
    """A migration that is at the VM's disks."""
    migration = source.ctl.attach("migrate", VM, "--to", destination.address, *SLOW)
    wait_for(lambda: copies_disks(source), "no disk is being copied")
    [job] = source.ctl.json("job", "list", "--kind", "migration")["jobs"]
    assert job["progress"]["phase"] == "copying disks", job
    return migration
