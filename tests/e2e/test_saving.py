"""VMs that are stopped into a file and go on from there: the same processes, the same memory, and
whoever was attached notices a pause at most."""
import subprocess

from harness import box, workload
from harness.build import build_folder
from harness.saving import (REFUSED, RESTORE_REFUSED, USAGE, host, own_file, own_files,  # noqa: F401
                            save, start, talk)


def test_a_saved_vm_goes_on_with_whoever_was_attached(host, vm, talk):
    # Something that nobody is attached to prints on, and a process has ended unread.
    counter = host.ctl.ok("exec", "-d", vm, "--", workload.PROGRAM, "tick").strip()
    ended = host.ctl.ok("exec", "-d", vm, "--", "sh", "-c", "echo over; exit 7").strip()
    for options in ((), ("--compress", "zstd", "--compress-workers", "2")):
        save(host, vm, *options)
        file = own_file(host, vm)
        assert file.stat().st_mode & 0o777 == 0o600
        saved = host.ctl.vm(vm)["saved"]
        assert int(saved["file_bytes"]) == file.stat().st_size
        if options:
            assert int(saved["memory_bytes"]) > 2 * file.stat().st_size
        # A daemon that is started anew knows it, too.
        host.restart()
        assert host.ctl.state(vm) == "saved"
        assert host.ctl.exec(vm, "true").returncode == 125
        start(host, vm)
        assert not own_files(host, vm)
        talk.assert_goes_on()
        assert host.ctl.exec(vm, "echo", "here").stdout == "here\n"
    talk.finish()
    with host.ctl.attach("attach", vm, ended) as attached:
        assert attached.wait() == 7
        assert attached.output() == b"over\n"
    with host.ctl.attach("attach", vm, counter) as attached:
        attached.wait_until(lambda output: output.count(b"tick") > 100)
        numbers = [number for number, _ in workload.ticks(attached.output())]
        assert workload.lost_and_repeated(numbers) == (0, 0)


def test_a_client_says_that_its_vm_is_saved(host, vm):
    with host.ctl.attach("exec", "-i", vm, "--", "cat") as client:
        client.write(b"one\n")
        client.wait_until(lambda output: output == b"one\n")
        save(host, vm)
        client.wait_for_errors("is saved")
        client.write(b"two\n")
        start(host, vm)
        client.wait_until(lambda output: output == b"one\ntwo\n")
        client.close_stdin()
        assert client.wait() == 0
    assert client.errors().count("is saved") == 1


def test_what_may_not_be_done_with_a_saved_vm(host, vm):
    save(host, vm)
    for command, advice in ((("restart", vm), "--discard-saved"), (("vm", "delete", vm), "--force"),
                            (("vm", "pause", vm), "start"), (("exec", vm, "--", "true"), "start"),
                            (("migrate", vm, "--to", "10.99.7.2:7717"), "start")):
        refused = host.ctl.run(*command)
        assert refused.returncode in (REFUSED, 125), refused
        assert "saved" in refused.stderr.lower(), refused
        assert advice in refused.stderr, refused
    host.ctl.ok("stop", vm)
    assert host.ctl.state(vm) == "saved"
    file = own_file(host, vm)
    # A real boot, on demand.
    start(host, vm, "--discard-saved")
    assert not own_files(host, vm)
    save(host, vm)
    host.ctl.ok("vm", "delete", "--force", vm)
    assert not file.parent.exists()
    assert host.ctl.state(vm) == "absent"


def test_usage_is_checked_before_anything_happens(host, vm):
    for words in (("stop", "--save", "--force", vm), ("stop", "--save", "--no-save", vm),
                  ("save", "--live", vm), ("start", "--from", "relative", vm),
                  ("start", "--discard-saved", "--or-boot", vm), ("vm", "set", vm)):
        assert host.ctl.run(*words).returncode == USAGE, words
    assert host.ctl.state(vm) == "running"


