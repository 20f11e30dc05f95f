"""A guest agent that crashes says on the console where it was; what others send it does not end it."""
import contextlib
import subprocess

from harness.build import ROOT
from harness.records import shell
from harness.saving import host  # noqa: F401
from harness.waiting import wait_for

# Which agent is in the image, whatever build its daemons are from.
AGENT = ROOT / "build" / "dev" / "bin" / "ferry-guest"
LOOP = "boost::asio::detail::epoll_reactor::run("
NO_INSTRUCTION = r"\017\013"


def address_of(function):
    names = subprocess.run(["nm", "--demangle", AGENT], capture_output=True, text=True, check=True)
    line, = [each for each in names.stdout.splitlines() if f" T {function}" in each]
    return int(line.split()[0], 16)


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
            shell(host, vm, "kill -SEGV 1 && kill -ABRT 1")
        assert shell(host, vm, "echo here") == "here"
        assert "it crashes" not in log.read()


def test_it_says_where_it_was(host, vm):  # noqa: F811
    address = address_of(LOOP)
    with console(host) as log:
        host.ctl.ok("exec", "-d", vm, "--", "sh", "-c",
                    f"printf '{NO_INSTRUCTION}' | "
                    f"dd of=/proc/1/mem bs=1 seek={address} conv=notrunc")
        wait_for(lambda: host.ctl.state(vm) in ("stopped", "failed"), "its VM is not seen to end")
        said = log.read()
    assert "ferry-guest: it crashes: signal 0x4 at " in said, said
    assert f"crash: rip={address:x} -> " in said, said
    assert said.count("crash: stack ") > 3, said
