"""Disks that are moved to other files: against QEMU's own mirror by QMP, of the same disk of the
same VM in the same round, and against qemu-img where the VM does not run. And what disks add to the
blackout of a migration, when the hosts share them.

Nothing is asserted: read the numbers.
"""
import argparse
import contextlib
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

import raw_saving  # noqa: E402
from harness.ctl import number  # noqa: E402
from harness.host import Hosts  # noqa: E402
from migration_bench import say, spare_monitor  # noqa: E402
from raw_saving import since_ms  # noqa: E402

MIB = 1 << 20
VM, OTHER, DISK, NODE = "vm", "other", "data", "bench-copy"


def fill(path, mib):
    """A disk of twice that size, half of which was written to."""
    raw = path.with_suffix(".bytes")
    with raw.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
        file.truncate(2 * mib * MIB)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    raw.unlink()
    raw_saving.sync(path)


def device_node(qmp):
    for each in qmp.command("query-block"):
        if "inserted" in each:
            return each["inserted"]["node-name"]
    raise RuntimeError("the VM has no disk")


def mirror(qmp, path, size):
    """By hand: a whole copy, up to the point at which the disk could change over, on the disk."""
    begun = time.monotonic()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)
    node = {"driver": "qcow2", "node-name": NODE, "discard": "unmap",
            "file": {"driver": "file", "filename": str(path), "discard": "unmap"}}
    qmp.command("blockdev-add", **node)
    qmp.command("blockdev-mirror", job_id=NODE, device=device_node(qmp), target=NODE, sync="full",
                copy_mode="write-blocking", auto_dismiss=False)
    qmp.wait("BLOCK_JOB_READY")
    # Without force, and once it is ready, that ends it with a copy that is whole.
    qmp.command("block-job-cancel", device=NODE)
    qmp.wait_job(NODE, "concluded")
    raw_saving.sync(path)
    took = since_ms(begun)
    qmp.command("job-dismiss", id=NODE)
    qmp.command("blockdev-del", node_name=NODE)
    path.unlink()
    return {"took_ms": took}


def convert(source, path):
    begun = time.monotonic()
    subprocess.run(["qemu-img", "convert", "-t", "writeback", "-f", "qcow2", "-O", "qcow2", source,
                    path], check=True)
    raw_saving.sync(path)
    took = since_ms(begun)
    path.unlink()
    return {"took_ms": took}


class Disk:
    """The only one of a VM, which goes from folder to folder."""

    def __init__(self, host, folder, arguments):
        self._host = host
        self._folders = [folder / "here", folder / "there"]
        for each in self._folders:
            each.mkdir()
        self._file = self._folders[0] / "data.qcow2"
        self._size = 2 * arguments.fill * MIB
        fill(self._file, arguments.fill)
        host.ctl.create(VM, f"{arguments.memory}M", 1, "--disk",
                        f"name={DISK},file={self._file},format=qcow2")

    def move(self):
        """Ferry: the VM goes on in the copy, and the former file is removed."""
        self._folders.reverse()
        self._file = self._folders[0] / "data.qcow2"
        begun = time.monotonic()
        self._host.ctl.ok("disk", "move", VM, DISK, f"{self._folders[0]}/", timeout=600)
        return {"took_ms": since_ms(begun)}

    def _by_turns(self, index, raw):
        sides = [("raw", raw), ("ferry", self.move)]
        result = {}
        for name, act in sides if index % 2 == 0 else reversed(sides):
            raw_saving.settle(self._folders[0].parent)
            result[name] = act()
        return result

    def _mirror(self):
        with contextlib.closing(spare_monitor(self._host)) as monitor:
            return mirror(monitor, self._folders[1] / "copy.qcow2", self._size)

    def round(self, index):
        result = {"stopped": self._by_turns(
            index, lambda: convert(self._file, self._folders[1] / "copy.qcow2"))}
        self._host.ctl.start(VM)
        result["running"] = self._by_turns(index, self._mirror)
        self._host.ctl.ok("stop", "--force", VM)
        result["alone"] = {"raw": raw_saving.write_alone(
            self._file, self._folders[1] / "copy.qcow2")}
        (self._folders[1] / "copy.qcow2").unlink(missing_ok=True)
        return result


