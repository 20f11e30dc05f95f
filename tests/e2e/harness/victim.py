"""A VM that writes records all the time, and loses its daemon, its VMM or both at some point of what is
done with it."""
import pytest

from .build import is_sanitized
from .qmp import Qmp
from .records import (assert_one_instant, disk_options, make_disks, number, on_disks,
                      on_disks_at_rest, start_with_two_disks, start_writer)
from .saving import own_files
from .saving_points import DIES, SOME_DEATHS, TABLE, deaths
from .waiting import wait_for

VM = "vm"
SNAPSHOT = ("--devices", "root,data", "--vmstate", "root")


def strike(host, dies, point, *command, meanwhile=None):
    """Somebody dies at this point of what the command does, after `meanwhile` has happened. There is
    a daemon afterwards; the command's end."""
    print(f"{dies} dies at {point}")  # for whoever sees this fail
    host.freeze_at(point)
    with host.ctl.attach(*command) as running:
        host.wait_frozen()
        if meanwhile is not None:
            meanwhile()
        if dies == "vmm":
            host.kill_vmm()
            host.thaw()
        elif dies == "daemon":
            host.kill()
        else:
            host.lose_power()
        running.wait()
        print(running.output().decode(), running.errors())
    if dies != "vmm":
        host.come_back()
    return running


