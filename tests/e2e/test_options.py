"""Options of migrations, by what they do to a real one."""
import itertools
import statistics
import time

from harness import workload
from harness.ctl import number
from harness.qmp import Qmp
from harness.rpc import Rpc

_requests = itertools.count(1)
MEGABYTE = 1 << 20


def begin(rpc, vm, destination, **options):
    """Starts a migration with these InitializeOptions; returns the session's id."""
    request = rpc.pb.MigrateRequest(vm=vm, destination=destination.address,
                                    request_id=f"request-{next(_requests)}",
                                    options=rpc.pb.InitializeOptions(**options))
    return rpc.migrate(request).session_id


def wait_until_moving(rpc, session, timeout=60):
    """Waits until the session's first bytes have left: QEMU has its options by then."""
    deadline = time.monotonic() + timeout
    while not (seen := rpc.session(session)).progress.transferred_bytes:
        assert time.monotonic() < deadline and not seen.done, seen
        time.sleep(0.02)


def outcome(rpc, session):
    """Waits for the end of the session's notifications; the session and its progress reports."""
    reports = [notice.notification.progress for notice in rpc.notifications(session)
               if notice.notification.HasField("progress")]
    deadline = time.monotonic() + 60
    while not (ended := rpc.session(session)).done:
        assert time.monotonic() < deadline, ended
        time.sleep(0.05)
    return ended, reports


def assert_moved(ended, destination):
    assert ended.vm_location == destination.address, ended


def test_workers_compress_the_memory_and_the_guest_goes_on(two_hosts, vm):
    source, destination = two_hosts
    fill = f"yes | head -c {64 * MEGABYTE} > /tmp/fill && md5sum /tmp/fill"
    with source.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client, \
            Rpc(source) as rpc, Rpc(destination) as back:
        digest = source.ctl.exec(vm, "sh", "-c", fill).stdout
        assert digest
        plain, _ = outcome(rpc, begin(rpc, vm, destination))
        assert_moved(plain, destination)
        # Limited, so that there is time to ask QEMU; compressed bytes are what is limited.
        session = begin(back, vm, source, max_bandwidth=8 * MEGABYTE, compression_settings=
                        back.pb.CompressionSettings(throttle_worker_count=2))
        wait_until_moving(back, session)
        with Qmp(destination) as qmp:
            assert qmp.capability("multifd")
            parameters = qmp.ask("query-migrate-parameters")
            assert parameters["multifd-channels"] == 2
            assert parameters["multifd-compression"] == "zstd"
        compressed, _ = outcome(back, session)
        assert_moved(compressed, source)
        # The filling alone is 64 MiB, and compresses to next to nothing.
        saved = plain.statistics.transferred_bytes - compressed.statistics.transferred_bytes
        assert saved > 48 * MEGABYTE, (plain.statistics, compressed.statistics)
        # The bridge still serves, memory is whole, and no tick is missing.
        assert source.ctl.exec(vm, "md5sum", "/tmp/fill").stdout == digest
        client.write(b"there\n")
        client.wait_until(lambda output: b"echo there\n" in output)
        numbers = [tick for tick, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers, first=numbers[0]) == (0, 0)


def test_workers_can_be_cancelled_and_used_again(two_hosts, vm):
    source, destination = two_hosts
    with Rpc(source) as rpc:
        workers = rpc.pb.CompressionSettings(throttle_worker_count=4)
        session = begin(rpc, vm, destination, compression_settings=workers,
                        max_bandwidth=500_000)
        wait_until_moving(rpc, session)
        rpc.cancel(session)
        ended, _ = outcome(rpc, session)
        assert ended.vm_location == source.address, ended
        assert source.ctl.exec(vm, "echo", "here").stdout == "here\n"
        ended, _ = outcome(rpc, begin(rpc, vm, destination, compression_settings=workers))
        assert_moved(ended, destination)
    assert destination.ctl.exec(vm, "echo", "there").stdout == "there\n"


def test_a_guest_that_dirties_memory_quickly_is_slowed_down_until_it_fits(two_hosts, vm):
    source, destination = two_hosts
    with source.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "dirty", "--mb",
                           "64") as client, Rpc(source) as rpc:
        client.wait_until(lambda output: b"dirty 2\n" in output)
        throttle = rpc.pb.MemoryTransferThrottleParams(
            minimum_throttle_percentage=60, throttling_scale=39, target_blackout_transfer_time=200)
        session = begin(rpc, vm, destination, max_bandwidth=48 * MEGABYTE,
                        memory_transfer_throttle_params=throttle)
        wait_until_moving(rpc, session)
        slowest = 0
        with Qmp(source) as qmp:
            assert qmp.capability("auto-converge")
            deadline = time.monotonic() + 120
            while slowest < 60:
                assert time.monotonic() < deadline, "the guest was never slowed down"
                assert not rpc.session(session).done, rpc.session(session)
                slowest = qmp.ask("query-migrate").get("cpu-throttle-percentage", 0)
        ended, _ = outcome(rpc, session)
        assert_moved(ended, destination)
        assert ended.statistics.memory_passes > 2
        # On the other side it dirties on.
        rounds = client.output().count(b"\n")
        client.wait_until(lambda output: output.count(b"\n") > rounds + 5)
        with Qmp(destination) as qmp:
            assert qmp.ask("query-status")["status"] == "running"


def test_the_bandwidth_limit_holds_in_what_is_reported(two_hosts, vm):
    source, destination = two_hosts
    hosts = [source, destination]
    medians = {}
    # Random bytes, so that there is something to send whatever the guest holds.
    source.ctl.exec(vm, "sh", "-c",
                    f"{workload.PROGRAM} random --bytes {32 * MEGABYTE} > /tmp/fill")
    for limit in (4 * MEGABYTE, 40 * MEGABYTE):
        here, there = hosts
        with Rpc(here) as rpc:
            ended, reports = outcome(rpc, begin(rpc, vm, there, max_bandwidth=limit))
        assert_moved(ended, there)
        rates = [report.bytes_per_second for report in reports if report.bytes_per_second]
        assert rates, reports
        medians[limit] = statistics.median(rates)
        # QEMU accounts in slices of 100 ms, so a burst may overshoot; by no order of magnitude.
        assert medians[limit] < 3 * limit, medians
        hosts.reverse()
    assert medians[4 * MEGABYTE] < medians[40 * MEGABYTE], medians
