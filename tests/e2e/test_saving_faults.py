"""What goes wrong while VMs are saved and restored: no VM is lost, and none runs twice."""
import json
import threading

import pytest

from harness import box, oracles, other_qemu
from harness.checkpoints import assert_told_of_room
from harness.qmp import Qmp
from harness.records import (assert_one_instant, await_number, disk_options, make_disks, number,
                             start_writer)
from harness.rpc import Rpc
from harness.saving import (REFUSED, RESTORE_REFUSED, host, kills_the_vmm,  # noqa: F401
                            own_file, own_files, save, start, talk)
from harness.waiting import wait_for


def damage(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0x20
    file.write_bytes(data)


def test_what_was_damaged_is_refused_and_kept(host, vm):
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo once > /tmp/note")
    save(host, vm)
    file = own_file(host, vm)
    whole = file.read_bytes()
    for at in (3, 40, len(whole) // 2, len(whole) - 20):
        damage(file, at)
        refused = host.ctl.run("start", vm)
        assert refused.returncode == RESTORE_REFUSED, refused
        assert str(file.name) in refused.stderr
        assert host.ctl.state(vm) == "saved"
        assert not host.processes("qemu-system")
        file.write_bytes(whole)
    file.write_bytes(whole[:-1])
    assert host.ctl.run("start", vm).returncode == RESTORE_REFUSED
    # Mended, it goes on; and what cannot go on can be given up for a boot.
    file.write_bytes(whole)
    start(host, vm)
    assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == "once\n"
    save(host, vm)
    file = own_file(host, vm)
    damage(file, file.stat().st_size // 2)
    booted = host.ctl.run("start", "--or-boot", vm)
    assert booted.returncode == 0, booted
    assert "Warning:" in booted.stderr and ".refused" in booted.stderr, booted
    assert host.ctl.exec(vm, "cat", "/tmp/note").returncode != 0
    assert [each.name for each in own_files(host, vm)] == [file.name + ".refused"]


def test_row_16_a_full_disk_costs_nothing(host, vm, talk, isolated):
    small = host.folder / "small"
    host.run(["mkdir", small], check=True)
    # Room for a part of it, and not even for an empty file.
    for room, text in (("size=8m", "runs on"), ("size=8m,nr_inodes=1", "0 bytes were written")):
        host.run(["mount", "-t", "tmpfs", "-o", room, "none", small], check=True)
        refused = host.ctl.run("save", "--to", small / "file", vm)
        assert refused.returncode == REFUSED and text in refused.stderr, refused
        assert_told_of_room(refused.stderr)
        assert host.run(["ls", small], capture_output=True).stdout == b""
        assert host.ctl.state(vm) == "running"
        talk.assert_goes_on()
        host.run(["umount", small], check=True)
    talk.finish()
    # Where the host's own folder has no room, a shutdown may do instead.
    saved = host.state / "saved"
    host.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", saved], check=True)
    refused = host.ctl.run("stop", "--save", vm)
    assert refused.returncode == REFUSED, refused
    assert_told_of_room(refused.stderr)
    assert host.ctl.state(vm) == "running"
    stopped = host.ctl.run("stop", "--save", "--or-shutdown", vm)
    assert stopped.returncode == 0, stopped
    assert "Warning:" in stopped.stderr and "shut down instead" in stopped.stderr, stopped
    assert host.ctl.state(vm) == "stopped"


def test_two_starts_of_one_saved_state(host, vm, talk):
    save(host, vm)
    answers = []
    starters = [threading.Thread(target=lambda: answers.append(host.ctl.run("start", vm)))
                for _ in range(4)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert {answer.returncode for answer in answers} == {0}, answers
    assert len(host.processes("qemu-system")) == 1
    talk.assert_goes_on()
    talk.finish()


def test_a_daemon_that_dies_while_it_saves(host, vm, talk):
    # From the second save on it is one that was restored before.
    for point, then in (("SAVE.stopped", "running"), ("SAVE.recorded", "saved"),
                        ("SAVE.stopped", "running"), ("SAVE.written", "running"),
                        ("SAVE.sealed", "running"), ("SAVE.ended", "saved")):
        host.die_at(point, "stop", "--save", vm)
        assert host.ctl.state(vm) == then, point
        assert len(own_files(host, vm)) == (1 if then == "saved" else 0), point
        if then == "saved":
            assert not host.processes("qemu-system"), point
            start(host, vm)
        talk.assert_goes_on()
    talk.finish()


def test_a_former_file_is_whole_whatever_becomes_of_the_next(host, vm):
    former, later = host.folder / "former.ferry", host.folder / "later.ferry"
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo then > /tmp/note")
    host.ctl.ok("save", "--live", "--to", former, vm)
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo later > /tmp/note")
    host.die_at("SAVE.written", "save", "--to", later, vm)
    assert host.ctl.state(vm) == "running" and not host.outside(later).exists()
    assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == "later\n"
    host.ctl.ok("stop", "--no-save", vm)
    start(host, vm, "--from", former)
    assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == "then\n"


def test_a_restored_vm_that_is_paused_outlives_its_daemon(host, vm, talk):
    """Its VMM says of it what it says of one that a migration brought, and that nobody ran yet."""
    save(host, vm)
    start(host, vm)
    oracles.assert_a_pause_outlives_daemons(host, vm)
    talk.assert_goes_on()
    talk.finish()


def test_a_daemon_that_dies_while_it_restores(host, vm, talk):
    for point, then in (("RESTORE.listening", "saved"), ("RESTORE.loaded", "saved"),
                        ("RESTORE.consumed", "running"), ("RESTORE.ran", "running")):
        save(host, vm)
        host.die_at(point, "start", vm)
        assert host.ctl.state(vm) == then, point
        if then == "saved":
            start(host, vm)
        talk.assert_goes_on()
        assert len(host.processes("qemu-system")) == 1, point
        assert not own_files(host, vm), point
    talk.finish()


def test_a_vmm_that_dies_while_it_is_restored(host, vm, talk):
    for point in ("RESTORE.listening", "RESTORE.loaded"):
        save(host, vm)
        died = kills_the_vmm(host, point, "start", vm)
        assert died.wait() == RESTORE_REFUSED, (point, died.errors())
        assert host.ctl.state(vm) == "saved", point
        start(host, vm)
        talk.assert_goes_on()
    talk.finish()


def test_containers_are_as_they_were_after_a_restore_that_failed(box_hosts, box_vm):
    host = box_hosts[0]
    count = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"
    host.ctl.ok("run", "-d", "--vm", box_vm, "--name", "count", box.NAME, "sh", "-c", count)
    host.ctl.ok("run", "-d", "--vm", box_vm, "--name", "over", box.NAME, "sh", "-c",
                "echo said; exit 3")
    with host.ctl.attach("logs", "-f", "count") as logs:
        logs.wait_until(lambda output: output.count(b"\n") > 20)
        save(host, box_vm)
        died = kills_the_vmm(host, "RESTORE.loaded", "start", box_vm)
        assert died.wait() == RESTORE_REFUSED, died.errors()
        assert host.ctl.state(box_vm) == "saved"
        start(host, box_vm)
        said = logs.output().count(b"\n")
        logs.wait_until(lambda output: output.count(b"\n") > said + 20)
        numbers = [int(line) for line in logs.output().split(b"\n")[:-1]]
        assert numbers == list(range(len(numbers)))
    assert host.ctl.ok("logs", "over") == "said\n"
    assert box.inspect(host, "over")["exit_status"]["code"] == 3
    # Given up after such a failure, they have ended, and what they printed is still there.
    save(host, box_vm)
    kills_the_vmm(host, "RESTORE.loaded", "start", box_vm)
    start(host, box_vm, "--discard-saved")
    assert box.state(host, "count") == "stopped"
    said = [int(line) for line in host.ctl.ok("logs", "count").split()]
    assert len(said) >= len(numbers) and said == list(range(len(said)))


def begin_with_workers(host, other, vm, request_id):
    """A migration that is under way and takes long, with settings of its own; its session."""
    with Rpc(host) as rpc:
        options = rpc.pb.InitializeOptions(
            max_bandwidth=500_000,
            compression_settings=rpc.pb.CompressionSettings(throttle_worker_count=2))
        session = rpc.migrate(rpc.pb.MigrateRequest(
            vm=vm, destination=other.address, request_id=request_id, options=options)).session_id
        wait_for(lambda: rpc.session(session).progress.transferred_bytes, "nothing moves")
    with Qmp(host) as qmp:
        assert qmp.capability("multifd")
    return session


@pytest.mark.parametrize("dies", [False, True])
def test_settings_of_a_former_job_change_nothing(two_hosts, vm, dies):
    """Of a migration that was cancelled, or whose daemon died."""
    host, other = two_hosts
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo then > /tmp/note")
    ways = (("save", "--live"), ("checkpoint", "create", "--live"), ("checkpoint", "create"))
    for number, way in enumerate(ways):
        session = begin_with_workers(host, other, vm, f"former-{number}")
        if dies:
            host.kill()
            host.start()
        else:
            host.ctl.ok("migration", "cancel", session)
        wait_for(lambda: not host.ctl.vm(vm)["session_id"], "the session does not end")
        file = host.folder / f"{number}.ferry"
        if way[0] == "save":
            host.ctl.ok(*way, "--to", file, vm)
        else:
            host.ctl.ok(*way, vm, "then", "--memspec", file)
            host.ctl.ok("checkpoint", "revert", vm, "then")
            host.ctl.ok("checkpoint", "delete", vm, "then")
        assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == "then\n"
    # And the other way round: what those needed does not keep it from moving.
    host.ctl.migrate(vm, other)
    assert other.ctl.exec(vm, "cat", "/tmp/note").stdout == "then\n"


# What somebody may have set by hand, as far as QEMU has it together.
LEFT = ({"background_snapshot": True},
        {"postcopy_ram": True, "release_ram": True, "return_path": True},
        {"multifd": True, "auto_converge": True, "validate_uuid": True,
         "pause_before_switchover": True, "late_block_activate": True},
        {"xbzrle": True, "compress": True, "x_ignore_shared": True},
        {"block": True, "dirty_bitmaps": True, "zero_blocks": True})


def test_settings_of_somebody_else_change_nothing(host):
    make_disks(host, "root", "data")
    host.ctl.create("vm", "256M", 1, *disk_options(host, "root", "data"))
    host.ctl.start("vm")
    writer = start_writer(host, "vm")
    devices = ("--devices", "root,data", "--vmstate", "root")
    for left in LEFT:
        for make, go_back, delete in (
                (["snapshot", "save", "vm", "x", *devices], ["snapshot", "load", "vm", "x"],
                 ["snapshot", "delete", "vm", "x"]),
                (["checkpoint", "create", "vm", "x", "--live"], ["checkpoint", "revert", "vm", "x"],
                 ["checkpoint", "delete", "vm", "x"]),
                (["save", "vm"], ["start", "vm"], None)):
            leave(host, left)
            host.ctl.ok(*make)
            if make[0] == "checkpoint":
                made = json.loads(host.ctl.ok("checkpoint", "inspect", "vm", "x"))
                assert made["method"] == "live", (left, made)
            if delete:
                leave(host, left)
            host.ctl.ok(*go_back)
            assert_one_instant(host, "vm", writer)
            if delete:
                host.ctl.ok(*delete)


def leave(host, capabilities):
    with Qmp(host) as qmp:
        every = [each["capability"] for each in qmp.ask("query-migrate-capabilities")]
        qmp.set_capabilities({name: capabilities.get(name.replace("-", "_"), False)
                              for name in every})


@pytest.mark.parametrize("refuses", ["vmm", "kernel"])
def test_where_memory_cannot_be_written_behind_a_vm_it_stands_still(bare_hosts, refuses):
    host = bare_hosts[0]
    if refuses == "vmm":
        without = [[r'\{[^{}]*"background-snapshot"\}, ', ""]]
        host.flags = ["--qemu", other_qemu.install(host, "qemu-without", without)]
    else:
        # It has the capability, and its user no right to follow what the guest writes.
        bare_hosts.folder.chmod(0o777)
        host.flags = ["--qemu-user", "nobody"]
    host.start()
    make_disks(host, "root", "data")
    for name in ("root", "data"):
        host.run(["chown", "nobody", host.folder / f"{name}.qcow2"], check=True)
    host.ctl.create("vm", "256M", 1, *disk_options(host, "root", "data"))
    host.ctl.start("vm")
    writer = start_writer(host, "vm")
    for name in ("x", "y"):
        host.ctl.ok("checkpoint", "create", "vm", name, "--live")
        made = json.loads(host.ctl.ok("checkpoint", "inspect", "vm", name))
        assert made["method"] == "stopped" and made["whole"], made
        assert host.ctl.state("vm") == "running"
    await_number(host, "vm", number(host, "vm", "/tmp/begun") + 10)
    later = number(host, "vm", "/tmp/begun")
    host.ctl.ok("checkpoint", "revert", "vm", "x")
    assert_one_instant(host, "vm", writer, later)
