"""A guest that writes numbered records with their sums to its disks, and remembers the last one: so
that memory and all disks are seen to be of one instant."""
import contextlib
import hashlib

# Numbered records with their sums, on each disk in turn and then in memory. Each has a mark that it
# would not get a second time, and memory knows all of these.
WRITER = """
disks=$(ls -d /sys/bus/scsi/devices/0:0:0:*/block/* | sed 's,.*/,/dev/,')
i=0
while :; do
  i=$((i+1))
  read n < /proc/sys/kernel/random/uuid
  s="$(echo $i | md5sum) $n"
  echo "$i $n" >> /tmp/marks
  echo "$i $s" > /tmp/begun.new; mv /tmp/begun.new /tmp/begun
  for disk in $disks; do
    echo "$i $s" | dd of=$disk bs=4096 seek=$i conv=notrunc,fsync 2>/dev/null
  done
  echo "$i $s" > /tmp/done.new; mv /tmp/done.new /tmp/done
done
"""
# All records of each disk, with a line behind them.
MOST = 4096
READER = f"""
echo 3 > /proc/sys/vm/drop_caches
for disk in $(ls -d /sys/bus/scsi/devices/0:0:0:*/block/* | sed 's,.*/,/dev/,'); do
  dd if=$disk bs=4096 skip=1 count={MOST} 2>/dev/null | tr -d '\\0'
  echo over
done
"""


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
    assert its_sum == hashlib.md5(f"{found}\n".encode()).hexdigest(), record
    return int(found)


def number(host, vm, file):
    """Of the record that the guest remembers there."""
    return checked(shell(host, vm, f"cat {file}"))


def last_of(records):
    """Of those of one disk: the number of the last one. All up to that are there, and no others."""
    numbers = [checked(record) for record in records.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) < MOST, numbers
    return len(numbers)


def on_disks(host, vm):
    """The last record of each disk, in the order in which they are written to."""
    read = host.ctl.exec(vm, "sh", "-c", READER)
    assert read.returncode == 0, read
    return [last_of(disk) for disk in read.stdout.split("over\n")[:-1]]


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
    while number(host, vm, "/tmp/done") < at_least:
        pass


def start_writer(host, vm, pause=None):
    """The process that writes, once it has begun; see assert_one_instant.

    pause -- Seconds between two records, for tests in which there would be more than MOST.
    """
    script = WRITER if pause is None else WRITER.replace("do\n", f"do\n  sleep {pause}\n", 1)
    writer = host.ctl.ok("exec", "-d", vm, "--", "sh", "-c", script).strip()
    host.ctl.exec(vm, "sh", "-c", "while ! [ -e /tmp/done ]; do sleep 0.1; done")
    await_number(host, vm, 20)
    return writer


@contextlib.contextmanager
def standing(host, vm, writer):
    """Nothing is written meanwhile."""
    shell(host, vm, f"kill -STOP {writer}")
    yield
    shell(host, vm, f"kill -CONT {writer}")


def remembered(host, vm, at_least=20):
    """The records that the guest's memory knows as begun and as done last; it knows all marks until
    then."""
    begun, done = number(host, vm, "/tmp/begun"), number(host, vm, "/tmp/done")
    assert at_least <= done <= begun <= done + 1, (at_least, done, begun)
    assert int(shell(host, vm, "wc -l < /tmp/marks")) - begun in (0, 1)
    return begun, done


def assert_disks_agree(host, vm, begun, done):
    last = on_disks(host, vm)
    assert last and last == sorted(last, reverse=True), last
    assert done <= last[-1] and last[0] <= begun, ("not of one instant", done, last, begun)


def assert_memory_went_back(host, vm, writer, before):
    """As assert_one_instant, of a VM without disks."""
    with standing(host, vm, writer):
        assert remembered(host, vm)[0] < before, "the memory did not go back"


def assert_one_instant(host, vm, writer, before=None, at_least=20):
    """The VM went back to a moment before its record of that number was written, if one is given, and
    disk and memory are both of that moment. It goes on writing afterwards."""
    with standing(host, vm, writer):
        begun, done = remembered(host, vm, at_least)
        assert before is None or begun < before, "the memory did not go back"
        assert_disks_agree(host, vm, begun, done)


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
    with standing(host, vm, writer):
        assert_disks_agree(host, vm, *remembered(host, vm))
        for its_number, mark in last:
            known = shell(host, vm, f"grep '^{its_number} ' /tmp/marks")
            assert known == f"{its_number} {mark}", "memory and disk are not of one instant"
