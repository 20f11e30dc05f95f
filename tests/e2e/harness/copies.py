"""Counts the running copies of a VM, whoever is attached to it.

A process in the VM counts up on the VM's console, and each VMM's console goes to a log of its own.
A copy that runs cannot help it: it writes there. So if two copies ever run, the same numbers stand
in two logs.
"""
import os
import re
import select
import threading

from . import workload
from .inotify import Inotify

# The number stands twice, so that no piece of a line, or two of them put together, looks like one:
# what the guest says while no daemon reads its console is lost.
BEAT = re.compile(rb"^beat (\d+) (\d+) \1\r?$", re.M)
INTERVAL_US = 10000
COUNT = (f"{workload.PROGRAM} tick --interval-us {INTERVAL_US} </dev/null | "
         "while read -r word number time; do echo beat $number $time $number; done >/dev/console")


class CopyCounter:
    """Watches the consoles of all VMMs of these hosts, of which only one VM is counted."""

    def __init__(self, hosts, owner, vm):
        self._logs = {}  # (host, the VMM's folder): descriptors of its logs, oldest first
        self._said = None  # all of them, once they are closed
        self._noticed = threading.Condition()  # holds for the logs, and tells that they grew
        self._leave, self._leaving = os.pipe()
        self._inotify = Inotify()
        self._hosts = {host.outside(host.state / "vm"): host.name for host in hosts}
        for folder in self._hosts:
            self._inotify.watch(folder)
            for entry in folder.iterdir():
                self._on_name(folder, entry.name)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        owner.ctl.ok("exec", "-d", vm, "--", "sh", "-c", COUNT)
        self.wait_for(b"beat ")

    def _run(self):
        while True:
            ready, _, _ = select.select([self._inotify, self._leave], [], [])
            if self._leave in ready:
                return
            for folder, name in self._inotify.appeared():
                self._on_name(folder, name)
            with self._noticed:
                self._noticed.notify_all()

    def _on_name(self, folder, name):
        path = folder / name
        try:
            if folder in self._hosts and path.is_dir():
                self._inotify.watch(path)
                if (path / "console.log").exists():
                    self._open(path)
            elif name == "console.log":
                self._open(folder)
        except OSError:
            pass  # gone already

    def _open(self, folder):
        # An open file can be read to its end when its name is gone with the VM.
        fd = os.open(folder / "console.log", os.O_RDONLY | os.O_CLOEXEC)
        with self._noticed:
            logs = self._logs.setdefault((self._hosts[folder.parent], folder.name), [])
            if any(os.path.sameopenfile(fd, known) for known in logs):
                os.close(fd)
            else:
                logs.append(fd)

    def text(self):
        """All that was said on the console of each VMM: {(host, folder): bytes}.

        A report asks for it when the hosts are gone, too.
        """
        with self._noticed:
            if self._said is not None:
                return self._said
            return {key: b"".join(os.pread(fd, 1 << 20, 0) for fd in fds)
                    for key, fds in self._logs.items()}

    def said(self, words):
        """Whether these words stand on any console."""
        return any(words in text for text in self.text().values())

    def wait_for(self, words, timeout=60):
        with self._noticed:
            assert self._noticed.wait_for(lambda: self.said(words), timeout), (
                f"nobody said {words!r}")

    def beats(self):
        """The numbers in the log of each VMM in which there are any."""
        found = {key: [int(match[1]) for match in BEAT.finditer(text)]
                 for key, text in self.text().items()}
        return {key: numbers for key, numbers in found.items() if numbers}

    def assert_never_two(self):
        """No number was counted twice, and the logs follow each other."""
        spans = []
        for key, numbers in self.beats().items():
            assert numbers == sorted(set(numbers)), f"a copy on {key} went back"
            spans.append((numbers[0], numbers[-1], key))
        assert spans, "nothing was counted"
        spans.sort()
        for (_, last, key), (first, _, later) in zip(spans, spans[1:]):
            assert last < first, f"two copies ran: {key} up to {last}, {later} from {first} on"

    def close(self):
        if not self._thread.is_alive():
            return
        os.write(self._leaving, b"x")
        self._thread.join()
        self._said = self.text()
        self._inotify.close()
        for fd in (self._leave, self._leaving, *sum(self._logs.values(), [])):
            os.close(fd)
