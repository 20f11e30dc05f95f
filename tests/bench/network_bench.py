"""What the network sees of migrations: how long a TCP stream through the VM's card hears nothing, and
how many pings are lost, beside the blackout of the same migration.

Each round has one migration, with streams and pings of both kinds of addresses from a third host,
and as long a time without one. Nothing is asserted: read the numbers.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

from harness import lan  # noqa: E402
from harness.ctl import number  # noqa: E402
from harness.host import Hosts  # noqa: E402
from migration_bench import say  # noqa: E402
from report import spread  # noqa: E402

VM, PORT = "vm", 7000
NIC = ("bridge=br0,address=192.0.2.7/24,address=2001:db8:2::7/64,gateway=192.0.2.1,"
       "gateway=2001:db8:2::1")
KINDS = ("IPv4", "IPv6")


def observe(network, act):
    """What is heard while that is done, and of each kind of addresses."""
    clients = [(network.stream(address, PORT), network.ping(address)) for address in lan.GUEST]
    result = act()
    for kind, (stream, ping) in zip(KINDS, clients):
        pings = ping.report()
        result[kind] = {"gap_ms": stream.report()["gap_ms"], "lost": pings["lost"],
                        "sent": pings["sent"]}
    return result


def run(hosts, arguments):
    rounds = []
    here, there = hosts
    with lan.Lan(hosts) as network:
        here.ctl.create(VM, f"{arguments.memory}M", 1, "--nic", NIC)
        here.ctl.start(VM)
        here.ctl.ok("exec", "-d", VM, "--", "nc", "-ll", "-p", str(PORT), "-e", "cat")
        for index in range(arguments.rounds):
            def move():
                began = time.monotonic()
                session = here.ctl.migrate(VM, there)
                return {"blackout_ms": number(session["statistics"], "blackout_ms"),
                        "took_s": time.monotonic() - began}

            moved = observe(network, move)

            def rest():
                time.sleep(moved["took_s"])
                return {}

            here, there = there, here
            rounds.append({"moved": moved, "rest": observe(network, rest)})
            say(f"round {index + 1} of {arguments.rounds}: {json.dumps(rounds[-1])}")
    return rounds


def summarize(rounds):
    summary = {"blackout_ms": spread([each["moved"]["blackout_ms"] for each in rounds])}
    for kind in KINDS:
        for name in ("moved", "rest"):
            seen = [each[name][kind] for each in rounds]
            summary[f"{kind} {name}"] = {
                "gap_ms": spread([each["gap_ms"] for each in seen]),
                "lost": statistics.mean(each["lost"] for each in seen)}
    return summary


def table(setting, summary):
    lines = [f"{setting['rounds']} migrations, VM of {setting['memory_mib']} MiB; host: "
             f"{setting['host_cpus']} CPUs, load {setting['load']:.1f} at the end", "",
             f"{'ms':38}{'p50':>9}{'p99':>9}{'max':>9}"]

    def row(name, values):
        lines.append(f"{name:38}{values['p50']:9.1f}{values['p99']:9.1f}{values['max']:9.1f}")

    row("blackout", summary["blackout_ms"])
    for kind in KINDS:
        row(f"{kind}: longest time without a record", summary[f"{kind} moved"]["gap_ms"])
        row("  without a migration", summary[f"{kind} rest"]["gap_ms"])
    lines.append("")
    for kind in KINDS:
        lines.append(f"{kind}: pings lost in a migration, of one every 10 ms (mean): "
                     f"{summary[f'{kind} moved']['lost']:.1f}, without one "
                     f"{summary[f'{kind} rest']['lost']:.1f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--memory", type=int, default=256, help="MiB of the VM")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with Hosts() as hosts:
        if not hosts.isolated:
            print(f"network_bench: needs namespaces: {hosts.refusal}", file=sys.stderr)
            return 1
        hosts.start()
        rounds = run(hosts, arguments)
    setting = {"rounds": arguments.rounds, "memory_mib": arguments.memory,
               "host_cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    summary = summarize(rounds)
    if arguments.json:
        print(json.dumps({"setting": setting, "rounds": rounds, "summary": summary}))
    else:
        print(table(setting, summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
