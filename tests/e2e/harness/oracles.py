"""What must hold after every fault, however it ended: one running copy, no byte lost or repeated,
journals that make sense, nothing left behind."""
import contextlib
import pathlib
import shutil
import sqlite3
import subprocess
import tempfile
import time

from . import workload
from .build import build_folder

SETTLE_DEADLINE = 90  # seconds, on the host's clock

# What a VM that is in doubt may come to, by the destination's word or a person's.
SETTLED = ("RELEASED", "RECLAIMED", "FORCED", "GIVEN_UP")

# What may follow a record of a session on the same host, by its place in the commit protocol.
NEXT = {
    None: ("OPEN", "IMPORTED", "REFUSED"),
    # Also without a COMMIT: the journal may have lost it, or been put back to before it.
    "OPEN": ("TRANSFER", "ABORT", *SETTLED),
    "TRANSFER": ("QUIESCED", "ABORT", *SETTLED),
    "QUIESCED": ("COMMIT", "ABORT", *SETTLED),
    "COMMIT": SETTLED,
    "IMPORTED": ("LISTENING", "REFUSED"),
    "LISTENING": ("PREPARED", "REFUSED"),
    "PREPARED": ("GRANTED", "REFUSED"),
    "GRANTED": ("RUNNING", "SUPERSEDED"),
    "RUNNING": ("SUPERSEDED",),
}


def assert_next_step(errors, *words):
    """An error says what to do next, with these words."""
    steps = [line.split(":", 1)[1].strip() for line in errors.splitlines()
             if line.startswith("  Next:")]
    assert len(steps) == 1, errors
    assert all(word in steps[0] for word in words), errors


def read_copy(host):
    """The journal's rows, from a copy: the daemon holds the store."""
    source = host.outside(host.state / "ferry.db")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "ferry.db"
        for suffix in ("", "-wal"):
            original = source.with_name(source.name + suffix)
            if original.exists():
                shutil.copyfile(original, copy.with_name(copy.name + suffix))
        with contextlib.closing(sqlite3.connect(copy)) as database:
            return database.execute(
                "SELECT session_id, kind, vm_id, epoch FROM journal ORDER BY sequence").fetchall()


def journal(host):
    """(session, kind) of every record."""
    return [(session, kind) for session, kind, _, _ in records(host)]


def records(host):
    """(session, kind, VM, epoch) of every record."""
    for attempts_left in range(20, 0, -1):
        try:
            rows = read_copy(host)
            break
        except sqlite3.DatabaseError:
            # The daemon wrote between the copies of the two files.
            if attempts_left == 1:
                raise
    return [tuple(field.decode() if isinstance(field, bytes) else field for field in row)
            for row in rows]


def replay(host):
    """Walks the host's journal: each record may follow the one before it, and epochs only grow."""
    last, epochs = {}, {}
    for session, kind, vm, epoch in records(host):
        described = f"{host.name}: {kind} after {last.get(session)} in session {session}"
        assert kind in NEXT.get(last.get(session), ()), described
        assert epoch >= epochs.get(vm, 0), f"{described}: epoch {epoch} after {epochs[vm]}"
        last[session] = kind
        if kind in ("COMMIT", "GRANTED", "RECLAIMED", "FORCED", "SUPERSEDED"):
            epochs[vm] = epoch


def assert_journals_agree(hosts):
    """Each journal makes sense, and no session was both given and kept."""
    kinds = {}
    for host in hosts:
        replay(host)
        for session, kind in journal(host):
            kinds.setdefault(session, []).append((host.name, kind))
    for session, records in kinds.items():
        names = [kind for _, kind in records]
        described = f"session {session}: {records}"
        assert not ("GRANTED" in names and "REFUSED" in names), described
        assert not ("COMMIT" in names and "ABORT" in names), described
        assert not ("GRANTED" in names and "COMMIT" not in names), described
        assert not ("RELEASED" in names and "RUNNING" not in names), described
        assert not ("RECLAIMED" in names and "REFUSED" not in names), described
        assert len(records) == len(set(records)), described


def check_journal(folder):
    """What ferry-journal says about the store in `folder`: (records, what is wrong with it)."""
    result = subprocess.run([build_folder() / "bin/ferry-journal", folder / "ferry.db"],
                            capture_output=True, text=True, timeout=60)
    assert result.returncode in (0, 1), result.stderr
    records = [line.split("\t")[2] for line in result.stdout.splitlines()]
    return records, result.stderr if result.returncode else ""


def assert_journals_verify(hosts):
    """Each journal's chain is whole, and nothing decisive is missing."""
    for host in hosts:
        _, wrong = check_journal(host.outside(host.state))
        assert not wrong, (host.name, wrong)


