"""Ferry's live migration against QEMU's own, on the same hosts, in turn.

Each round has four migrations of VMs of the same size, kernel, initramfs and machine: an idle one
and one with a process that prints a line at least every millisecond to a reader, each by QEMU alone
(two QEMUs driven by QMP over TCP) and by Ferry. QEMU and Ferry change places from round to round,
so that the machine's moods meet both alike, and are compared pair by pair.

A fifth is by Ferry, of a VM with a process that prints all it can to a reader who has stopped.

By hand the process prints to the VM's console, which is a socket, and is all that runs in the VM;
the reader is connected to both QEMUs before. With Ferry it is attached through ferryctl.

Blackout is from the source's STOP to the destination's RESUME by QEMU's own time stamps. Total is
from the order to migrate until the VM runs on the destination and the source has let go; it holds
the start of the destination's QEMU on both sides. Nothing is asserted: read the numbers.
"""
import argparse
import contextlib
import itertools
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

import raw_qemu  # noqa: E402
from harness import flood, workload  # noqa: E402
from harness.certificates import Authority  # noqa: E402
from harness.ctl import CtlError, number, parse_json  # noqa: E402
from harness.host import Hosts  # noqa: E402
from harness.waiting import wait_for  # noqa: E402
from report import summarize, table  # noqa: E402

VM = "bench"
RAW_PORT = 7799
BASELINE_SECONDS = 2
AFTERWARDS_SECONDS = 0.1


def say(text):
    print(text, file=sys.stderr, flush=True)


