"""What a VM is made of, as its guest sees it: its root and its disks."""
import hashlib
import subprocess

import pytest

from harness import oracles
from harness.ctl import CtlError

MIB = 1 << 20

# Prints the device behind a number on the controller. The kernel looks for disks while the agent
# starts, and names them as it finds them.
FIND_DISK = ("tries=0; while set -- /sys/bus/scsi/devices/*:0:0:$0/block/*; disk=${1##*/}; "
             '[ ! -b "/dev/$disk" ]; do tries=$((tries + 1)); [ $tries -lt 600 ] || exit 1; '
             'sleep 0.1; done; echo "$disk"')


def make_raw(path, content):
    path.write_bytes(content)
    return path


def make_qcow2(path, content):
    raw = make_raw(path.with_suffix(".raw"), content)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True,
                   timeout=60)
    raw.unlink()
    return path


def pattern(name, size=MIB):
    """Bytes that no other name gives."""
    seed = hashlib.sha256(name.encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


def content_of(path, kind):
    """The disk's content in an image that no VM uses."""
    flat = path.with_name(path.name + ".flat")
    subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", path, flat], check=True,
                   timeout=60)
    content = flat.read_bytes()
    flat.unlink()
    return content


class Disks:
    """The guest's view of its disks."""

    def __init__(self, ctl, vm):
        self._ctl, self._vm = ctl, vm

    def ok(self, script, *arguments):
        result = self._ctl.exec(self._vm, "sh", "-c", script, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def find(self, names):
        """The device of each disk, when all are there. Their order is that of their numbers."""
        return {name: self.ok(FIND_DISK, str(number)) for number, name in enumerate(names)}

    def size(self, disk):
        return int(self.ok('cat "/sys/block/$0/size"', disk)) * 512

    def read_only(self, disk):
        return self.ok('cat "/sys/block/$0/ro"', disk) == "1"

    def digest(self, disk):
        return self.ok('sha256sum <"/dev/$0"', disk).split()[0]

    def forget(self):
        """Lets the guest read from the disks again, not from its memory."""
        self.ok("sync; echo 3 >/proc/sys/vm/drop_caches")

    def write(self, disk, text):
        """Writes at the disk's beginning; returns whether it is on the disk."""
        script = 'printf %s "$1" | dd of="/dev/$0" bs=64 conv=notrunc,fsync 2>/dev/null'
        return self._ctl.exec(self._vm, "sh", "-c", script, disk, text).returncode == 0


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def option(name, path, kind, *more):
    return ["--disk", ",".join([f"name={name}", f"file={path}", f"format={kind}", *more])]


def test_the_root_is_a_tmpfs_and_the_folder_is_private(two_hosts, vm):
    host = two_hosts[0]
    mounts = [line.split() for line in host.ctl.exec(vm, "cat", "/proc/mounts").stdout.splitlines()]
    # An OCI runtime cannot pivot away from an initramfs.
    assert [mount[2] for mount in mounts if mount[1] == "/"] == ["tmpfs"]
    state = host.outside(host.state)
    assert state.stat().st_mode & 0o777 == 0o700
    folder, = (entry for entry in (state / "vm").iterdir() if entry.is_dir())
    sockets = [entry.name for entry in folder.iterdir() if entry.is_socket()]
    assert {"qmp", "bridge", "console"} <= set(sockets)
    for entry in (state / "vm", folder):
        assert entry.stat().st_mode & 0o777 == 0o700, entry


def test_a_guest_has_its_disks_in_order_and_writes_only_where_it_may(two_hosts):
    host = two_hosts[0]
    folder = host.outside(host.folder)
    images = {}
    options = []
    for name, kind, more in (("raw-rw", "raw", ()), ("raw-ro", "raw", ("ro",)),
                             ("qcow-rw", "qcow2", ()), ("qcow-ro", "qcow2", ("ro",))):
        make = make_raw if kind == "raw" else make_qcow2
        # Each has its own size.
        images[name] = (make(folder / name, pattern(name, (len(images) + 1) * MIB)), kind)
        options += option(name, host.folder / name, kind, *more)
    host.ctl.create("store", "256M", 1, *options)
    host.ctl.start("store")
    assert [disk["name"] for disk in host.ctl.vm("store")["spec"]["disks"]] == list(images)
    disks = Disks(host.ctl, "store")
    devices = disks.find(images)
    assert len(set(devices.values())) == len(images)
    for position, (name, device) in enumerate(devices.items(), start=1):
        assert disks.size(device) == position * MIB, name
        assert disks.read_only(device) == name.endswith("ro"), name
        assert disks.digest(device) == sha256(pattern(name, position * MIB)), name
    for name, device in devices.items():
        assert disks.write(device, f"written to {name}") == name.endswith("rw"), name
    host.ctl.ok("vm", "stop", "store")
    for position, (name, (path, kind)) in enumerate(images.items(), start=1):
        wanted = pattern(name, position * MIB)
        if name.endswith("rw"):
            text = f"written to {name}".encode()
            wanted = text + wanted[len(text):]
        assert content_of(path, kind) == wanted, name


def test_a_disk_that_cannot_be_used_is_refused_clearly(two_hosts):
    host = two_hosts[0]
    folder = host.outside(host.folder)
    make_raw(folder / "plain", pattern("plain"))
    for text, words in (("name=d,file=/x,format=vmdk", "qcow2 or raw"),
                        ("name=d,format=raw", "name and file are needed"),
                        ("name=d,file=relative", "absolute path"),
                        ("name=no/name,file=/x", "disk name")):
        result = host.ctl.run("vm", "create", "bad", "--disk", text)
        assert result.returncode == 2 and words in result.stderr, result
    twice = [*option("d", "/x", "raw"), *option("d", "/y", "raw")]
    result = host.ctl.run("vm", "create", "bad", *twice)
    assert result.returncode == 2 and 'two disks are named "d"' in result.stderr, result
    assert host.ctl.vms() == []
    for name, path, kind, words in (
            ("missing", host.folder / "nowhere", "raw", f"{host.folder}/nowhere': No such file"),
            ("other-format", host.folder / "plain", "qcow2", "Image is not in qcow2 format")):
        host.ctl.create(name, "256M", 1, *option("data", path, kind))
        with pytest.raises(CtlError) as refused:
            host.ctl.start(name)
        text = str(refused.value)
        assert words in text and "disk-data" in text, text
        assert host.ctl.state(name) == "failed"
        oracles.assert_one_copy([host], None)
        oracles.assert_nothing_left(two_hosts, None)


def test_a_vm_with_read_only_disks_moves_and_reads_the_same(two_hosts, tmp_path):
    one, other = two_hosts
    # Both hosts see this folder, and neither may write there.
    contents = {"base": pattern("base"), "layer": pattern("layer", 3 * MIB)}
    options = [*option("base", make_raw(tmp_path / "base.img", contents["base"]), "raw", "ro"),
               *option("layer", make_qcow2(tmp_path / "layer.qcow2", contents["layer"]), "qcow2",
                       "ro")]
    one.ctl.create("reader", "256M", 1, *options)
    one.ctl.start("reader")
    devices = Disks(one.ctl, "reader").find(contents)
    for source, destination in ((one, other), (other, one)):
        source.ctl.migrate("reader", destination)
        disks = Disks(destination.ctl, "reader")
        disks.forget()
        for name, content in contents.items():
            assert disks.read_only(devices[name]), name
            assert disks.digest(devices[name]) == sha256(content), name
        assert oracles.settle(two_hosts, "reader") is destination
        oracles.assert_one_copy(two_hosts, destination)
        oracles.assert_nothing_left(two_hosts, destination)
