"""Processes that print all they can, and the ferryctl attached to each."""
from . import workload
from .stdio import Attached
from .waiting import wait_for

# More than all of its output that can be under way.
MUCH = 4 << 20


class Flood(Attached):
    """Looks at each line as it comes, and keeps none."""

    def __init__(self, command):
        self.process = None  # its id in the VM
        self._count = 0
        self._lines = 0
        self._rest = b""
        self._wrong = None
        super().__init__(command)

    def _keep(self, piece, sink, now):
        if sink is not self._output:
            super()._keep(piece, sink, now)
            return
        self._count += len(piece)
        whole, end, self._rest = (self._rest + piece).rpartition(b"\n")
        if not end:
            return
        first, self._lines = self._lines, self._lines + whole.count(b"\n") + 1
        expected = b"\n".join(b"flood %d" % number for number in range(first, self._lines))
        if whole != expected and self._wrong is None:
            self._wrong = f"not lines {first} to {self._lines}: {whole[:80]!r}...{whole[-80:]!r}"

    def begin(self):
        """Has the process begin to print."""
        self.write(b"go\n")

    @property
    def received(self):
        with self._changed:
            return self._count

    def wait_for_more(self, count=MUCH):
        """Waits until so much came from now on."""
        goal = self.received + count
        self.wait_until(lambda _: self._count >= goal, timeout=120)

    def assert_whole(self):
        """Each line came once, and all in order."""
        with self._changed:
            assert self._wrong is None, self._wrong
            assert self._lines > 0


def start(ctl, vm, *where):
    """One of them, made by `ferryctl exec` there, which waits for its begin(): what is to be done
    beside it has its turn before."""
    before = ids(ctl, vm)
    made = Flood(ctl.command("exec", "-i", *where, "--", "sh", "-c",
                             f"read -r go; exec {workload.PROGRAM} flood"))

    def appears():
        assert made.running(), made.errors()
        return ids(ctl, vm) - before

    try:
        wait_for(appears, "no process appears")
        (made.process,) = ids(ctl, vm) - before
    except BaseException:
        made.close()
        raise
    return made


def ids(ctl, vm):
    """Those of all processes in the VM."""
    return {process["id"] for process in ctl.processes(vm)}


def printed(host, vm, flood):
    """How many bytes the process has got rid of, by its kernel."""
    counts = host.ctl.ok("exec", vm, "--", "cat", f"/proc/{flood.process}/io").splitlines()
    return int(dict(line.split(": ") for line in counts)["wchar"])
