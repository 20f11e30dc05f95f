"""VMs and the clients attached to them outlive their daemon; a start that fails says why."""
import os
import signal
import time

import pytest

from harness import oracles, proc, workload
from harness.build import build_folder
from harness.ctl import ferryctl, number
from harness.host import START_DEADLINE, Host
from test_migration import SLOW, open_migration


def uptime_ms(host, vm):
    return number(next(entry for entry in host.ctl.vms() if entry["name"] == vm), "uptime_ms")


def assert_survives(hosts, vm, end):
    """Ends the first host's daemon by `end`, starts it again, and finds all as it was."""
    host = hosts[0]
    pid = host.ctl.vm(vm)["vmm_pid"]
    detached = host.ctl.ok("exec", "-d", "-i", vm, "--", "sh", "-c", "echo early; exec cat").strip()
    with host.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        uptime = uptime_ms(host, vm)
        assert uptime > 0
        end()
        # The VM runs on without a daemon.
        assert [found for found, _ in host.processes("qemu-system")] == [int(pid)]
        client.write(b"said while nobody listened\n")
        host.start()
        assert host.ctl.state(vm) == "running"
        assert host.ctl.vm(vm)["vmm_pid"] == pid
        assert uptime_ms(host, vm) >= uptime
        client.wait_until(lambda output: b"echo said while nobody listened\n" in output)
        assert {str(entry["id"]) for entry in host.ctl.processes(vm)} >= {detached}
        with host.ctl.attach("attach", vm, detached) as attached:
            attached.write(b"late\n")
            attached.wait_until(lambda output: output == b"early\nlate\n")
            attached.close_stdin()
            assert attached.wait() == 0
        # And it moves on as if nothing had been.
        host.ctl.migrate(vm, hosts[1])
        assert uptime_ms(hosts[1], vm) >= uptime
        client.write(b"there\n")
        client.wait_until(lambda output: b"echo there\n" in output)
        numbers = [number for number, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers, first=numbers[0]) == (0, 0)
        client.close_stdin()
        assert client.wait() == 0, client.errors()


def test_a_daemon_that_was_ended_takes_its_vms_over_again(two_hosts, vm):
    assert_survives(two_hosts, vm, two_hosts[0].stop)


def test_a_daemon_that_was_killed_takes_its_vms_over_again(two_hosts, vm):
    assert_survives(two_hosts, vm, two_hosts[0].kill)


def test_a_killed_daemon_loses_nothing_of_a_detached_process(two_hosts, vm):
    host, other = two_hosts
    process = host.ctl.ok("exec", "-d", "-i", vm, "--", workload.PROGRAM, "tick", "--interval-us",
                          "5000").strip()  # so that the spool holds all of it
    seen = 0
    for _ in range(3):
        # Seen by a client means taken from the guest.
        with host.ctl.attach("attach", vm, process) as client:
            client.wait_until(lambda output: len(workload.ticks(output)) > seen + 100)
            seen = len(workload.ticks(client.output()))
            host.kill()
        host.start()
    host.ctl.migrate(vm, other)
    with other.ctl.attach("attach", vm, process) as client:
        client.close_stdin()
        assert client.wait() == 0, client.errors()
        output = client.output()
    numbers = [number for number, _ in workload.ticks(output)]
    assert len(numbers) > seen
    assert workload.lost_and_repeated(numbers, first=0) == (0, 0)
    assert workload.strange_bytes(output) == 0
    assert list(host.outside(host.state / "spool").iterdir()) == []


def test_exit_without_a_daemon_reaches_the_client(two_hosts, vm):
    host = two_hosts[0]
    command = f"echo up; exec {workload.PROGRAM} exit 43 --after-ms 1500"
    with host.ctl.attach("exec", "-i", vm, "--", "sh", "-c", command) as client:
        client.wait_until(lambda output: output == b"up\n")
        host.kill()
        host.start()
        assert client.wait() == 43, client.errors()


