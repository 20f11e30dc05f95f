"""Whoever dies at whatever point of a save, a restore, a checkpoint or a snapshot: the VM is there once,
is what the list says, goes on with all that it has written, and nothing half-made is left.

What becomes of it at each point is in harness/saving_points.py.
"""
from harness.filling import small_folder
from harness.records import assert_one_instant
from harness.saving import REFUSED, RESTORE_REFUSED, host  # noqa: F401
from harness.victim import (SNAPSHOT, VM, cases, dies_without_a_vmm,  # noqa: F401
                            every_death, inside_victim, victim)
from harness.waiting import wait_for

CREATE = {"live checkpoint": ["--live"], "plain checkpoint": [],
          "quiesced checkpoint": ["--disk-only", "--quiesce"]}


def save(victim, mortals, *points):
    for dies, point, state, _ in cases("save", mortals, *points):
        done = victim.done()
        victim.strike(dies, point, "stop", "--save", VM)
        victim.settle(state, done)
        victim.recover()


def save_to_a_file(victim, mortals, *points):
    file = victim.host.folder / "moment.ferry"
    for dies, point, state, there in cases("save to a file", mortals, *points):
        done = victim.done()
        victim.strike(dies, point, "save", VM, "--to", file)
        if there and state == "stopped":
            # Nothing has run since, so it goes on from there.
            victim.host.ctl.ok("start", VM, "--from", file)
            state = "running"
        victim.settle(state, done)
        wait_for(lambda: victim.host.outside(file).exists() == there, "not what is to be of its file")
        victim.host.run(["rm", "-f", file], check=True)
        victim.recover()


def restore(victim, mortals, *points):
    host = victim.host
    for dies, point, state, _ in cases("restore", mortals, *points):
        done = victim.done()
        host.ctl.ok("stop", "--save", VM)
        # Then its disks are newer than what it was saved in.
        runs = point == "RESTORE.ran"
        victim.strike(dies, point, "start", VM, meanwhile=victim.await_writes if runs else None)
        if state == "stopped":
            aside = victim.aside()
            assert host.ctl.state(VM) == state
            again = host.ctl.run("start", VM, "--from", aside)
            assert again.returncode == (RESTORE_REFUSED if runs else 0), again
            state = "stopped" if runs else "running"
            host.run(["rm", aside], check=True)
        victim.settle(state, done)
        if state in ("stopped", "failed"):
            # It boots, and knows nothing of what was before.
            host.ctl.start(VM)
            assert host.ctl.exec(VM, "ls", "/tmp/done").returncode != 0
        victim.recover()


def take(victim, way, mortals, *points):
    for dies, point, state, there in cases(way, mortals, *points):
        done = victim.done()
        victim.strike(dies, point, "checkpoint", "create", VM, "x", *CREATE[way])
        victim.settle(state, done, ["base", "x"] if there else ["base"])
        if there and "--disk-only" not in CREATE[way]:
            victim.go_back("x")
        elif there:
            victim.host.ctl.ok("checkpoint", "revert", VM, "x")
            victim.assert_kept(done)
        if there:
            victim.delete("x")
        victim.recover()


def take_offline(victim, mortals):
    for dies, point, state, there in cases("offline checkpoint", mortals):
        done = victim.done()
        victim.host.ctl.ok("stop", "--force", VM)
        victim.strike(dies, point, "checkpoint", "create", VM, "x", "--disk-only")
        victim.settle(state, done, ["base", "x"] if there else ["base"])
        if there:
            victim.delete("x")
        victim.recover()


def fail(victim, mortals, *points):
    """A live checkpoint whose memory has no room: the guest runs on what lies over its disks."""
    host, folder = victim.host, small_folder(victim.host, "8m")
    for dies, point, state, _ in cases("failed checkpoint", mortals, *points):
        done = victim.done()
        victim.strike(dies, point, "checkpoint", "create", VM, "x", "--live", "--memspec",
                      folder / "x.ferry")
        victim.settle(state, done)
        assert host.run(["ls", folder], capture_output=True).stdout == b""
        victim.recover()


