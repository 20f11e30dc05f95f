"""What people have open in a terminal goes on when its VM migrates: a shell with jobs, an editor,
and a program that draws the screen again and again. In the VM itself, and in a container."""
import contextlib

import pytest

from harness import box

CTRL_C, CTRL_Z, ESCAPE = b"\x03", b"\x1a", b"\x1b"
PROMPT = b"ready> "


@pytest.fixture(params=["vm", "container"])
def open_terminal(request, box_hosts, box_vm, tmp_path):
    """Opens a terminal with a program in the VM, or in a container in it."""
    ctl = box_hosts[0].ctl

    def open_one(*command):
        if request.param == "vm":
            return ctl.terminal("exec", "-it", "-e", "TERM=vt100", box_vm, "--", *command)
        return ctl.terminal("run", "-it", "--rm", "--vm", box_vm, "--scratch-dir", tmp_path,
                            "-e", "TERM=vt100", box.NAME, *command)
    return open_one


@contextlib.contextmanager
def there_and_back(box_hosts):
    """The body runs at the destination, and the VM is at the source again behind it."""
    box_hosts[0].ctl.migrate("vm", box_hosts[1])
    yield
    box_hosts[1].ctl.migrate("vm", box_hosts[0])


def test_a_shell_with_jobs_goes_on(box_hosts, open_terminal):
    with open_terminal("sh") as terminal:
        terminal.type(b"PS1='rea''dy> '\r")
        terminal.wait_for(PROMPT)
        # It says when it runs: a key that comes earlier would be the shell's.
        terminal.type(b"sh -c 'echo u''p; exec sleep 1000'\r")
        terminal.wait_for(b"\nup\r\n")
        terminal.type(CTRL_Z)
        terminal.wait_for(b"Stopped", count=1)
        terminal.wait_for(PROMPT, count=2)
        with there_and_back(box_hosts):
            terminal.type(b"jobs\r")
            terminal.wait_for(b"Stopped", count=2)
            terminal.wait_for(PROMPT, count=3)
            terminal.type(b"fg\r")
            terminal.wait_for(b"fg\r\nsh -c")
        terminal.type(CTRL_C)
        terminal.wait_for(PROMPT, count=4)
        terminal.type(b"echo status $?\r")
        terminal.wait_for(b"status 130\r\n")
        terminal.type(b"exit 3\r")
        assert terminal.wait() == 3
        assert terminal.is_restored()


def test_an_editor_goes_on_in_the_middle_of_a_word(box_hosts, open_terminal):
    with open_terminal("sh", "-c", "vi /tmp/note; echo; cat /tmp/note; exit 4") as terminal:
        terminal.wait_for(b"~")
        terminal.type(b"ihel")
        terminal.wait_for(b"hel")
        with there_and_back(box_hosts):
            terminal.type(b"lo, wor")
        terminal.type(b"ld" + ESCAPE)
        terminal.wait_for(b"- /tmp/note [Modified]")
        terminal.type(b":wq\r")
        assert terminal.wait() == 4
        assert b"\nhello, world\r\n" in terminal.screen()
        assert terminal.is_restored()


def test_a_program_that_draws_the_screen_goes_on(box_hosts, open_terminal):
    with open_terminal("top", "-d", "1") as terminal:
        terminal.wait_for(b"Mem:", count=2)
        with there_and_back(box_hosts):
            seen = terminal.screen().count(b"Mem:")
            terminal.wait_for(b"Mem:", count=seen + 2)
        seen = terminal.screen().count(b"Mem:")
        terminal.wait_for(b"Mem:", count=seen + 2)
        terminal.type(b"q")
        assert terminal.wait() == 0
        assert terminal.is_restored()
