"""Containers and stdio: how long a person waits, how fast bytes come, and what it costs in memory.

Every number stands beside one of the same run that it can be compared with: the start of a VM
alone, a call of ferryctl that asks the daemon for nothing but a name, one stream beside many.
Nothing is asserted: read the numbers.
"""
import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

from harness import box  # noqa: E402
from harness.host import Hosts  # noqa: E402

VM = "bench"
MIB = 1 << 20
VMS = 3  # for memory, at most
BOOTS = 3  # for a median, at most


def say(text):
    print(text, file=sys.stderr, flush=True)


def median_ms(rounds, seconds_of):
    """The median of what `seconds_of` returns."""
    return statistics.median(seconds_of() for _ in range(rounds)) * 1000


def call(host, *words):
    """Seconds that a command of ferryctl takes."""
    begun = time.monotonic()
    host.ctl.ok(*words)
    return time.monotonic() - begun


def first_byte(host, *words):
    """Seconds until ferryctl prints something."""
    begun = time.monotonic()
    with host.ctl.attach(*words) as client:
        client.wait_until(lambda output: len(output) > 0, timeout=180)
        seconds = time.monotonic() - begun
        client.close_stdin()
        assert client.wait(180) == 0, client.errors()
    return seconds


def waits(host, rounds):
    """What a person waits for, in ms."""
    host.ctl.create("other")
    booted = call(host, "start", "other") + call(host, "stop", "--force", "other")
    result = {
        "ferryctl alone (vm inspect)": median_ms(
            rounds, lambda: call(host, "vm", "inspect", VM)),
        "exec in a VM": median_ms(
            rounds, lambda: call(host, "exec", VM, "--", "true")),
        "exec in a container": median_ms(
            rounds, lambda: call(host, "exec", "--container", "idle", "--", "true")),
        "run in a VM that is there, to the first byte": median_ms(
            rounds, lambda: first_byte(host, "run", "--rm", "--vm", VM, box.NAME, "echo", "x")),
        "VM start and stop alone": booted * 1000,
        "run with a VM of its own, to the first byte": median_ms(
            max(rounds // 10, min(rounds, BOOTS)),
            lambda: first_byte(host, "run", "--rm", box.NAME, "echo", "x")),
    }
    host.ctl.ok("vm", "delete", "other")
    return result


def drain(processes):
    """Reads them all to their ends; returns how many bytes came."""
    total = 0
    descriptors = {process.stdout.fileno() for process in processes}
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    while descriptors:
        for descriptor, _ in poll.poll():
            piece = os.read(descriptor, 1 << 20)
            total += len(piece)
            if not piece:
                poll.unregister(descriptor)
                descriptors.discard(descriptor)
    return total


def output_rate(host, streams, size, *where):
    """MiB/s of all streams together, from their processes to their readers."""
    each = size // streams
    command = ["exec", *where, "--", "sh", "-c", f"read go; exec head -c {each} /dev/zero"]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(
            host.ctl.command(command[0], "-i", *command[1:]), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE)) for _ in range(streams)]
        await_running(host, streams)
        begun = time.monotonic()
        for process in processes:
            process.stdin.write(b"go\n")
            process.stdin.close()
        came = drain(processes)
        seconds = time.monotonic() - begun
        assert came == each * streams, (came, each * streams)
        for process in processes:
            assert process.wait() == 0
    return came / MIB / seconds


def await_running(host, count):
    while sum(1 for process in host.ctl.processes(VM) if process.get("attached")) < count:
        pass