def revert(victim, mortals, *points):
    for dies, point, state, _ in cases("revert", mortals, *points):
        victim.take("x")
        then = victim.done()
        victim.strike(dies, point, "checkpoint", "revert", VM, "x")
        # Until that is written down it has its disks as they were.
        is_back = point != "CHECKPOINT.ended"
        victim.settle(state, 20 if is_back else then, ["base", "x"])
        # However often, from wherever it came to.
        victim.go_back("x")
        victim.delete("x")
        victim.recover()


def delete(victim, mortals, *points):
    for dies, point, state, _ in cases("delete", mortals, *points):
        victim.take("x")
        done = victim.done()
        meanwhile = None
        if point == "CHECKPOINT.put_back":
            meanwhile = lambda: until_put_back(victim)  # noqa: E731
            point = "CHECKPOINT.placed=stop,CHECKPOINT.put_back"
        victim.strike(dies, point, "checkpoint", "delete", VM, "x", meanwhile=meanwhile)
        if victim.names() != ["base"] and dies == "vmm":
            victim.delete("x")
        victim.settle(state, done)
        victim.recover()


def delete_offline(victim, mortals):
    for dies, point, state, _ in cases("offline delete", mortals):
        victim.take("x")
        done = victim.done()
        victim.host.ctl.ok("stop", "--force", VM)
        victim.strike(dies, point, "checkpoint", "delete", VM, "x")
        victim.settle(state, done)
        victim.recover()


def until_put_back(victim):
    """What the VMM was to complete fails when it was written down already."""
    victim.cancel_block_job()
    victim.host.thaw()
    victim.host.wait_frozen()


def delete_below(victim, mortals, *points):
    for dies, point, state, _ in cases("delete below", mortals, *points):
        victim.take("x")
        victim.take("y")
        done = victim.done()
        victim.strike(dies, point, "checkpoint", "delete", VM, "x")
        victim.settle(state, done, ["base", "y"])
        victim.go_back("y")
        victim.delete("y")
        victim.recover()


def define(victim, mortals, *points):
    host, ctl = victim.host, victim.host.ctl
    memory = host.folder / "memory.ferry"
    for dies, point, state, there in cases("define", mortals, *points):
        # What is not remembered is not for VMs that have others.
        victim.delete("base")
        below = {disk["name"]: disk["file"] for disk in ctl.vm(VM)["spec"]["disks"]}
        ctl.ok("checkpoint", "create", VM, "base", "--no-metadata", "--memspec", memory)
        done = victim.done()
        command = ["checkpoint", "define", VM, "base", "--memory-file", memory]
        for name, file in below.items():
            command += ["--diskspec", f"{name},file={file}"]
        victim.strike(dies, point, *command)
        names = [file.rsplit("/", 1)[-1] for file in below.values()]
        victim.settle(state, done, ["base"] if there else [], [] if there else names)
        if not there:
            ctl.ok(*command)
        victim.go_back()
        # What it wrote to until then is its user's to remove.
        host.run(["rm", *(host.folder / name for name in victim.strays())], check=True)
        victim.delete("base")
        host.run(["rm", memory], check=True)
        victim.take("base")


def clone(victim, mortals, *points):
    ctl = victim.host.ctl
    for dies, point, state, there in cases("clone", mortals, *points):
        done = victim.done()
        victim.strike(dies, point, "checkpoint", "restore-as", VM, "base", "two")
        if there:
            assert ctl.state("two") == "saved"
            ctl.ok("start", "two")
            assert_one_instant(victim.host, "two", victim.writer)
            ctl.ok("vm", "delete", "--force", "two")
            disks = [victim.host.folder / f"{name}.two.qcow2" for name in ("root", "data")]
            victim.host.run(["rm", *disks], check=True)
        victim.settle(state, done)
        victim.recover()


