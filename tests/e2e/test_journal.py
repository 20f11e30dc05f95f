"""A journal that cannot be written, or that lost something: no step forward, and no VM that runs is
lost."""
import contextlib
import re
import shutil
import subprocess

import pytest

from harness import oracles, workload
from harness.build import build_folder
from harness.ctl import CtlError
from harness.mover import assert_succeeded
from test_crash import wait_for_death


def small_disk(host):
    """Puts the host's state folder on a file system of its own that is soon full."""
    host.outside(host.state).mkdir(mode=0o700)
    host.run(["mount", "-t", "tmpfs", "-o", "size=64M,mode=0700", "ferry", host.state], check=True)


@contextlib.contextmanager
def full(host):
    """Not a byte is free in the state folder."""
    filler = host.state / "filler"
    for size in ("64k", "1"):
        result = host.run(["dd", "if=/dev/zero", f"of={filler}", f"bs={size}", "oflag=append",
                           "conv=notrunc"], stderr=subprocess.PIPE, text=True)
        assert "No space left" in result.stderr, result.stderr
    try:
        yield
    finally:
        host.run(["rm", filler], check=True)


@pytest.fixture
def small_disks(bare_hosts, isolated):
    for host in bare_hosts:
        small_disk(host)
    bare_hosts.start()
    bare_hosts[0].ctl.create("vm")
    bare_hosts[0].ctl.start("vm")
    return bare_hosts


