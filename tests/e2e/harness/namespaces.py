"""A network, mount and process namespace that goes away with whoever made it."""
import os
import pathlib
import select
import signal
import subprocess
import sys

from .build import is_sanitized

HOLDER = pathlib.Path(__file__).with_name("holder.py")


class Refused(Exception):
    """This machine does not let us make namespaces."""


class Namespace:
    """Holds the three namespaces of one host; ending it ends every process inside."""

    def __init__(self, private_folder, shared_folder=None):
        # The kernel ends unshare with us, unshare ends the holder, and as the first process of its
        # process namespace the holder takes all others with it.
        self._unshare = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork",
             "--kill-child=KILL", "--propagation", "private", sys.executable, HOLDER,
             private_folder, *([shared_folder] if shared_folder else [])],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._holder = None
        if self._unshare.stdout.readline() != "ready\n":
            error = self._unshare.stderr.read().strip()
            self.close()
            raise Refused(error or "unshare ended without a word")
        children = pathlib.Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self.pid = int(children.read_text().split()[0])
        self._holder = os.pidfd_open(self.pid)

    def wrap(self, command, client=False):
        """The command line that runs `command` inside.

        A client stays in our process namespace: so it is our own child, not nsenter's.
        """
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount"]
        if not client:
            return [*enter, "--pid", "--", *map(str, command)]
        enter.append("--")
        if is_sanitized():
            # A sanitizer looks itself up in /proc, and the one inside knows only processes inside.
            enter += ["unshare", "--mount-proc", "--"]
        return [*enter, *map(str, command)]

    def outside(self, path):
        """Where a path inside is seen from outside."""
        return pathlib.Path(f"/proc/{self.pid}/root{path}")

    def close(self):
        if self._holder is not None:
            # The first process is gone only when all others in its namespace are.
            try:
                signal.pidfd_send_signal(self._holder, signal.SIGKILL)
                select.select([self._holder], [], [], 30)
            except ProcessLookupError:
                pass
            os.close(self._holder)
            self._holder = None
        self._unshare.kill()
        self._unshare.wait()
        self._unshare.stdout.close()
        self._unshare.stderr.close()


def connect(one, other, addresses):
    """A cable between two namespaces, with an address (with prefix length) at each end."""
    try:
        subprocess.run(["ip", "link", "add", "ferry0", "netns", str(one.pid), "type", "veth",
                        "peer", "name", "ferry0", "netns", str(other.pid)],
                       check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refused(getattr(error, "stderr", str(error))) from error
    for namespace, address in zip((one, other), addresses):
        for arguments in (["addr", "add", address, "dev", "ferry0"],
                          ["link", "set", "ferry0", "up"], ["link", "set", "lo", "up"]):
            subprocess.run(namespace.wrap(["ip", *arguments]), check=True, timeout=30)
