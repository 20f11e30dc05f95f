"""Disks that come along with their VM: how long their copy takes, against QEMU's own mirror over
NBD by QMP, from the same QEMU to a qemu-nbd on the other host, and against qemu-img convert of the
same bytes on one host. And what each disk that is copied adds to the blackout.

Nothing is asserted: read the numbers.
"""
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

import raw_saving  # noqa: E402
from disk_bench import Blackouts, device_node, parse_arguments, tell  # noqa: E402
from harness.ctl import number  # noqa: E402
from harness.host import Hosts  # noqa: E402
from migration_bench import say, spare_monitor  # noqa: E402
from raw_saving import since_ms  # noqa: E402

MIB = 1 << 20
VM, PEER = "vm", "bench-peer"
NBD_PORT = 7798
COPY = ("--copy-storage", "all", "--trace")  # the hosts see each other's files here
WAYS = ("convert", "mirror", "ferry")


def fill(path, mib):
    """A raw disk of twice that size, half of which was written to."""
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
        file.truncate(2 * mib * MIB)
    raw_saving.sync(path)


@contextlib.contextmanager
def nbd_server(host, path):
    """On that host; its address."""
    address = host.address.rpartition(":")[0]
    server = ["qemu-nbd", "--persistent", "--bind", address, "--port", NBD_PORT, "--format", "raw",
              "--discard", "unmap", "--export-name", "copy", path]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *host.wrap(server, client=True)],
                               stdin=subprocess.DEVNULL)
    try:
        yield address
    finally:
        process.kill()
        process.wait()


def disk_spans(host, session):
    """(ms until the disks were the same, ms that the guest waited for their rest)"""
    trace = json.loads(host.ctl.ok("migration", "trace", session["session_id"]))
    spans = sorted(event["dur"] / 1000 for event in trace["traceEvents"]
                   if event.get("name") == "disks" and event["ph"] == "X")
    rest, whole = spans
    return whole, rest


class Disk:
    """That of a VM which takes it to and fro."""

    def __init__(self, hosts, folder, arguments):
        self._here, self._there = hosts
        self._target = folder / "target.raw"
        self._size = 2 * arguments.fill * MIB
        file = folder / "data.raw"
        fill(file, arguments.fill)
        self._here.ctl.create(VM, f"{arguments.memory}M", 1, "--disk",
                              f"name=data,file={file},format=raw")
        self._here.ctl.start(VM)

    def _file(self):
        [disk] = self._here.ctl.json("disk", "list", VM)["disks"]
        return pathlib.Path(disk["file"])

    def convert(self):
        file = self._file()
        begun = time.monotonic()
        subprocess.run(["qemu-img", "convert", "-U", "-t", "writeback", "-f", "raw", "-O", "raw",
                        file, self._target], check=True)
        raw_saving.sync(self._target)
        took = since_ms(begun)
        self._target.unlink()
        return {"took_ms": took}

    def mirror(self):
        """By hand: until both are the same, on the other host's disk."""
        with self._target.open("wb") as file:
            file.truncate(self._size)
        with nbd_server(self._there, self._target) as address, \
                contextlib.closing(spare_monitor(self._here)) as monitor:
            node = {"driver": "nbd", "node-name": PEER, "export": "copy", "open-timeout": 30,
                    "server": {"type": "inet", "host": address, "port": str(NBD_PORT)}}
            monitor.command("blockdev-add", **node)
            begun = time.monotonic()
            monitor.command("blockdev-mirror", job_id=PEER, device=device_node(monitor),
                            target=PEER, sync="top", copy_mode="background", auto_dismiss=False)
            monitor.wait("BLOCK_JOB_READY")
            raw_saving.sync(self._target)
            took = since_ms(begun)
            monitor.command("block-job-cancel", device=PEER)
            monitor.wait_job(PEER, "concluded")
            monitor.command("job-dismiss", id=PEER)
            monitor.command("blockdev-del", node_name=PEER)
        self._target.unlink()
        return {"took_ms": took}

    def ferry(self):
        """What it leaves behind is removed."""
        former = self._file()
        session = self._here.ctl.migrate(VM, self._there, *COPY, timeout=600)
        took, rest = disk_spans(self._here, session)
        former.unlink()
        self._here, self._there = self._there, self._here
        return {"took_ms": took, "rest_ms": rest,
                "blackout_ms": number(session["statistics"], "blackout_ms")}

    def round(self, index):
        result = {}
        for name in (*WAYS[index % 3:], *WAYS[:index % 3]):
            raw_saving.settle(self._target.parent)
            result[name] = getattr(self, name)()
        return result

    def close(self):
        file = self._file()
        self._here.ctl.ok("vm", "delete", "--force", VM)
        file.unlink()


def run(hosts, arguments, folder):
    disk = Disk(hosts, folder, arguments)
    rounds = []
    for index in range(arguments.rounds):
        say(f"round {index + 1} of {arguments.rounds}")
        rounds.append(disk.round(index))
    disk.close()
    blackouts = Blackouts(hosts, folder, arguments, COPY)
    for measured in rounds:
        measured["blackouts"] = blackouts.round()
    blackouts.close()
    return rounds


def summarize(rounds):
    summary = {"took_ms": {way: statistics.median(each[way]["took_ms"] for each in rounds)
                           for way in WAYS}}
    summary["rest_ms"] = statistics.median(each["ferry"]["rest_ms"] for each in rounds)
    summary["ratio"] = {}
    for way in ("convert", "mirror"):
        ratios = sorted(each["ferry"]["took_ms"] / each[way]["took_ms"] for each in rounds)
        summary["ratio"][way] = {"p50": statistics.median(ratios), "min": ratios[0],
                                 "max": ratios[-1]}
    summary["blackouts"] = {count: statistics.median(each["blackouts"][count] for each in rounds)
                            for count in rounds[0]["blackouts"]}
    return summary


def table(setting, summary):
    lines = [f"{setting['rounds']} rounds, a raw disk with {setting['fill_mib']} MiB written to; "
             f"host: {setting['host_cpus']} CPUs, load {setting['load']:.1f} at the end", "",
             f"{'medians':36}{'ms':>10}{'MiB/s':>8}{'Ferry /':>10}{'min':>8}{'max':>8}"]
    for way, name in (("convert", "qemu-img convert, on one host"),
                      ("mirror", "by hand: mirror to qemu-nbd"), ("ferry", "Ferry")):
        took = summary["took_ms"][way]
        line = f"{name:36}{took:10.1f}{setting['fill_mib'] * 1000 / took:8.0f}"
        if ratio := summary["ratio"].get(way):
            line += f"{ratio['p50']:10.2f}{ratio['min']:8.2f}{ratio['max']:8.2f}"
        lines.append(line)
    lines.append("blackout with so many disks that come along: " + ", ".join(
        f"{count}: {took:.1f} ms" for count, took in summary["blackouts"].items()))
    lines.append(f"of it for the rest of one disk: {summary['rest_ms']:.1f} ms")
    return "\n".join(lines)


def main():
    arguments = parse_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="ferry-copies-", dir=arguments.disk) as name:
        folder = pathlib.Path(name)
        with Hosts(shared_folder=folder) as hosts:
            for host in hosts:
                host.state = folder / f"state-{host.name}"
            hosts.start()
            rounds = run(hosts, arguments, folder)
    tell(arguments, rounds, summarize, table)


if __name__ == "__main__":
    main()
