"""Hosts that are emulated machines, so that each has a kernel of its own with vhost-vsock."""
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import tempfile

import outer_image
from harness.build import build_folder
from harness.ctl import Ctl
from harness.waiting import wait_for

PORT = 7717
MEMORY_MIB = 1536
BOOT_DEADLINE = 180  # seconds, on this machine's clock
ANSWER_DEADLINE = 60


class Shell:
    """A root shell on an outer machine, over its second serial line."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.settimeout(ANSWER_DEADLINE)

    def run(self, command):
        """What a command of one line prints there; it must succeed."""
        self._socket.sendall(command.encode() + b"\n")
        answer = b""
        while not (end := re.search(rb"\nstatus=(\d+)\n\Z", answer)):
            piece = self._socket.recv(4096)
            assert piece, f"the machine ended while it was asked '{command}'"
            answer += piece
        text = answer[:end.start()].decode(errors="replace")
        assert end[1] == b"0", f"'{command}' ended with {end[1].decode()}: {text}"
        return text

    def close(self):
        self._socket.close()


class OuterHost:
    """An outer machine with its ferryd. Its `ctl` is a ferryctl on this machine."""

    def __init__(self, name, folder, address):
        self.name = name
        self.socket = folder / f"{name}.sock"  # what Ctl asks of any host; there is none
        self.address = f"{address}:{PORT}"
        self.ctl = Ctl(self)
        self.ctl.address = self.address
        self._ip = address
        self._console = folder / f"{name}.console"
        self._shell_path = folder / f"{name}.shell"
        self._wire = folder / f"{name}.wire"
        self._errors = folder / f"{name}.qemu"
        self._process = None
        self._shell = None

    def wrap(self, command, client=False):
        return [str(word) for word in command]

    def start(self, image, peer):
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(self._command(image, peer), stdin=subprocess.DEVNULL,
                                             stdout=errors, stderr=errors)

    def _command(self, image, peer):
        kernel = build_folder() / "guest/vmlinuz"
        mac = f"52:54:00:00:{self._ip.rsplit('.', 1)[1]:0>2}"
        line = (f"console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check mitigations=off "
                f"nested.address={self._ip} nested.port={PORT}")
        return ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi",
                "-cpu", "max", "-smp", "2", "-m", f"{MEMORY_MIB}M", "-nodefaults",
                "-no-user-config", "-display", "none", "-no-reboot",
                "-kernel", kernel, "-initrd", image, "-append", line,
                "-serial", f"file:{self._console}",
                "-serial", f"unix:{self._shell_path},server=on,wait=off",
                "-netdev", f"user,id=api,restrict=on,hostfwd=tcp:{self._ip}:{PORT}-:{PORT}",
                "-device", f"virtio-net-pci,netdev=api,romfile=,mac={mac}:01",
                "-netdev", f"dgram,id=wire,local.type=unix,local.path={self._wire},"
                           f"remote.type=unix,remote.path={peer._wire}",
                "-device", f"virtio-net-pci,netdev=wire,romfile=,mac={mac}:02",
                "-device", "virtio-rng-pci"]

    def wait_ready(self):
        self._await_daemon()
        self._shell = Shell(self._shell_path)

    def _await_daemon(self):
        """Waits until ferryd answers."""
        def answers():
            assert self._process.poll() is None, f"{self.name} ended"
            return self.ctl.run("host", timeout=ANSWER_DEADLINE).returncode == 0

        wait_for(answers, f"ferryd on {self.name} does not answer", BOOT_DEADLINE)

    def run(self, command):
        """What a shell command prints on this host."""
        return self._shell.run(command)

    def vsock(self):
        """(state, local port, peer's context id) of each AF_VSOCK socket of this host's kernel; of
        a listener the context id is None."""
        found = []
        for line in self.run("ss -H -a -n --vsock").splitlines():
            _, state, _, _, local, peer = line.split()[:6]
            cid = peer.rsplit(":", 1)[0]
            found.append((state, int(local.rsplit(":", 1)[1]), None if cid == "*" else int(cid)))
        return found

    def kill_daemon(self):
        """Ends ferryd as a crash would, and returns when another one answers; its VMs go on."""
        self.run("kill -KILL $(pidof ferryd)")
        self._await_daemon()

    def end_daemon(self):
        """Ends ferryd in order, and with it the machine."""
        self.run("kill -TERM $(pidof ferryd)")
        assert self._process.wait(ANSWER_DEADLINE) == 0, self.log()
        assert "nested: ferryd ended with 0" in self.log(), self.log()

    def log(self, lines=80):
        """The end of what the machine said: its kernel, its init and its ferryd."""
        text = "".join(path.read_text(errors="replace")
                       for path in (self._errors, self._console) if path.exists())
        return "\n".join(text.splitlines()[-lines:])

    def inner_logs(self):
        """What its own VMs said, as far as the machine still answers."""
        try:
            return self.run("cd /var/lib/ferry/vm && tail -n 30 */console.log */qemu.log; true")
        except (OSError, AttributeError, AssertionError) as error:
            return f"(no answer: {error})"

    def close(self):
        if self._shell:
            self._shell.close()
        if self._process and self._process.poll() is None:
            self._process.kill()
        if self._process:
            self._process.wait()


def _free_addresses():
    """Two addresses of 127.0.0.0/8 beside each other, at which nobody else has our port."""
    while True:
        prefix = f"127.{random.randint(64, 254)}.{random.randint(0, 254)}"
        try:
            for number in (1, 2):
                socket.create_server((f"{prefix}.{number}", PORT)).close()
        except OSError:
            continue
        return [f"{prefix}.{number}" for number in (1, 2)]


class OuterHosts:
    """Two outer machines with a wire between them."""

    def __init__(self):
        # Short, for Unix socket addresses end at 107 bytes.
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="ferry-nested-", dir="/tmp"))
        self._pair = [OuterHost(name, self._folder, address)
                      for name, address in zip("ab", _free_addresses())]

    def start(self):
        image = self._folder / "outer.img"
        outer_image.build(build_folder(), image)
        first, second = self._pair
        first.start(image, second)
        second.start(image, first)
        for host in self._pair:
            host.wait_ready()
        # Both have read it, and it is large.
        os.unlink(image)

    def __iter__(self):
        return iter(self._pair)

    def logs(self):
        return "\n".join(f"--- {host.name}\n{host.log()}\n{host.inner_logs()}"
                         for host in self._pair)

    def close(self):
        for host in self._pair:
            host.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
