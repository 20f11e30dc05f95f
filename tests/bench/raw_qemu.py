"""QEMU by itself: the same VM as Ferry's, migrated over TCP by QMP alone."""
import collections
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time

from harness import workload
from harness.stdio import longest_gap_ms

READY = "ferry-guest: ready"
PRINTS = [workload.PROGRAM, "tick"]
DEADLINE = 120  # seconds for anything that QEMU is asked


class QmpError(Exception):
    """QEMU refused a command or went away."""


def connect_unix(path):
    """Connects to a Unix socket, also where its path is longer than an address may be."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        return connection
    finally:
        os.close(folder)


class Qmp:
    """One QMP monitor: commands one at a time, and when each kind of event came last."""

    def __init__(self, connection):
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._waiting = collections.deque()
        self.times = {}  # of the last event of each name, by QEMU's clock, in seconds
        self._stood = []  # (name, seconds) of each STOP and RESUME
        # QEMU may tell of an event before it greets.
        while "QMP" not in self._next():
            pass
        self.command("qmp_capabilities")

    def _next(self):
        line = self._lines.readline()
        if not line:
            raise QmpError("QEMU closed its monitor")
        message = json.loads(line)
        if "event" in message:
            stamp = message["timestamp"]
            time_of = stamp["seconds"] + stamp["microseconds"] / 1e6
            self.times[message["event"]] = time_of
            if message["event"] in ("STOP", "RESUME"):
                self._stood.append((message["event"], time_of))
        return message

    def stood_still_ms(self):
        """How long the guest did, from each STOP to the next RESUME, as far as it was told here."""
        self.command("query-status")  # whatever was told before it is read
        total, since = 0, None
        for name, time_of in self._stood:
            if name == "STOP" and since is None:
                since = time_of
            elif name == "RESUME" and since is not None:
                total, since = total + time_of - since, None
        return total * 1000

    def command(self, name, **arguments):
        request = {"execute": name}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value
                                    for key, value in arguments.items()}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return self._answer(name)

    def _answer(self, name):
        while True:
            message = self._next()
            if "event" in message:
                self._waiting.append(message)
            elif "error" in message:
                raise QmpError(f"{name}: {message['error'].get('desc')}")
            else:
                return message["return"]

    def send_descriptor(self, name, descriptor):
        """Gives QEMU an open file, which it knows by that name from then on."""
        request = {"execute": "getfd", "arguments": {"fdname": name}}
        socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], [descriptor])
        self._answer("getfd")

    def wait_migrated(self):
        """Returns when all of a stream was written or read; QEMU tells that only if it is asked."""
        while True:
            status = self.command("query-migrate").get("status")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise QmpError(f"the migration has {status}")
            time.sleep(0.005)

    def wait(self, event, wanted=lambda data: True):
        """Returns at the next such event; those before it are passed over."""
        while True:
            message = self._waiting.popleft() if self._waiting else self._next()
            if message.get("event") == event and wanted(message.get("data", {})):
                return

    def wait_job(self, job, status):
        self.wait("JOB_STATUS_CHANGE",
                  lambda data: data["id"] == job and data["status"] == status)

    def wait_status(self, status):
        def reached(data):
            if data["status"] in ("failed", "cancelled") and data["status"] != status:
                raise QmpError(f"the migration has {data['status']}")
            return data["status"] == status
        self.wait("MIGRATION", reached)

    def close(self):
        self._lines.close()
        self._socket.close()


def plain_command_line(argv, folder, incoming, program=None):
    """Ferry's command line for a QEMU that makes its sockets itself, in `folder`.

    With a program that is all that runs in the VM; it has the console, whose output is then to be
    read from the socket `console0`.
    """
    words = []
    for word in argv:
        handed_over = re.fullmatch(r"socket,id=(\w+),fd=\d+,(.*)", word)
        if handed_over:
            name, rest = handed_over.groups()
            word = (f"file,id={name},path={folder}/console.log"
                    if name == "console0" and not program
                    else f"socket,id={name},path={folder}/{name},{rest}")
        if program and words and words[-1] == "-append":
            word += f" rdinit={program[0]} -- {' '.join(program[1:])}"
        words.append(word)
    words = [word for word in words if word not in ("-incoming", "defer")]
    return words + (["-incoming", "defer"] if incoming else [])


class ConsoleReader:
    """Reads what a VM prints on its console, wherever it runs, and remembers when it came."""

    def __init__(self):
        self._changed = threading.Condition()
        self._times = []
        self._last = b""
        self._threads = []

    def read_from(self, connection):
        """Returns at once. Reads until the other end is closed."""
        connection.settimeout(None)
        thread = threading.Thread(target=self._read, args=(connection,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _read(self, connection):
        with connection:
            while data := connection.recv(1 << 16):
                with self._changed:
                    self._times.append(time.monotonic())
                    self._last = (self._last + data)[-1000:]
                    self._changed.notify_all()

    def wait_for_output(self, after):
        """Until something came at that time or later."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._times and self._times[-1] >= after, DEADLINE):
                raise QmpError(f"the VM printed nothing; before that: {self._last!r}")

    def last(self):
        with self._changed:
            return self._last

    def longest_gap_ms(self, since, until):
        with self._changed:
            return longest_gap_ms(self._times, since, until)

    def join(self):
        for thread in self._threads:
            thread.join(DEADLINE)