class Victim:
    def __init__(self, host, inside):
        """inside -- Whether what it can go back to are snapshots inside its disks, and not
        checkpoints."""
        self.host, self.inside = host, inside
        if inside:
            make_disks(host, "root", "data")
            host.ctl.create(VM, "256M", 1, *disk_options(host, "root", "data"))
            host.ctl.start(VM)
        else:
            start_with_two_disks(host, "64M")
        self.writer = start_writer(host, VM)
        self.take("base")
        self._runs = True  # its writer does

    def take(self, name, *options):
        if self.inside:
            self.host.ctl.ok("snapshot", "save", VM, name, *SNAPSHOT)
        else:
            self.host.ctl.ok("checkpoint", "create", VM, name, *(options or ["--live"]))

    def go_back(self, name="base"):
        """To one with memory: all of it is of that instant, and it runs."""
        # In memory alone. By a number of its records later is not told: it writes on at once.
        if self._runs:
            self.host.ctl.ok("exec", VM, "--", "touch", "/tmp/later")
        if self.inside:
            self.host.ctl.ok("snapshot", "load", VM, name)
        else:
            self.host.ctl.ok("checkpoint", "revert", VM, name)
        self._runs = True
        assert self.host.ctl.state(VM) == "running"
        assert self.host.ctl.exec(VM, "ls", "/tmp/later").returncode != 0
        assert_one_instant(self.host, VM, self.writer)

    def done(self):
        return number(self.host, VM, "/tmp/done")

    def names(self):
        kind, tag = ("snapshot", "tag") if self.inside else ("checkpoint", "name")
        listed = self.host.ctl.json(kind, "list", VM).get(f"{kind}s", [])
        return sorted(each[tag] for each in listed)

    def delete(self, name):
        self.host.ctl.ok("snapshot" if self.inside else "checkpoint", "delete", VM, name)

    def strike(self, dies, point, *command, meanwhile=None):
        return strike(self.host, dies, point, *command, meanwhile=meanwhile)

    def await_writes(self):
        """The guest writes to its disks, whatever its daemon does."""
        seen = [file.stat().st_mtime_ns for file in self._disk_files()]
        wait_for(lambda: [file.stat().st_mtime_ns for file in self._disk_files()] != seen,
                 "the guest does not write")

    def cancel_block_job(self):
        """As if the VMM had failed at what it is about to complete."""
        with Qmp(self.host) as qmp:
            job, = qmp.ask("query-jobs")
            qmp.ask("job-cancel", id=job["id"])

    def _disk_files(self):
        return [*self.host.outside(self.host.folder).glob("*.qcow2"),
                *self.host.outside(self.host.folder).glob("*.raw")]

    def settle(self, state, at_least, names=("base",), besides=()):
        """There is one VM, it is what the list says, and nothing half-made is left. If it can go on,
        it does, with all that was written until its record of that number."""
        host = self.host
        wait_for(lambda: self.names() == sorted(names), f"it does not have {names} alone")
        assert [each["name"] for each in host.ctl.vms()] == [VM]
        assert host.ctl.state(VM) == state, host.ctl.vm(VM)
        assert len(host.processes("qemu-system")) == (1 if state == "running" else 0)
        wait_for(lambda: self.strays() == sorted(besides), f"not {besides} alone is left")
        self.go_on(state, at_least)

    def go_on(self, state, at_least):
        host = self.host
        self._runs = state in ("running", "saved")
        # What is inside its disks is seen by a VMM alone.
        if state == "saved" or (state != "running" and self.inside):
            host.ctl.start(VM)
        if not self._runs:
            self.assert_kept(at_least)
            return
        assert host.ctl.state(VM) == "running"
        assert len(host.processes("qemu-system")) == 1
        assert_one_instant(host, VM, self.writer, at_least=at_least)

    def assert_kept(self, at_least):
        """Its memory is gone, and what was on its disks is there."""
        self._runs = False
        runs = self.host.ctl.state(VM) == "running"
        last = (on_disks if runs else on_disks_at_rest)(self.host, VM)
        assert last == sorted(last, reverse=True) and last[0] <= last[-1] + 1, last
        assert last[-1] >= at_least, (last, at_least)

    def recover(self):
        """It runs with its writer, as it did before somebody died."""
        if not self._runs:
            self.go_back()
        assert self.names() == ["base"]

    def strays(self):
        """Names of files that no VM and no checkpoint says that it has."""
        host = self.host
        wanted = set()
        for each in host.ctl.vms():
            vm = host.ctl.vm(each["name"])
            wanted |= {disk["file"] for disk in vm["spec"]["disks"]}
            wanted.add(vm.get("saved", {}).get("file"))
            checkpoints = host.ctl.json("checkpoint", "list", each["name"]).get("checkpoints", [])
            for checkpoint in checkpoints:
                wanted |= {disk["file"] for disk in checkpoint.get("disks", [])}
                wanted.add(checkpoint.get("memory_file"))
        kept = [file for folder in ("saved", "checkpoints")
                for file in host.outside(host.state / folder).glob("*/*")]
        found = {file.name for file in [*self._disk_files(), *kept]}
        return sorted(found - {file.rsplit("/", 1)[-1] for file in wanted if file})

    def aside(self):
        """The only file that it was saved in and does not go on from by itself."""
        file, = own_files(self.host, VM)
        assert file.name.endswith(".refused"), file
        return self.host.state / "saved" / file.parent.name / file.name


@pytest.fixture
def victim(host, isolated):
    """One that has checkpoints."""
    return Victim(host, False)


@pytest.fixture
def inside_victim(host, isolated):
    """One that has snapshots."""
    return Victim(host, True)


def _each(deaths_of_it):
    """A test that goes through its cases is one for each who may die, or where a sanitizer looks,
    which takes long to begin with a VM, one for all."""
    groups = [deaths_of_it] if is_sanitized() else [(dies,) for dies in deaths_of_it]
    return pytest.mark.parametrize("mortals", groups, ids="-".join)


every_death = _each(DIES)
dies_without_a_vmm = _each([dies for dies in DIES if dies != "vmm"])


def cases(way, mortals, *points):
    """(who dies, point, state, whether what was being made is there) of those points of a way, or all
    of them, at which one of these is there to die. Where a sanitizer looks it is some of all."""
    assert set(points) <= set(TABLE[way]) and set(mortals) <= set(DIES)
    for point, dies in deaths(way) if points or not is_sanitized() else SOME_DEATHS[way]:
        if dies in mortals and (not points or point in points):
            then = getattr(TABLE[way][point], dies)
            yield dies, point, then.rstrip("+"), then.endswith("+")
