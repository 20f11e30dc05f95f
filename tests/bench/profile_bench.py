"""What each profile makes of a guest that dirties memory faster than the link carries it.

Nothing is asserted: read the numbers. Gentle gives up by its time limit, which is cut short here.
"""
import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

from harness import workload  # noqa: E402
from harness.ctl import CtlError, number, parse_json  # noqa: E402
from harness.host import Hosts  # noqa: E402

VM = "bench"
PROFILES = {"gentle": ["--timeout", "20s"], "balanced": [], "must-finish": []}
COLUMNS = ("total_ms", "blackout_ms", "memory_passes", "throttle_percent")


def move(here, there, profile, limit):
    """One migration: how it ended, and its numbers."""
    command = ["migrate", VM, "--to", there.address, "--profile", profile, "--json", *limit,
               *PROFILES[profile]]
    done = here.ctl.run(*command, timeout=600)
    try:
        session = parse_json(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise CtlError(done.stderr) from None
    statistics = session["statistics"]
    moved = session["vm_location"] == there.address
    return {
        "profile": profile,
        "outcome": "moved" if moved else session.get("reason", "failed"),
        "forced": bool(statistics.get("switchover_forced")),
        **{column: number(statistics, column) for column in COLUMNS},
    }, moved


def run(hosts, arguments):
    hosts.start()
    here, there = hosts
    here.ctl.create(VM, f"{arguments.memory}M")
    here.ctl.start(VM)
    limit = ["--max-bandwidth", f"{arguments.bandwidth}M"]
    results = []
    with here.ctl.attach("exec", "-i", VM, "--", workload.PROGRAM, "dirty", "--mb",
                         str(arguments.dirty)) as client:
        client.wait_until(lambda output: b"dirty 2\n" in output)
        for profile in PROFILES:
            result, moved = move(here, there, profile, limit)
            results.append(result)
            print(result, file=sys.stderr, flush=True)
            if moved:
                here, there = there, here
            rounds = client.output().count(b"\n")
            client.wait_until(lambda output, seen=rounds: output.count(b"\n") > seen + 2)
    return results


def table(arguments, results):
    lines = [f"VM of {arguments.memory} MiB, a process that writes to {arguments.dirty} MiB over "
             f"and over; the link carries {arguments.bandwidth} MiB/s", "",
             f"{'profile':<14}{'outcome':<18}{'total ms':>10}{'blackout ms':>13}{'passes':>8}"
             f"{'slowed down':>13}{'forced':>8}"]
    for result in results:
        throttled = f"{result['throttle_percent']:.0f}%"
        lines.append(f"{result['profile']:<14}{result['outcome']:<18}{result['total_ms']:>10.0f}"
                     f"{result['blackout_ms']:>13.1f}{result['memory_passes']:>8.0f}"
                     f"{throttled:>13}{'yes' if result['forced'] else 'no':>8}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--memory", type=int, default=256, metavar="MIB",
                        help="memory of the VM (default: 256)")
    parser.add_argument("--dirty", type=int, default=64, metavar="MIB",
                        help="how much of it is written to (default: 64)")
    parser.add_argument("--bandwidth", type=int, default=48, metavar="MIB",
                        help="what the link carries in a second (default: 48)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    arguments = parser.parse_args()
    with Hosts() as hosts:
        try:
            results = run(hosts, arguments)
        except (CtlError, OSError, RuntimeError) as error:
            print(f"{hosts.logs()}\nprofile_bench: {error}", file=sys.stderr)
            return 1
    print(json.dumps({"results": results}) if arguments.json else table(arguments, results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
