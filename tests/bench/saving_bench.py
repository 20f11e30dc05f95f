"""VMs in files: how long it takes to save one and to have it go on, against QEMU alone, which writes
the same VM to the same folder by QMP in the same round, and against a boot.

Nothing is asserted: read the numbers.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

import raw_qemu  # noqa: E402
from harness import workload  # noqa: E402
from harness.ctl import CtlError  # noqa: E402
from harness.host import Hosts  # noqa: E402
from migration_bench import qemu_of, say, spare_monitor  # noqa: E402

VM = "bench"
MIB = 1 << 20


def timed_ms(work):
    begun = time.monotonic()
    work()
    return (time.monotonic() - begun) * 1000


def sync(path):
    """As Ferry does before it says that a VM is saved."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


class Saving:
    """One VM, and the ways to write it to a file and back."""

    def __init__(self, host, arguments, folder):
        self.host = host
        self.folder = folder
        self.options = ["--compress", arguments.compress] if arguments.compress else []
        for name in (VM, "other"):
            host.ctl.create(name, f"{arguments.memory}M", arguments.cpus)
        host.ctl.start(VM)
        # What is all zeroes costs next to nothing.
        fill = f"yes ferry | head -c {arguments.fill * MIB} >/run/fill"
        filled = host.ctl.exec(VM, "sh", "-c", f"mkdir -p /run && {fill}", timeout=600)
        if filled.returncode != 0:
            raise CtlError(filled.stderr)
        self.argv = qemu_of(host)

    def raw_save(self, path):
        """By hand, at the QEMU of the VM, which runs on afterwards."""
        qmp = spare_monitor(self.host)
        try:
            begun = time.monotonic()
            qmp.command("stop")
            with path.open("wb") as file:
                qmp.send_descriptor("bench", file.fileno())
                qmp.command("migrate", uri="fd:bench")
            qmp.wait_migrated()
            sync(path)
            took = (time.monotonic() - begun) * 1000
            qmp.command("cont")
            return {"save_ms": took, "file_bytes": path.stat().st_size}
        finally:
            qmp.close()

    def raw_restore(self, path):
        """From the start of a QEMU until it runs the guest."""
        begun = time.monotonic()
        vm = raw_qemu.RawVm(self.host, self.argv, incoming=True)
        try:
            with path.open("rb") as file:
                vm.qmp.send_descriptor("bench", file.fileno())
                vm.qmp.command("migrate-incoming", uri="fd:bench")
            vm.qmp.wait_migrated()
            vm.qmp.command("cont")
            return {"restore_ms": (time.monotonic() - begun) * 1000}
        finally:
            vm.close()

    def ferry(self, path):
        """Saved and restored with a reader attached."""
        with workload.attach_ticker(self.host, VM) as client:
            begun = time.monotonic()
            save = timed_ms(lambda: self.host.ctl.ok("save", "--to", path, *self.options, VM))
            size = path.stat().st_size
            started = time.monotonic()
            restore = timed_ms(lambda: self.host.ctl.ok("start", VM))
            client.wait_until(lambda _: client.read_after(started) is not None)
            first = (client.read_after(started) - started) * 1000
            away = client.longest_gap(begun, time.monotonic())
            client.close_stdin()
            if client.wait(60) != 0:
                raise CtlError(client.errors())
            numbers = [tick for tick, _ in workload.ticks(client.output())]
            if workload.lost_and_repeated(numbers) != (0, 0):
                raise CtlError("ticks were lost or repeated")
        return {"save_ms": save, "restore_ms": restore, "first_output_ms": first, "gap_ms": away,
                "file_bytes": size}

    def live(self, path):
        """Written while it is to run on: the longest silence that a reader sees."""
        with workload.attach_ticker(self.host, VM) as client:
            begun = time.monotonic()
            self.host.ctl.ok("save", "--live", "--to", path, *self.options, VM)
            heard = len(client.output())
            client.wait_until(lambda output: len(output) > heard)
            gap = client.longest_gap(begun, time.monotonic())
            client.close_stdin()
            client.wait(60)
        return {"gap_ms": gap}

    def boot(self):
        """A cold boot of a VM like it, until a process in it prints."""
        begun = time.monotonic()
        self.host.ctl.ok("start", "other")
        with workload.attach_ticker(self.host, "other") as client:
            took = (time.monotonic() - begun) * 1000
            client.close_stdin()
            client.wait(60)
        self.host.ctl.ok("stop", "--force", "other")
        return {"first_output_ms": took}

    def round(self, index):
        """All of it, QEMU alone and Ferry by turns first."""
        raw, ferry, live = (self.folder / f"{index}.{name}" for name in ("raw", "ferry", "live"))
        result = {}
        ways = [("raw", lambda: self.raw_save(raw)), ("ferry", lambda: self.ferry(ferry))]
        for name, way in ways if index % 2 else reversed(ways):
            result[name] = way()
        result["raw"].update(self.raw_restore(raw))
        result["live"] = self.live(live)
        result["boot"] = self.boot()
        for path in (raw, ferry, live):
            path.unlink()
        return result


