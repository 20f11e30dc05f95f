"""exec -it and attach on a real terminal: mode, size, keys, and a migration in between."""
import signal

import pytest

from harness import workload

KEYS = (workload.PROGRAM, "keys")
CTRL_C, CTRL_D, CTRL_BACKSLASH = b"\x03", b"\x04", b"\x1c"


def keys_in(host, vm, *options, detach_keys="ctrl-p,ctrl-q", **size):
    """A session with the program that tells of its keys, ready for the first of them."""
    terminal = host.ctl.terminal("exec", "-it", "--detach-keys", detach_keys, vm, "--", *KEYS,
                                 *options, **size)
    terminal.wait_for_line(b"size ")
    return terminal


def test_terminal_is_raw_during_the_session_and_as_before_after_it(two_hosts, vm):
    with keys_in(two_hosts[0], vm, rows=31, columns=97) as terminal:
        # Ours is raw, the guest's is an ordinary one, of the same size.
        assert terminal.is_raw()
        assert terminal.lines()[0] == b"size 31 97 lines"
        terminal.type(b"abc\r")
        terminal.wait_for(b"read 6162630a")
        # The echo is the guest's, once.
        assert terminal.screen().count(b"abc") == 1
        terminal.type(b"q\r")
        assert terminal.wait() == 7
        assert terminal.is_restored()


def test_control_keys_go_to_the_guest_and_not_to_ferryctl(two_hosts, vm):
    with keys_in(two_hosts[0], vm) as terminal:
        terminal.type(CTRL_C)
        terminal.wait_for(b"signal 2\r\n")
        terminal.type(CTRL_C)  # a second one at once is a key too
        terminal.wait_for(b"signal 2\r\n", count=2)
        terminal.type(CTRL_BACKSLASH)
        terminal.wait_for(b"signal 3\r\n")
        assert terminal.running()
        terminal.type(CTRL_D)
        assert terminal.wait() == 5
        assert terminal.is_restored()


def test_a_raw_program_reads_every_byte_as_typed(two_hosts, vm):
    typed = bytes(byte for byte in range(256) if byte != ord("q"))
    with keys_in(two_hosts[0], vm, "--raw", "1", detach_keys="") as terminal:
        assert b"size 24 80 raw" in terminal.lines()[0]
        terminal.type(typed)
        terminal.wait_for(typed[-1:].hex().encode() + b"\n")
        terminal.type(b"q")
        assert terminal.wait() == 7
        assert workload.keys_read(terminal.screen()) == typed + b"q"


def test_ctrl_c_that_kills_the_process_gives_its_status(two_hosts, vm):
    with two_hosts[0].ctl.terminal("exec", "-it", vm, "--", "sh", "-c",
                                   "echo ready; exec sleep 1000") as terminal:
        terminal.wait_for(b"ready")
        terminal.type(CTRL_C)
        assert terminal.wait() == 128 + signal.SIGINT
        assert terminal.is_restored()


def test_a_new_size_reaches_the_process(two_hosts, vm):
    with keys_in(two_hosts[0], vm) as terminal:
        for rows, columns in ((50, 132), (3, 5), (24, 80)):
            terminal.set_size(rows, columns)
            terminal.wait_for(f"size {rows} {columns} lines".encode(),
                              count=2 if rows == 24 else 1)
        assert terminal.is_raw()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_ferryctl_restores_the_terminal(two_hosts, vm, number):
    with keys_in(two_hosts[0], vm) as terminal:
        terminal.signal(number)
        assert terminal.wait() == 128 + number
        assert terminal.is_restored()
        terminal.wait_for(b"Attach again with")
    # The process goes on, and can be attached to on another terminal, of another size.
    process = str(two_hosts[0].ctl.processes(vm)[0]["id"])
    with two_hosts[0].ctl.terminal("attach", vm, process, rows=40, columns=100) as terminal:
        terminal.wait_for(b"size 40 100 lines")
        assert terminal.is_raw()
        terminal.type(b"q\r")
        assert terminal.wait() == 7
        assert terminal.is_restored()


def test_detach_keys_leave_the_process_for_another_client(two_hosts, vm):
    ctl = two_hosts[0].ctl
    with keys_in(two_hosts[0], vm) as terminal:
        # One of them alone is for the process.
        terminal.type(b"a\x10b\r")
        terminal.wait_for(b"read " + b"a\x10b\n".hex().encode())
        terminal.type(b"last\r\x10\x11")
        assert terminal.wait() == 0
        assert terminal.is_restored()
        terminal.wait_for(b"Attach again with")
    process = str(ctl.processes(vm)[0]["id"])
    # What was typed before them has arrived, and the size is the new window's.
    with ctl.terminal("attach", "--detach-keys", "ctrl-a,d", vm, process, rows=40,
                      columns=100) as terminal:
        terminal.wait_for(b"read " + b"last\n".hex().encode())
        terminal.wait_for(b"size 40 100 lines")
        terminal.type(b"\x01d")
        assert terminal.wait() == 0
    with ctl.terminal("attach", vm, process) as terminal:
        terminal.type(b"q\r")
        assert terminal.wait() == 7
    assert ctl.run("attach", "--detach-keys", "alt-x", vm, process).returncode == 125


def test_interrupts_from_elsewhere_reach_the_process_then_detach(two_hosts, vm):
    with keys_in(two_hosts[0], vm) as terminal:
        terminal.signal(signal.SIGINT)
        terminal.wait_for(b"signal 2\r\n")
        terminal.signal(signal.SIGINT)
        assert terminal.wait() == 130
        assert terminal.is_restored()


