"""Many migrations of one VM, with a process attached all the time."""
import time

from harness import workload

MIGRATIONS = 200
WARM = 40  # until then caches, thread pools and the store's pages may still grow
LEAK_KIB = 2048  # one session that is kept by mistake is some 20 KiB


def ping_pong(hosts, vm, host, times):
    for _ in range(times):
        host.ctl.migrate(vm, hosts.other(host))
        assert host.processes("qemu-system") == []
        host = hosts.other(host)
        assert len(host.processes("qemu-system")) == 1
    return host


def usage(hosts):
    return {host.name: (host.open_descriptors(), host.resident_kib()) for host in hosts}


def wait_for_descriptors(hosts, name, wanted, timeout=60):
    [host] = [host for host in hosts if host.name == name]
    deadline = time.monotonic() + timeout
    while (there := host.open_descriptors()) > wanted:
        assert time.monotonic() < deadline, (name, there, wanted)
        time.sleep(0.1)


def test_two_hundred_migrations_keep_the_stream_and_the_hosts_clean(two_hosts, vm):
    host = two_hosts[0]
    with host.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        host = ping_pong(two_hosts, vm, host, WARM)
        before = usage(two_hosts)
        host = ping_pong(two_hosts, vm, host, MIGRATIONS - WARM)
        after = usage(two_hosts)
        client.write(b"the end\n")
        client.wait_until(lambda output: b"echo the end\n" in output[-200000:])
        numbers = [tick for tick, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers) == (0, 0)
        assert client.running()
    print(f"descriptors and KiB of memory: before {before}, after {after}")
    for name, (descriptors, resident) in after.items():
        # What the last migration used closes by itself in a moment, if it is nothing that stays.
        if descriptors > before[name][0]:
            wait_for_descriptors(two_hosts, name, before[name][0])
        assert resident <= before[name][1] + LEAK_KIB, (before, after)