def test_where_it_is_stopped_it_is_saved_if_that_is_its_way(host, vm):
    host.ctl.ok("stop", vm)
    assert host.ctl.state(vm) == "stopped"
    start(host, vm)
    host.ctl.ok("vm", "set", vm, "--save-on-stop", "yes")
    host.ctl.ok("stop", vm)
    assert host.ctl.state(vm) == "saved"
    start(host, vm)
    host.ctl.ok("stop", "--force", vm)
    assert host.ctl.state(vm) == "stopped"
    start(host, vm)
    host.ctl.ok("stop", "--no-save", vm)
    assert host.ctl.state(vm) == "stopped"
    # What the host says counts where the VM says nothing.
    host.flags = ["--save-on-stop"]
    host.restart()
    host.ctl.ok("vm", "set", vm, "--save-on-stop", "default")
    start(host, vm)
    host.ctl.ok("stop", vm)
    assert host.ctl.state(vm) == "saved"


def test_a_paused_vm_comes_back_paused(host, vm):
    host.ctl.ok("vm", "pause", vm)
    save(host, vm)
    host.ctl.ok("start", vm)
    assert host.ctl.state(vm) == "paused"
    host.ctl.ok("vm", "resume", vm)
    assert host.ctl.exec(vm, "echo", "here").stdout == "here\n"


def test_disks_are_of_the_same_instant(host, tmp_path):
    disk = host.folder / "disk.raw"
    host.run(["truncate", "-s", "64M", disk], check=True)
    host.ctl.create("vm", "256M", 1, "--disk", f"name=d,file={disk},format=raw")
    host.ctl.start("vm")
    device = "/dev/sda"
    write = f"echo first | dd of={device} conv=fsync 2>/dev/null"
    assert host.ctl.exec("vm", "sh", "-c", write).returncode == 0
    save(host, "vm")
    start(host, "vm")
    assert host.ctl.exec("vm", "head", "-c", "6", device).stdout == "first\n"
    save(host, "vm")
    # Somebody writes to it while the guest remembers what it was.
    host.run(["sh", "-c", f"printf x | dd of={disk} seek=1 bs=4096 conv=notrunc,fsync"],
             check=True, stderr=subprocess.DEVNULL)
    refused = host.ctl.run("start", "vm")
    assert refused.returncode == RESTORE_REFUSED, refused
    assert "disk.raw was written to" in refused.stderr, refused
    assert host.ctl.state("vm") == "saved"
    start(host, "vm", "--discard-saved")
    refused = host.ctl.run("save", "--live", "--to", host.folder / "live.ferry", "vm")
    assert refused.returncode == REFUSED and "disks" in refused.stderr, refused


def test_a_file_of_ones_own_and_a_vm_that_lives_on(host, vm, talk):
    file = host.folder / "moment.ferry"
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo then > /tmp/note")
    host.ctl.ok("save", "--live", "--to", file, vm)
    assert host.ctl.state(vm) == "running"
    talk.assert_goes_on()
    talk.finish()
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo later > /tmp/note")
    refused = host.ctl.run("start", "--from", file, vm)
    assert refused.returncode == REFUSED, refused
    host.ctl.ok("stop", "--no-save", vm)
    # It may go back to that moment as often as it likes: it has no disks that could be newer.
    for _ in range(2):
        start(host, vm, "--from", file)
        assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == "then\n"
        host.ctl.ok("stop", "--force", vm)
    # And the other way: saved into a file of one's own, it is saved there.
    start(host, vm)
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo last > /tmp/note")
    refused = host.ctl.run("save", "--to", file, vm)
    assert refused.returncode == REFUSED and "exists" in refused.stderr, refused
    last = host.folder / "last.ferry"
    host.ctl.ok("save", "--to", last, vm)
    assert host.ctl.state(vm) == "saved"
    start(host, vm)
    assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == "last\n"
    assert host.outside(last).exists()


