"""What the guest and those who talk to it do to a migration. Rows 18 to 22, 29 and 33 of
docs/failure-matrix.md."""
import re
import signal

import pytest

from harness import oracles, workload
from harness.exits import Exits
from harness.mover import assert_succeeded, last_word

FLOOD = re.compile(rb"^flood (\d+)$", re.M)
# A reader that stands still must not make the daemons keep more than the streams' own limits.
MEMORY_GROWTH_KIB = 16 * 1024


def in_guest(host, vm, command):
    """Has something done in the guest that nobody waits for."""
    host.ctl.ok("exec", "-d", vm, "--", "sh", "-c", command)


def waiting_for_a_word(host, vm, command):
    """A process that does something to the guest once it has read a line."""
    client = host.ctl.attach("exec", "-i", vm, "--", "sh", "-c", f"echo up; read x; {command}")
    client.wait_until(lambda output: output == b"up\n")
    return client


PANIC = "echo c > /proc/sysrq-trigger"


@pytest.mark.parametrize("command, reason", [
    ("poweroff -f", "guest_shutdown"), ("reboot -f", "guest_reset"), (PANIC, "guest_reset")])
def test_rows_18_19_guest_ends_in_pre_copy(trial, command, reason):
    # What ends the guest at once may end it before its agent has said that it was begun.
    with waiting_for_a_word(trial.source, trial.vm, command) as client, \
            trial.migrate_slowly() as mover:
        client.write(b"now\n")
        ended = last_word(mover)
        assert ended["outcome"] == "SESSION_OUTCOME_CANCELLED", str(ended)
        assert ended["reason"] == reason, str(ended)
    trial.settle_lost(failed_at=trial.source)


@pytest.mark.parametrize("command", ["poweroff -f", "reboot -f", PANIC])
def test_rows_18_19_guest_is_told_to_end_in_the_blackout(trial, command):
    source, destination = trial.source, trial.destination
    with waiting_for_a_word(source, trial.vm, command) as client, \
            trial.frozen_at(destination, "PREPARED.before") as mover:
        client.write(b"now\n")
        destination.thaw()
        assert_succeeded(mover, destination)
        # It reads the line there.
        trial.settle_lost(failed_at=destination)


def test_rows_20_21_agent_hangs_over_the_whole_migration(trial):
    """It takes no part in the freeze, which is the host's, and may come back when it likes."""
    source, destination, vm = trial.source, trial.destination, trial.vm
    in_guest(source, vm, f"{workload.PROGRAM} hold 1 --ms 8000 >/dev/console")
    trial.copies.wait_for(b"holding")
    with trial.migrate() as mover:
        assert_succeeded(mover, destination)
    assert not trial.copies.said(b"released"), "it hung for too short a time"
    assert destination.ctl.state(vm) == "running"
    trial.copies.wait_for(b"released")
    assert destination.ctl.exec(vm, "echo", "late").stdout == "late\n"
    trial.settle(destination)


def test_row_22_a_thousand_exits_around_blackouts(trial):
    host = trial.source
    exits = Exits(trial.vm)
    for _ in range(0, 1000, 32):
        exits.migrate(host, trial.hosts.other(host), count=32)
        host = trial.hosts.other(host)
    assert exits.around > 0
    trial.settle(host)


def test_row_29_stopped_reader_holds_up_nothing_but_its_process(trial):
    source, destination, vm = trial.source, trial.destination, trial.vm
    with source.ctl.attach("exec", vm, "--", workload.PROGRAM, "flood") as reader:
        reader.wait_until(lambda output: len(output) > 100000)
        reader.signal(signal.SIGSTOP)
        before = {host: host.resident_kib() for host in trial.hosts}
        with trial.migrate() as mover:
            assert_succeeded(mover, destination)
        trial.settle(destination)  # others are served as ever
        for host in trial.hosts:
            assert host.resident_kib() - before[host] < MEMORY_GROWTH_KIB, host.name
        taken = reader.received
        reader.signal(signal.SIGCONT)
        reader.wait_until(lambda output: len(output) > taken + (4 << 20))
        numbers = [int(each) for each in FLOOD.findall(workload.whole_lines(reader.output()))]
        assert numbers == list(range(len(numbers)))


def test_row_33_paused_vm_moves_there_and_back(trial):
    source, destination, vm = trial.source, trial.destination, trial.vm
    source.ctl.ok("vm", "pause", vm)
    for host in (source, destination):
        other = trial.hosts.other(host)
        host.ctl.migrate(vm, other)
        assert other.ctl.state(vm) == "paused"
        oracles.assert_one_copy(trial.hosts, other)
    source.ctl.ok("vm", "resume", vm)
    trial.settle(source)
