"""VMs in files: saves, restores, checkpoints and snapshots, against QEMU alone, which does the same
with the same VM to the same folder by QMP in the same round, and against a boot.

Meanwhile a process in the VM prints a line at least every millisecond to an attached reader. The
guest stands still from STOP to RESUME by QEMU's own time stamps, for both; that the reader hears
nothing lasts longer by the way of the lines, which is the same for both.
Nothing is asserted: read the numbers.
"""
import argparse
import contextlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

import raw_qemu  # noqa: E402
import raw_saving  # noqa: E402
import saving_report  # noqa: E402
from harness import workload  # noqa: E402
from harness.ctl import CtlError, number  # noqa: E402
from harness.host import Hosts  # noqa: E402
from migration_bench import qemu_of, say, spare_monitor  # noqa: E402
from raw_saving import since_ms  # noqa: E402

PLAIN, DISK, OTHER = "plain", "disk", "other"
MIB = 1 << 20
# Of the VM's memory, for all else: so much at least, and this part.
GUEST_MIB, GUEST_PART = 128, 5
STEADY_SECONDS = 2
LATER = 2000  # bytes of ticks: somebody who hears them has caught up

BLOCK_MIB = 4  # further than any window of zstd's here reaches back
# Half of it can be compressed well and half of it not at all. What is all zeroes costs next to
# nothing. From file to file, for a pipe in an emulated guest is slow.
FILL = """mkdir -p /fill && mount -t tmpfs -o size=100% fill /fill && cd /fill || exit
yes ferry | head -c 65536 >/tmp/line
i=0; while [ $i -lt $(({block} / 65536)) ]; do cat /tmp/line; i=$((i+1)); done >/tmp/text
head -c {block} /dev/urandom >/tmp/random
for kind in text random; do
  i=0; while [ $i -lt {blocks} ]; do cat /tmp/$kind; i=$((i+1)); done >$kind || exit
  rm /tmp/$kind
done"""
# For who has no agent to talk to: QEMU alone.
PRINT = f"exec {workload.PROGRAM} tick --interval-us 2000 </dev/null >/dev/console"


class Console:
    """When what a VM prints on its console comes to its host for the first time from now on."""

    def __init__(self, host):
        self._folder = host.outside(host.state) / "vm"
        self._before = self._sizes()
        self._over = threading.Event()
        self._heard = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _sizes(self):
        found = {}
        for path in self._folder.glob("*/console.log"):
            with contextlib.suppress(OSError):  # gone meanwhile
                found[path] = path.stat().st_size
        return found

    def _has_grown(self):
        return any(size > self._before.get(path, 0) for path, size in self._sizes().items())

    def _watch(self):
        while not self._has_grown():
            if self._over.wait(0.002):
                return
        self._heard = time.monotonic()

    def heard(self):
        self._thread.join(raw_qemu.DEADLINE)
        self._over.set()
        if self._heard is None:
            raise CtlError("the guest prints nothing on its console")
        return self._heard