def wait_for_new_record(host, kind):
    """Until the newest record of the journal is of that kind."""
    deadline = time.monotonic() + SETTLE_DEADLINE
    while (journal(host) or [("", "")])[-1][1] != kind:
        assert time.monotonic() < deadline, f"no new {kind} on {host.name}"
        time.sleep(0.02)


def undecided(host):
    return [session for session in host.ctl.sessions() if not session.get("done")]


def settle(hosts, vm):
    """Waits until every session is over; returns the one host on which the VM runs."""
    deadline = time.monotonic() + SETTLE_DEADLINE
    while True:
        open_sessions = [session for host in hosts for session in undecided(host)]
        states = {host.name: host.ctl.state(vm) for host in hosts}
        running = [host for host in hosts if states[host.name] in ("running", "paused")]
        absent = [host for host in hosts if states[host.name] == "absent"]
        if not open_sessions and len(running) == 1 and len(absent) == len(list(hosts)) - 1:
            return running[0]
        assert time.monotonic() < deadline, f"not settled: {states}, {open_sessions}"
        time.sleep(0.1)


def settle_lost(hosts, vm, failed_at):
    """Waits until every session is over and the VM is listed as ended on `failed_at` alone."""
    wanted = {host.name: ("failed", "stopped") if host is failed_at else ("absent",)
              for host in hosts}
    deadline = time.monotonic() + SETTLE_DEADLINE
    while True:
        open_sessions = [session for host in hosts for session in undecided(host)]
        states = {host.name: host.ctl.state(vm) for host in hosts}
        if not open_sessions and all(states[name] in wanted[name] for name in states):
            return
        assert time.monotonic() < deadline, f"not settled: {states}, {open_sessions}"
        time.sleep(0.1)


def assert_one_copy(hosts, owner):
    """Of the VMMs one is left, and that on `owner`; None: none is left."""
    for host in hosts:
        found = host.processes("qemu-system")
        assert len(found) == (1 if host is owner else 0), (host.name, found)


def assert_granted_and_lost(source, destination):
    """The source gave the VM away in the newest session, and the destination lost it before it ran
    there. Both say so."""
    given, taken = (host.ctl.sessions()[0] for host in (source, destination))
    assert given["session_id"] == taken["session_id"], (given, taken)
    assert given["outcome"] == "SESSION_OUTCOME_FAILED", given
    assert given["reason"] == "vm_died_after_switchover", given
    assert given["vm_location"] == "nowhere", given
    assert taken["outcome"] == "SESSION_OUTCOME_FAILED", taken
    assert taken["reason"] == "destination_vm_died", taken
    assert taken["vm_location"] == "nowhere", taken


def assert_nothing_left(hosts, owner):
    """No private socket of a session, and no VM's folder but the one that is in use."""
    for host in hosts:
        state = host.outside(host.state)
        assert list((state / "mig").iterdir()) == [], host.name
        folders = [entry for entry in (state / "vm").iterdir() if entry.is_dir()]
        assert len(folders) == (1 if host is owner else 0), (host.name, folders)


def wait_for_state(host, vm, *states, timeout=60):
    """Waits until the VM is in one of these states on this host ("absent" is one)."""
    deadline = time.monotonic() + timeout
    while (state := host.ctl.state(vm)) not in states:
        assert time.monotonic() < deadline, f"{vm} on {host.name} is {state}, not one of {states}"
        time.sleep(0.1)


def assert_runs_only_at(hosts, vm, owner):
    other = hosts.other(owner)
    assert owner.ctl.state(vm) == "running"
    assert other.ctl.state(vm) == "absent"
    assert_one_copy([other], None)


def assert_answers(client, word=b"still there"):
    """The process echoes a line that it gets now."""
    before = client.received
    client.write(word + b"\n")
    client.wait_until(lambda output: output.find(b"echo " + word + b"\n", before) >= 0)


def assert_stream_whole(client, word=b"still there"):
    """The process still answers, and every tick came once."""
    assert_answers(client, word)
    output = client.output()
    numbers = [number for number, _ in workload.ticks(output)]
    assert workload.lost_and_repeated(numbers, first=numbers[0]) == (0, 0)
    assert workload.strange_bytes(output) == 0


def assert_all(hosts, vm, client):
    owner = settle(hosts, vm)
    assert_one_copy(hosts, owner)
    assert_stream_whole(client)
    assert_journals_agree(hosts)
    assert_journals_verify(hosts)
    assert_nothing_left(hosts, owner)
    return owner


def assert_a_pause_outlives_daemons(host, vm):
    """A VM that its user pauses stays that, and alive, when its daemon ends and another comes."""
    host.ctl.ok("vm", "pause", vm)
    pid = host.ctl.vm(vm)["vmm_pid"]
    for end in (host.stop, host.kill):
        end()
        host.start()
        assert host.ctl.state(vm) == "paused"
        assert host.ctl.vm(vm)["vmm_pid"] == pid
    host.ctl.ok("vm", "resume", vm)