def snapshot(victim, mortals, *points):
    for dies, point, state, there in cases("snapshot", mortals, *points):
        done = victim.done()
        victim.strike(dies, point, "snapshot", "save", VM, "x", *SNAPSHOT)
        # Of what stands nobody can see what is in its disks; half of one goes with the next boot.
        half = not there and state in ("stopped", "failed")
        victim.settle(state, done, victim.names() if half else ["base", "x"] if there else ["base"])
        if there:
            victim.go_back("x")
            victim.delete("x")
        victim.recover()


def load(victim, mortals, *points):
    for dies, point, state, _ in cases("load", mortals, *points):
        victim.strike(dies, point, "snapshot", "load", VM, "base")
        # Its disks may be of one instant and its memory of another, so it has none.
        victim.settle(state, 20)
        victim.go_back()


def delete_snapshot(victim, mortals, *points):
    for dies, point, state, there in cases("delete snapshot", mortals, *points):
        victim.take("x")
        done = victim.done()
        victim.strike(dies, point, "snapshot", "delete", VM, "x")
        victim.settle(state, done, ["base", "x"] if there else ["base"])
        if point == "SNAPSHOT.deleting":
            victim.go_back("x")
        if there:
            victim.delete("x")
        victim.recover()


@every_death
def test_save(victim, mortals):
    save(victim, mortals)


@every_death
def test_save_to_a_file(victim, mortals):
    save_to_a_file(victim, mortals)


@every_death
def test_restore(victim, mortals):
    restore(victim, mortals)


@every_death
def test_live_checkpoint(victim, mortals):
    take(victim, "live checkpoint", mortals)


@every_death
def test_plain_checkpoint(victim, mortals):
    take(victim, "plain checkpoint", mortals)


@every_death
def test_quiesced_checkpoint(victim, mortals):
    take(victim, "quiesced checkpoint", mortals)


@dies_without_a_vmm
def test_offline_checkpoint(victim, mortals):
    take_offline(victim, mortals)


@every_death
def test_failed_checkpoint(victim, mortals):
    fail(victim, mortals)


@every_death
def test_revert(victim, mortals):
    revert(victim, mortals)


@every_death
def test_delete(victim, mortals):
    delete(victim, mortals)


@dies_without_a_vmm
def test_offline_delete(victim, mortals):
    delete_offline(victim, mortals)


@every_death
def test_delete_below(victim, mortals):
    delete_below(victim, mortals)


@every_death
def test_define(victim, mortals):
    define(victim, mortals)


@every_death
def test_clone(victim, mortals):
    clone(victim, mortals)


@every_death
def test_snapshot(inside_victim, mortals):
    snapshot(inside_victim, mortals)


@every_death
def test_load(inside_victim, mortals):
    load(inside_victim, mortals)


@every_death
def test_delete_snapshot(inside_victim, mortals):
    delete_snapshot(inside_victim, mortals)


def test_a_live_checkpoint_without_room_leaves_disks_that_go_on(victim):
    folder = small_folder(victim.host, "8m")
    done = victim.done()
    refused = victim.host.ctl.run("checkpoint", "create", VM, "x", "--live", "--memspec",
                                  folder / "x.ferry")
    assert refused.returncode == REFUSED and "takes up to that much" in refused.stderr, refused
    victim.settle("running", done)
    assert victim.host.run(["ls", folder], capture_output=True).stdout == b""


def test_some_points_of_saves_and_checkpoints(victim):
    save(victim, ["both"], "SAVE.recorded")
    restore(victim, ["both"], "RESTORE.ran")
    take(victim, "live checkpoint", ["both"], "CHECKPOINT.runs")
    delete(victim, ["vmm"], "CHECKPOINT.placed")
    revert(victim, ["daemon"], "CHECKPOINT.returned")


def test_some_points_of_snapshots(inside_victim):
    snapshot(inside_victim, ["both"], "SNAPSHOT.taken")
    load(inside_victim, ["vmm"], "SNAPSHOT.back")
    delete_snapshot(inside_victim, ["daemon"], "SNAPSHOT.deleted")
