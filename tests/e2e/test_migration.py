"""Migrations under load, and the ways in which they end early."""
import json
import random
import re
import threading
import time

from harness import workload
from harness.ctl import number
from harness.exits import Exits
from harness.mover import SLOW, assert_failed, phase_seen
from harness.oracles import wait_for_state


def open_migration(hosts, vm, *options):
    """Starts a migration that is still transferring when this returns: (ferryctl, session id)."""
    source, destination = hosts
    before = {session["session_id"] for session in source.ctl.sessions()}
    client = source.ctl.start_migration(vm, destination, *options)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for session in source.ctl.sessions():
            moving = number(session.get("progress") or {}, "transferred_bytes") > 0
            if session["session_id"] not in before and moving:
                return client, session["session_id"]
        assert client.running(), client.errors()
        time.sleep(0.05)
    client.close()
    raise TimeoutError("the migration did not begin to transfer")


def wait_until_attached(host, vm, timeout=60):
    deadline = time.monotonic() + timeout
    while not any(process.get("attached") for process in host.ctl.processes(vm)):
        assert time.monotonic() < deadline, f"nobody attaches on {host.name}"
        time.sleep(0.1)


def assert_nothing_left(host, vm):
    """No VM of that name, no QEMU."""
    wait_for_state(host, vm, "absent")
    assert host.processes("qemu-system") == []


def assert_goes_on(client):
    """The process still prints and answers."""
    count = len(client.output())
    client.write(b"still there\n")
    client.wait_until(lambda output: b"echo still there\n" in output[max(count - 20, 0):])


def test_ten_migrations_under_load_lose_and_repeat_nothing(two_hosts, vm):
    sent = []
    stop = threading.Event()
    with workload.attach_ticker(two_hosts[0], vm) as client:

        def talk():
            while not stop.wait(0.005):
                line = b"line %d %s" % (len(sent), b"." * (len(sent) % 700))
                sent.append(line)
                client.write(line + b"\n")

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            host = two_hosts[0]
            for _ in range(10):
                host.ctl.migrate(vm, two_hosts.other(host))
                assert host.ctl.state(vm) in ("absent", "stopped")
                host = two_hosts.other(host)
                assert host.ctl.state(vm) == "running"
                assert client.running(), client.errors()
        finally:
            stop.set()
            talker.join()
        last = sent[-1]
        client.wait_until(lambda output: b"echo " + last + b"\n" in output[-200000:])
        numbers = [tick for tick, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers, first=numbers[0]) == (0, 0)
        assert numbers == sorted(numbers)
        assert workload.echoes(client.output()) == sent
        assert workload.strange_bytes(client.output()) == 0


# In bytes in a second: the reader is the bottleneck.
READER_PACE = 1_000_000


