"""What goes wrong says so, leaves the VM where it was, and leaves nothing behind."""
import signal
import time

from harness import oracles


def assert_refused(result, *words):
    assert result.returncode != 0, result.stdout
    text = result.stderr.lower()
    assert all(word.lower() in text for word in words), result.stderr


def test_unknown_vm_is_named(two_hosts):
    ctl = two_hosts[0].ctl
    for command in (["vm", "start", "nobody"], ["vm", "inspect", "nobody"], ["ps", "nobody"],
                    ["migrate", "nobody", "--to", two_hosts[1].address]):
        result = ctl.run(*command)
        assert_refused(result, "nobody")
        assert result.returncode == 4
        oracles.assert_next_step(result.stderr, "ferryctl list")
    result = ctl.run("exec", "nobody", "--", "true")
    assert result.returncode == 125
    assert_refused(result, "nobody")
    oracles.assert_next_step(result.stderr, "ferryctl list")


def test_wrong_states_are_refused(two_hosts):
    ctl = two_hosts[0].ctl
    ctl.create("idle")
    assert_refused(ctl.run("vm", "create", "idle"), "idle")
    for command in (["vm", "pause", "idle"], ["vm", "resume", "idle"],
                    ["exec", "idle", "--", "true"],
                    ["migrate", "idle", "--to", two_hosts[1].address]):
        result = ctl.run(*command)
        assert result.returncode == (125 if command[0] == "exec" else 4), command
        assert_refused(result, "idle", "STOPPED")
        oracles.assert_next_step(result.stderr, "ferryctl start idle")
    oracles.assert_nothing_left(two_hosts, None)
    ctl.ok("vm", "delete", "idle")
    assert ctl.state("idle") == "absent"


def test_a_paused_vm_is_to_be_resumed(two_hosts, vm):
    ctl = two_hosts[0].ctl
    ctl.ok("vm", "pause", vm)
    for command in (["vm", "start", vm], ["vm", "stop", vm], ["exec", vm, "--", "true"]):
        result = ctl.run(*command)
        assert_refused(result, vm, "paused")
        oracles.assert_next_step(result.stderr, f"ferryctl vm resume {vm}")
    ctl.ok("vm", "resume", vm)
    assert ctl.exec(vm, "echo", "here").stdout == "here\n"


def test_a_running_vm_is_not_deleted(two_hosts, vm):
    ctl = two_hosts[0].ctl
    result = ctl.run("vm", "delete", vm)
    assert_refused(result, vm)
    assert f"ferryctl stop {vm}" in result.stderr
    assert ctl.state(vm) == "running"


def test_unreachable_destination_leaves_the_vm_running(two_hosts, vm):
    source, destination = two_hosts
    destination.stop()
    result = source.ctl.run("migrate", vm, "--to", destination.address)
    assert_refused(result, destination.address)
    assert "check that ferryd runs there" in result.stdout + result.stderr, result
    assert source.ctl.state(vm) == "running"
    assert source.ctl.exec(vm, "echo", "here").stdout == "here\n"
    oracles.assert_one_copy(two_hosts, source)
    oracles.assert_nothing_left(two_hosts, source)


def test_bad_options_are_refused_before_anything_happens(two_hosts, vm):
    source, destination = two_hosts
    before = len(source.ctl.sessions())
    # Each says which option it is, what was given, and what could be.
    for option, could_be in ((["--downtime-limit", "soon"], "ms"),
                             (["--max-bandwidth", "-1"], "256M")):
        result = source.ctl.run("migrate", vm, "--to", destination.address, *option)
        assert result.returncode == 2
        assert all(word in result.stderr for word in (*option, could_be)), result.stderr
    assert len(source.ctl.sessions()) == before
    assert source.ctl.state(vm) == "running"


def test_qemu_that_dies_is_noticed_and_the_vm_starts_again(two_hosts, vm):
    host = two_hosts[0]
    pid = int(host.ctl.vm(vm)["vmm_pid"])
    with host.ctl.attach("exec", "-i", vm, "--", "cat") as client:
        client.write(b"up\n")
        client.wait_until(lambda output: output == b"up\n")
        host.signal_process(pid, signal.SIGKILL)
        assert client.wait(60) == 125
        assert "signal 9" in client.errors()
        oracles.assert_next_step(client.errors(), f"ferryctl vm inspect {vm}",
                                 f"ferryctl start {vm}")
    deadline = time.monotonic() + 60
    while host.ctl.state(vm) not in ("failed", "stopped"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert host.processes("qemu-system") == []
    oracles.assert_nothing_left(two_hosts, None)
    result = host.ctl.exec(vm, "true")
    assert result.returncode == 125
    assert_refused(result, "FAILED", "signal 9")
    oracles.assert_next_step(result.stderr, f"ferryctl vm inspect {vm}")
    assert "signal 9" in host.ctl.ok("vm", "inspect", vm)
    host.ctl.start(vm)
    assert host.ctl.exec(vm, "echo", "again").stdout == "again\n"


def test_daemon_that_is_told_to_end_ends_in_order(two_hosts, vm):
    assert two_hosts[0].stop() == 0


def test_stopped_vm_leaves_no_process(two_hosts, vm):
    host = two_hosts[0]
    host.ctl.ok("vm", "stop", vm)
    assert host.ctl.state(vm) == "stopped"
    assert host.processes("qemu-system") == []
    host.ctl.ok("vm", "start", vm)
    host.ctl.ok("vm", "stop", "--force", vm)
    assert host.processes("qemu-system") == []
    host.ctl.ok("vm", "delete", vm)
