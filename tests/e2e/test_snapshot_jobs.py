"""Snapshots inside disks as jobs: how they are seen, how they end, and what is remembered of them; and
what former jobs leave them."""
import re
import signal
import time

import pytest

from harness import proc
from harness.build import ROOT
from harness.qmp import Qmp
from harness.records import shell
from harness.saving import REFUSED, host  # noqa: F401
from harness.snapshots import DISKS, disks, snapshots, take  # noqa: F401
from harness.waiting import wait_closely, wait_for

KEPT = ("kind", "vm_id", "vm_name", "what", "state", "started_unix_ms", "ended_unix_ms", "result",
        "error")
# Seconds, of every command to a VMM that does not say otherwise.
COMMAND_DEADLINE = int(re.search(r"deadline\{([0-9]+)'000\}",
                                 (ROOT / "vmmanager/qemu/qmp_client.h").read_text())[1])


def jobs(host, *options):
    """By their start; of those that are under way, unless "--all" is given."""
    return host.ctl.json("job", "list", "--kind", "snapshot", *options).get("jobs", [])


def state(of):
    return of["state"].removeprefix("JOB_STATE_")


class InTheMiddle:
    """A snapshot that is being saved, while QEMU stands still with some of the memory in its disk."""
    _SOME = 8 << 20

    def __init__(self, host, vm, tag):
        # So that it takes a while.
        shell(host, vm, "head -c 80000000 /dev/urandom > /tmp/much")
        self._host = host
        (self._vmm, _), = host.processes("qemu-system")
        # On a busy host it may be done before it is stopped.
        while not self._catch(vm, tag):
            self.go_on()
            assert self.saving.wait() == 0, self.saving.errors()
            self.saving.close()
            host.ctl.ok("snapshot", "delete", vm, tag)
            for former in jobs(host, "--all"):
                host.ctl.ok("job", "dismiss", former["id"])

    def _catch(self, vm, tag):
        before = self._written()
        self.saving = self._host.ctl.attach("snapshot", "save", vm, tag, *DISKS)
        wait_closely(lambda: self._written() > before + self._SOME, "nothing is written")
        self._host.signal_process(self._vmm, signal.SIGSTOP)
        stat = self._host.outside(f"/proc/{self._vmm}/stat")
        wait_for(lambda: proc.state(stat.read_text()) == "T", "it does not stop")
        self.job = next(iter(jobs(self._host)), None)
        return self.job is not None

    def _written(self):
        """The bytes that the VMM has written so far, to whatever."""
        io = self._host.outside(f"/proc/{self._vmm}/io").read_text()
        return int(re.search(r"wchar: ([0-9]+)", io)[1])

    def go_on(self):
        self._host.signal_process(self._vmm, signal.SIGCONT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._host.processes("qemu-system"):
            self.go_on()
        self.saving.close()


def test_one_is_seen_and_not_cancelled(host, disks):
    vm = disks
    with InTheMiddle(host, vm, "t") as it:
        begun = time.monotonic()
        assert it.job["what"] == "take t" and it.job["vm_name"] == vm, it.job
        assert state(it.job) == "RUNNING" and not it.job.get("cancellable"), it.job
        assert "in one piece" in it.job["why_not_cancellable"], it.job
        for word, text in (("cancel", "in one piece, and hears nobody meanwhile"),
                           ("dismiss", "is still under way")):
            refused = host.ctl.run("job", word, it.job["id"])
            assert refused.returncode == REFUSED and text in refused.stderr, refused
        assert host.ctl.state(vm) == "saving"
        # For longer than its VMM may otherwise take for an answer.
        wait_for(lambda: time.monotonic() > begun + COMMAND_DEADLINE + 2, "time stands still")
        assert state(jobs(host)[0]) == "RUNNING" and host.ctl.state(vm) == "saving"
        with host.ctl.attach("job", "watch", it.job["id"]) as watching:
            it.go_on()
            assert watching.wait() == 0, watching.errors()
            assert b"The snapshot of VM vm is done: took t." in watching.output()
        assert it.saving.wait() == 0, it.saving.errors()
    assert not jobs(host) and host.ctl.state(vm) == "running"
    assert host.ctl.json("job", "inspect", it.job["id"])["result"] == "took t"


def test_one_does_not_keep_a_vm_from_being_ended(host, disks):
    vm = disks
    with InTheMiddle(host, vm, "t") as it:
        host.ctl.ok("stop", "--force", vm)
        assert it.saving.wait() != 0
    ended = host.ctl.json("job", "inspect", it.job["id"])
    assert state(ended) == "FAILED" and ended["error"]["message"], ended
    assert host.ctl.state(vm) == "stopped"
    host.ctl.start(vm)
    assert snapshots(host, vm) == {}
    take(host, vm, "t")


def test_a_daemon_that_dies_in_the_middle_of_one(host, disks):
    vm = disks
    with InTheMiddle(host, vm, "t") as it:
        host.kill()
        it.go_on()
        assert it.saving.wait() != 0
        host.start()
    # QEMU took it to its end, and nobody knows what it is of.
    assert host.ctl.state(vm) == "running" and snapshots(host, vm) == {}
    assert state(host.ctl.json("job", "inspect", it.job["id"])) == "FAILED"
    take(host, vm, "t")
    host.ctl.ok("snapshot", "load", vm, "t")


def test_how_they_ended_is_kept_until_it_is_dismissed(host, disks):
    vm = disks
    take(host, vm, "t")
    host.ctl.ok("snapshot", "load", vm, "t")
    host.ctl.ok("snapshot", "delete", vm, "t")
    for word in ("load", "delete"):
        refused = host.ctl.run("snapshot", word, vm, "t")
        assert refused.returncode == REFUSED and "has no snapshot t" in refused.stderr, refused
    host.die_at("SNAPSHOT.taken", "snapshot", "save", vm, "t", *DISKS)
    all_of_them = jobs(host, "--all")
    assert [(each["what"], state(each), each.get("result", "")) for each in all_of_them] == [
        ("take t", "DONE", "took t"), ("load t", "DONE", "went back to t"),
        ("delete t", "DONE", "deleted t"), ("load t", "FAILED", ""), ("delete t", "FAILED", ""),
        ("take t", "FAILED", "")]
    for refused in all_of_them[3:5]:
        assert refused["error"]["info"]["reason"] == "no_such_snapshot", refused
    assert all_of_them[5]["error"]["message"] == "ferryd ended while it ran", all_of_them[5]
    host.restart()
    for each in all_of_them:
        kept = host.ctl.json("job", "inspect", each["id"])
        assert {key: kept.get(key) for key in KEPT} == {key: each.get(key) for key in KEPT}
    watched = host.ctl.run("job", "watch", all_of_them[3]["id"])
    assert watched.returncode != 0 and "has no snapshot t" in watched.stderr, watched
    host.ctl.ok("job", "dismiss", *(each["id"] for each in all_of_them))
    host.restart()
    assert not jobs(host, "--all")


@pytest.mark.parametrize("left", [["multifd"], ["background-snapshot"], ["postcopy-ram"],
                                  ["block", "x-ignore-shared", "compress"]])
def test_settings_that_somebody_left_change_nothing(host, disks, left):
    vm = disks

    def leave():
        with Qmp(host) as qmp:
            qmp.ask("migrate-set-capabilities",
                    capabilities=[{"capability": name, "state": True} for name in left])

    # As Ferry's own jobs leave them.
    take(host, vm, "first")
    shell(host, vm, "echo then > /tmp/note")
    leave()
    take(host, vm, "t")
    with Qmp(host) as qmp:
        assert not any(qmp.capability(name) for name in left)
    shell(host, vm, "rm /tmp/note")
    leave()
    host.ctl.ok("snapshot", "load", vm, "t")
    assert shell(host, vm, "cat /tmp/note") == "then"
    leave()
    host.ctl.ok("snapshot", "delete", vm, "t")
    host.ctl.ok("snapshot", "load", vm, "first")
    assert host.ctl.exec(vm, "ls", "/tmp/note").returncode != 0
