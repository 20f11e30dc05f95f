"""Many migrations of one VM, with a process attached all the time."""
import re
import time

from harness import workload
from harness.build import ROOT

ROUND_TRIPS = 5  # to see what a daemon has at rest
MEASURED = 50
# For each migration: of a session its record stays, and pages of the database until its cache is
# full. A buffer of the session connection that stays is some 256 KiB.
GROWTH_KIB = 32
# gRPC has a few threads more after a busy moment, and keeps them.
MORE_THREADS = 2


def sessions_kept():
    """How many sessions a daemon keeps whole after their end, each with its memory."""
    source = (ROOT / "migration/controller/session_registry.cc").read_text()
    return int(re.search(r"kEndedKept = ([0-9]+);", source)[1])


def ping_pong(hosts, vm, host, times):
    for _ in range(times):
        host.ctl.migrate(vm, hosts.other(host))
        assert host.processes("qemu-system") == []
        host = hosts.other(host)
        assert len(host.processes("qemu-system")) == 1
    return host


def usage(host):
    """Descriptors, files, threads and KiB of memory."""
    return host.open_descriptors(), host.files(), host.threads(), host.resident_kib()


def usage_at_rest(hosts, vm, host):
    """The least that each host has after some round trips."""
    seen = {one: [] for one in hosts}
    for _ in range(ROUND_TRIPS):
        ping_pong(hosts, vm, host, 2)
        for one, there in seen.items():
            there.append(usage(one))
    return {one: tuple(map(min, zip(*there))) for one, there in seen.items()}


def wait_for_usage(host, limit, timeout=60):
    """What the last migration used goes by itself in a moment, if it is nothing that stays."""
    deadline = time.monotonic() + timeout
    while any(there > most for there, most in zip(usage(host), limit)):
        assert time.monotonic() < deadline, (host.name, usage(host), limit)
        time.sleep(0.1)


def test_two_hundred_migrations_keep_the_stream_and_the_hosts_clean(two_hosts, vm):
    # Each host is the source of every second one, and cleans up after itself as destination.
    warm = 2 * (sessions_kept() + 1)
    assert warm + 4 * ROUND_TRIPS + MEASURED >= 200
    host = two_hosts[0]
    with host.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        early = usage_at_rest(two_hosts, vm, host)
        ping_pong(two_hosts, vm, host, warm)
        before = usage_at_rest(two_hosts, vm, host)
        ping_pong(two_hosts, vm, host, MEASURED)
        print({one.name: (early[one], before[one], usage(one)) for one in two_hosts})
        for one, (descriptors, files, threads, resident) in before.items():
            wait_for_usage(one, (descriptors, files, threads + MORE_THREADS,
                                 resident + MEASURED * GROWTH_KIB))
            # The sessions that are kept are small, too.
            assert resident <= early[one][-1] + (warm + 2 * ROUND_TRIPS) * GROWTH_KIB
        client.write(b"the end\n")
        client.wait_until(lambda output: b"echo the end\n" in output[-200000:])
        numbers = [tick for tick, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers) == (0, 0)
        assert client.running()
