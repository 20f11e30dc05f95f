"""Many migrations of one VM, with a process attached all the time."""
from harness import workload

MIGRATIONS = 40


def test_forty_migrations_keep_the_stream_and_the_hosts_clean(two_hosts, vm):
    host = two_hosts[0]
    with host.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        for _ in range(MIGRATIONS):
            host.ctl.migrate(vm, two_hosts.other(host))
            assert host.processes("qemu-system") == []
            host = two_hosts.other(host)
            assert len(host.processes("qemu-system")) == 1
        client.write(b"the end\n")
        client.wait_until(lambda output: b"echo the end\n" in output[-200000:])
        numbers = [tick for tick, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers) == (0, 0)
        assert client.running()
