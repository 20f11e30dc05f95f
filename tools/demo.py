"""The demo: a process crosses from one QEMU host to another and back, with its stdio attached.

Everything that it reports is measured: the blackout by the two daemons (STOP on the source to
RESUME on the destination) and again by the guest's clock, which stands still meanwhile, with the
uncertainty of that way; the stdio gap by a reader of a stream with a line at least every
millisecond.
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
from harness.ctl import CtlError, number, parse_json  # noqa: E402
from harness.host import Hosts  # noqa: E402

VM = "demo"
BLACKOUT_PARTS = ("device", "commit", "resume")
PHASES = {
    "SETUP_DONE": "both sides are ready",
    "BLACKOUT_STARTED": "the VM stands",
    "OFFLINE_DONE": "its state is complete on the other host",
    "DONE": "the VM runs there",
}
BAR = 24
CLOCK_SECONDS = 1  # of output on either side of a migration, to compare the clocks
started = time.monotonic()


def say(text=""):
    if text:
        text = f"[{time.monotonic() - started:5.1f} s]  {text}"
    print(text, file=sys.stderr, flush=True)


class ProgressLine:
    """How far the memory is: one line that is drawn over on a terminal, some lines elsewhere."""

    def __init__(self):
        self._terminal = sys.stderr.isatty()
        self._drawn = False
        self._next = 0.0

    def show(self, notification):
        progress = notification.get("progress")
        if progress:
            self._draw(progress)
            return
        phase = PHASES.get(notification.get("phase", "").replace("MIGRATION_PHASE_", ""))
        if phase:
            self._clear()
            print(f"           {phase}", file=sys.stderr, flush=True)

    def _draw(self, progress):
        if not self._terminal and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1
        total = number(progress, "total_bytes") or 1
        done = max(0.0, 1 - number(progress, "remaining_bytes") / total)
        filled = round(done * BAR)
        eta = number(progress, "eta_ms")
        rate = number(progress, "bytes_per_second")
        text = (f"           pass {number(progress, 'pass'):.0f}  "
                f"[{'#' * filled}{'.' * (BAR - filled)}]  "
                f"{number(progress, 'remaining_bytes') / 1e6:6.1f} MB left"
                + (f"  {rate / 1e6:6.1f} MB/s" if rate else "")
                + (f"  {eta / 1000:.1f} s to go" if progress.get("converging") and eta else ""))
        self._clear()
        print(text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)
        self._drawn = self._terminal

    def _clear(self):
        if self._drawn:
            print("\r\x1b[2K", end="", file=sys.stderr)
        self._drawn = False


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
    say()
    say(f"migrating VM {VM} from host {source.name} to host {destination.name}")
    sessions = {session["session_id"] for session in source.ctl.sessions()}
    quiet = settle(client)
    before, since = client.received, time.monotonic()
    line = ProgressLine()
    with source.ctl.attach("migrate", VM, "--to", destination.address, "--json") as mover:
        for message in mover.lines(timeout=300):
            line.show(parse_json(message).get("notification") or {})
        if mover.wait() != 0:
            raise CtlError(mover.errors() or mover.output().decode(errors="replace"))
    until = time.monotonic()
    # What was held up meanwhile comes first; then the clocks can be compared.
    settle(client)
    after = settle(client)
    stopped_ms, uncertainty_ms = workload.stopped_ms(
        workload.timed_ticks(client, quiet, before),
        workload.timed_ticks(client, after, client.received))
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
        "guest_clock_stopped_ms": rounded(stopped_ms),
        "guest_clock_uncertainty_ms": rounded(uncertainty_ms),
        "tick_gap_ms": round(workload.longest_tick_gap_ms(ticks), 3),
        "tick_step_ms": round(workload.tick_step_ms(ticks), 3),
        "transferred_bytes": int(number(statistics, "transferred_bytes")),
        "memory_passes": int(number(statistics, "memory_passes")),
        "lost_bytes": lost * line_length(client.output()),
        "duplicated_bytes": repeated * line_length(client.output()),
        "vm_runs_on": session.get("vm_location", ""),
    }
    for part in BLACKOUT_PARTS:
        result[f"blackout_{part}_ms"] = number(statistics, f"blackout_{part}_ms")
    return result


def settle(client):
    """Lets the stream run for a while; returns where it stood."""
    start, begun = client.received, time.monotonic()
    client.wait_until(lambda _: time.monotonic() - begun > CLOCK_SECONDS)
    return start


def rounded(value):
    return None if value is None else round(value, 3)


def line_length(output):
    return max(len(match[0]) + 1 for match in workload.TICK.finditer(output))


def show(result):
    parts = ", ".join(f"{part} {result[f'blackout_{part}_ms']:.1f}" for part in BLACKOUT_PARTS)
    rows = [
        ("total", f"{result['total_ms']:.1f}", "ms"),
        ("blackout", f"{result['blackout_ms']:.1f}", f"ms   ({parts})"),
        by_guest_clock(result),
        ("stdio gap", f"{result['stdio_gap_ms']:.1f}",
         f"ms   as the reader saw it, of a line each {result['tick_step_ms']:.1f} ms"),
        ("sent", f"{result['transferred_bytes'] / 1e6:.1f}",
         f"MB   in {result['memory_passes']} passes"),
        ("lost", f"{result['lost_bytes']}", "bytes"),
        ("duplicated", f"{result['duplicated_bytes']}", "bytes"),
    ]
    for name, value, unit in rows:
        print(f"           {name:<22}{value:>9} {unit}", file=sys.stderr)
    print(f"           {'the VM runs on':<22}{'host ' + result['to']:>9}, {result['vm_runs_on']}",
          file=sys.stderr, flush=True)


def by_guest_clock(result):
    name, value = "by the guest's clock", result["guest_clock_stopped_ms"]
    if value is None:
        return name, "?", "     its lines came too seldom"
    return name, f"{value:.1f}", f"ms   (+- {result['guest_clock_uncertainty_ms']:.1f})"


def compare(output, sent):
    """(lost bytes, duplicated bytes) over both directions."""
    ticks = [tick for tick, _ in workload.ticks(output)]
    lost_ticks, repeated_ticks = workload.lost_and_repeated(ticks, first=ticks[0])
    length = line_length(output)
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
    say()
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
