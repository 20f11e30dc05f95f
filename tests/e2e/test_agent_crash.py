"""A guest agent that crashes says on the console where it was; what others send it does not end it."""
import contextlib
import subprocess

import pytest

from harness.build import guest_binaries
from harness.records import shell
from harness.saving import host  # noqa: F401
from harness.waiting import wait_for

ALL_SIGNALS = "kill -SEGV 1 && kill -BUS 1 && kill -ILL 1 && kill -FPE 1 && kill -ABRT 1"
# What it does when it is asked to send a signal, and never else.
HANDLER = "ferry::bridge::GuestServer::OnSignal"


def address_of(function):
    names = subprocess.run(["nm", "--demangle", guest_binaries() / "ferry-guest"],
                           capture_output=True, text=True, check=True)
    line, = [each for each in names.stdout.splitlines()
             if each.partition(" T ")[2].partition("[")[0].partition("(")[0] == function]
    return int(line.split()[0], 16)


def no_instruction(_):
    return b"\x0f\x0b"


def jump_to_abort(at):
    return b"\xe9" + (address_of("abort") - at - 5).to_bytes(4, "little", signed=True)


@contextlib.contextmanager
def console(host):  # noqa: F811
    """What is said on the console of its VM; also what is there when the VM has ended, and its folder
    has been removed."""
    path, = host.outside(host.state / "vm").glob("*/console.log")
    with open(path, errors="replace") as log:
        yield log


def test_signals_that_others_send_change_nothing(host, vm):  # noqa: F811
    with console(host) as log:
        for _ in range(2):
            shell(host, vm, ALL_SIGNALS)
        assert shell(host, vm, "echo here") == "here"
        assert "it crashes" not in log.read()


@pytest.mark.parametrize("code, signal", [(no_instruction, 4), (jump_to_abort, 6)])
def test_it_says_once_where_it_was(host, vm, code, signal):  # noqa: F811
    at = address_of(HANDLER)
    written = "".join(f"\\{byte:03o}" for byte in code(at))
    with console(host) as log:
        shell(host, vm, f"{ALL_SIGNALS}; printf '{written}' | "
                        f"dd of=/proc/1/mem bs=1 seek={at} conv=notrunc 2>/dev/null")
        process = host.ctl.ok("exec", "-d", vm, "--", "sleep", "1000").strip()
        host.ctl.run("kill", vm, process)
        wait_for(lambda: host.ctl.state(vm) in ("stopped", "failed"), "its VM is not seen to end")
        said = log.read()
    assert said.count("ferry-guest: it crashes: ") == 1, said
    assert f"ferry-guest: it crashes: signal 0x{signal:x} at " in said, said
    if code is no_instruction:
        assert f"crash: rip={at:x} -> " in said, said
    assert said.count("crash: stack ") > 3, said
