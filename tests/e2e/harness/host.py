"""Hosts, each with a ferryd of its own, and the pair of them that a migration needs."""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid

from . import namespaces, proc
from .build import build_folder
from .ctl import Ctl

PORT = 7717
START_DEADLINE = 60  # seconds, on the host's clock


class Host:
    """One ferryd with a state folder of its own, in namespaces of its own where there are any."""

    def __init__(self, name, folder, address, namespace=None):
        self.name = name
        self.folder = pathlib.Path(folder)
        self.address = address  # where others reach it
        self.listen = address
        self.namespace = namespace
        self.state = self.folder / f"state-{name}"
        self.socket = self.folder / f"{name}.sock"
        self.log = self.folder / f"{name}.log"
        self.security = ["--insecure-tcp"]
        self.flags = []  # more of ferryd's, for its next start
        self.initrd = None  # another than the one that was built, from its next start on
        self.cgroup = None  # of version 2, in which ferryd runs from its next start on
        # Groups of VMs that end with their namespaces would stay.
        self.cgroup_of_vms = "none"
        self.prefix = []  # what starts ferryd then, such as env
        self._daemon = None
        self.ctl = Ctl(self)

    def wrap(self, command, client=False):
        command = [str(word) for word in command]
        return self.namespace.wrap(command, client) if self.namespace else command

    def run(self, command, **options):
        options.setdefault("timeout", 120)
        return subprocess.run(self.wrap(command), **options)

    @contextlib.contextmanager
    def run_in_background(self, command):
        """A process here that ends with the block."""
        process = subprocess.Popen(self.wrap(command), stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def outside(self, path):
        return self.namespace.outside(path) if self.namespace else pathlib.Path(path)

    def daemon_command(self):
        build = build_folder()
        return [*self.prefix, build / "bin/ferryd", "--state-dir", self.state,
                "--socket", self.socket, "--listen", self.listen, *self.security,
                "--advertise", self.address, "--kernel", build / "guest/vmlinuz",
                "--initrd", self.initrd or build / "guest/initrd.img",
                "--cgroup", self.cgroup_of_vms, "--log-level", "debug", *self.flags]

    def launch(self):
        """Starts ferryd, which may end before it answers."""
        # The inner shell says under which id the daemon runs inside, where alone it can be
        # signalled. The outer one is there for nsenter: that stops whenever its child does, and a
        # ferryd that has just stopped anew would be taken out of that when nsenter goes on. That a
        # ferryd was killed it need not say.
        inside = ('exec 2>&3 3>&-; [ -z "$1" ] || echo 0 >"$1/cgroup.procs" || exit; '
                  'echo $$ >"$2"; log=$3; shift 3; exec "$@" >>"$log" 2>&1')
        apart = 'exec 3>&2 2>/dev/null; inside=$1; shift; sh -c "$inside" sh "$@"; exit $?'
        self._daemon = subprocess.Popen(
            self.wrap(["/bin/sh", "-c", apart, "sh", inside, self.cgroup or "", self._pid_file(),
                       self.log, *self.daemon_command()]),
            stdin=subprocess.DEVNULL, start_new_session=True)

    def start(self):
        """Starts ferryd and returns when it answers."""
        self.launch()
        deadline = time.monotonic() + START_DEADLINE
        while True:
            answer = self.ctl.run("host", timeout=30)
            if answer.returncode == 0:
                return
            if self._daemon.poll() is not None:
                raise RuntimeError(f"ferryd on {self.name} ended with {self._daemon.returncode} "
                                   f"while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"ferryd on {self.name} does not answer: {answer.stderr}\n"
                                   f"{self.log_tail()}")
            time.sleep(0.05)

    def _pid_file(self):
        return self.folder / f"{self.name}.pid"

    def daemon_pid(self):
        """Its id on this host."""
        return int(self.outside(self._pid_file()).read_text())

    def signal_daemon(self, number):
        self.signal_process(self.daemon_pid(), number)

    def signal_process(self, pid, number):
        """Signals a process by its id on this host (such as a VM's `vmm_pid`)."""
        self.run(["kill", f"-{int(number)}", str(pid)], check=True)

    def kill(self):
        """Ends ferryd as a crash would; its VMs go on."""
        self.signal_daemon(signal.SIGKILL)
        self._daemon.wait(30)

    def lose_power(self):
        """Ends ferryd and all VMs at once, and gives the host another boot's id.

        That is what a power loss leaves, but for what the disk had not yet: a committed
        transaction is synced, and damage to what is newer is the store's own tests' affair.
        """
        self.kill()
        self.flags = self._own_flags()
        for pid, _ in self.processes("qemu-system"):
            self.signal_process(pid, signal.SIGKILL)
        boot = self.folder / f"{self.name}.boot_id"
        self.outside(boot).write_text(f"{uuid.uuid4()}\n")
        self.run(["mount", "--bind", boot, "/proc/sys/kernel/random/boot_id"], check=True)

    def wait_daemon(self):
        """Waits until ferryd has ended by itself; returns its exit status."""
        return self._daemon.wait(60)

    def freeze_at(self, point):
        """From its next start on ferryd stands still at a failpoint, once; a running one is
        restarted."""
        self.flags = [*self._own_flags(), "--failpoint", f"{point}=stop"]
        if self._daemon and self._daemon.poll() is None:
            self.restart()

    def die_at(self, point, *command):
        """ferryd dies at a failpoint of what this command of ferryctl does; starts another."""
        self.flags = [*self._own_flags(), "--failpoint", point]
        self.restart()
        ended = self.ctl.run(*command)
        print(f"{point}: {ended}")  # for whoever sees this fail
        assert self.wait_daemon() in (-signal.SIGKILL, 128 + signal.SIGKILL), point
        self.come_back()

    def come_back(self):
        """Starts ferryd again, which has no failpoint any more."""
        self.flags = self._own_flags()
        self.start()

    def _own_flags(self):
        at = self.flags.index("--failpoint") if "--failpoint" in self.flags else len(self.flags)
        return self.flags[:at] + self.flags[at + 2:]

    def wait_frozen(self, timeout=60):
        """Waits until ferryd stands still at its failpoint (`--failpoint POINT=stop`)."""
        pid = self.daemon_pid()
        status = self.outside(f"/proc/{pid}/stat")
        deadline = time.monotonic() + timeout
        while proc.state(status.read_text()) != "T":
            assert time.monotonic() < deadline, f"ferryd on {self.name} does not stop"
            time.sleep(0.01)

    def thaw(self):
        """Lets a ferryd go on that stands still."""
        self.signal_daemon(signal.SIGCONT)

    def unplug(self):
        """Pulls the cable: what is on its way is lost, and nobody is told."""
        self.run(["ip", "link", "set", "ferry0", "down"], check=True)

    def plug(self):
        self.run(["ip", "link", "set", "ferry0", "up"], check=True)

    def stop(self):
        """Ends ferryd in order and returns its exit status."""
        if self._daemon.poll() is None:
            self.signal_daemon(signal.SIGTERM)
        return self._daemon.wait(60)

    def restart(self):
        self.stop()
        self.start()

    def resident_kib(self):
        """The daemon's memory."""
        pid = self.daemon_pid()
        status = self.outside(f"/proc/{pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def threads(self):
        """How many the daemon has."""
        pid = self.daemon_pid()
        return len(list(self.outside(f"/proc/{pid}/task").iterdir()))

    def files(self):
        """How many lie in the state folder, with folders."""
        return sum(1 for _ in self.outside(self.state).rglob("*"))

    def open_descriptors(self):
        """How many the daemon has."""
        pid = self.daemon_pid()
        return len(list(self.outside(f"/proc/{pid}/fd").iterdir()))

    def kill_vmm(self):
        """Kills the only VMM on this host, and returns when it is dead."""
        (pid, _), = self.processes("qemu-system")
        self.signal_process(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        process = self.outside(f"/proc/{pid}")
        # Nobody may have asked for it yet. It is dead, and its sockets are closed, once each of its
        # threads is.
        while not self._is_dead(process):
            assert time.monotonic() < deadline, f"{pid} on {self.name} does not die"
            time.sleep(0.01)

    @staticmethod
    def _is_dead(process):
        try:
            states = [proc.state(status.read_text())
                      for status in process.glob("task/*/stat")]
        except OSError:
            return not process.exists()
        return all(state in "ZX" for state in states)

    def processes(self, word):
        """Command lines of the processes on this host that contain `word` and belong to it."""
        found = []
        proc = self.outside("/proc")
        for entry in proc.iterdir():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                errors = os.readlink(entry / "fd/2")  # a VMM's log lies in the state folder
            except (OSError, UnicodeDecodeError):
                continue
            if entry.name.isdigit() and word in line and str(self.state) in f"{line} {errors}":
                found.append((int(entry.name), line))
        return found

    def log_tail(self, lines=60):
        try:
            return "\n".join(self.outside(self.log).read_text(errors="replace")
                             .splitlines()[-lines:])
        except OSError as error:
            return f"(no log: {error})"

    def close(self):
        if self._daemon and self._daemon.poll() is None:
            try:
                self.kill()
            except (OSError, ValueError, subprocess.SubprocessError):
                self._daemon.kill()
        if self.namespace:
            self.namespace.close()
        else:
            for pid, _ in self.processes("qemu-system"):
                os.kill(pid, signal.SIGKILL)
        if self._daemon:
            self._daemon.wait(30)


class Hosts:
    """Two hosts that share nothing but the wire, or two loopback ports where that is refused.

    With a `shared_folder` both can write there, too. `refusal` is why they are not isolated; None
    if they are.
    """

    def __init__(self, shared_folder=None):
        # Short, for Unix socket addresses end at 107 bytes.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ferry-", dir="/tmp"))
        self.shared_folder = shared_folder
        self.refusal = None
        self._pair = []
        try:
            self._make_isolated()
        except (namespaces.Refused, OSError, subprocess.SubprocessError) as error:
            self._close_pair()
            self.refusal = str(error).strip()
            self._make_loopback()

    @property
    def isolated(self):
        return self.refusal is None

    def _make_isolated(self):
        spaces = []
        try:
            for _ in "ab":
                spaces.append(namespaces.Namespace(self.folder, self.shared_folder))
            namespaces.connect(*spaces, ("10.99.7.1/30", "10.99.7.2/30"))
        except BaseException:
            for space in spaces:
                space.close()
            raise
        self._pair = [Host(name, self.folder, f"10.99.7.{number}:{PORT}", space)
                      for number, (name, space) in enumerate(zip("ab", spaces), start=1)]

    def _make_loopback(self):
        # Both are bound at once, so that they differ; then ferryd takes them over.
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in "ab"]
        ports = [listener.getsockname()[1] for listener in sockets]
        for listener in sockets:
            listener.close()
        self._pair = [Host(name, self.folder, f"127.0.0.1:{port}")
                      for name, port in zip("ab", ports)]

    def start(self):
        for host in self._pair:
            host.start()
        return self

    def __iter__(self):
        return iter(self._pair)

    def __getitem__(self, index):
        return self._pair[index]

    def other(self, host):
        return self._pair[1] if host is self._pair[0] else self._pair[0]

    def logs(self):
        return "\n".join(f"--- ferryd on {host.name}\n{host.log_tail()}" for host in self._pair)

    def _close_pair(self):
        for host in self._pair:
            host.close()
        self._pair = []

    def close(self):
        self._close_pair()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
