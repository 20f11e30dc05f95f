"""A guest that writes numbered records to its disks, and remembers the last one (`ferry-workload
write-records`): so that memory and all disks are seen to be of one instant."""
import contextlib
import zlib

from .workload import PROGRAM

MOST = 4096  # records
# The disks, in the order in which they are written to.
DISKS = "$(ls -d /sys/bus/scsi/devices/0:0:0:*/block/* 2>/dev/null | sed 's,.*/,/dev/,')"
ON_DISKS = f"{PROGRAM} read-records --most {MOST} {DISKS}"
# The records that are begun and done last, and how many marks there are.
REMEMBERED = "cat /tmp/begun /tmp/done; wc -l < /tmp/marks"
# The guest may give its disks other names with each boot, but not other places.
ROOT = "/dev/$(ls /sys/bus/scsi/devices/0:0:0:0/block)"


def make_disks(host, *names):
    for name in names:
        host.run(["qemu-img", "create", "-q", "-f", "qcow2", host.folder / f"{name}.qcow2", "1G"],
                 check=True)


def disk_options(host, *names):
    words = []
    for name in names:
        words += ["--disk", f"name={name},file={host.folder / name}.qcow2,format=qcow2"]
    return words


def shell(host, vm, script):
    result = host.ctl.exec(vm, "sh", "-c", script)
    assert result.returncode == 0, result
    return result.stdout.strip()


def put(host, vm, text, place):
    """Writes a text to a place of the VM's first disk, and to the host's file."""
    shell(host, vm, f"echo {text} | dd of={ROOT} bs=4096 seek={place} conv=notrunc,fsync "
                    "2>/dev/null")


def see(host, vm, place):
    """What is on the disk there, whatever the guest remembers of it."""
    return shell(host, vm, "echo 3 > /proc/sys/vm/drop_caches; "
                           f"dd if={ROOT} bs=4096 skip={place} count=1 2>/dev/null | tr -d '\\0'")


def start_with(host, *names):
    """A VM that runs and has the disks of these names; its name."""
    host.ctl.create("vm", "256M", 1, *disk_options(host, *names))
    host.ctl.start("vm")
    return "vm"


def start_with_two_disks(host, raw_size, filled_mib=0):
    """A VM that runs and has two disks, of both formats; its name.

    filled_mib -- How much of the second one is written to, behind all records.
    """
    make_disks(host, "root")
    raw = host.folder / "data.raw"
    host.run(["qemu-img", "create", "-q", "-f", "raw", raw, raw_size], check=True)
    if filled_mib:
        host.run(["qemu-io", "-f", "raw", "-c", f"write -P 7 64M {filled_mib}M", raw], check=True,
                 capture_output=True)
    host.ctl.create("vm", "256M", 1, *disk_options(host, "root"), "--disk",
                    f"name=data,file={raw},format=raw")
    host.ctl.start("vm")
    return "vm"


def checked(record):
    """The number of a record, whose sum must be right."""
    found, its_sum = record.split()[:2]
    assert int(its_sum) == zlib.crc32(f"{found}\n".encode()), record
    return int(found)


def number(host, vm, file):
    """Of the record that the guest remembers there."""
    return checked(shell(host, vm, f"cat {file}"))


def last_of(records):
    """Of those of one disk: the number of the last one. All up to that are there, and no others."""
    numbers = [checked(record) for record in records.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) < MOST, numbers
    return len(numbers)


def last_of_each(read):
    """Of what `ferry-workload read-records` prints: the last record of each disk."""
    *disks, behind = read.split("over\n")
    assert not behind, behind
    return [last_of(disk) for disk in disks]


def on_disks(host, vm):
    """The last record of each disk, in the order in which they are written to."""
    return last_of_each(shell(host, vm, ON_DISKS) + "\n")


def on_disks_at_rest(host, vm):
    """The same of a VM that does not run."""
    last = []
    copy = host.folder / "copy.img"
    for disk in host.ctl.vm(vm)["spec"]["disks"]:
        host.run(["qemu-img", "convert", "-O", "raw", disk["file"], copy], check=True)
        with host.outside(copy).open("rb") as content:
            content.seek(4096)
            last.append(last_of(content.read(MOST * 4096).replace(b"\0", b"").decode()))
    host.run(["rm", copy], check=True)
    return last


def await_number(host, vm, at_least):
    shell(host, vm, f"{PROGRAM} await-record {at_least}")


def start_writer(host, vm):
    """The process that writes, once it has begun; see assert_one_instant."""
    script = f"exec {PROGRAM} write-records {DISKS}"
    writer = host.ctl.ok("exec", "-d", vm, "--", "sh", "-c", script).strip()
    await_number(host, vm, 20)
    return writer


@contextlib.contextmanager
def standing(host, vm, writer):
    """Nothing is written meanwhile."""
    shell(host, vm, f"kill -STOP {writer}")
    yield
    shell(host, vm, f"kill -CONT {writer}")


def at_a_standstill(host, vm, writer, script):
    """What a script prints in the VM while nothing is written there."""
    return shell(host, vm, f"kill -STOP {writer}; {script}; status=$?; kill -CONT {writer}; "
                           "exit $status")


def checked_memory(remembered, at_least):
    """The numbers of the records that the guest's memory knows as begun and as done last, of what
    REMEMBERED prints; it knows all marks until then."""
    begun, done, marks = remembered
    begun, done = checked(begun), checked(done)
    assert at_least <= done <= begun <= done + 1, (at_least, done, begun)
    assert int(marks) - begun in (0, 1)
    return begun, done


def assert_memory_went_back(host, vm, writer, before):
    """As assert_one_instant, of a VM without disks."""
    remembered = at_a_standstill(host, vm, writer, REMEMBERED).splitlines()
    assert checked_memory(remembered, 20)[0] < before, "the memory did not go back"


def assert_one_instant(host, vm, writer, before=None, at_least=20):
    """The VM went back to a moment before its record of that number was written, if one is given, and
    disk and memory are both of that moment. It goes on writing afterwards."""
    seen = at_a_standstill(host, vm, writer, f"{REMEMBERED}; {ON_DISKS}").split("\n", 3)
    begun, done = checked_memory(seen[:3], at_least)
    assert before is None or begun < before, "the memory did not go back"
    last = last_of_each(seen[3] + "\n")
    assert last and last == sorted(last, reverse=True), last
    assert done <= last[-1] and last[0] <= begun, ("not of one instant", done, last, begun)


def last_on_host(host, *disks):
    """Of each disk (file and format) of a VM that does not run the last record, as its host sees
    it: (number, mark)."""
    found = []
    for file, its_format in disks:
        raw = host.folder / "seen.raw"
        host.run(["qemu-img", "convert", "-f", its_format, "-O", "raw", file, raw], check=True)
        with host.outside(raw).open("rb") as seen:
            records = [seen.read(4096).strip(b"\0").split() for _ in range(4096)]
        host.outside(raw).unlink()
        numbers = [int(record[0]) for record in records if record]
        assert numbers == list(range(1, len(numbers) + 1)), numbers
        found.append((numbers[-1], records[numbers[-1]][-1].decode()))
    return found


def assert_goes_on(host, vm, writer, last):
    """The VM goes on from the moment at which its disks had these records last: its memory knows
    them as they were written, and it writes the next ones."""
    await_number(host, vm, last[0][0] + 1)
    assert_one_instant(host, vm, writer)
    for its_number, mark in last:
        known = shell(host, vm, f"grep '^{its_number} ' /tmp/marks")
        assert known == f"{its_number} {mark}", "memory and disk are not of one instant"
