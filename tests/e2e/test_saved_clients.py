"""Terminals, the guest's clock, output that nobody has read yet, and waits: after a start they are
as after a migration."""
import time

from harness import box, workload
from harness.saving import host, save, start  # noqa: F401
from test_clock import HOUR_NS, clock, set_back  # noqa: F401
from test_terminal import keys_in

AWAY = 2  # seconds for which a VM is saved, where that is to be seen


def test_a_terminal_stays_as_it_is(host, vm):
    with keys_in(host, vm, rows=31, columns=97) as terminal:
        save(host, vm)
        terminal.wait_for(b"is saved")
        assert terminal.is_raw()
        # What is typed meanwhile, and the window's new size, come when it goes on.
        terminal.type(b"abc\r")
        terminal.set_size(50, 132)
        assert b"read 61" not in terminal.screen()
        start(host, vm)
        terminal.wait_for(b"read 6162630a")
        terminal.wait_for(b"size 50 132 lines")
        assert terminal.is_raw() and terminal.screen().count(b"read 6162630a") == 1
        # Its keys are the process's again.
        terminal.type(b"\x03")
        terminal.wait_for(b"signal 2")
        terminal.type(b"q\r")
        assert terminal.wait() == 7
        assert terminal.is_restored()


def test_the_clock_is_right(host, vm, clock):  # noqa: F811
    for wrong in (False, True):
        clock.assert_close()
        if wrong:
            set_back(host, vm)
            clock.ask()
            assert clock.answer() < time.time_ns() - HOUR_NS // 2
        save(host, vm)
        saved = time.monotonic()
        while time.monotonic() < saved + AWAY:
            assert host.ctl.state(vm) == "saved"
        start(host, vm)
        clock.assert_close()


def test_output_that_nobody_has_read_is_there(host, vm):
    random = (workload.PROGRAM, "random", "--bytes", "5000000", "--seed", "9")
    with host.ctl.attach("exec", "-i", vm, "--", *random) as client:
        assert client.wait(120) == 0
        expected = client.output()
    # One waits for whoever reads slowly, the other for somebody to read at all.
    unread = host.ctl.ok("exec", "-d", vm, "--", "sh", "-c", "echo unread; exit 4").strip()
    with host.ctl.attach("exec", "-i", vm, "--", *random) as slow:
        slow.pace(20_000)
        slow.wait_until(lambda output: len(output) > 0)
        for _ in range(2):
            save(host, vm)
            start(host, vm)
        assert len(slow.output()) < len(expected)
        slow.pace(0)
        assert slow.wait(120) == 0, slow.errors()
        assert slow.output() == expected
    with host.ctl.attach("attach", vm, unread) as client:
        assert client.wait() == 4
        assert client.output() == b"unread\n"


def test_whoever_waits_for_a_container_is_told_of_its_end(box_hosts, box_vm):
    host = box_hosts[0]
    waits = "echo up; while ! [ -e /go ]; do sleep 0.1; done; echo over; exit 7"
    run = ("run", "--vm", box_vm, "--name", "waits", box.NAME, "sh", "-c", waits)
    with host.ctl.attach(*run) as waiting:
        waiting.wait_until(lambda output: output == b"up\n")
        for _ in range(2):
            save(host, box_vm)
            host.restart()
            start(host, box_vm)
            assert waiting.running()
        host.ctl.ok("exec", "--container", "waits", "--", "touch", "/go")
        assert waiting.wait() == 7, waiting.errors()
        assert waiting.output() == b"up\nover\n"
    assert box.inspect(host, "waits")["exit_status"] == {"code": 7}
    # One that nobody waits for while it ends is told of when it is asked about.
    host.ctl.ok("run", "-d", "--vm", box_vm, "--name", "late", box.NAME, "sh", "-c",
                "sleep 2; echo late; exit 3")
    save(host, box_vm)
    start(host, box_vm)
    with host.ctl.attach("container", "attach", "late") as late:
        assert late.wait() == 3, late.errors()
        assert late.output() == b"late\n"