def qemu_of(host):
    """The command line of the one QEMU that Ferry runs on this host."""
    [(pid, _)] = host.processes("qemu-system")
    words = (host.outside("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
    return [word.decode() for word in words]


def spare_monitor(host):
    """A monitor of our own at the QEMU that Ferry runs on this host."""
    [path] = host.outside(host.state).glob("vm/*/qmp-spare")
    return raw_qemu.Qmp(raw_qemu.connect_unix(str(path)))


class FerryVm:
    """The VM that Ferry moves between two hosts."""

    def __init__(self, hosts, memory, cpus):
        self.here, self.there = hosts
        self.settings = None
        self.here.ctl.create(VM, f"{memory}M", cpus)
        self.here.ctl.start(VM)

    def migrate(self, client=None):
        """One migration, with what was measured (ms). `client` is an attached reader."""
        stopped = spare_monitor(self.here)
        sessions = {session["session_id"] for session in self.here.ctl.sessions()}
        resumed = None
        since = time.monotonic()
        with self.here.ctl.attach("migrate", VM, "--to", self.there.address, "--json") as mover:
            for line in mover.lines(timeout=300):
                note = parse_json(line).get("notification") or {}
                if note.get("phase") == "MIGRATION_PHASE_SETUP_DONE":
                    resumed = spare_monitor(self.there)
                    if self.settings is None:
                        self.settings = raw_qemu.Settings(stopped)
            if mover.wait() != 0:
                raise CtlError(mover.errors() or mover.output().decode(errors="replace"))
        until = time.monotonic()
        resumed.wait("RESUME")
        try:
            stopped.wait("STOP")
        except raw_qemu.QmpError:
            pass  # that QEMU has ended; what it said before was read
        session = self.here.ctl.new_session(sessions)
        numbers = session["statistics"]
        blackout = (resumed.times["RESUME"] - stopped.times["STOP"]) * 1000
        for monitor in (stopped, resumed):
            monitor.close()
        self.here, self.there = self.there, self.here
        result = {
            "blackout_ms": blackout,
            "setup_ms": number(numbers, "setup_ms"),
            "transfer_ms": number(numbers, "total_ms") - number(numbers, "setup_ms"),
            "total_ms": number(numbers, "total_ms"),
            "sent_bytes": number(numbers, "transferred_bytes"),
            "passes": number(numbers, "memory_passes"),
            "reported_blackout_ms": number(numbers, "blackout_ms"),
        }
        for part in ("device", "commit", "resume"):
            result[f"blackout_{part}_ms"] = number(numbers, f"blackout_{part}_ms")
        if client is not None:
            after = client.received
            client.wait_until(lambda output: len(workload.ticks(output[after:])) > 100)
            result["stdio_gap_ms"] = client.longest_gap(since, until)
        return result

    def migrate_attached(self):
        """The same with a process that prints, and the longest silence that its reader saw."""
        with self.here.ctl.attach("exec", "-i", VM, "--", workload.PROGRAM, "tick") as client:
            client.wait_until(lambda output: len(output) > 20000)
            begun = time.monotonic()
            client.wait_until(lambda _: time.monotonic() - begun > BASELINE_SECONDS)
            steady = client.longest_gap(begun, time.monotonic())
            result = self.migrate(client)
            result["steady_gap_ms"] = steady
            client.close_stdin()
            if client.wait(60) != 0:
                raise CtlError(client.errors())
            numbers = [tick for tick, _ in workload.ticks(client.output())]
            if workload.lost_and_repeated(numbers, first=0) != (0, 0):
                raise RuntimeError("output was lost or repeated")
        return result

    def migrate_with_a_stopped_reader(self):
        """The same with a process that prints all it can to somebody who has stopped reading."""
        with flood.start(self.here.ctl, VM, VM) as reader:
            reader.begin()
            reader.wait_for_more()
            reader.signal(signal.SIGSTOP)
            wait_for(lambda: flood.printed(self.here, VM, reader)
                     == flood.printed(self.here, VM, reader), "it prints although nobody reads")
            result = self.migrate()
            # What it left unread is not to move with the next one.
            self.here.ctl.ok("kill", "-s", "KILL", VM, str(reader.process))
            reader.signal(signal.SIGCONT)
            reader.wait(120)
        return result


class RawVm:
    """The VM that QEMU moves by itself, beside Ferry's."""

    _ports = itertools.count()  # one each time: the last may still be waiting for its last packets

    def __init__(self, hosts, argv, settings, reader=None):
        self._hosts = hosts
        self._settings = settings
        self._vm = raw_qemu.RawVm(hosts[0], argv, reader=reader)
        try:
            self._vm.start()
        except BaseException:
            self._vm.close()
            raise

    def migrate(self):
        there = self._hosts.other(self._vm.host)
        address = there.address.rpartition(":")[0]
        uri = f"tcp:{address}:{RAW_PORT + next(self._ports) % 1000}"
        self._vm, result = raw_qemu.migrate(self._vm, there, self._settings, uri)
        return result

    def close(self):
        self._vm.close()


class RawPrintingVm(RawVm):
    """The same for one that prints to a reader. Between migrations it stands still, so that it
    takes nothing from the others."""

    def __init__(self, hosts, argv, settings):
        self._reader = raw_qemu.ConsoleReader()
        super().__init__(hosts, argv, settings, self._reader)
        self._vm.qmp.command("stop")

    def migrate(self):
        self._vm.qmp.command("cont")
        self._reader.wait_for_output(time.monotonic())
        begun = time.monotonic()
        self._reader.wait_for_output(begun + BASELINE_SECONDS)
        since = time.monotonic()
        result = super().migrate()
        until = time.monotonic()
        self._reader.wait_for_output(until + AFTERWARDS_SECONDS)
        result["stdio_gap_ms"] = self._reader.longest_gap_ms(since, until)
        result["steady_gap_ms"] = self._reader.longest_gap_ms(begun, since)
        self._vm.qmp.command("stop")
        if not workload.ticks(self._reader.last().replace(b"\r", b"")):
            raise RuntimeError(f"the VM by hand does not tick: {self._reader.last()!r}")
        return result

    def close(self):
        super().close()
        self._reader.join()


def set_up(hosts, arguments, scratch):
    """Where the hosts keep their state, and how they trust each other."""
    authority = Authority(pathlib.Path(scratch)) if arguments.tls else None
    for host in hosts:
        if arguments.disk and hosts.isolated:
            host.state = pathlib.Path(scratch) / f"state-{host.name}"
        if authority:
            address = host.address.rpartition(":")[0]
            host.security = authority.flags(f"host-{host.name}", ["peer"], address)
            host.ctl.security = authority.flags("operator", ["operator"])


def run(hosts, arguments):
    hosts.start()
    ferry = FerryVm(hosts, arguments.memory, arguments.cpus)
    argv = qemu_of(ferry.here)
    # The first migration pays for cold caches and tells what Ferry sets in its QEMU.
    ferry.migrate()
    with contextlib.closing(RawVm(hosts, argv, ferry.settings)) as raw, \
            contextlib.closing(RawPrintingVm(hosts, argv, ferry.settings)) as printing:
        raw.migrate()
        printing.migrate()
        rounds = []
        for index in range(arguments.rounds):
            measured = {}
            for pair in ([("raw", raw.migrate), ("idle", ferry.migrate)],
                         [("printing", printing.migrate), ("attached", ferry.migrate_attached)]):
                measured |= {name: move() for name, move in (pair if index % 2 else pair[::-1])}
            measured["stopped"] = ferry.migrate_with_a_stopped_reader()
            rounds.append(measured)
            say(f"round {index + 1} of {arguments.rounds}: " + ", ".join(
                f"{name} total {measured[name]['total_ms']:.0f} ms, blackout "
                f"{measured[name]['blackout_ms']:.1f} ms" for name in ("raw", "idle")) +
                f", stdio gap {measured['printing']['stdio_gap_ms']:.0f} and "
                f"{measured['attached']['stdio_gap_ms']:.0f} ms")
    return rounds


def describe(arguments, hosts, accelerator):
    return {
        "rounds": arguments.rounds,
        "memory_mib": arguments.memory,
        "cpus": arguments.cpus,
        "isolated_hosts": hosts.isolated,
        "host_cpus": os.cpu_count(),
        "host_load": os.getloadavg()[0],
        "kernel": platform.release(),
        "accelerator": accelerator,
        "tls": arguments.tls,
        "journal": "disk" if arguments.disk or not hosts.isolated else "memory",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB",
                        help="memory of the VM (default: 256)")
    parser.add_argument("--cpus", type=int, default=1, metavar="N",
                        help="processors of the VM (default: 1)")
    parser.add_argument("--tls", action="store_true",
                        help="the daemons speak TLS (default: plain TCP, as QEMU alone does)")
    parser.add_argument("--disk", type=pathlib.Path, metavar="FOLDER",
                        help="keep the daemons' state below this folder (default: in memory, where "
                             "a journal costs no wait for a disk)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.memory, arguments.cpus) < 1:
        parser.error("numbers must be at least 1")
    with tempfile.TemporaryDirectory(prefix="ferry-bench-", dir=arguments.disk) as scratch, \
            Hosts(scratch) as hosts:
        try:
            set_up(hosts, arguments, scratch)
            rounds = run(hosts, arguments)
            accelerator = hosts[0].ctl.json("host").get("accelerator")
            setting = describe(arguments, hosts, accelerator)
        except (CtlError, raw_qemu.QmpError, OSError, RuntimeError,
                subprocess.SubprocessError) as error:
            print(f"{hosts.logs()}\nmigration_bench: {error}", file=sys.stderr)
            return 1
    summary = summarize(rounds)
    if arguments.json:
        print(json.dumps({"setting": setting, "summary": summary, "rounds": rounds}))
    else:
        print(table(setting, summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
