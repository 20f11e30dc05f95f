"""VMs that have checkpoints move between hosts that both see their files."""
from harness.records import put, see, shell
from harness.saving import REFUSED
from harness.shared_disk import hosts  # noqa: F401

ROLLED_BACK = 5


def names(host):
    return [each["name"] for each in
            host.ctl.json("checkpoint", "list", "vm").get("checkpoints", [])]


def test_checkpoints_move_with_their_vm(hosts, tmp_path):
    source, destination = hosts
    put(source, "vm", "first", 1)
    shell(source, "vm", "echo then > /tmp/note")
    source.ctl.ok("checkpoint", "create", "vm", "a", "--live", "--memspec", tmp_path / "a.ferry")
    put(source, "vm", "second", 2)
    source.ctl.ok("checkpoint", "create", "vm", "b", "--disk-only")
    put(source, "vm", "third", 3)
    source.ctl.migrate("vm", destination)
    assert names(destination) == ["a", "b"]
    assert [see(destination, "vm", i) for i in (1, 2, 3)] == [
        "first", "second", "third"]
    # Nothing of theirs went with the VM's record at the source, and all can be done with them.
    destination.ctl.ok("checkpoint", "delete", "vm", "b")
    destination.ctl.ok("checkpoint", "revert", "vm", "a")
    assert shell(destination, "vm", "cat /tmp/note") == "then"
    assert [see(destination, "vm", i) for i in (1, 2)] == ["first", ""]
    # And back.
    destination.ctl.migrate("vm", source)
    assert names(source) == ["a"]
    source.ctl.ok("checkpoint", "delete", "vm", "a")
    assert sorted(path.name for path in tmp_path.glob("*.qcow2")) == ["root.qcow2"]


def test_a_dry_run_says_what_holds_them_back(hosts, tmp_path):
    source, destination = hosts
    source.ctl.ok("checkpoint", "create", "vm", "a", "--live")
    refused = source.ctl.run("migrate", "vm", "--to", destination.address)
    assert refused.returncode == REFUSED and "--memspec" in refused.stderr, refused
    dry = source.ctl.run("migrate", "vm", "--to", destination.address, "--dry-run")
    assert dry.returncode != 0 and "its checkpoint a keeps its memory" in dry.stdout, dry
    source.ctl.ok("checkpoint", "delete", "vm", "a")
    # A file that only the source sees.
    away = source.folder / "away.ferry"
    source.ctl.ok("checkpoint", "create", "vm", "b", "--live", "--memspec", away)
    dry = source.ctl.run("migrate", "vm", "--to", destination.address, "--dry-run")
    assert dry.returncode != 0 and str(away) in dry.stdout, dry
    refused = source.ctl.run("migrate", "vm", "--to", destination.address)
    assert refused.returncode == ROLLED_BACK and str(away) in refused.stderr, refused
    assert source.ctl.state("vm") == "running" and names(source) == ["b"]
    assert destination.ctl.vms() == []