class Blackouts:
    """Of one VM that goes to and fro with more and more disks."""
    MOST = 2

    def __init__(self, hosts, folder, arguments, options=()):
        self._here, self._there = hosts
        self._options = options
        self._files = [folder / f"shared{number}.qcow2" for number in range(self.MOST)]
        for path in self._files:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
        self._here.ctl.create(OTHER, f"{arguments.memory}M", 1)
        self._here.ctl.start(OTHER)

    def _migrate(self):
        session = self._here.ctl.migrate(OTHER, self._there, *self._options)
        self._here, self._there = self._there, self._here
        return number(session["statistics"], "blackout_ms")

    def round(self):
        result = {}
        for count in range(self.MOST + 1):
            if count:
                self._here.ctl.ok("disk", "attach", OTHER,
                                  f"name=shared{count},file={self._files[count - 1]}")
            result[str(count)] = statistics.mean([self._migrate(), self._migrate()])
        for count in range(1, self.MOST + 1):
            self._here.ctl.ok("disk", "detach", OTHER, f"shared{count}")
        return result

    def close(self):
        self._here.ctl.ok("vm", "delete", "--force", OTHER)


def run(hosts, arguments, folder):
    host = hosts[0]
    disk = Disk(host, folder, arguments)
    rounds = []
    for index in range(arguments.rounds):
        say(f"round {index + 1} of {arguments.rounds}")
        rounds.append(disk.round(index))
    host.ctl.ok("vm", "delete", "--force", VM)
    blackouts = Blackouts(hosts, folder, arguments)
    for measured in rounds:
        measured["blackouts"] = blackouts.round()
    blackouts.close()
    return rounds


def summarize(rounds):
    summary = {}
    for way in ("stopped", "running"):
        pairs = [each[way] for each in rounds]
        ratios = sorted(pair["ferry"]["took_ms"] / pair["raw"]["took_ms"] for pair in pairs)
        summary[way] = {side: statistics.median(pair[side]["took_ms"] for pair in pairs)
                        for side in ("raw", "ferry")}
        summary[way]["ratio"] = {"p50": statistics.median(ratios), "min": ratios[0],
                                 "max": ratios[-1]}
    summary["blackouts"] = {count: statistics.median(each["blackouts"][count] for each in rounds)
                            for count in rounds[0]["blackouts"]}
    summary["alone"] = statistics.median(each["alone"]["raw"]["took_ms"] for each in rounds)
    return summary


def table(setting, summary):
    lines = [f"{setting['rounds']} rounds, a qcow2 disk with {setting['fill_mib']} MiB written to; "
             f"host: {setting['host_cpus']} CPUs, load {setting['load']:.1f} at the end", "",
             f"{'ms, medians':36}{'by hand':>10}{'Ferry':>10}{'ratio':>8}{'min':>8}{'max':>8}"]
    for way, name in (("running", "while the VM runs: mirror, move"),
                      ("stopped", "while it does not: convert, move")):
        row = summary[way]
        ratio = row["ratio"]
        lines.append(f"{name:36}{row['raw']:10.1f}{row['ferry']:10.1f}{ratio['p50']:8.2f}"
                     f"{ratio['min']:8.2f}{ratio['max']:8.2f}")
    lines.append(f"{'as many bytes to the disk':36}{summary['alone']:10.1f}")
    lines.append("blackout with so many disks: " + ", ".join(
        f"{count}: {took:.1f} ms" for count, took in summary["blackouts"].items()))
    return "\n".join(lines)


def parse_arguments(description):
    parser = argparse.ArgumentParser(description=description.split("\n", maxsplit=1)[0])
    parser.add_argument("--disk", required=True, type=pathlib.Path,
                        help="a folder of the file system that is measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=256, help="MiB of the VM")
    parser.add_argument("--fill", type=int, default=512, help="MiB written to the disk")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def tell(arguments, rounds, summarize, table):
    """As JSON or for people."""
    setting = {"rounds": arguments.rounds, "fill_mib": arguments.fill,
               "memory_mib": arguments.memory, "host_cpus": os.cpu_count(),
               "load": os.getloadavg()[0], "machine": platform.machine()}
    summary = summarize(rounds)
    if arguments.json:
        print(json.dumps({"setting": setting, "rounds": rounds, "summary": summary}))
    else:
        print(table(setting, summary))


def main():
    arguments = parse_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="ferry-disks-", dir=arguments.disk) as name:
        folder = pathlib.Path(name)
        with Hosts(shared_folder=folder) as hosts:
            hosts.start()
            rounds = run(hosts, arguments, folder)
    tell(arguments, rounds, summarize, table)


if __name__ == "__main__":
    main()
