"""Processes of every kind that has streams, and whoever is attached to each: of the VM, a container's
own and others in it, with pipes and with a terminal."""
import contextlib

from . import box, workload

OF_THE_VM, INIT, IN_CONTAINER = "VM", "init", "exec"
KINDS = [(place, terminal) for place in (OF_THE_VM, INIT, IN_CONTAINER)
         for terminal in (False, True)]


class OnTerminal:
    """Somebody at a terminal, as one who has pipes is told of and told."""

    CLEARED = b"\r\x1b[K"  # where ferryctl took back what it said of itself, before it was attached

    def __init__(self, terminal):
        self._terminal = terminal
        self._closed = False

    def write(self, keys):
        self._terminal.type(keys)

    def output(self):
        return self._terminal.screen().rpartition(self.CLEARED)[2]

    @property
    def received(self):
        return len(self._terminal.screen())

    def wait_until(self, condition, timeout=60):
        self._terminal.wait_until(condition, "waited in vain", timeout)

    def running(self):
        return self._terminal.running()

    def signal(self, number):
        self._terminal.signal(number)

    def wait(self, timeout=60):
        return self._terminal.wait(timeout)

    def errors(self):
        return self.output()[-500:].decode(errors="replace")

    def close(self):
        if not self._closed:
            self._terminal.close()
        self._closed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def open_one(host, vm, kind, folder, *command):
    """A ferryctl that is attached to this command, which it has started. A terminal passes on every
    byte as it is. `folder` has the scratch disks; a container is named after its kind."""
    place, has_terminal = kind
    if has_terminal:
        command = ("sh", "-c", 'stty raw -echo; exec "$@"', "sh", *command)
    flags = "-it" if has_terminal else "-i"
    words = {
        OF_THE_VM: ("exec", flags, vm, "--", *command),
        INIT: ("run", flags, "--name", "terminal" if has_terminal else "pipes", "--vm", vm,
               "--scratch-dir", folder, box.NAME, *command),
        IN_CONTAINER: ("exec", flags, "--container", "home", "--", *command),
    }[place]
    if has_terminal:
        return OnTerminal(host.ctl.terminal(*words))
    return host.ctl.attach(*words)


@contextlib.contextmanager
def open_all(host, vm, folder, *command, kinds=KINDS):
    """{kind: whoever is attached to it}."""
    if not any(one["spec"]["name"] == "home" for one in box.containers(host)):
        host.ctl.ok("run", "-d", "--name", "home", "--vm", vm, "--scratch-dir", folder, box.NAME,
                    "sleep", "100000")
    with contextlib.ExitStack() as opened:
        yield {kind: opened.enter_context(open_one(host, vm, kind, folder, *command))
               for kind in kinds}


def ticker(interval_us):
    return workload.PROGRAM, "tick", "--interval-us", str(interval_us)