def test_calls_that_wait_for_a_migration_do_not_hold_the_daemons_end_up(two_hosts, vm):
    source, destination = two_hosts
    mover, _ = open_migration(two_hosts, vm, *SLOW)
    with mover, destination.ctl.attach("exec", vm, "--", "true") as early:
        # The destination knows the VM, which has not come yet; the client waits.
        assert destination.ctl.state(vm) == "incoming"
        with source.ctl.attach("events", "--follow"), \
                source.ctl.attach("exec", "-i", vm, "--", "cat"):
            assert source.stop() == 0
        assert destination.stop() == 0
        assert early.wait(60) == 125
        assert early.errors()
    source.start()
    assert source.ctl.state(vm) == "running"


def test_a_call_about_a_vm_that_is_still_to_come_is_answered(two_hosts, vm):
    source, destination = two_hosts
    mover, session = open_migration(two_hosts, vm, *SLOW)
    with mover:
        early = destination.ctl.run("exec", vm, "--", "true", timeout=29)
        assert early.returncode == 125
        assert session in early.stderr and "source" in early.stderr
        source.ctl.ok("migration", "cancel", session)
        mover.wait(60)


def test_a_paused_vm_stays_paused_without_its_daemon(two_hosts, vm):
    host = two_hosts[0]
    host.ctl.ok("vm", "pause", vm)
    host.restart()
    assert host.ctl.state(vm) == "paused"
    host.ctl.ok("vm", "resume", vm)
    answer = host.ctl.exec(vm, "echo", "here")
    assert answer.stdout == "here\n", answer.stderr


def test_a_paused_vm_that_was_moved_stays_paused_without_its_daemon(two_hosts, vm):
    source, host = two_hosts
    source.ctl.migrate(vm, host)
    oracles.assert_a_pause_outlives_daemons(host, vm)
    assert host.ctl.exec(vm, "echo", "here").stdout == "here\n"
    host.ctl.migrate(vm, source)
    assert source.ctl.exec(vm, "echo", "here").stdout == "here\n"


def test_a_new_client_loses_no_input_to_what_a_former_one_sent(two_hosts, vm):
    """A guest that stands still cannot say what it holds of the former client's input, and its
    record may be behind that, so another client is refused until the VM runs again."""
    host = two_hosts[0]
    with host.ctl.attach("exec", "-i", vm, "--", "cat") as client:
        client.write(b"from the first client\n")
        client.wait_until(lambda output: output == b"from the first client\n")
        process = host.ctl.processes(vm)[0]["id"]
    host.ctl.ok("vm", "pause", vm)
    host.kill()
    host.start()
    refused = host.ctl.run("attach", vm, process)
    assert refused.returncode == 125
    assert f"ferryctl vm resume {vm}" in refused.stderr
    host.ctl.ok("vm", "resume", vm)
    with host.ctl.attach("attach", vm, process) as client:
        client.write(b"all of it\n")
        client.wait_until(lambda output: output.endswith(b"all of it\n"))
        assert client.output().count(b"all of it") == 1
        client.close_stdin()
        assert client.wait() == 0, client.errors()


def test_a_daemon_may_be_preferred_to_its_vms(two_hosts, vm):
    host = two_hosts[0]
    if not two_hosts.isolated:
        pytest.skip("the daemon's id is not known without namespaces of its own")

    daemon = host.daemon_pid()
    usual = os.nice(0)
    if "keeps its niceness" in host.log_tail(1000):
        pytest.skip("nobody may be preferred here")
    assert proc.niceness(host.outside(f"/proc/{daemon}/stat").read_text()) == -10
    vmm = host.ctl.vm(vm)["vmm_pid"]
    assert proc.niceness(host.outside(f"/proc/{vmm}/stat").read_text()) == usual


def test_qemu_that_died_without_a_daemon_is_noticed(two_hosts, vm):
    host = two_hosts[0]
    pid = int(host.ctl.vm(vm)["vmm_pid"])
    host.stop()
    host.signal_process(pid, signal.SIGKILL)
    host.start()
    assert host.ctl.state(vm) in ("stopped", "failed")
    assert host.ctl.vm(vm)["state_reason"]
    host.ctl.start(vm)
    assert host.ctl.exec(vm, "echo", "again").stdout == "again\n"


def run_ferryd(host):
    """Runs a daemon that is expected to end at once, beside the host's own."""
    return host.run(host.daemon_command(), capture_output=True, text=True, timeout=60)