class Vm:
    """A VM that Ferry runs, whose memory was written to."""

    def __init__(self, host, arguments, name, *options):
        self.host = host
        self.name = name
        host.ctl.create(name, f"{arguments.memory}M", arguments.cpus, *options)
        host.ctl.start(name)
        script = FILL.format(block=BLOCK_MIB * MIB, blocks=arguments.fill // (2 * BLOCK_MIB))
        for words in (["exec", name, "--", "sh", "-c", script],
                      ["exec", "-d", name, "--", "sh", "-c", PRINT]):
            host.ctl.ok(*words, timeout=600)
        self.argv = qemu_of(host)

    def delete(self):
        self.host.ctl.ok("vm", "delete", "--force", self.name)

    @contextlib.contextmanager
    def reader(self):
        """Of a process that prints; nothing of it is lost, and nothing comes twice."""
        with workload.attach_ticker(self.host, self.name) as client:
            yield client
            client.close_stdin()
            if client.wait(60) != 0:
                raise CtlError(client.errors())
            numbers = [tick for tick, _ in workload.ticks(client.output())]
            if workload.lost_and_repeated(numbers, first=0) != (0, 0):
                raise RuntimeError("output was lost or repeated")

    def observe(self, client, act):
        """Does it, with a monitor, while the VM goes on: what it measured, and what was seen."""
        with contextlib.closing(spare_monitor(self.host)) as monitor:
            begun = time.monotonic()
            result = act(monitor)
            until = time.monotonic()
            heard = client.received
            client.wait_until(lambda output: len(output) > heard + LATER)
            return {**result, "stood_ms": monitor.stood_still_ms(),
                    "gap_ms": client.longest_gap(begun, until)}

    def order(self, *words):
        """One of ferryctl's; how long that takes."""
        begun = time.monotonic()
        self.host.ctl.ok(*words, timeout=600)
        return {"took_ms": since_ms(begun)}

    def steady(self, client):
        """What the reader hears while nothing is done."""
        begun = time.monotonic()
        client.wait_until(lambda _: time.monotonic() - begun > STEADY_SECONDS)
        return {"gap_ms": client.longest_gap(begun, time.monotonic())}


def by_turns(folder, index, raw, ferry):
    """Both measured, QEMU alone first or Ferry, from round to round."""
    pair = [("raw", raw), ("ferry", ferry)]
    result = {}
    for name, act in pair if index % 2 else pair[::-1]:
        raw_saving.settle(folder)
        result[name] = act()
    return result


class Files:
    """Saves and restores of a VM without disks, so that it may be saved while it runs on."""

    def __init__(self, host, arguments, folder):
        self._vm = Vm(host, arguments, PLAIN)
        self._ctl = host.ctl
        self._folder = folder
        self._ctl.create(OTHER, f"{arguments.memory}M", arguments.cpus)

    def close(self):
        self._vm.delete()
        self._ctl.ok("vm", "delete", OTHER)

    def _ferry(self, client, path, *options):
        """There and back, with a reader attached."""
        result = self._vm.order("save", PLAIN, "--to", path, *options)
        result["file_bytes"] = path.stat().st_size
        console = Console(self._vm.host)
        started = time.monotonic()
        back = self._vm.order("start", PLAIN)
        client.wait_until(lambda _: client.read_after(started) is not None)
        back["first_output_ms"] = (client.read_after(started) - started) * 1000
        back["console_ms"] = (console.heard() - started) * 1000
        self._back = back
        return result

    def _live(self, path):
        return {**self._vm.order("save", PLAIN, "--live", "--to", path),
                "file_bytes": path.stat().st_size}

    def _boot(self):
        begun = time.monotonic()
        self._ctl.ok("start", OTHER)
        with workload.attach_ticker(self._vm.host, OTHER) as client:
            took = since_ms(begun)
            client.close_stdin()
            client.wait(60)
        self._ctl.ok("stop", "--force", OTHER)
        return {"first_output_ms": took}

    def _saves(self, index, path):
        vm, result = self._vm, {}
        raw, raw_zstd, ferry, live, zstd = (
            path(name) for name in ("raw", "raw-zstd", "ferry", "live", "zstd"))
        with vm.reader() as client:
            result["steady"] = {"ferry": vm.steady(client)}
            result["save"] = by_turns(
                self._folder, index,
                lambda: vm.observe(client, lambda qmp: raw_saving.save(qmp, raw)),
                lambda: self._ferry(client, ferry))
            result["restore"] = {"ferry": self._back}
            raw_saving.settle(self._folder)
            # By hand the one is what the other is.
            result["save-live"] = {
                "raw": result["save"]["raw"],
                "ferry": vm.observe(client, lambda _: self._live(live))}
            result["save-zstd"] = by_turns(
                self._folder, index,
                (lambda: vm.observe(client, lambda qmp: raw_saving.save_compressed(qmp, raw_zstd)))
                if raw_saving.HAS_ZSTD else dict,
                lambda: self._ferry(client, zstd, "--compress", "zstd"))
            result["restore-zstd"] = {"ferry": self._back}
        return result

    def round(self, index):
        def path(name):
            return self._folder / f"{index}.{name}"

        result = self._saves(index, path)
        # Nothing else runs beside what starts.
        self._ctl.ok("vm", "pause", PLAIN)
        result["restore"]["raw"] = raw_saving.restore(self._vm.host, self._vm.argv,
                                                      path("raw"))
        result["boot"] = by_turns(
            self._folder, index, lambda: raw_saving.boot(self._vm.host, self._vm.argv), self._boot)
        result["disk"] = {"raw": raw_saving.write_alone(path("raw"), path("copy"))}
        self._ctl.ok("vm", "resume", PLAIN)
        for file in self._folder.glob(f"{index}.*"):
            file.unlink()
        return result


class Instants:
    """Checkpoints and snapshots of a VM with a disk."""

    def __init__(self, host, arguments, folder):
        self._folder = folder
        self._memory = folder / "memory"
        self._size = f"{arguments.memory + 1024}M"
        disk = folder / "root.qcow2"
        self._make(disk)
        self._vm = Vm(host, arguments, DISK, "--disk", f"name=root,file={disk},format=qcow2")

    def close(self):
        self._vm.delete()

    def _make(self, path):
        """An empty disk."""
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, self._size], check=True)

    def _raw(self, client, act):
        overlay = self._folder / "overlay.qcow2"
        begun = time.monotonic()
        self._make(overlay)
        made = since_ms(begun)
        result = self._vm.observe(client, lambda qmp: act(qmp, overlay))
        result["took_ms"] += made
        with contextlib.closing(spare_monitor(self._vm.host)) as monitor:
            raw_saving.merge_overlay(monitor)
        for path in (overlay, self._memory):
            path.unlink(missing_ok=True)
        return result

    def _raw_snapshot(self, client):
        result = self._vm.observe(client, raw_saving.snapshot)
        with contextlib.closing(spare_monitor(self._vm.host)) as monitor:
            raw_saving.delete_snapshot(monitor)
        return result

    def _ferry(self, client, method, *options):
        vm = self._vm
        result = vm.observe(
            client, lambda _: vm.order("checkpoint", "create", DISK, "then", *options))
        [made] = vm.host.ctl.json("checkpoint", "list", DISK)["checkpoints"]
        if made.get("method", "") != method:
            raise RuntimeError(f"a checkpoint was taken {made['method']}, not {method}")
        if method:
            result["reported_ms"] = number(made, "stood_still_us") / 1000
            result["file_bytes"] = number(made, "file_bytes")
        vm.host.ctl.ok("checkpoint", "delete", DISK, "then")
        return result

    def _ferry_snapshot(self, client):
        vm = self._vm
        result = vm.observe(client, lambda _: vm.order(
            "snapshot", "save", DISK, "then", "--devices", "root", "--vmstate", "root"))
        [made] = vm.host.ctl.json("snapshot", "list", DISK)["snapshots"]
        result["file_bytes"] = number(made, "vm_state_bytes")
        vm.host.ctl.ok("snapshot", "delete", DISK, "then")
        return result

    def round(self, index):
        memory = self._memory
        with self._vm.reader() as client:
            result = {
                "checkpoint": by_turns(
                    self._folder, index,
                    lambda: self._raw(client, lambda qmp, overlay: raw_saving.checkpoint(
                        qmp, memory, overlay)),
                    lambda: self._ferry(client, "stopped")),
                "checkpoint-live": by_turns(
                    self._folder, index,
                    lambda: self._raw(client, lambda qmp, overlay: raw_saving.checkpoint_live(
                        qmp, memory, overlay)),
                    lambda: self._ferry(client, "live", "--live")),
                "checkpoint-disk": by_turns(
                    self._folder, index,
                    lambda: self._raw(client, raw_saving.checkpoint_disk),
                    lambda: self._ferry(client, "", "--disk-only")),
                "snapshot": by_turns(self._folder, index, lambda: self._raw_snapshot(client),
                                     lambda: self._ferry_snapshot(client)),
            }
        return result


