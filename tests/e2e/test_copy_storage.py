"""Disks that the destination does not see come along with their VM: nothing that its guest was told is
on them is lost, whatever fails on the way."""
import json

from harness import oracles
from harness.ctl import number as number_at
from harness.disk_copies import (VM, apart, assert_nothing_lost, assert_nothing_of_it,  # noqa: F401
                                 begin_slowly, copies, disks)
from harness.qmp import Qmp
from harness.records import (ROOT, await_number, number, on_disks, put, see, shell,
                             start_with_two_disks, start_writer)
from harness.waiting import wait_for
from test_preflight import assert_refused_without_a_trace, dry_run, failed

MIB = 1 << 20
FILLED = 48  # MiB of a disk, so that its copy takes a while


def start_filled(host):
    """A VM that runs, with a raw disk that is full for a part."""
    file = host.folder / "data.raw"
    host.run(["qemu-img", "create", "-q", "-f", "raw", file, "128M"], check=True)
    host.run(["qemu-io", "-f", "raw", "-c", f"write -P 7 64M {FILLED}M", file], check=True,
             capture_output=True)
    host.ctl.create(VM, "256M", 1, "--disk", f"name=data,file={file},format=raw")
    host.ctl.start(VM)
    return file


def test_they_come_along_and_back(apart):
    source, destination = apart
    start_with_two_disks(source, "256M")
    writer = start_writer(source, VM)
    status, checks = dry_run(source, VM, destination)
    assert status == 0 and failed(checks) == set(), checks
    for name in ("root", "data"):
        assert f"disk {name} (" in checks["disks"]["message"], checks["disks"]
    before = number(source, VM, "/tmp/done")
    for owner, other in ((source, destination), (destination, source)):
        owner.ctl.migrate(VM, other)
        await_number(other, VM, before + 10)
        assert_nothing_lost(other, writer)
        before = number(other, VM, "/tmp/done")
        for disk in disks(other):
            assert disk["file"].startswith(f"{other.state}/disks/"), disk
            assert int(disk["used_bytes"]) < 16 * MIB, "what is empty takes room"
        assert [file.name for file in copies(other)] == ["0.qcow2", "1.raw"]
    # What it was before stays where it is.
    assert source.outside(source.folder / "data.raw").exists()
    assert copies(destination) != []
    # And it boots from what came.
    source.ctl.ok("stop", "--force", VM)
    source.ctl.start(VM)
    assert on_disks(source, VM)[0] >= before


def write_a_lot(host):
    """To the first disk, in the background, until there is /tmp/stop."""
    host.ctl.ok("exec", "-d", VM, "--", "sh", "-c",
                f"head -c {MIB} /dev/urandom > /tmp/one; until [ -e /tmp/stop ]; do "
                f"dd if=/tmp/one of={ROOT} bs=1M seek=32 conv=notrunc,fsync 2>/dev/null; done")


def test_a_disk_has_what_others_that_are_the_same_leave_of_a_limit(apart):
    source, destination = apart
    start_with_two_disks(source, "256M", 2 * FILLED)
    limit = 4 * MIB
    with source.ctl.attach("migrate", VM, "--to", destination.address, "--max-bandwidth",
                           str(limit)) as migration, Qmp(source) as qmp:
        def second_has():
            jobs = {job["device"]: job for job in qmp.ask("query-block-jobs")}
            return jobs["disk-data-copy"]["speed"] if len(jobs) == 2 else 0

        # Nobody writes to the first, which is nearly empty.
        wait_for(lambda: second_has() == limit, "it has not all of the limit")
        write_a_lot(source)
        wait_for(lambda: second_has() < limit, "what is written does not count")
        shell(source, VM, "touch /tmp/stop")
        wait_for(lambda: second_has() == limit, "it does not get back what the first does not need")
        [session] = source.ctl.sessions()
        source.ctl.ok("migration", "cancel", session["session_id"])
        assert migration.wait(60) != 0
    assert oracles.settle(apart, VM) is source


def test_memory_leaves_disks_their_part_of_a_limit(apart):
    source, destination = apart
    start_with_two_disks(source, "256M")
    write_a_lot(source)
    limit = 8 * MIB
    with source.ctl.attach("migrate", VM, "--to", destination.address, "--max-bandwidth",
                           str(limit)) as migration, Qmp(source) as qmp:
        def memory_has():
            return qmp.ask("query-migrate-parameters")["max-bandwidth"]

        wait_for(lambda: memory_has() < limit, "memory has the limit for itself")
        [session] = [source.ctl.session(each["session_id"]) for each in source.ctl.sessions()]
        copied = number_at(session["progress"], "disk_done_bytes")
        wait_for(lambda: number_at(source.ctl.session(session["session_id"])["progress"],
                                   "disk_done_bytes") > copied, "nobody sees what is written")
        shell(source, VM, "touch /tmp/stop")
        wait_for(lambda: memory_has() == limit, "memory does not get back what disks do not need")
        assert migration.wait(120) == 0, migration.errors()
    assert destination.ctl.state(VM) == "running"


def test_they_come_to_another_users_vmm(bare_hosts, isolated):
    bare_hosts.folder.chmod(0o711)
    for host in bare_hosts:
        host.flags = ["--qemu-user", "nobody"]
    source, destination = bare_hosts.start()
    file = source.folder / "data.qcow2"
    source.ctl.ok("disk", "create", file, "--size", "64M", "--format", "qcow2")
    source.ctl.create(VM, "256M", 1, "--disk", f"name=data,file={file},format=qcow2")
    source.ctl.start(VM)
    put(source, VM, "written", 1)
    source.ctl.migrate(VM, destination)
    assert see(destination, VM, 1) == "written"
    [copy] = copies(destination)
    assert copy.owner() == "nobody" and copy.stat().st_mode & 0o777 == 0o600