def test_a_port_in_use_is_named(two_hosts):
    host = two_hosts[0]
    other = Host("c", host.folder, host.address, host.namespace)
    ended = run_ferryd(other)
    assert ended.returncode == 1
    assert host.address in ended.stderr
    oracles.assert_next_step(ended.stderr, "--listen", "end the process")
    assert not other.outside(other.socket).exists()
    assert host.ctl.vms() == []  # the first one is not disturbed


def test_a_port_for_migrations_in_use_is_named(two_hosts):
    host = two_hosts[0]
    name = host.address.rsplit(":", 1)[0]
    other = Host("c", host.folder, host.address, host.namespace)
    other.listen = f"{name}:0"
    other.flags = ["--migration-listen", host.address]
    ended = run_ferryd(other)
    assert ended.returncode == 1
    assert f"cannot accept migrations at {host.address}" in ended.stderr
    oracles.assert_next_step(ended.stderr, "--migration-listen", "end the process")
    assert host.ctl.vms() == []


@pytest.mark.usefixtures("isolated")  # the defaults are this machine's own folders
def test_a_plain_daemon_and_a_plain_client_meet(bare_hosts):
    host = bare_hosts[0]
    for folder in ("/run", "/var/lib"):
        host.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    with host.run_in_background([build_folder() / "bin/ferryd"]) as daemon:
        def answers():
            return host.run([ferryctl(), "list"], capture_output=True).returncode == 0
        deadline = time.monotonic() + START_DEADLINE
        while not answers():
            assert daemon.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        socket = host.outside("/run/ferry/ferryd.sock").stat()
        assert socket.st_mode & 0o777 == 0o600
        assert host.outside("/run/ferry").stat().st_mode & 0o777 == 0o755


def test_a_mistake_in_the_configuration_is_named(bare_hosts):
    host = bare_hosts[0]
    path = host.folder / "ferryd.yaml"
    host.outside(path).write_text("state-dir: /nowhere\nsokcet: /tmp/s\n")
    ended = host.run([build_folder() / "bin/ferryd", "--config", path], capture_output=True,
                     text=True)
    assert ended.returncode == 2
    assert ended.stderr == f"ferryd: {path}:2: unknown key `sokcet`; did you mean `socket`?\n"


def test_a_second_daemon_on_the_same_state_is_refused(two_hosts):
    host = two_hosts[0]
    ended = run_ferryd(host)
    assert ended.returncode == 1
    assert str(host.state) in ended.stderr or str(host.socket) in ended.stderr
    assert host.ctl.vms() == []
    assert host.stop() == 0


def test_an_agent_that_never_answers_ends_the_start_in_time(bare_hosts):
    host = bare_hosts[0]
    host.flags = ["--kernel-args", "rdinit=/bin/sleep -- 1000", "--boot-timeout", "6"]
    host.start()
    host.ctl.create("mute")
    failed = host.ctl.run("vm", "start", "mute")
    assert failed.returncode == 7
    assert "the guest's agent gave no answer within 6000 ms; the VM was ended" in failed.stderr
    assert "last console output: " in failed.stderr
    oracles.assert_next_step(failed.stderr, "--boot-timeout", "ferryctl start mute")
    assert host.ctl.state("mute") == "failed"
    assert "last console output: " in host.ctl.ok("vm", "inspect", "mute")
    oracles.assert_one_copy([host], None)
    oracles.assert_nothing_left([host], None)
    host.ctl.ok("vm", "delete", "mute")


def test_a_guest_that_panics_at_boot_ends_the_start_at_once(bare_hosts):
    host = bare_hosts[0]
    host.flags = ["--kernel-args", "panic=-1 rdinit=/no/such/init root=/dev/no"]
    host.start()
    host.ctl.create("broken")
    failed = host.ctl.run("vm", "start", "broken")
    assert failed.returncode != 0
    assert "before its agent was ready" in failed.stderr
    assert "last console output: " in failed.stderr
    oracles.assert_next_step(failed.stderr, "ferryctl start broken")
    assert host.ctl.state("broken") == "failed"
    oracles.assert_one_copy([host], None)
    oracles.assert_nothing_left([host], None)