def test_fifty_megabytes_come_back_identical_over_three_migrations(two_hosts, vm):
    data = random.Random(1).randbytes(50_000_000)
    host = two_hosts[0]
    in_flight = []
    with host.ctl.attach("exec", "-i", vm, "--", "cat") as client:
        client.pace(READER_PACE)
        done = threading.Event()

        def feed():
            client.write(data)
            client.close_stdin()
            done.set()

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        client.wait_until(lambda output: len(output) > 1_000_000)
        for _ in range(3):
            # So that buffers are full in both directions, however slow the guest is here.
            client.pace(READER_PACE // 50)
            client.wait_until_full()
            statistics = host.ctl.migrate(vm, two_hosts.other(host))["statistics"]
            client.pace(READER_PACE)
            in_flight.append([number(statistics, f"unacknowledged_{direction}_bytes")
                              for direction in ("stdin", "output")])
            host = two_hosts.other(host)
            # The slow reader has much to take before it sees that the process moved.
            wait_until_attached(host, vm)
            # More than what was under way to it before, so that input flows again as well.
            count = client.received + 2_000_000
            client.wait_until(lambda output: len(output) > count)
        assert not done.is_set(), "all was sent before the last migration ended"
        client.pace(0)
        assert client.wait(300) == 0, client.errors()
        feeder.join(30)
        assert client.output() == data
        # At each blackout bytes were under way in both directions.
        assert len(in_flight) == 3 and min(min(both) for both in in_flight) > 0, in_flight


# A blackout lasts some ten milliseconds, and a test must not depend on catching the first one.
ROUNDS = 8


def test_exit_statuses_from_around_the_blackout_arrive_once(two_hosts, vm):
    host = two_hosts[0]
    exits = Exits(vm)
    for _ in range(ROUNDS):
        exits.migrate(host, two_hosts.other(host))
        if exits.around:
            return
        host = two_hosts.other(host)
    raise AssertionError(f"in {ROUNDS} migrations no process ended around the blackout")


def test_input_sent_during_the_blackout_decides_the_exit_after_it(two_hosts, vm):
    host = two_hosts[0]
    for _ in range(ROUNDS):
        if input_in_a_blackout(host, two_hosts.other(host), vm):
            return
        host = two_hosts.other(host)
    raise AssertionError(f"in {ROUNDS} migrations no input was sent during the blackout")


def input_in_a_blackout(source, destination, vm):
    """Migrates and sends input once the guest is stopped; whether that was before it ran again."""
    with workload.attach(source, vm, "exit-on-line", "42") as client, \
            source.ctl.start_migration(vm, destination) as mover:
        mover.wait_until(lambda output: b"MIGRATION_PHASE_BLACKOUT_STARTED" in output)
        client.write(b"now\n")
        written = time.monotonic()
        assert mover.wait(120) == 0, mover.errors()
        assert client.wait(60) == 42, client.errors()
        lasted = number(json.loads(mover.output().splitlines()[-1])["statistics"], "blackout_ms")
        # The message came a little after the stop, so only the first half counts.
        return written < phase_seen(mover, b"BLACKOUT_STARTED") + lasted / 2000


def test_cancel_in_mid_transfer_leaves_the_vm_on_its_source(two_hosts, vm):
    source, destination = two_hosts
    with workload.attach_ticker(source, vm) as client:
        mover, session = open_migration(two_hosts, vm, *SLOW)
        with mover:
            source.ctl.ok("migration", "cancel", session)
            assert mover.wait(60) != 0
        wait_for_state(source, vm, "running")
        assert_nothing_left(destination, vm)
        assert_goes_on(client)
        # And the next one succeeds.
        source.ctl.migrate(vm, destination)
        assert_goes_on(client)
        numbers = [tick for tick, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers) == (0, 0)


def test_destination_killed_in_mid_transfer_leaves_the_vm_on_its_source(two_hosts, vm):
    source, destination = two_hosts
    with workload.attach_ticker(source, vm) as client:
        mover, session = open_migration(two_hosts, vm, *SLOW)
        with mover:
            destination.kill()
            assert mover.wait(90) == 5
            assert_failed(mover, source.address, "connection_lost")
        assert "migrate again" in source.ctl.session(session)["next_step"]
        wait_for_state(source, vm, "running")
        assert_goes_on(client)
        numbers = [tick for tick, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers) == (0, 0)
    # Its VMM has outlived the daemon; the next one ends it.
    destination.start()
    assert_nothing_left(destination, vm)
    kept = [file.name for file in destination.outside(destination.state / "vm").iterdir()]
    assert kept == ["accelerator.json"]


def test_second_migration_and_machine_changes_are_refused_while_one_runs(two_hosts, vm):
    source, destination = two_hosts
    mover, session = open_migration(two_hosts, vm, *SLOW)
    with mover:
        for refused in (["migrate", vm, "--to", destination.address], ["vm", "delete", vm],
                        ["vm", "stop", vm], ["vm", "restart", vm]):
            result = source.ctl.run(*refused, timeout=60)
            assert result.returncode == 4, (refused, result)
            assert re.search("migrat", result.stderr, re.I), (refused, result.stderr)
        # What does not change the machine works on.
        assert source.ctl.exec(vm, "echo", "hello").stdout == "hello\n"
        with source.ctl.terminal("exec", "-it", vm, "--", workload.PROGRAM, "keys") as terminal:
            terminal.wait_for(b"size 24 80 lines")
            terminal.set_size(30, 90)
            terminal.wait_for(b"size 30 90 lines")
            process, = [each["id"] for each in source.ctl.processes(vm) if each.get("running")]
            source.ctl.ok("kill", "-s", "KILL", vm, str(process))
            assert terminal.wait() == 137
        assert any(vm_["name"] == vm for vm_ in source.ctl.vms())
        source.ctl.ok("migration", "cancel", session)
        mover.wait(60)
    wait_for_state(source, vm, "running")


def test_a_paused_vm_moves_and_stays_paused(two_hosts, vm):
    source, destination = two_hosts
    with workload.attach_ticker(source, vm) as client:
        source.ctl.ok("vm", "pause", vm)
        source.ctl.migrate(vm, destination)
        assert destination.ctl.state(vm) == "paused"
        assert_nothing_left(source, vm)
        client.write(b"patience\n")
        destination.ctl.ok("vm", "resume", vm)
        client.wait_until(lambda output: b"echo patience\n" in output)
        numbers = [tick for tick, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers, first=numbers[0]) == (0, 0)


def test_a_vm_that_is_paused_while_its_memory_moves_arrives_paused(two_hosts, vm):
    source, destination = two_hosts
    with workload.attach_ticker(source, vm) as client:
        mover, _ = open_migration(two_hosts, vm, "--max-bandwidth", "40M")
        with mover:
            source.ctl.ok("vm", "pause", vm)
            # Whoever wants it to go on waits for the outcome, and is told where that is.
            with source.ctl.attach("vm", "resume", vm) as resuming:
                assert mover.wait(120) == 0, mover.errors()
                assert resuming.wait() != 0 and destination.address in resuming.errors()
        assert destination.ctl.state(vm) == "paused"
        assert_nothing_left(source, vm)
        destination.ctl.ok("vm", "resume", vm)
        assert_goes_on(client)
        numbers = [tick for tick, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers, first=numbers[0]) == (0, 0)


def test_a_detached_process_that_ended_keeps_output_and_status_over_migrations(two_hosts, vm):
    source, destination = two_hosts
    command = f"{workload.PROGRAM} random --bytes 300000 --seed 4; exit 44"
    with source.ctl.attach("exec", vm, "--", "sh", "-c", command) as client:
        assert client.wait() == 44
        expected = client.output()
    process = source.ctl.ok("exec", "-d", vm, "--", "sh", "-c", command).strip()
    late = source.ctl.ok("exec", "-d", "-i", vm, "--", workload.PROGRAM, "exit-on-line",
                         "45").strip()
    source.ctl.migrate(vm, destination)
    destination.ctl.migrate(vm, source)
    with source.ctl.attach("attach", vm, process) as client:
        assert client.wait() == 44, client.errors()
        assert client.output() == expected
    with source.ctl.attach("attach", vm, late) as client:
        client.write(b"now\n")
        assert client.wait() == 45, client.errors()


def test_statistics_of_a_migration_are_complete(two_hosts, vm):
    source, destination = two_hosts
    session = source.ctl.migrate(vm, destination)
    numbers = session["statistics"]
    assert number(numbers, "total_ms") > number(numbers, "blackout_ms") > 0
    assert number(numbers, "transferred_bytes") > 1_000_000
    parts = sum(number(numbers, f"blackout_{part}_ms") for part in ("device", "commit", "resume"))
    assert 0 < parts <= number(numbers, "blackout_ms") + 1
    assert session.get("vm_location") == destination.address


def test_progress_is_json_lines(two_hosts, vm):
    source, destination = two_hosts
    result = source.ctl.run("migrate", vm, "--to", destination.address, "--json")
    assert result.returncode == 0, result.stderr
    assert [json.loads(line) for line in result.stdout.splitlines()]