class RawVm:
    """One QEMU process on a host. With a reader the VM does nothing but print to it."""

    def __init__(self, host, argv, incoming=False, reader=None):
        self.host = host
        self.argv = argv
        self.reader = reader
        inside = tempfile.mkdtemp(prefix="raw-", dir=host.outside(host.folder))
        self.folder = host.folder / pathlib.Path(inside).name
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL",
             *host.wrap(plain_command_line(argv, self.folder, incoming, reader and PRINTS),
                        client=True)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.qmp = None
        try:
            self.qmp = Qmp(self._connect("qmp0"))
            if reader:
                reader.read_from(self._connect("console0"))
        except BaseException:
            self.close()
            raise

    def _connect(self, name):
        path = str(self.host.outside(self.folder / name))
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                return connect_unix(path)
            except OSError:
                if self._process.poll() is not None:
                    raise QmpError(self._process.stderr.read().decode().strip()) from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.001)

    def console(self):
        return self.host.outside(self.folder / "console.log").read_text(errors="replace")

    def start(self):
        """Boots the VM and returns when its agent says that it is ready, or its program prints."""
        self.qmp.command("cont")
        if self.reader:
            self.reader.wait_for_output(time.monotonic())
            return
        deadline = time.monotonic() + DEADLINE
        while READY not in self.console():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise QmpError(f"the VM did not boot: {self.console()[-2000:]}")
            time.sleep(0.05)

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()
        if self.qmp:
            self.qmp.close()


class Settings:
    """The capabilities and parameters that Ferry has set in its QEMU."""

    def __init__(self, qmp):
        # QEMU starts with none of them, and is slow to read what it is told.
        self.capabilities = [capability for capability in qmp.command("query-migrate-capabilities")
                             if capability["state"]]
        parameters = qmp.command("query-migrate-parameters")
        # The others stand at QEMU's own values in both.
        self.parameters = {name: parameters[name] for name in ("max-bandwidth", "downtime-limit")}

    def apply(self, qmp):
        qmp.command("migrate-set-capabilities", capabilities=self.capabilities)
        qmp.command("migrate-set-parameters", **self.parameters)


def migrate(vm, destination, settings, uri):
    """Moves `vm` to a new QEMU on `destination`, which is returned with what was measured (ms).

    Counted as total: from the start of the destination's QEMU until it runs the VM.
    """
    started = time.monotonic()
    there = RawVm(destination, vm.argv, incoming=True, reader=vm.reader)
    try:
        for qmp in (vm.qmp, there.qmp):
            settings.apply(qmp)
        there.qmp.command("migrate-incoming", uri=uri)
        set_up = time.monotonic()
        vm.qmp.command("migrate", uri=uri)
        vm.qmp.wait_status("pre-switchover")
        vm.qmp.command("migrate-continue", state="pre-switchover")
        there.qmp.wait_status("completed")
        there.qmp.command("cont")
        there.qmp.wait("RESUME")
        ended = time.monotonic()
        report = vm.qmp.command("query-migrate")
        vm.close()
    except BaseException:
        there.close()
        raise
    return there, {
        "blackout_ms": (there.qmp.times["RESUME"] - vm.qmp.times["STOP"]) * 1000,
        "setup_ms": (set_up - started) * 1000,
        "transfer_ms": (ended - set_up) * 1000,
        "total_ms": (ended - started) * 1000,
        "sent_bytes": report["ram"]["transferred"],
        "passes": report["ram"]["dirty-sync-count"],
    }
