"""The demo: a process crosses from one QEMU host to another and back, with its stdio attached.

Everything that it reports is measured: the blackout by the two daemons (STOP on the source to
RESUME on the destination) and again by the guest's clock, which stands still meanwhile; the stdio
gap by a reader of a stream with a line at least every millisecond.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))

from harness import workload  # noqa: E402
from harness.ctl import CtlError, number  # noqa: E402
from harness.host import Hosts  # noqa: E402

VM = "demo"
BLACKOUT_PARTS = ("device", "commit", "resume")
started = time.monotonic()


def say(text):
    seconds = time.monotonic() - started
    print(f"[{seconds:6.1f}s] {text}", file=sys.stderr, flush=True)


class Talker:
    """Sends numbered lines to the process and keeps what it sent."""

    def __init__(self, client):
        self.sent = []
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self):
        while not self._stop.wait(0.01):
            line = b"input line %d" % len(self.sent)
            self._client.write(line + b"\n")
            self.sent.append(line)

    def stop(self):
        self._stop.set()
        self._thread.join(60)


def migrate(source, destination, client):
    """Runs one migration, showing its progress, and returns what was measured."""
    say(f"migrating {VM} from host {source.name} to host {destination.name}")
    sessions = {session["session_id"] for session in source.ctl.sessions()}
    before, since = client.received, time.monotonic()
    subprocess.run(source.ctl.command("migrate", VM, "--to", destination.address), check=True,
                   stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=300)
    until = time.monotonic()
    # A little more of the stream, so that the gap is closed and the clocks can be compared.
    after = client.received
    client.wait_until(lambda output: len(workload.ticks(output[after:])) > 200)
    session = source.ctl.new_session(sessions)
    statistics = session.get("statistics") or {}
    ticks = workload.ticks(client.output()[before:])
    lost, repeated = workload.lost_and_repeated(tick for tick, _ in ticks)
    result = {
        "from": source.name,
        "to": destination.name,
        "total_ms": number(statistics, "total_ms"),
        "blackout_ms": number(statistics, "blackout_ms"),
        "stdio_gap_ms": round(client.longest_gap(since, until), 3),
        "guest_clock_stopped_ms": round(workload.stopped_ms(client, max(before - 8000, 0), after),
                                        3),
        "tick_gap_ms": round(workload.longest_tick_gap_ms(ticks), 3),
        "transferred_bytes": int(number(statistics, "transferred_bytes")),
        "memory_passes": int(number(statistics, "memory_passes")),
        "lost_lines": lost,
        "duplicated_lines": repeated,
        "vm_runs_on": session.get("vm_location", ""),
    }
    for part in BLACKOUT_PARTS:
        result[f"blackout_{part}_ms"] = number(statistics, f"blackout_{part}_ms")
    return result


def show(result):
    parts = ", ".join(f"{part} {result[f'blackout_{part}_ms']:.1f}" for part in BLACKOUT_PARTS)
    say(f"  total            {result['total_ms']:10.1f} ms")
    say(f"  blackout         {result['blackout_ms']:10.1f} ms ({parts})")
    say(f"  by guest's clock {result['guest_clock_stopped_ms']:10.1f} ms")
    say(f"  stdio gap        {result['stdio_gap_ms']:10.1f} ms")
    say(f"  sent             {result['transferred_bytes'] / 1e6:10.1f} MB "
        f"in {result['memory_passes']} passes")
    say(f"  lines            {result['lost_lines']} lost, {result['duplicated_lines']} repeated")
    say(f"  the VM runs on   {result['vm_runs_on']} (host {result['to']})")


def compare(output, sent):
    """(lost bytes, duplicated bytes) over both directions."""
    ticks = [tick for tick, _ in workload.ticks(output)]
    lost_ticks, repeated_ticks = workload.lost_and_repeated(ticks, first=ticks[0])
    length = max(len(match[0]) + 1 for match in workload.TICK.finditer(output))
    lost, repeated = lost_ticks * length, repeated_ticks * length
    echoed = workload.echoes(output)
    counts = {}
    for line in echoed:
        counts[line] = counts.get(line, 0) + 1
    for line in sent:
        count = counts.pop(line, 0)
        lost += 0 if count else len(line) + 1
        repeated += max(count - 1, 0) * (len(line) + 1)
    # What was never sent, or came torn, is damage as well.
    return lost + workload.strange_bytes(output), repeated + sum(len(line) + 1 for line in counts)


def end_process(client):
    """Ends the process through its standard input and returns its exit status."""
    client.close_stdin()
    return client.wait(60)


def demo(hosts, rounds):
    one, other = hosts.start()
    say("two hosts are up" + ("" if hosts.isolated else " (on loopback: namespaces are refused)"))
    one.ctl.create(VM)
    booted = time.monotonic()
    one.ctl.start(VM)
    boot_ms = (time.monotonic() - booted) * 1000
    accelerator = one.ctl.vm(VM).get("accelerator") or one.ctl.json("host").get("accelerator")
    say(f"VM {VM} runs on host {one.name} ({accelerator}); its agent was ready in {boot_ms:.0f} ms")

    with one.ctl.attach("exec", "-i", VM, "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: len(output) > 20000)
        talker = Talker(client)
        say("attached to a process that prints numbered lines and echoes its input")
        migrations = []
        for source, destination in [(one, other), (other, one)] * rounds:
            migrations.append(migrate(source, destination, client))
            show(migrations[-1])
        talker.stop()
        last = talker.sent[-1]
        client.wait_until(lambda output: b"echo " + last + b"\n" in output)
        status = end_process(client)
        lost, duplicated = compare(client.output(), talker.sent)
        received, written = client.received, client.written
    say(f"process ended with status {status}; {received} bytes read, {written} bytes written, "
        f"{lost} lost, {duplicated} duplicated")
    return {
        "migrations": migrations,
        "lost_bytes": lost,
        "duplicated_bytes": duplicated,
        "exit_status": status,
        "accelerator": accelerator,
        "boot_ms": round(boot_ms, 1),
        "isolated_hosts": hosts.isolated,
    }


def main():
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", action="store_true",
                        help="print the measurements as one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=1, metavar="N",
                        help="how many times there and back (default: 1)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    with Hosts() as hosts:
        try:
            result = demo(hosts, arguments.rounds)
        except (CtlError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(hosts.logs(), file=sys.stderr)
            print(f"tools/demo: {error}", file=sys.stderr)
            return 1
    if arguments.json:
        print(json.dumps(result), flush=True)
    return 0 if result["lost_bytes"] == result["duplicated_bytes"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
