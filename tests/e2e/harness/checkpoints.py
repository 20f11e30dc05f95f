"""What a host has of a VM's checkpoints, for tests."""
import re

from .ctl import number
from .waiting import wait_for

# So slow that it can be looked at.
SLOWLY = ("--compress", "zstd", "--compress-level", "19")
# And yet so that its end can be waited for.
UNHURRIED = ("--compress", "zstd", "--compress-level", "15")


def names(host, vm):
    return [each["name"] for each in
            host.ctl.json("checkpoint", "list", vm).get("checkpoints", [])]


def file_of(host, vm, disk):
    """The one that the VM writes to."""
    [found] = [each for each in host.ctl.json("disk", "list", vm)["disks"]
               if each["name"] == disk]
    return found["file"]


def job_of(host, kind):
    return host.ctl.json("job", "list", "--kind", kind).get("jobs", [])


def await_memory(host):
    """The job of a checkpoint of which some memory is written."""
    wait_for(lambda: job_of(host, "checkpoint"), "no checkpoint begins")
    [job] = job_of(host, "checkpoint")
    wait_for(lambda: number(host.ctl.json("job", "inspect", job["id"]).get("progress", {}),
                            "done") > 0, "none of its memory is written")
    return job


def assert_nothing_is_left(host, vm):
    """Of a VM that was started with two disks."""
    assert names(host, vm) == []
    assert file_of(host, vm, "root") == str(host.folder / "root.qcow2")
    assert file_of(host, vm, "data") == str(host.folder / "data.raw")
    assert [path.name for path in host.outside(host.folder).glob("*.qcow2")] == ["root.qcow2"]
    assert not list(host.outside(host.state / "checkpoints").glob("*/*"))


def assert_told_of_room(errors, memory_mb=256):
    """An error says how much is free, and how much would be needed."""
    assert re.search(r"\d+ bytes are free", errors), errors
    assert f"a VM of {memory_mb} MiB takes up to that much" in errors, errors
