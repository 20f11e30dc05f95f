"""VMs that start by UEFI: what their firmware remembers is theirs alone, and goes wherever they go,
back in time too."""
import pathlib

import pytest

from harness.records import disk_options, make_disks, shell
from harness.saving import REFUSED, USAGE

OVMF = pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
ROLLED_BACK = 5
FOLDER = "/sys/firmware/efi/efivars"
OURS = "5d1b0c2e-3a4f-4f6b-9a53-0c7a1c6f8e11"

pytestmark = pytest.mark.skipif(not OVMF.exists(),
                                reason="the package ovmf is not installed; run tools/setup")


def install(host, another=False):
    """Gives the host its firmware, or another build of the same size, which is never booted."""
    code = bytearray(OVMF.read_bytes())
    code[0] ^= another
    host.outside(host.folder / "code.fd").write_bytes(code)


def use_firmware(host, *flags):
    install(host)
    host.flags = ["--ovmf-code", host.folder / "code.fd", *flags]
    host.restart()


def boot(host, *options):
    host.ctl.create("vm", "256M", 1, "--firmware", "ovmf", *options)
    start(host)


def start(host):
    host.ctl.start("vm")
    shell(host, "vm", f"insmod /lib/modules/ferry/efivarfs.ko && mount -t efivarfs none {FOLDER}")


def put(host, name):
    """Has the firmware remember a variable."""
    shell(host, "vm", f"printf '\\007\\000\\000\\000x' > {FOLDER}/{name}-{OURS}")


def remembered(host):
    """Those variables, as the guest sees them."""
    return shell(host, "vm", f"cd {FOLDER}; ls | grep {OURS} | cut -d- -f1 | sort").split()


def stores(host):
    """The variable stores that the host has, by the ids of their VMs."""
    return {file.stem: file for file in host.outside(host.state / "firmware").iterdir()}


def is_stored(host, name, vm="vm"):
    """Whether the VM's store has a variable of that name."""
    return name.encode("utf-16-le") in stores(host)[host.ctl.vm(vm)["id"]].read_bytes()


def test_variables_go_wherever_the_vm_goes(two_hosts, isolated):
    source, destination = two_hosts
    # QEMU may write to its own store, whoever it is.
    two_hosts.folder.chmod(0o711)
    for host in two_hosts:
        use_firmware(host, "--qemu-user", "nobody")
    boot(source)
    assert source.ctl.vm("vm")["spec"]["firmware"] == "FIRMWARE_OVMF"
    assert "ovmf" in source.ctl.ok("vm", "inspect", "vm")
    put(source, "FerryOne")
    assert is_stored(source, "FerryOne")
    with source.ctl.attach("exec", "-i", "vm", "--", "cat") as client:
        client.write(b"here\n")
        client.wait_until(lambda output: output == b"here\n")
        # Another build of the firmware is another machine.
        install(destination, another=True)
        refused = source.ctl.run("migrate", "vm", "--to", destination.address)
        assert refused.returncode == ROLLED_BACK and "firmware" in refused.stderr, refused
        assert "firmware" in source.ctl.run("migrate", "vm", "--to", destination.address,
                                            "--dry-run").stdout
        assert stores(destination) == {}
        install(destination)

        source.ctl.migrate("vm", destination)
        assert stores(source) == {}
        assert remembered(destination) == ["FerryOne"] and is_stored(destination, "FerryOne")
        put(destination, "FerryTwo")
        client.write(b"there\n")
        client.wait_until(lambda output: output == b"here\nthere\n")
        # A daemon that is started again finds the VM as it is.
        destination.kill()
        destination.start()
        client.write(b"still\n")
        client.wait_until(lambda output: output == b"here\nthere\nstill\n")
        destination.ctl.ok("vm", "pause", "vm")
        destination.ctl.migrate("vm", source)
        assert stores(destination) == {}
        # It has not run here, and its store has all the same what it needs.
        assert is_stored(source, "FerryOne") and is_stored(source, "FerryTwo")
        source.ctl.ok("vm", "resume", "vm")
        client.write(b"back\n")
        client.wait_until(lambda output: output == b"here\nthere\nstill\nback\n")
        client.close_stdin()
        assert client.wait() == 0
    put(source, "FerryThree")
    source.ctl.ok("stop", "vm")
    start(source)
    assert remembered(source) == ["FerryOne", "FerryThree", "FerryTwo"]
    source.ctl.ok("vm", "delete", "--force", "vm")
    assert stores(source) == {}