def below(host, file):
    """The file that a disk's file lies over, or nothing."""
    told = host.run(["qemu-img", "info", "-U", "--output=json", file], check=True,
                    capture_output=True, text=True).stdout
    return json.loads(told).get("backing-filename", "")


def test_what_they_lie_over_comes_too_or_is_there(apart):
    source, destination = apart
    base, file = source.folder / "base.raw", source.folder / "data.qcow2"
    for host in (source, destination):
        host.run(["qemu-img", "create", "-q", "-f", "raw", base, "64M"], check=True)
        host.run(["qemu-io", "-f", "raw", "-c", "write -P 7 32M 24M", base], check=True,
                 capture_output=True)
    source.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, file],
               check=True)
    source.ctl.create(VM, "256M", 1, "--disk", f"name=data,file={file},format=qcow2")
    source.ctl.start(VM)
    put(source, VM, "written", 1)
    pattern = f"dd if={ROOT} bs=1M skip=40 count=1 2>/dev/null | tr -d '\\7' | wc -c"
    for owner, other, options in ((source, destination, ("--copy-storage", "top")),
                                  (destination, source, ())):
        owner.ctl.ok("migrate", VM, "--to", other.address, *options)
        assert see(other, VM, 1) == "written"
        assert shell(other, VM, pattern) == "0"
        [disk] = disks(other)
        assert below(other, disk["file"]) == (str(base) if options else "")
        assert (int(disk["used_bytes"]) < 8 * MIB) == bool(options), disk
        put(other, VM, "written", 1)


def test_what_they_lie_over_has_to_be_the_same(apart):
    source, destination = apart
    base, file = source.folder / "base.raw", source.folder / "data.qcow2"
    source.run(["qemu-img", "create", "-q", "-f", "raw", base, "64M"], check=True)
    source.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, file],
               check=True)
    source.ctl.create(VM, "256M", 1, "--disk", f"name=data,file={file},format=qcow2")
    source.ctl.start(VM)
    top = ("--copy-storage", "top")
    assert_refused_without_a_trace(source, destination, VM, "with the same content", *top)
    destination.run(["qemu-img", "create", "-q", "-f", "raw", base, "64M"], check=True)
    destination.run(["qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", base], check=True,
                    capture_output=True)
    assert_refused_without_a_trace(source, destination, VM, "with the same content", *top)
    assert copies(destination) == []
    source.ctl.ok("migrate", VM, "--to", destination.address)


def test_those_that_may_not_be_copied_keep_their_vm(apart):
    source, destination = apart
    start_filled(source)
    put(source, VM, "written", 1)
    status, checks = dry_run(source, VM, destination, "--copy-storage", "none")
    assert status != 0 and failed(checks) == {"disks"}, checks
    assert_refused_without_a_trace(source, destination, VM, "disk data", "--copy-storage", "none")
    assert copies(destination) == []
    source.ctl.ok("migrate", VM, "--to", destination.address)
    assert see(destination, VM, 1) == "written"


def test_what_fails_meanwhile_costs_nothing(apart):
    source, destination = apart
    start_filled(source)
    writer = start_writer(source, VM)

    def cancel():
        [session] = [each for each in source.ctl.sessions() if not each.get("done")]
        source.ctl.ok("migration", "cancel", session["session_id"])

    def crash(host):
        host.kill()
        host.start()

    for fails in (cancel, destination.kill_vmm, lambda: crash(destination),
                  lambda: crash(source)):
        with begin_slowly(source, destination) as migration:
            fails()
            assert oracles.settle(apart, VM) is source
            migration.wait()
        assert_nothing_of_it(source, destination)
        oracles.assert_nothing_left(apart, source)
    source.ctl.migrate(VM, destination)
    assert_nothing_lost(destination, writer)


def test_a_vmm_that_dies_meanwhile_leaves_its_disk(apart):
    source, destination = apart
    file = start_filled(source)
    start_writer(source, VM)
    with begin_slowly(source, destination) as migration:
        done = number(source, VM, "/tmp/done")
        source.kill_vmm()
        oracles.settle_lost(apart, VM, source)
        migration.wait()
    assert copies(destination) == []
    source.ctl.start(VM)
    assert on_disks(source, VM)[0] >= done
    assert disks(source)[0]["file"] == str(file)


def test_a_full_disk_at_the_destination_costs_nothing(apart):
    source, destination = apart
    start_filled(source)
    writer = start_writer(source, VM)
    folder = destination.state / "disks"
    destination.run(["mkdir", folder], check=True)
    destination.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], check=True)
    status, checks = dry_run(source, VM, destination)
    assert status != 0 and failed(checks) == {"disk_room"}, checks
    refused = source.ctl.run("migrate", VM, "--to", destination.address)
    assert refused.returncode != 0 and "has room for" in refused.stderr, refused
    assert_nothing_of_it(source, destination)
    # What is there when it begins goes meanwhile.
    destination.run(["mount", "-o", "remount,size=2g", folder], check=True)
    with begin_slowly(source, destination) as migration:
        destination.run(["mount", "-o", f"remount,size={FILLED - 8}m", folder], check=True)
        assert migration.wait() != 0
        assert b"No space left" in migration.output() + migration.errors().encode()
    assert oracles.settle(apart, VM) is source
    assert_nothing_of_it(source, destination)
    destination.run(["umount", folder], check=True)
    source.ctl.migrate(VM, destination)
    assert_nothing_lost(destination, writer)
