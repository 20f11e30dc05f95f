"""Options of migrations, by what they do to a real one."""
import itertools
import json
import statistics
import time

from harness import workload
from harness.ctl import number, parse_json
from harness.qmp import Qmp
from harness.rpc import Rpc

_requests = itertools.count(1)
MEGABYTE = 1 << 20
# By so many QEMU's count may exceed the maximum of passes: it counts its last look at what is dirty
# as a pass, too, and those before it.
LAST_PASSES = 4


def begin(rpc, vm, destination, **options):
    """Starts a migration with these InitializeOptions; returns the session's id."""
    request = rpc.pb.MigrateRequest(vm=vm, destination=destination.address,
                                    request_id=f"request-{next(_requests)}",
                                    options=rpc.pb.InitializeOptions(**options))
    return rpc.migrate(request).session_id


def begin_migrate(rpc, vm, destination, **fields):
    """The same with fields of the request itself: profile, timeout_ms, on_timeout, options."""
    request = rpc.pb.MigrateRequest(vm=vm, destination=destination.address,
                                    request_id=f"request-{next(_requests)}", **fields)
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


def dirtier(host, vm, megabytes, *options):
    """A client of a process that writes to so much of the guest's memory over and over."""
    client = host.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "dirty", "--mb",
                             str(megabytes), *options)
    client.wait_until(lambda output: b"dirty 2\n" in output)
    return client


def wait_until_dirtying(client, rounds=3):
    """Waits for more rounds of the dirtier, wherever it runs now."""
    before = client.output().count(b"\n")
    client.wait_until(lambda output: output.count(b"\n") >= before + rounds)


def throttle_percents(lines):
    """Of the progress reports among the JSON lines of `ferryctl migrate --json`."""
    reports = [message["notification"].get("progress") for message in parse_json(lines)
               if "notification" in message]
    return [number(report, "throttle_percent") for report in reports if report]


def wait_for_plain_settings(host, timeout=30):
    """Waits until QEMU has what it has without any job."""
    deadline = time.monotonic() + timeout
    with Qmp(host) as qmp:
        while any(qmp.capability(name) for name in ("multifd", "auto-converge", "return-path")):
            assert time.monotonic() < deadline, qmp.ask("query-migrate-capabilities")
        while (parameters := qmp.ask("query-migrate-parameters"))["max-cpu-throttle"] != 99 \
                or parameters["cpu-throttle-initial"] != 20 \
                or parameters["multifd-compression"] != "none":
            assert time.monotonic() < deadline, parameters


def test_workers_compress_the_memory_and_the_guest_goes_on(two_hosts, vm):
    source, destination = two_hosts
    # Of copies of one, for a guest is slow at making so many lines.
    fill = (f"yes | head -c {MEGABYTE} > /tmp/one; for i in $(seq 64); do cat /tmp/one; done "
            "> /tmp/fill; md5sum /tmp/fill")
    digest = source.ctl.exec(vm, "sh", "-c", fill).stdout
    assert digest
    with source.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as client, \
            Rpc(source) as rpc, Rpc(destination) as back:
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
        wait_for_plain_settings(source)
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
    # So much that it does not fit, and on no machine more than fits once it is slowed down.
    with dirtier(source, vm, 64, "--rate", "200") as client, Rpc(source) as rpc:
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


