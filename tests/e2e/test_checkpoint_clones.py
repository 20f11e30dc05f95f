"""Of which VMs a checkpoint makes no other, and what can be had in place of that."""
from harness import box
from harness.records import disk_options, make_disks, put, see
from harness.saving import REFUSED, host  # noqa: F401


def names(host):
    return sorted(each["name"] for each in host.ctl.vms())


def assert_not_made(host, vm, reason, *options):
    before = {path.name for path in host.outside(host.folder).glob("*.qcow2")}
    refused = host.ctl.run("checkpoint", "restore-as", vm, "a", "vm-2", *options)
    assert refused.returncode == REFUSED and reason in refused.stderr, refused
    assert "Next:" in refused.stderr, refused
    assert "vm-2" not in names(host)
    assert {path.name for path in host.outside(host.folder).glob("*.qcow2")} == before


def macs(host, vm):
    return {nic["mac"] for nic in host.ctl.vm(vm)["spec"]["nics"]}


def test_network_cards_are_the_new_vms_own_and_not_in_its_memory(host):
    make_disks(host, "root")
    host.ctl.create("vm", "256M", 1, *disk_options(host, "root"), "--nic", "user")
    host.ctl.start("vm")
    host.ctl.ok("checkpoint", "create", "vm", "a", "--live")
    assert_not_made(host, "vm", "--disk-only")
    host.ctl.ok("checkpoint", "restore-as", "vm", "a", "vm-2", "--disk-only")
    assert len(macs(host, "vm") | macs(host, "vm-2")) == 2
    host.ctl.start("vm-2")
    address = host.ctl.ok("exec", "vm-2", "--", "cat", "/sys/class/net/eth0/address").strip()
    assert {address} == macs(host, "vm-2")


def test_none_is_made_of_one_whose_cards_two_vms_cannot_have(host):
    make_disks(host, "root")
    host.ctl.create("vm", "256M", 1, *disk_options(host, "root"), "--nic",
                    "bridge=lan,address=192.0.2.7/24")
    host.ctl.ok("checkpoint", "create", "vm", "a", "--disk-only")
    assert_not_made(host, "vm", "192.0.2.7/24", "--disk-only")
    # As the refusal says: one with cards of its own, of copies of the disks.
    copy = host.folder / "copy.qcow2"
    host.run(["qemu-img", "convert", "-U", "-O", "qcow2", host.folder / "root.qcow2", copy],
             check=True)
    host.ctl.create("vm-2", "256M", 1, "--disk", f"name=root,file={copy},format=qcow2", "--nic",
                    "bridge=lan,address=192.0.2.8/24")
    assert len(macs(host, "vm") | macs(host, "vm-2")) == 2


def test_the_memory_of_containers_stays_with_their_vm(host, tmp_path):
    box.import_into(host, tmp_path)
    make_disks(host, "root")
    host.ctl.create("vm", "256M", 1, *disk_options(host, "root"))
    host.ctl.start("vm")
    box.run_web_and_job(host, "vm")
    put(host, "vm", "then", 1)
    host.ctl.ok("checkpoint", "create", "vm", "a", "--live")
    put(host, "vm", "later", 1)
    assert_not_made(host, "vm", "--disk-only")
    host.ctl.ok("checkpoint", "restore-as", "vm", "a", "vm-2", "--disk-only")
    assert host.ctl.state("vm-2") == "stopped"
    host.ctl.start("vm-2")
    assert see(host, "vm-2", 1) == "then" and see(host, "vm", 1) == "later"
    # It has the disk, and neither the containers nor anything of theirs.
    assert host.ctl.json("container", "list", "-a", "--vm", "vm-2").get("containers", []) == []
    assert host.ctl.vm("vm-2")["machine_document_json"].count('"Path"') == 1
    assert [box.state(host, name) for name in ("web", "job")] == ["running", "stopped"]
    host.ctl.ok("vm", "delete", "--force", "vm-2")
    assert box.state(host, "web") == "running"