ROWS = [("QEMU alone: save", "raw", "save_ms"), ("Ferry: save", "ferry", "save_ms"),
        ("QEMU alone: restore, until it runs", "raw", "restore_ms"),
        ("Ferry: restore, until ferryctl returns", "ferry", "restore_ms"),
        ("  until an attached reader hears of it", "ferry", "first_output_ms"),
        ("boot, until a process prints", "boot", "first_output_ms"),
        ("longest silence, saved and restored", "ferry", "gap_ms"),
        ("longest silence, save --live", "live", "gap_ms")]


def table(setting, rounds):
    def median(kind, measure):
        return statistics.median(each[kind][measure] for each in rounds)

    def ratio(measure, kind, other):
        return statistics.median(each[kind][measure] / each[other][measure] for each in rounds)

    lines = [f"{setting['rounds']} rounds, VM of {setting['memory_mib']} MiB with "
             f"{setting['fill_mib']} MiB written to, under {setting['accelerator']}; host: "
             f"{setting['host_cpus']} CPUs, load {setting['host_load']:.1f} at the end", ""]
    lines += [f"{name:40}{median(kind, measure):10.1f} ms" for name, kind, measure in ROWS]
    size = median("ferry", "file_bytes") / MIB
    lines += ["", f"{'file: QEMU alone':40}{median('raw', 'file_bytes') / MIB:10.1f} MiB",
              f"{'file: Ferry':40}{size:10.1f} MiB",
              f"{'rate of a save: Ferry':40}{size / median('ferry', 'save_ms') * 1000:10.1f} MiB/s",
              "", "Ferry against QEMU alone, each round",
              f"{'  save':40}{ratio('save_ms', 'ferry', 'raw'):10.2f}",
              f"{'  restore':40}{ratio('restore_ms', 'ferry', 'raw'):10.2f}",
              f"{'restore against boot, to the first output':40}"
              f"{ratio('first_output_ms', 'ferry', 'boot'):9.2f}"]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="default: 1024")
    parser.add_argument("--fill", type=int, default=400, metavar="MIB",
                        help="how much of it the guest writes to, in a tmpfs (default: 400)")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--compress", choices=["zstd"], help="Ferry's files only")
    parser.add_argument("--disk", type=pathlib.Path, required=True, metavar="FOLDER",
                        help="where the files go")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ferry-bench-", dir=arguments.disk) as scratch, \
            Hosts(scratch) as hosts:
        try:
            hosts.start()
            saving = Saving(hosts[0], arguments, pathlib.Path(scratch))
            rounds = []
            for index in range(arguments.rounds):
                rounds.append(saving.round(index))
                say(f"round {index + 1} of {arguments.rounds}: {json.dumps(rounds[-1])}")
            accelerator = hosts[0].ctl.json("host").get("accelerator")
        except (CtlError, raw_qemu.QmpError, OSError, RuntimeError,
                subprocess.SubprocessError) as error:
            print(f"{hosts.logs()}\nsaving_bench: {error}", file=sys.stderr)
            return 1
    setting = {"rounds": arguments.rounds, "memory_mib": arguments.memory,
               "fill_mib": arguments.fill, "cpus": arguments.cpus, "accelerator": accelerator,
               "host_cpus": os.cpu_count(), "host_load": os.getloadavg()[0],
               "kernel": platform.release()}
    if arguments.json:
        print(json.dumps({"setting": setting, "rounds": rounds}))
    else:
        print(table(setting, rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