def test_a_key_keeps_it_secret(host, vm):
    key, other = host.folder / "key", host.folder / "other"
    for name, byte in ((key, 1), (other, 2)):
        host.outside(name).write_bytes(bytes([byte]) * 32)
        host.outside(name).chmod(0o600)
    secret = "a word that nobody else may read"
    host.ctl.ok("exec", vm, "--", "sh", "-c", f"echo {secret} > /tmp/note")
    save(host, vm)
    assert secret.encode() in own_file(host, vm).read_bytes()
    start(host, vm)
    save(host, vm, "--key-file", key)
    assert secret.encode() not in own_file(host, vm).read_bytes()
    refused = host.ctl.run("start", "--key-file", other, vm)
    assert refused.returncode == RESTORE_REFUSED, refused
    start(host, vm)
    assert host.ctl.exec(vm, "cat", "/tmp/note").stdout == f"{secret}\n"


def test_containers_are_saved_with_their_vm(box_hosts, box_vm):
    host = box_hosts[0]
    count = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"
    host.ctl.ok("run", "-d", "--vm", box_vm, "--name", "count", box.NAME, "sh", "-c", count)
    host.ctl.ok("run", "-d", "--vm", box_vm, "--name", "over", box.NAME, "sh", "-c", "exit 3")
    host.ctl.ok("run", "-d", "--vm", box_vm, "--name", "held", box.NAME, "sleep", "1000000")
    host.ctl.ok("container", "pause", "held")
    with host.ctl.attach("logs", "-f", "count") as logs, \
            host.ctl.attach("exec", "-i", "--container", "count", box_vm, "--", "cat") as cat:
        logs.wait_until(lambda output: output.count(b"\n") > 20)
        cat.write(b"before\n")
        cat.wait_until(lambda output: output == b"before\n")
        save(host, box_vm)
        host.restart()
        refused = host.ctl.run("container", "stop", "count")
        assert refused.returncode == REFUSED and "saved" in refused.stderr.lower(), refused
        assert host.ctl.run("container", "rm", "--force", "count").returncode == REFUSED
        start(host, box_vm)
        said = logs.output().count(b"\n")
        logs.wait_until(lambda output: output.count(b"\n") > said + 20)
        cat.write(b"after\n")
        cat.wait_until(lambda output: output == b"before\nafter\n")
        numbers = [int(line) for line in logs.output().split(b"\n")[:-1]]
        assert numbers == list(range(len(numbers)))
        cat.close_stdin()
        assert cat.wait() == 0
    assert box.state(host, "held") == "paused"
    assert box.inspect(host, "over")["exit_status"]["code"] == 3
    host.ctl.ok("container", "resume", "held")
    # Each can still be changed, and ends with its VM if that is booted instead.
    host.ctl.ok("container", "rm", "--force", "held")
    save(host, box_vm)
    start(host, box_vm, "--discard-saved")
    assert box.state(host, "count") == "stopped"
    host.ctl.ok("container", "rm", "count")


def test_a_host_that_goes_down_and_comes_back(host, vm, talk, isolated):
    host.ctl.ok("vm", "set", vm, "--save-on-stop", "yes", "--autostart", "yes")
    host.ctl.create("other")
    host.ctl.start("other")
    host.flags = ["--stop-vms"]
    host.restart()
    assert host.ctl.state(vm) == "running"
    # Told to end, it saves the one and shuts the other down.
    host.stop()
    assert not host.processes("qemu-system")
    host.start()
    assert (host.ctl.state(vm), host.ctl.state("other")) == ("saved", "stopped")
    host.lose_power()
    host.flags = []
    host.start()
    talk.assert_goes_on()
    assert (host.ctl.state(vm), host.ctl.state("other")) == ("running", "stopped")
    talk.finish()


def test_a_new_guest_image_is_for_the_next_boot(host):
    initrd = host.folder / "initrd.img"
    host.outside(initrd).write_bytes((build_folder() / "guest/initrd.img").read_bytes())
    host.initrd = initrd
    host.restart()
    host.ctl.create("own")
    host.ctl.start("own")
    host.ctl.ok("exec", "own", "--", "sh", "-c", "echo before > /tmp/note")
    save(host, "own")
    with host.outside(initrd).open("ab") as image:
        image.write(bytes(512))
    started = host.ctl.run("start", "own")
    assert started.returncode == 0, started
    assert "Warning:" in started.stderr and "guest image has changed" in started.stderr, started
    assert host.ctl.exec("own", "cat", "/tmp/note").stdout == "before\n"
    host.ctl.ok("restart", "own")
    assert host.ctl.exec("own", "cat", "/tmp/note").returncode != 0
    save(host, "own")
    started = host.ctl.run("start", "own")
    assert started.returncode == 0 and not started.stderr, started


