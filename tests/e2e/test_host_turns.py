"""Hosts that go down and come back: each VM is saved, shut down, left alone or started as it is to be."""
import signal
import time

import pytest

from harness.saving import host, own_files, start, talk  # noqa: F401
from harness.waiting import wait_for


def states(host, *vms):
    return tuple(host.ctl.state(vm) for vm in vms)


@pytest.fixture
def no_room(host, vm, isolated):
    """The VM is to be saved where it is stopped, and there is no room for that."""
    host.ctl.ok("vm", "set", vm, "--save-on-stop", "yes")
    host.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", host.state / "saved"], check=True)


def test_what_cannot_be_saved_runs_on_or_is_shut_down(host, vm, talk, no_room):
    host.ctl.create("plain")
    host.ctl.start("plain")
    host.flags = ["--stop-vms", "--unattended-save", "require"]
    host.restart()
    assert host.stop() == 0
    assert "not stopped with its host" in host.log_tail(200)
    host.flags = ["--stop-vms"]
    host.start()
    # What nobody wants to be saved is shut down in any case.
    assert states(host, vm, "plain") == ("running", "stopped")
    talk.assert_goes_on()
    talk.finish()
    assert host.stop() == 0
    assert "shut down instead" in host.log_tail(200)
    host.flags = []
    host.start()
    assert states(host, vm, "plain") == ("stopped", "stopped")
    assert not own_files(host, vm)


def test_what_takes_too_long_runs_on(host, vm, talk):
    host.ctl.ok("vm", "set", vm, "--save-on-stop", "yes")
    # Before anybody gives up a VMM that hangs.
    host.flags = ["--stop-vms", "--stop-vms-within", "5"]
    host.restart()
    hung = host.ctl.vm(vm)["vmm_pid"]
    host.signal_process(hung, signal.SIGSTOP)
    begun = time.monotonic()
    assert host.stop() == 0
    assert time.monotonic() - begun >= 5
    assert "have not stopped in time" in host.log_tail(200)
    host.signal_process(hung, signal.SIGCONT)
    host.flags = []
    host.start()
    wait_for(lambda: host.ctl.state(vm) == "running", "it does not go on")
    assert not own_files(host, vm)
    talk.assert_goes_on()
    talk.finish()


def test_its_configuration_file_says_how_a_host_goes_down(host, vm, talk):
    file = host.folder / "ferryd.yaml"
    host.outside(file).write_text("save-on-stop: true\nstop-vms: true\nstop-vms-within: 50\n"
                                  "unattended-save: require\n")
    host.ctl.create("plain")
    host.ctl.ok("vm", "set", "plain", "--save-on-stop", "no")
    host.ctl.start("plain")
    host.flags = ["--config", file]
    host.restart()
    assert host.stop() == 0
    assert not host.processes("qemu-system")
    host.flags = []
    host.start()
    assert states(host, vm, "plain") == ("saved", "stopped")
    start(host, vm)
    talk.assert_goes_on()
    talk.finish()


def test_a_vm_is_made_to_be_saved_and_to_come_back(host, isolated):
    host.ctl.create("own", "256M", 1, "--save-on-stop", "--autostart")
    host.ctl.create("plain")
    for vm in ("own", "plain"):
        host.ctl.start(vm)
    host.ctl.ok("exec", "own", "--", "sh", "-c", "echo once > /tmp/note")
    host.ctl.ok("stop", "own")
    assert host.ctl.state("own") == "saved"
    host.lose_power()
    host.start()
    wait_for(lambda: host.ctl.state("own") == "running", "it is not started")
    assert host.ctl.state("plain") == "stopped"
    assert host.ctl.exec("own", "cat", "/tmp/note").stdout == "once\n"
    # A daemon that is started anew in the same boot leaves alone what was stopped since.
    host.ctl.ok("stop", "--no-save", "own")
    host.restart()
    assert host.ctl.state("own") == "stopped"
    host.lose_power()
    host.start()
    wait_for(lambda: host.ctl.state("own") == "running", "it is not booted")
    assert host.ctl.exec("own", "cat", "/tmp/note").returncode != 0
    host.ctl.ok("vm", "set", "own", "--autostart", "no")
    host.lose_power()
    # Nothing else is done before that.
    host.start()
    wait_for(lambda: boot_is_known(host), "it does not know its boot")
    assert states(host, "own", "plain") == ("stopped", "stopped")


def boot_is_known(host):
    """Those that are to be started after this boot have been."""
    known = host.outside(host.state / "autostarted")
    boot = host.run(["cat", "/proc/sys/kernel/random/boot_id"], capture_output=True, text=True)
    return known.exists() and known.read_text().strip() == boot.stdout.strip()
