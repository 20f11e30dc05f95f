"""What QEMU may do and what can end it: a user without rights, and a control group of its own."""
import contextlib
import os
import pathlib
import pwd
import select
import signal

import pytest

from harness import oracles, workload

USER = "nobody"


def qemu_pid(host):
    """The one QEMU's id, as its host sees it."""
    (pid, _), = host.processes("qemu-system")
    return pid


def status_of(host, pid):
    """The fields of /proc/PID/status."""
    lines = host.outside(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def assert_powerless(host):
    status = status_of(host, qemu_pid(host))
    user = pwd.getpwnam(USER)
    assert status["Uid"].split() == [str(user.pw_uid)] * 4
    assert status["Gid"].split() == [str(user.pw_gid)] * 4
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[capabilities], 16) == 0, capabilities
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2", "QEMU's own sandbox filters no calls"


def test_migrates_as_an_unprivileged_user(bare_hosts):
    # As /var/lib is: others may pass, and the state folder decides for itself.
    bare_hosts.folder.chmod(0o711)
    for host in bare_hosts:
        host.flags = ["--qemu-user", USER]
    one, other = bare_hosts.start()
    one.ctl.create("vm")
    one.ctl.start("vm")
    assert_powerless(one)
    assert one.ctl.exec("vm", "echo", "here").stdout == "here\n"
    with one.ctl.attach("exec", "-i", "vm", "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        one.ctl.migrate("vm", other)
        assert_powerless(other)
        assert oracles.assert_all(bare_hosts, "vm", client) is other
        # The daemon that takes it over needs nothing of that user.
        other.kill()
        other.start()
        other.ctl.migrate("vm", one)
        assert_powerless(one)
        assert oracles.assert_all(bare_hosts, "vm", client) is one
        client.close_stdin()
        assert client.wait() == 0, client.errors()
    # Of the state folder it may pass to the private sockets, and that is all.
    for host in bare_hosts:
        state = host.outside(host.state)
        for name in ("", "mig"):
            assert (state / name).stat().st_mode & 0o777 == 0o710, name
        for name in ("vm", "spool"):
            assert (state / name).stat().st_mode & 0o777 == 0o700, name


def test_an_unknown_user_is_refused(bare_hosts):
    host = bare_hosts[0]
    host.flags = ["--qemu-user", "no-such-user"]
    with pytest.raises(RuntimeError, match="there is no user 'no-such-user'"):
        host.start()


def cgroup2():
    """Where version 2 is mounted, if this process may make groups there."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        mount = pathlib.Path(fields.split()[4])
        if kind.startswith("cgroup2 ") and os.access(mount / "cgroup.procs", os.W_OK):
            return mount
    pytest.skip("control groups of version 2 are not mounted, or may not be made here")


@contextlib.contextmanager
def made(group):
    """A control group that goes with the block, with all that is in it and below it by then."""
    group.mkdir()
    try:
        yield group
    finally:
        (group / "cgroup.kill").write_text("1")
        wait_until_empty(group)
        remove(group)


def wait_until_empty(group):
    with (group / "cgroup.events").open() as events:
        changed = select.poll()
        changed.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            assert changed.poll(30_000), f"processes in {group} do not end"
            events.seek(0)


def remove(group):
    for child in group.iterdir():
        if child.is_dir():
            remove(child)
    group.rmdir()


def group_of(host, pid):
    for line in host.outside(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return pathlib.PurePosixPath(line[3:])
    return None


def test_a_service_manager_that_ends_the_daemons_group_spares_the_vm(bare_hosts):
    """There is no systemd here, so cgroup.kill stands for KillMode=control-group: both send SIGKILL
    to every process of the service's group."""
    hosts = bare_hosts
    # As a service: a group of its own, below one that is nobody's.
    with made(cgroup2() / f"ferry-test-{os.getpid()}") as slice_group:
        with made(slice_group / "ferryd.service") as service:
            hosts[0].cgroup = service
            hosts[0].cgroup_of_vms = "auto"
            one, other = hosts.start()
            one.ctl.create("vm")
            one.ctl.start("vm")
            pid = qemu_pid(one)
            groups = [entry for entry in slice_group.iterdir()
                      if entry.is_dir() and entry != service]
            assert len(groups) == 1
            assert group_of(one, pid).name == groups[0].name
            assert len((groups[0] / "cgroup.procs").read_text().split()) == 1
            with one.ctl.attach("exec", "-i", "vm", "--", workload.PROGRAM, "tick") as client:
                client.wait_until(lambda output: b"tick" in output)
                (service / "cgroup.kill").write_text("1")
                assert one.wait_daemon() in (-signal.SIGKILL, 128 + signal.SIGKILL)
                one.start()
                assert qemu_pid(one) == pid
                assert oracles.assert_all(hosts, "vm", client) is one
                one.ctl.migrate("vm", other)
                assert oracles.assert_all(hosts, "vm", client) is other
                client.close_stdin()
                assert client.wait() == 0, client.errors()
            # It went with its VM, though another daemon had made it.
            assert [entry for entry in slice_group.iterdir() if entry.is_dir()] == [service]
            one.stop()


def test_a_place_without_control_groups_is_refused(bare_hosts):
    host = bare_hosts[0]
    host.cgroup_of_vms = "/nonexistent"
    with pytest.raises(RuntimeError, match="no control group can be made in /nonexistent"):
        host.start()