@pytest.fixture
def ticking(small_disks):
    with small_disks[0].ctl.attach("exec", "-i", "vm", "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        yield client


@pytest.mark.parametrize("side", (0, 1), ids=("source", "destination"))
def test_a_full_disk_refuses_the_migration(small_disks, ticking, side):
    owner, other = small_disks
    with full(small_disks[side]):
        with pytest.raises(CtlError, match="free space on its disk"):
            owner.ctl.migrate("vm", other)
        assert oracles.settle(small_disks, "vm") is owner
    assert oracles.assert_all(small_disks, "vm", ticking) is owner
    owner.ctl.migrate("vm", other)
    assert oracles.assert_all(small_disks, "vm", ticking) is other


def test_a_disk_that_fills_up_on_the_way_calls_it_off(small_disks, ticking):
    """The memory moves already; what comes next at the source is a record that it cannot write."""
    owner, other = small_disks
    with owner.ctl.attach("migrate", "vm", "--to", other.address, "--max-bandwidth",
                          "10M") as migrate:
        oracles.wait_for_new_record(owner, "TRANSFER")
        with full(owner):
            assert migrate.wait(120) != 0
            assert oracles.settle(small_disks, "vm") is owner
    assert oracles.assert_all(small_disks, "vm", ticking) is owner
    owner.ctl.migrate("vm", other)
    assert oracles.assert_all(small_disks, "vm", ticking) is other


WAL_FRAME = 4096 + 24


def lose_newest(host, kind):
    """Cuts the log of a store that nobody holds until the record of that kind, its newest, is gone."""
    log = host.outside(host.state) / "ferry.db-wal"
    while kind in oracles.check_journal(log.parent)[0]:
        size = log.stat().st_size
        assert size > WAL_FRAME, f"{kind} is not in the log"
        with open(log, "r+b") as file:
            file.truncate(size - WAL_FRAME)


def test_a_source_that_lost_its_commit_waits_for_the_destination(two_hosts, vm):
    """Power loss took the tail of the source's log, the destination was granted the VM: the source
    notices, and runs nothing until the destination has spoken. Truncating the file is what a disk
    leaves that lied about its last writes."""
    owner, other = two_hosts
    other.flags = ["--failpoint", "GRANTED.after"]
    other.restart()
    with owner.ctl.attach("migrate", vm, "--to", other.address):
        wait_for_death(other)
        other.flags = []
        owner.kill()
    lose_newest(owner, "COMMIT")
    records, wrong = oracles.check_journal(owner.outside(owner.state))
    assert records[-1] == "QUIESCED"
    assert "was begun and is not there" in wrong
    owner.start()
    assert "the journal may have lost records" in owner.log_tail(1000)
    assert owner.ctl.state(vm) == "in_doubt"
    assert owner.ctl.run("resume", vm, timeout=60).returncode != 0
    assert owner.ctl.state(vm) == "in_doubt"
    other.start()
    assert oracles.settle(two_hosts, vm) is other
    oracles.assert_one_copy(two_hosts, other)
    assert other.ctl.exec(vm, "echo", "there").stdout == "there\n"


def look_at(path):
    """What ferry-journal's status and words are."""
    result = subprocess.run([build_folder() / "bin/ferry-journal", path], capture_output=True,
                            text=True, timeout=60)
    return result.returncode, result.stderr


def test_a_journal_is_whole_whenever_it_is_looked_at(two_hosts, vm):
    """While the daemons write it, and whatever they are about to write."""
    looked = 0
    for owner in two_hosts:
        other = two_hosts.other(owner)
        with owner.ctl.start_migration(vm, other) as migrate:
            while not re.search(b"MIGRATION_PHASE_(DONE|FAILED)", migrate.output()):
                for host in two_hosts:
                    status, words = look_at(host.outside(host.state) / "ferry.db")
                    assert status == 0 or (status == 2 and "try again" in words), words
                    looked += 1
            assert_succeeded(migrate, other)
    assert looked > 10
    oracles.assert_journals_verify(two_hosts)


def test_what_is_no_journal_is_not_called_damaged(tmp_path):
    garbage = tmp_path / "ferry.db"
    garbage.write_bytes(b"x" * 9000)
    status, words = look_at(garbage)
    assert (status, "cannot be read" in words) == (2, True), words
    assert look_at(tmp_path / "none")[0] == 2
    assert list(tmp_path.iterdir()) == [garbage]


def store_files(host):
    """The store, its log and its witness; what a backup would keep."""
    return [host.outside(host.state) / f"ferry.db{suffix}" for suffix in ("", "-wal", "-witness")]


@pytest.mark.parametrize("before", ("COMMIT", "QUIESCED", "TRANSFER"))
def test_a_source_whose_journal_was_put_back_asks_first(two_hosts, vm, tmp_path, before):
    """Somebody restores the source's state from some time before COMMIT, witness and all, once the
    VM has moved: the journal is whole, and only the destination knows better."""
    owner, other = two_hosts
    owner.freeze_at(f"{before}.before")
    with owner.ctl.start_migration(vm, other) as migrate:
        owner.wait_frozen()
        for file in store_files(owner):
            if file.exists():
                shutil.copyfile(file, tmp_path / file.name)
        owner.thaw()
        assert_succeeded(migrate, other)
    owner.kill()
    for file in store_files(owner):
        file.unlink(missing_ok=True)
        if (tmp_path / file.name).exists():
            shutil.copyfile(tmp_path / file.name, file)
    records, wrong = oracles.check_journal(owner.outside(owner.state))
    assert records[-1] == {"COMMIT": "QUIESCED", "QUIESCED": "TRANSFER", "TRANSFER": "OPEN"}[before]
    assert wrong == ""
    other.kill()
    owner.flags = []
    owner.start()
    # Nobody can be asked, and the VM's QEMU is gone here: it is not started again all the same.
    assert owner.ctl.state(vm) == "in_doubt"
    refused = owner.ctl.run("start", vm)
    assert refused.returncode != 0 and other.address in refused.stderr
    other.start()
    assert oracles.settle(two_hosts, vm) is other
    assert oracles.journal(owner)[-1][1] == "RELEASED"
    assert any(event["type"] == "journal.put_back" for event in owner.ctl.json("events"))
    oracles.assert_one_copy(two_hosts, other)
    assert other.ctl.exec(vm, "echo", "there").stdout == "there\n"
