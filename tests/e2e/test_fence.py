"""The lock that keeps a VM from running twice, beside the journals of its migrations."""
import contextlib
import fcntl
import os
import pathlib
import signal
import tempfile

import pytest

from harness import oracles, workload
from harness.ctl import CtlError
from harness.fixtures import note_isolation
from harness.host import Hosts
from test_crash import wait_for_death

VM = "vm"


@pytest.fixture
def lock_folder():
    """A folder on this machine, for hosts to share."""
    with tempfile.TemporaryDirectory(prefix="ferry-lock-", dir="/tmp") as folder:
        yield pathlib.Path(folder)


@pytest.fixture
def bare_hosts(lock_folder, pytestconfig):
    """Two hosts without daemons, which can both write to one folder."""
    with Hosts(shared_folder=lock_folder) as hosts:
        note_isolation(pytestconfig, hosts)
        yield hosts


def lock_in(host, folder, *flags):
    """From its next start on, the host's VMs are locked there."""
    host.flags = ["--fence-lock-dir", folder, *flags]


def start_vm(host):
    host.ctl.create(VM)
    host.ctl.start(VM)
    return host.ctl.vm(VM)["id"]


@contextlib.contextmanager
def locked(path):
    """Holds the lock of a VM from outside, as a VMM does that nobody knows of."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def assert_locked(path, host):
    """Somebody holds it, and that by what the host says of itself in it."""
    with pytest.raises(BlockingIOError), locked(path):
        pass
    assert path.read_text().split()[:2] == ["ferry-lock", "1"]
    assert path.read_text().split()[4] == host.address


def assert_free(path):
    with locked(path):
        pass


def test_the_lock_passes_over_with_the_vm_there_and_back(bare_hosts, lock_folder):
    for host in bare_hosts:
        lock_in(host, lock_folder)
    one, other = bare_hosts.start()
    path = lock_folder / f"{start_vm(one)}.lock"
    assert_locked(path, one)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "image_lock" in one.ctl.ok("host")
    assert one.ctl.vm(VM)["fence"] == "image_lock"
    with workload.attach_ticker(one, VM) as client:
        session = one.ctl.migrate(VM, other)
        assert session["fence"] == "image_lock"
        assert oracles.assert_all(bare_hosts, VM, client) is other
        assert_locked(path, other)
        # A daemon that took the VM over can give it up.
        other.kill()
        assert_locked(path, other)
        other.start()
        other.ctl.migrate(VM, one)
        assert oracles.assert_all(bare_hosts, VM, client) is one
        assert_locked(path, one)
        client.close_stdin()
        assert client.wait() == 0, client.errors()
    one.ctl.ok("vm", "stop", VM)
    assert_free(path)
    one.ctl.ok("vm", "delete", VM)
    assert list(lock_folder.iterdir()) == []


def test_a_lock_that_is_held_keeps_the_vm_at_its_source(bare_hosts, lock_folder):
    one, other = bare_hosts
    lock_in(other, lock_folder)
    bare_hosts.start()
    path = lock_folder / f"{start_vm(one)}.lock"
    assert one.ctl.vm(VM)["fence"] == "host_lock"
    with workload.attach_ticker(one, VM) as client:
        with locked(path):
            with pytest.raises(CtlError, match=f"its lock {path} is held by"):
                one.ctl.migrate(VM, other)
            assert oracles.assert_all(bare_hosts, VM, client) is one
            assert one.ctl.sessions()[0]["reason"] == "fence_held"
            refused, = {session for session, _ in oracles.journal(other)}
            assert oracles.journal(other)[-1] == (refused, "REFUSED")
        one.ctl.migrate(VM, other)
        assert oracles.assert_all(bare_hosts, VM, client) is other
        assert_locked(path, other)
        client.close_stdin()
        assert client.wait() == 0, client.errors()


def test_a_vm_whose_lock_is_held_does_not_start(bare_hosts, lock_folder):
    host = bare_hosts[0]
    lock_in(host, lock_folder)
    host.start()
    host.ctl.create(VM)
    path = lock_folder / f"{host.ctl.vm(VM)['id']}.lock"
    with locked(path):
        refused = host.ctl.run("vm", "start", VM)
        assert refused.returncode != 0
        assert f"its lock {path} is held by" in refused.stderr
        assert host.processes("qemu-system") == []
    host.ctl.start(VM)


def test_a_killed_daemons_vm_keeps_its_lock_until_it_ends(bare_hosts, lock_folder):
    host = bare_hosts[0]
    lock_in(host, lock_folder)
    host.start()
    path = lock_folder / f"{start_vm(host)}.lock"
    (pid, _), = host.processes("qemu-system")
    host.kill()
    assert_locked(path, host)
    host.start()
    assert_locked(path, host)
    host.kill()
    host.signal_process(pid, signal.SIGKILL)
    host.start()
    assert host.ctl.state(VM) == "stopped"
    assert_free(path)


def test_a_lock_folder_that_is_not_there_is_refused(bare_hosts, lock_folder):
    host = bare_hosts[0]
    lock_in(host, lock_folder / "not-mounted")
    with pytest.raises(RuntimeError, match="locks cannot be kept in the folder .*not-mounted"):
        host.start()


def test_daemons_that_die_around_the_switchover_leave_the_lock_where_the_vm_is(bare_hosts,
                                                                              lock_folder):
    for host in bare_hosts:
        lock_in(host, lock_folder)
    owner, _ = bare_hosts.start()
    path = lock_folder / f"{start_vm(owner)}.lock"
    for point in ("COMMIT.after", "GRANTED.before", "GRANTED.after"):
        other = bare_hosts.other(owner)
        dying = owner if point.startswith("COMMIT") else other
        lock_in(dying, lock_folder, "--failpoint", point)
        dying.restart()
        with workload.attach_ticker(owner, VM) as client:
            with owner.ctl.attach("migrate", VM, "--to", other.address):
                wait_for_death(dying)
                # A source has not given it up yet; a destination has claimed it.
                assert_locked(path, dying)
                lock_in(dying, lock_folder)
                dying.start()
                assert oracles.assert_all(bare_hosts, VM, client) is other, point
            assert_locked(path, other)
            client.close_stdin()
            assert client.wait() == 0, client.errors()
        owner = other


def test_a_source_takes_back_what_its_destination_had_claimed(bare_hosts, lock_folder):
    for host in bare_hosts:
        lock_in(host, lock_folder)
    one, other = bare_hosts.start()
    path = lock_folder / f"{start_vm(one)}.lock"
    lock_in(other, lock_folder, "--failpoint", "GRANTED.before")
    other.restart()
    with workload.attach_ticker(one, VM) as client:
        with one.ctl.attach("migrate", VM, "--to", other.address):
            wait_for_death(other)
            assert_locked(path, other)
            other.kill_vmm()
            lock_in(other, lock_folder)
            other.start()
            assert oracles.assert_all(bare_hosts, VM, client) is one
        assert_locked(path, one)
        # The source's QEMU, which was there all the time, has it, and not its daemon alone.
        one.kill()
        assert_locked(path, one)
        one.start()
        client.close_stdin()
        assert client.wait() == 0, client.errors()
