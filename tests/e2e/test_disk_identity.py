"""Disks are the same at the destination because they are proved to be, not because of their paths."""
import pytest

from harness.records import put, see, shell
from harness.shared_disk import hosts  # noqa: F401
from test_preflight import assert_refused_without_a_trace, dry_run, failed

SAME = "/mnt"


@pytest.fixture
def same_path(two_hosts):
    """Two hosts, each with a folder of its own that has the same path."""
    if not two_hosts.isolated:
        pytest.skip(f"the hosts have one file system: {two_hosts.refusal}")
    for host in two_hosts:
        host.run(["mount", "-t", "tmpfs", "none", SAME], check=True)
    return two_hosts


def make(host, name, text):
    host.run(["qemu-img", "create", "-q", "-f", "raw", f"{SAME}/{name}", "16M"], check=True)
    host.run(["qemu-io", "-f", "raw", "-c", f"write -P {ord(text)} 0 512", f"{SAME}/{name}"],
             check=True, capture_output=True)


def test_another_file_of_the_same_name_is_another_disk(same_path):
    source, destination = same_path
    for host in same_path:
        make(host, "data", "a")
    source.ctl.create("vm", "256M", 1, "--disk", f"name=data,file={SAME}/data,format=raw")
    source.ctl.start("vm")
    status, checks = dry_run(source, "vm", destination, "--copy-storage", "none")
    assert status != 0 and failed(checks) == {"disks"}, checks
    assert "is another file than the source's" in checks["disks"]["message"]
    assert_refused_without_a_trace(source, destination, "vm", "disk data", "--copy-storage", "none")
    put(source, "vm", "written", 1)
    assert see(source, "vm", 1) == "written"


def test_one_that_is_only_read_may_be_a_copy(same_path):
    source, destination = same_path
    for host, other in zip(same_path, "bc"):
        make(host, "tools", "a")
        make(host, "others", other)
    for name in ("tools", "others"):
        source.ctl.create(name, "256M", 1, "--disk", f"name=data,file={SAME}/{name},format=raw,ro")
        source.ctl.start(name)
    assert_refused_without_a_trace(source, destination, "others", "disk data")
    source.ctl.ok("migrate", "tools", "--to", destination.address)
    assert shell(destination, "tools", "head -c 3 /dev/sda") == "aaa"


def test_shared_ones_are_seen_to_be(hosts):
    source, destination = hosts
    status, checks = dry_run(source, "vm", destination)
    assert status == 0 and checks["disks"]["result"] == "PREFLIGHT_RESULT_PASS", checks
    assert "the destination has the same disks (1)" in checks["disks"]["message"]
    put(source, "vm", "written", 1)
    source.ctl.ok("migrate", "vm", "--to", destination.address)
    assert see(destination, "vm", 1) == "written"
    destination.ctl.ok("migrate", "vm", "--to", source.address)