def test_profiles_do_what_they_say_for_a_guest_faster_than_the_link(two_hosts, vm):
    source, destination = two_hosts
    limit = ("--max-bandwidth", "48M")
    # More than the link moves within any blackout allowed here, and less than it moves between two
    # turns of a guest that has a hundredth of its time (a turn may be enough to dirty all of it).
    with dirtier(source, vm, 24) as client:
        # Gentle: never slowed down, so it does not fit, and ends by its time limit.
        gentle = source.ctl.run("migrate", vm, "--to", destination.address, *limit, "--profile",
                                "gentle", "--timeout", "12s", "--json")
        assert gentle.returncode == 7, gentle
        ended = parse_json(gentle.stdout.splitlines()[-1])
        assert ended["reason"] == "timed_out" and ended["vm_location"] == source.address, ended
        assert not any(percent for percent in throttle_percents(gentle.stdout)), gentle.stdout
        wait_until_dirtying(client)

        # Balanced: slowed down from its third pass on until it fits; here in larger steps than the
        # profile's and with more time for the switch, so that it fits for sure, and soon.
        with Rpc(source) as rpc:
            throttle = rpc.pb.MemoryTransferThrottleParams(minimum_throttle_percentage=60,
                                                           throttling_scale=39,
                                                           target_blackout_transfer_time=200)
            options = rpc.pb.InitializeOptions(max_bandwidth=48 * MEGABYTE,
                                               memory_transfer_throttle_params=throttle)
            session = begin_migrate(rpc, vm, destination, options=options,
                                    profile=rpc.pb.MIGRATION_PROFILE_BALANCED)
            ended, reports = outcome(rpc, session)
        assert_moved(ended, destination)
        assert ended.statistics.throttle_percent >= 60, ended.statistics
        assert not ended.statistics.switchover_forced
        # QEMU knows no less than one percent once it has been told to slow down at all.
        early = [report.throttle_percent for report in reports if getattr(report, "pass") < 3]
        assert early and max(early) <= 1, early
        assert all(report.HasField("expected_blackout_ms") for report in reports[-3:]), reports[-3:]
        wait_until_dirtying(client)

        # Must-finish: moves in any case.
        finished = destination.ctl.run("migrate", vm, "--to", source.address, *limit, "--profile",
                                       "must-finish", "--json")
        assert finished.returncode == 0, finished
        ended_by = parse_json(finished.stdout.splitlines()[-1])["statistics"]
        assert number(ended_by, "throttle_percent") >= 40, ended_by
        # Its maximum is 12, if it did not fit before.
        assert number(ended_by, "memory_passes") <= 12 + LAST_PASSES, ended_by
        wait_until_dirtying(client)


def test_a_guest_that_no_throttle_makes_slow_enough_is_called_hopeless(two_hosts, vm):
    source, destination = two_hosts
    with dirtier(source, vm, 32) as client:
        # What the guest dirties in the hundredth of its time that it has left takes longer to send
        # than until its next turn.
        hopeless = source.ctl.run("migrate", vm, "--to", destination.address, "--max-bandwidth",
                                  "12M", "--throttle-min", "99", "--downtime-limit", "1ms",
                                  "--json")
        assert hopeless.returncode == 7, hopeless
        ended = parse_json(hopeless.stdout.splitlines()[-1])
        assert ended["reason"] == "not_converging", ended
        assert ended["vm_location"] == source.address, ended
        assert max(throttle_percents(hopeless.stdout)) == 99
        wait_until_dirtying(client)


def test_passes_have_a_target_and_a_maximum(two_hosts, vm):
    source, destination = two_hosts
    hosts = [source, destination]
    passes, forced = {}, {}

    def move(name, **throttle):
        with Rpc(hosts[0]) as rpc:
            params = rpc.pb.MemoryTransferThrottleParams(skip_throttling=True, **throttle)
            ended, _ = outcome(rpc, begin(rpc, vm, hosts[1], max_bandwidth=32 * MEGABYTE,
                                          memory_transfer_throttle_params=params))
        assert_moved(ended, hosts[1])
        passes[name] = ended.statistics.memory_passes
        forced[name] = ended.statistics.switchover_forced
        hosts.reverse()

    with dirtier(source, vm, 4) as client:
        # 4 MiB fit into half a second of the link at once, and never into a millisecond of it.
        move("plain", target_blackout_transfer_time=500)
        move("target", target_blackout_transfer_time=500,
             target_number_of_brownout_transfer_passes=10)
        move("maximum", target_blackout_transfer_time=1,
             maximum_number_of_brownout_transfer_passes=5)
        wait_until_dirtying(client)
    assert passes["plain"] < 8, passes
    assert passes["target"] >= 10, passes
    assert 5 <= passes["maximum"] <= 5 + LAST_PASSES, passes
    assert forced == {"plain": False, "target": False, "maximum": True}


