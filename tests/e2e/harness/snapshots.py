"""Snapshots inside disks, for tests."""
import pytest

from .records import make_disks, start_with

DISKS = ("--devices", "root,data", "--vmstate", "root")


@pytest.fixture
def disks(host):
    """A VM with two disks that can hold snapshots."""
    make_disks(host, "root", "data")
    return start_with(host, "root", "data")


def snapshots(host, vm):
    return {each["tag"]: each for each in host.ctl.json("snapshot", "list", vm).get("snapshots", [])}


def take(host, vm, tag, *options):
    host.ctl.ok("snapshot", "save", vm, tag, *(options or DISKS))