def size(host, vm):
    """The CPUs and MiB of memory that the guest sees."""
    cpus = host.ctl.ok("exec", vm, "--", "cat", "/proc/cpuinfo").count("processor\t")
    memory = host.ctl.ok("exec", vm, "--", "cat", "/proc/meminfo").split("MemTotal:")[1].split()[0]
    return cpus, int(memory) >> 10


def test_memory_and_cpus_change_with_the_next_boot(two_hosts, vm):
    source, destination = two_hosts
    had, spec = size(source, vm), source.ctl.vm(vm)["spec"]
    told = source.ctl.run("vm", "set", vm, "--memory", "512M", "--cpus", "2")
    assert told.returncode == 0 and "until its next boot" in told.stderr, told
    save(source, vm)
    started = source.ctl.run("start", vm)
    assert started.returncode == 0 and "until its next boot" in started.stderr, started
    assert size(source, vm) == had
    # Wherever that is.
    source.ctl.migrate(vm, destination)
    assert size(destination, vm) == had
    assert destination.ctl.vm(vm)["until_boot"] == {
        "memory_mb": spec["memory_mb"], "cpus": spec["cpus"]}
    destination.ctl.ok("restart", vm)
    cpus, memory = size(destination, vm)
    assert cpus == 2 and had[1] + 200 < memory < 512, (had, cpus, memory)
    assert "until_boot" not in destination.ctl.vm(vm)


def test_a_restart_is_a_real_boot(host, vm):
    host.ctl.ok("vm", "set", vm, "--save-on-stop", "yes")
    host.ctl.ok("exec", vm, "--", "sh", "-c", "echo before > /tmp/note")
    host.ctl.ok("restart", vm)
    assert host.ctl.state(vm) == "running"
    assert host.ctl.exec(vm, "cat", "/tmp/note").returncode != 0
    assert not own_files(host, vm)


def test_containers_go_back_to_a_file_of_ones_own(box_hosts, box_vm):
    host = box_hosts[0]
    count = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"
    host.ctl.ok("run", "-d", "--vm", box_vm, "--name", "count", box.NAME, "sh", "-c", count)
    with host.ctl.attach("logs", "-f", "count") as logs:
        logs.wait_until(lambda output: output.count(b"\n") > 20)
    file = host.folder / "moment.ferry"
    host.ctl.ok("save", "--to", file, box_vm)
    start(host, box_vm)
    # Its disk has been written to since: memory of then would not fit.
    host.ctl.ok("container", "stop", "count")
    host.ctl.ok("stop", "--no-save", box_vm)
    refused = host.ctl.run("start", "--from", file, box_vm)
    assert refused.returncode == RESTORE_REFUSED, refused
    assert "was written to" in refused.stderr, refused
    assert box.state(host, "count") == "stopped"
    # What it printed until it was stopped is still there.
    said = host.ctl.ok("logs", "count").split()
    assert len(said) > 20 and said == [str(number) for number in range(len(said))]
    start(host, box_vm)


def test_a_layer_that_is_missing_is_found_before_anything_runs(box_hosts, box_vm):
    host = box_hosts[0]
    host.ctl.ok("run", "-d", "--vm", box_vm, "--name", "held", box.NAME, "sleep", "1000000")
    save(host, box_vm)
    host.stop()
    layer = next(host.outside(host.state).rglob("sha256-*.erofs"))
    aside = layer.with_suffix(".aside")
    layer.rename(aside)
    host.start()
    refused = host.ctl.run("start", box_vm)
    assert refused.returncode == RESTORE_REFUSED, refused
    assert "layer" in refused.stderr and not host.processes("qemu-system"), refused
    assert host.ctl.state(box_vm) == "saved"
    host.stop()
    aside.rename(layer)
    host.start()
    start(host, box_vm)
    assert box.state(host, "held") == "running"