def test_a_blackout_over_the_threshold_is_called_off_and_the_guest_runs_on(two_hosts, vm):
    source, destination = two_hosts
    with dirtier(source, vm, 64) as client:
        options = ("--max-bandwidth", "48M", "--no-throttle", "--max-passes", "3")
        refused = source.ctl.run("migrate", vm, "--to", destination.address, *options,
                                 "--max-blackout", "200ms", "--json")
        assert refused.returncode == 7, refused
        ended = parse_json(refused.stdout.splitlines()[-1])
        assert ended["reason"] == "blackout_threshold_exceeded", ended
        assert ended["vm_location"] == source.address, ended
        assert destination.ctl.state(vm) == "absent"
        wait_until_dirtying(client)
        moved = source.ctl.migrate(vm, destination, *options)
        assert moved["statistics"]["switchover_forced"], moved
        assert 3 <= number(moved["statistics"], "memory_passes") <= 3 + LAST_PASSES, moved
        wait_until_dirtying(client)


def test_a_time_limit_pauses_the_guest_or_forces_the_switchover(two_hosts, vm):
    source, destination = two_hosts
    hosts = [source, destination]
    with dirtier(source, vm, 64) as client:
        for action in ("pause", "force"):
            moved = hosts[0].ctl.migrate(vm, hosts[1], "--profile", "gentle", "--max-bandwidth",
                                         "48M", "--timeout", "5s", "--on-timeout", action)
            assert moved["vm_location"] == hosts[1].address, moved
            assert moved["statistics"]["switchover_forced"], moved
            assert number(moved["statistics"], "total_ms") >= 5000, moved
            # It runs again, though it was paused on the way.
            assert hosts[1].ctl.state(vm) == "running"
            wait_until_dirtying(client)
            hosts.reverse()


def test_a_traced_and_verified_migration_leaves_a_timeline_of_both_sides(two_hosts, vm):
    source, destination = two_hosts
    moved = source.ctl.migrate(vm, destination, "--trace", "--checksum")
    # All of the guest's memory that is not zero went over the connection, and was compared.
    verified = number(moved["statistics"], "verified_bytes")
    assert 16 * MEGABYTE < verified <= number(moved["statistics"], "transferred_bytes"), moved
    trace = json.loads(source.ctl.ok("migration", "trace", moved["session_id"]))
    events = trace["traceEvents"]
    for event in events:
        assert event["ph"] in "MXiC" and isinstance(event["pid"], int), event
        assert event["ph"] == "M" or event["ts"] > 1e15, event  # microseconds since 1970
        assert event["ph"] != "X" or event["dur"] >= 0, event
    sides = {event["args"]["name"].split()[0]: event["pid"] for event in events
             if event["name"] == "process_name"}
    assert set(sides) == {"source", "destination"}, sides
    spans = {(event["pid"], event["name"]): event for event in events if event["ph"] == "X"}
    begins = [spans[sides[side], name]["ts"] for side, name in (
        ("source", "OPEN"), ("destination", "LISTENING"), ("source", "TRANSFER"),
        ("source", "pass 1"), ("source", "cut"), ("destination", "PREPARED"), ("source", "COMMIT"),
        ("destination", "resume"), ("source", "RELEASED"))]
    assert begins == sorted(begins), begins
    blackout = sum(spans[sides[side], name]["dur"] for side, name in (
        ("source", "device state"), ("source", "commit"), ("destination", "resume"))) / 1000
    assert abs(blackout - number(moved["statistics"], "blackout_ms")) < 5, (blackout, moved)
    assert any(event["ph"] == "C" and event["name"] == "remaining bytes" for event in events)