def test_variables_go_back_with_the_vm(two_hosts):
    host = two_hosts[0]
    use_firmware(host)
    make_disks(host, "root")
    boot(host, *disk_options(host, "root"))
    put(host, "FerryOne")
    save = ("snapshot", "save", "vm", "then", "--devices", "root", "--vmstate")
    refused = host.ctl.run(*save, "firmware-store")
    assert refused.returncode == USAGE and "no disk" in refused.stderr, refused
    host.ctl.ok(*save, "root")
    put(host, "FerryTwo")
    host.ctl.ok("snapshot", "load", "vm", "then")
    assert remembered(host) == ["FerryOne"]
    assert is_stored(host, "FerryOne") and not is_stored(host, "FerryTwo")
    # Another state before the guest has run would be QEMU's end.
    host.ctl.ok("vm", "pause", "vm")
    host.ctl.ok("save", "vm")
    host.ctl.ok("start", "vm")
    refused = host.ctl.run("snapshot", "load", "vm", "then")
    assert refused.returncode == REFUSED and "resume it" in refused.stderr, refused
    host.ctl.ok("vm", "resume", "vm")
    host.ctl.ok("snapshot", "load", "vm", "then")
    assert [each["tag"] for each in host.ctl.json("snapshot", "list", "vm")["snapshots"]] == ["then"]
    host.ctl.ok("snapshot", "delete", "vm", "then")

    # Into a file and back; what it booted from is in its memory.
    host.ctl.ok("save", "vm")
    install(host, another=True)
    assert "firmware" in host.ctl.run("start", "vm").stderr
    assert host.ctl.state("vm") == "running"
    put(host, "FerryThree")

    for number, options in enumerate((["--live"], [], ["--disk-only"])):
        name, later = f"c{number}", f"FerryLater{number}"
        host.ctl.ok("checkpoint", "create", "vm", name, *options)
        put(host, later)
        assert is_stored(host, later)
        host.ctl.ok("checkpoint", "revert", "vm", name, "--stopped")
        assert is_stored(host, "FerryThree") and not is_stored(host, later)
        if "--disk-only" in options:
            continue
        host.ctl.ok("start", "vm")
        assert remembered(host) == ["FerryOne", "FerryThree"]
        assert is_stored(host, "FerryThree") and not is_stored(host, later)
    # Another VM has a store of its own, of that time.
    host.ctl.ok("checkpoint", "restore-as", "vm", "c0", "two")
    assert len(stores(host)) == 2 and is_stored(host, "FerryThree", "two")
    host.ctl.ok("start", "two")
    assert shell(host, "two", f"ls {FOLDER} | grep -c {OURS}") == "2"
    host.ctl.ok("vm", "delete", "--force", "two")
    assert list(stores(host)) == [host.ctl.vm("vm")["id"]]


def test_a_daemon_that_dies_before_variables_have_gone_back(two_hosts):
    host = two_hosts[0]
    use_firmware(host)
    make_disks(host, "root")
    boot(host, *disk_options(host, "root"))
    put(host, "FerryThen")
    host.ctl.ok("checkpoint", "create", "vm", "all", "--live")
    host.ctl.ok("checkpoint", "create", "vm", "disks", "--disk-only")
    put(host, "FerryLater")
    # Its memory has them.
    host.die_at("CHECKPOINT.returned", "checkpoint", "revert", "vm", "all")
    assert host.ctl.state("vm") == "saved" and is_stored(host, "FerryLater")
    host.ctl.ok("start", "vm")
    assert remembered(host) == ["FerryThen"]
    assert is_stored(host, "FerryThen") and not is_stored(host, "FerryLater")
    # Without memory they are what came after, until it goes back once more.
    put(host, "FerryLater")
    host.die_at("CHECKPOINT.returned", "checkpoint", "revert", "vm", "disks")
    assert host.ctl.state("vm") == "stopped" and is_stored(host, "FerryLater")
    host.ctl.ok("checkpoint", "revert", "vm", "disks", "--running")
    assert is_stored(host, "FerryThen") and not is_stored(host, "FerryLater")


def test_a_host_without_the_firmware_says_what_to_do(two_hosts):
    host = two_hosts[0]
    host.flags = ["--ovmf-code", "/nowhere/code.fd"]
    host.restart()
    refused = host.ctl.run("vm", "create", "vm", "--firmware", "ovmf")
    assert refused.returncode == REFUSED, refused
    assert "/nowhere/code.fd" in refused.stderr and "apt install ovmf" in refused.stderr, refused
    assert host.ctl.vms() == []
    assert stores(host) == {}
    assert host.ctl.run("vm", "create", "vm", "--firmware", "seabios").returncode == USAGE
    host.ctl.ok("vm", "create", "vm", "--firmware", "bios")
    assert "bios" in host.ctl.ok("vm", "inspect", "vm")
