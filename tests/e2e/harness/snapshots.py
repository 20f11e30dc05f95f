"""Snapshots inside disks, for tests."""
import pytest

from .records import disk_options, make_disks

DISKS = ("--devices", "root,data", "--vmstate", "root")


@pytest.fixture
def disks(host):
    """A VM with two disks that can hold snapshots."""
    make_disks(host, "root", "data")
    return start_with(host, "root", "data")


def start_with(host, *names):
    """A VM that runs and has the disks of these names; its name."""
    host.ctl.create("vm", "256M", 1, *disk_options(host, *names))
    host.ctl.start("vm")
    return "vm"


def snapshots(host, vm):
    return {each["tag"]: each for each in host.ctl.json("snapshot", "list", vm).get("snapshots", [])}


def take(host, vm, tag, *options):
    host.ctl.ok("snapshot", "save", vm, tag, *(options or DISKS))