def input_rate(host, size):
    command = host.ctl.command("exec", "-i", VM, "--", "sh", "-c", "wc -c")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        begun = time.monotonic()
        block = bytes(MIB)
        for _ in range(size // MIB):
            process.stdin.write(block)
        process.stdin.close()
        assert int(process.stdout.read()) == size // MIB * MIB
        return size / MIB / (time.monotonic() - begun)


def pipe_rate(host, size):
    """MiB/s between two processes in the VM: what the guest's kernel does for each byte anyway."""
    seconds = call(host, "exec", VM, "--", "sh", "-c", f"head -c {size} /dev/zero | cat >/dev/null")
    return size / MIB / seconds


def rates(host, size):
    return {
        "a pipe within the VM": pipe_rate(host, size),
        "one stream out of a VM": output_rate(host, 1, size, VM),
        "64 streams out of a VM": output_rate(host, 64, size, VM),
        "one stream out of a container": output_rate(host, 1, size, "--container", "idle"),
        "one stream into a VM": input_rate(host, size),
    }


def resident(host):
    """KiB that the host's ferryd has in memory."""
    status = (host.outside("/proc") / str(host.daemon_pid()) / "status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def agent(host):
    status = host.ctl.ok("exec", VM, "--", "cat", "/proc/1/status")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def memory(host, many):
    """KiB of ferryd for each thing more, and of the guest's agent."""
    result = {"ferryd with one VM and one container": resident(host),
              "guest agent with one container": agent(host)}
    before, inside = resident(host), agent(host)
    for index in range(many):
        host.ctl.ok("run", "-d", "--read-only", "--name", f"more{index}", "--vm", VM, box.NAME,
                    "sleep", "100000")
    result["ferryd, per container"] = (resident(host) - before) / many
    result["guest agent, per container"] = (agent(host) - inside) / many
    before = resident(host)
    with contextlib.ExitStack() as stack:
        for _ in range(many):
            client = stack.enter_context(host.ctl.attach("exec", "-i", VM, "--", "cat"))
            client.write(b"x\n")
            client.wait_until(lambda output: output == b"x\n")
        result["ferryd, per attached process (3 streams)"] = (resident(host) - before) / many
    before, vms = resident(host), min(many, VMS)
    for index in range(vms):
        host.ctl.create(f"more{index}", "128M")
        host.ctl.start(f"more{index}")
    result["ferryd, per VM"] = (resident(host) - before) / vms
    # What is measured next has the machine to itself.
    for index in range(vms):
        host.ctl.ok("vm", "delete", "--force", f"more{index}")
    for index in range(many):
        host.ctl.ok("container", "rm", "--force", f"more{index}")
    return result


def table(title, values, unit):
    width = max(len(name) for name in values)
    return "\n".join([title] + [f"  {name:{width}} {value:10.1f} {unit}"
                                for name, value in values.items()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--size", type=int, default=64, help="MiB per measurement of a rate")
    parser.add_argument("--many", type=int, default=32, help="containers, and processes, for memory")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.size, arguments.many) < 1:
        parser.error("numbers must be at least 1")
    with tempfile.TemporaryDirectory() as folder, Hosts() as hosts:
        host = hosts[0]
        host.start()
        box.import_into(host, pathlib.Path(folder))
        host.ctl.create(VM, "512M")
        host.ctl.start(VM)
        host.ctl.ok("run", "-d", "--name", "idle", "--vm", VM, box.NAME, "sleep", "100000")
        # Before the allocator has something to reuse.
        say("memory ...")
        used = memory(host, arguments.many)
        say("waiting times ...")
        waited = waits(host, arguments.rounds)
        say("rates ...")
        rated = rates(host, arguments.size * MIB)
        accelerator = host.ctl.json("vm", "inspect", VM).get("accelerator", "?")
    setting = {"rounds": arguments.rounds, "size_mib": arguments.size, "many": arguments.many,
               "accelerator": accelerator, "host_cpus": os.cpu_count(),
               "host_load": os.getloadavg()[0], "kernel": platform.release()}
    if arguments.json:
        print(json.dumps({"setting": setting, "ms": waited, "mib_per_s": rated, "kib": used}))
        return
    print(f"VM under {accelerator}; host: {os.cpu_count()} CPUs, load {setting['host_load']:.1f} "
          "at the end\n")
    print(table("waiting, median", waited, "ms") + "\n")
    print(table("stdio, through ferry-guest, bridge, relay, gRPC and ferryctl", rated, "MiB/s") + "\n")
    print(table("memory", used, "KiB"))


if __name__ == "__main__":
    main()