def test_a_window_that_closes_detaches_and_leaves_the_process(two_hosts, vm):
    ctl = two_hosts[0].ctl
    with keys_in(two_hosts[0], vm) as terminal:
        terminal.type(b"half a line")
        terminal.wait_for(b"half a line")
        terminal.hang_up()
        assert terminal.wait() == 128 + signal.SIGHUP
    process = ctl.processes(vm)[0]
    assert process["running"] and not process.get("attached")
    with ctl.terminal("attach", vm, str(process["id"])) as terminal:
        terminal.type(b"\r")
        terminal.wait_for(b"read " + b"half a line\n".hex().encode())
        terminal.type(b"q\r")
        assert terminal.wait() == 7


def test_a_session_that_is_taken_over_restores_the_terminal(two_hosts, vm):
    ctl = two_hosts[0].ctl
    with keys_in(two_hosts[0], vm) as first:
        process = str(ctl.processes(vm)[0]["id"])
        with ctl.terminal("attach", "--steal", vm, process, rows=30, columns=90) as second:
            assert first.wait() == 125
            assert first.is_restored()
            second.wait_for(b"size 30 90 lines")
            second.type(b"q\r")
            assert second.wait() == 7


def test_a_session_whose_vm_is_gone_restores_the_terminal(two_hosts, vm):
    host = two_hosts[0]
    with keys_in(host, vm) as terminal:
        host.kill()
        for pid, _ in host.processes("qemu-system"):
            host.signal_process(pid, signal.SIGKILL)
        host.start()
        assert terminal.wait(90) == 125
        assert terminal.is_restored()
        assert b"Error: " in terminal.screen()


def test_a_daemon_that_is_away_leaves_the_terminal_usable(two_hosts, vm):
    with keys_in(two_hosts[0], vm) as terminal:
        two_hosts[0].kill()
        terminal.type(b"typed meanwhile\r")
        two_hosts[0].start()
        terminal.wait_for(b"read " + b"typed meanwhile\n".hex().encode(), timeout=90)
        two_hosts[0].kill()
        terminal.signal(signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM
        assert terminal.is_restored()


def test_a_migration_keeps_mode_size_and_every_byte(two_hosts, vm):
    source, destination = two_hosts
    typed = bytearray()
    with keys_in(source, vm, "--raw", "1", detach_keys="", rows=31, columns=97) as terminal:
        def type_some(host, other):
            mover = host.ctl.attach("migrate", vm, "--to", other.address)
            with mover:
                while mover.running():
                    piece = bytes((len(typed) + i) % 256 for i in range(16)).replace(b"q", b"-")
                    typed.extend(piece)
                    terminal.type(piece)
                    # No faster than a hand: each piece is seen before the next.
                    last = piece[-1:].hex().encode()
                    terminal.wait_for(last + b"\n")
                assert mover.wait() == 0, mover.errors()

        type_some(source, destination)
        assert terminal.is_raw()
        # A size of after the move reaches the process there.
        terminal.set_size(44, 120)
        terminal.wait_for(b"size 44 120 raw")
        type_some(destination, source)
        terminal.type(b"q")
        assert terminal.wait() == 7
        assert terminal.is_restored()
        assert workload.keys_read(terminal.screen()) == bytes(typed) + b"q"
        sizes = [line for line in terminal.lines() if line.startswith(b"size")]
        assert sizes[0] == b"size 31 97 raw"
        # Attaching again may tell the process its size anew, but never another one.
        assert set(sizes[1:]) <= {b"size 31 97 raw", b"size 44 120 raw"}


def test_a_size_changed_during_a_migration_arrives(two_hosts, vm):
    source, destination = two_hosts
    with keys_in(source, vm) as terminal:
        mover = source.ctl.attach("migrate", vm, "--to", destination.address, "--json")
        with mover:
            mover.wait_until(lambda output: b"BLACKOUT_STARTED" in output or not mover.running())
            terminal.set_size(60, 160)
            assert mover.wait() == 0, mover.errors()
        terminal.wait_for(b"size 60 160 lines")
        terminal.type(CTRL_D)
        assert terminal.wait() == 5


def test_a_terminal_session_without_a_terminal_is_refused(two_hosts, vm):
    ctl = two_hosts[0].ctl
    result = ctl.run("exec", "-it", vm, "--", "sh")
    assert result.returncode == 125
    assert "not a terminal" in result.stderr and "-t" in result.stderr
    assert ctl.processes(vm) == []
    # Without stdin there is nothing to be a terminal, and a detached one is for a later client.
    assert ctl.ok("exec", "-t", vm, "--", "tty").startswith("/dev/")
    ctl.ok("exec", "-d", "-i", "-t", vm, "--", "cat")


def test_without_stdin_the_terminal_stays_as_it_is(two_hosts, vm):
    ctl = two_hosts[0].ctl
    with ctl.terminal("exec", "-t", vm, "--", *KEYS, rows=20, columns=70) as terminal:
        terminal.wait_for(b"size 20 70 lines")
        assert terminal.is_restored()
        terminal.type(CTRL_C)  # no key of the process's, so the interrupt is ferryctl's to pass on
        terminal.wait_for(b"signal 2")
        ctl.ok("kill", "-s", "KILL", vm, str(ctl.processes(vm)[0]["id"]))
        assert terminal.wait() == 128 + signal.SIGKILL


def test_the_end_of_piped_input_is_the_end_of_a_terminals(two_hosts, vm):
    ctl = two_hosts[0].ctl
    process = ctl.ok("exec", "-d", "-i", "-t", vm, "--", *KEYS).strip()
    with ctl.attach("attach", vm, process) as client:
        client.write(b"no newline")
        client.close_stdin()
        assert client.wait() == 5, client.errors()
        assert b"read " + b"no newline".hex().encode() in client.output()