def keep_state_in(host, folder):
    """ferryd's state is on that disk, too. Where it can be, by a path as short as it was: sockets
    are in it, whose addresses end at 107 bytes."""
    if not host.namespace:
        host.state = folder
        return
    host.outside(host.state).mkdir()
    host.run(["mount", "--bind", folder, host.state], check=True)


def run(host, arguments, folder):
    """The rounds; one VM after the other, for they would share the processors."""
    rounds = [{} for _ in range(arguments.rounds)]
    for part in (Files, Instants):
        vm = part(host, arguments, folder)
        for index, measured in enumerate(rounds):
            new = vm.round(index)
            measured.update(new)
            say(f"round {index + 1} of {arguments.rounds}: {json.dumps(new)}")
        vm.close()
    return rounds


def describe(arguments, host):
    return {"rounds": arguments.rounds, "memory_mib": arguments.memory,
            "fill_mib": arguments.fill, "cpus": arguments.cpus,
            "accelerator": host.ctl.json("host").get("accelerator"),
            "host_cpus": os.cpu_count(), "host_load": os.getloadavg()[0],
            "kernel": platform.release()}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB",
                        help="memory of the VM (default: 256)")
    parser.add_argument("--fill", type=int, metavar="MIB",
                        help="how much of it the guest writes to (default: all but "
                             f"{GUEST_MIB} MiB, or a part in {GUEST_PART})")
    parser.add_argument("--cpus", type=int, default=1, metavar="N",
                        help="processors of the VM (default: 1)")
    parser.add_argument("--disk", type=pathlib.Path, required=True, metavar="FOLDER",
                        help="where the files go, and the daemon's state")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    arguments = parser.parse_args()
    if arguments.fill is None:
        arguments.fill = max(
            arguments.memory - max(GUEST_MIB, arguments.memory // GUEST_PART), 0)
    # As much of the one as of the other, in whole blocks.
    arguments.fill -= arguments.fill % (2 * BLOCK_MIB)
    if min(arguments.rounds, arguments.memory, arguments.cpus) < 1 or arguments.fill < 0:
        parser.error("numbers must be at least 1")
    return arguments


def main():
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="ferry-bench-", dir=arguments.disk) as scratch, \
            Hosts(scratch) as hosts:
        host = hosts[0]
        state = pathlib.Path(scratch) / "state"
        state.mkdir(mode=0o700)
        try:
            keep_state_in(host, state)
            host.start()
            rounds = run(host, arguments, pathlib.Path(scratch))
            setting = describe(arguments, host)
        except (CtlError, raw_qemu.QmpError, OSError, RuntimeError,
                subprocess.SubprocessError) as error:
            print(f"{host.log_tail()}\nsaving_bench: {error}", file=sys.stderr)
            return 1
    summary = saving_report.summarize(rounds)
    if arguments.json:
        print(json.dumps({"setting": setting, "summary": summary, "rounds": rounds}))
    else:
        print(saving_report.table(setting, summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
