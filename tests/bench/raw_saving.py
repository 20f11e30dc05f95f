"""What Ferry does to keep a VM in files and snapshots, done by hand at the QEMU that runs it.

The VM runs before and after each of these. Each takes a monitor and returns what was measured.
"""
import contextlib
import os
import shutil
import subprocess
import time

import raw_qemu

UNLIMITED = 100_000_000_000  # bytes in a second, as Ferry sets it; QEMU's own is 128 MiB
NAME = "bench"  # of jobs, snapshots and nodes made here
HAS_ZSTD = shutil.which("zstd") is not None


def since_ms(begun):
    return (time.monotonic() - begun) * 1000


def sync(path):
    """As Ferry does before it says that a file is there."""
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def settle(folder):
    """What was removed before has been given back to the disk: that comes with the next commit of
    the file system's journal, whoever waits for it."""
    path = folder / "settled"
    path.write_text("yes")
    sync(path)
    path.unlink()


@contextlib.contextmanager
def settings(qmp, *capabilities):
    """Memory is written as fast as it can be, with these capabilities alone. Afterwards all is as
    Ferry left it, for it does not ask."""
    had = {each["capability"]: each["state"]
           for each in qmp.command("query-migrate-capabilities")}
    bandwidth = qmp.command("query-migrate-parameters")["max-bandwidth"]
    changes = {name: name in capabilities for name, state in had.items()
               if state != (name in capabilities)}
    apply_settings(qmp, changes, UNLIMITED)
    try:
        yield
    finally:
        apply_settings(qmp, {name: not state for name, state in changes.items()}, bandwidth)


def apply_settings(qmp, states, bandwidth):
    if states:
        qmp.command("migrate-set-capabilities",
                    capabilities=[{"capability": name, "state": state}
                                  for name, state in states.items()])
    qmp.command("migrate-set-parameters", max_bandwidth=bandwidth)


def write(qmp, file):
    """All of the VM into an open file, which is closed then, by QEMU as well."""
    qmp.send_descriptor(NAME, file.fileno())
    file.close()
    qmp.command("migrate", uri=f"fd:{NAME}")
    qmp.wait_migrated()


def measured(begun, path):
    return {"took_ms": since_ms(begun), "file_bytes": path.stat().st_size}


def save(qmp, path):
    """Stop, write, go on, and bring the file to the disk."""
    begun = time.monotonic()
    with settings(qmp), path.open("xb") as file:
        qmp.command("stop")
        write(qmp, file)
        qmp.command("cont")
        sync(path)
        return measured(begun, path)


def save_compressed(qmp, path):
    """The same through the program zstd, with the level and the thread that Ferry takes."""
    begun = time.monotonic()
    with settings(qmp), path.open("xb") as file, subprocess.Popen(
            ["zstd", "-q", "-1", "-T1", "-c"], stdin=subprocess.PIPE, stdout=file) as program:
        qmp.command("stop")
        write(qmp, program.stdin)
        if program.wait() != 0:
            raise raw_qemu.QmpError("zstd failed")
        qmp.command("cont")
        sync(path)
        return measured(begun, path)


def disk_of(qmp):
    """The node of the VM's only qcow2 disk, and what snapshots are in it."""
    [disk] = [each["inserted"] for each in qmp.command("query-block")
              if each.get("inserted", {}).get("drv") == "qcow2"]
    return disk["node-name"], disk["image"].get("snapshots", [])


def open_overlay(qmp, overlay):
    """A file that is there, an empty qcow2; what lets the disk go on in it is returned."""
    node, _ = disk_of(qmp)
    qmp.command("blockdev-add", driver="qcow2", node_name=NAME, backing=None,
                file={"driver": "file", "filename": str(overlay)})
    actions = [{"type": "blockdev-snapshot", "data": {"node": node, "overlay": NAME}}]
    return lambda: qmp.command("transaction", actions=actions)


def merge_overlay(qmp):
    """The disk goes on in the file that it had."""
    qmp.command("block-commit", job_id=NAME, device=NAME)
    qmp.wait_job(NAME, "ready")
    qmp.command("job-complete", id=NAME)
    qmp.wait_job(NAME, "null")
    qmp.command("blockdev-del", node_name=NAME)


def checkpoint(qmp, path, overlay):
    """Memory and disk of one instant, the memory written while the guest stands still."""
    begun = time.monotonic()
    with settings(qmp), path.open("xb") as file:
        go_on_there = open_overlay(qmp, overlay)
        qmp.command("stop")
        go_on_there()
        write(qmp, file)
        qmp.command("cont")
        sync(path)
        return measured(begun, path)


def checkpoint_live(qmp, path, overlay):
    """The same while the guest runs: QEMU lets it go when it can do with that."""
    begun = time.monotonic()
    with settings(qmp, "background-snapshot"), path.open("xb") as file:
        go_on_there = open_overlay(qmp, overlay)
        qmp.command("stop")
        go_on_there()
        write(qmp, file)
        sync(path)
        return measured(begun, path)


def checkpoint_disk(qmp, overlay):
    begun = time.monotonic()
    open_overlay(qmp, overlay)()
    return {"took_ms": since_ms(begun)}


def run_job(qmp, command, **arguments):
    qmp.command(command, job_id=NAME, tag=NAME, **arguments)
    qmp.wait_job(NAME, "concluded")
    [error] = [each.get("error") for each in qmp.command("query-jobs") if each["id"] == NAME]
    qmp.command("job-dismiss", id=NAME)
    if error:
        raise raw_qemu.QmpError(f"{command}: {error}")


def snapshot(qmp):
    """Inside the disk, by QEMU's own job."""
    begun = time.monotonic()
    with settings(qmp):
        node, _ = disk_of(qmp)
        run_job(qmp, "snapshot-save", vmstate=node, devices=[node])
        took = since_ms(begun)
    _, [made] = disk_of(qmp)
    return {"took_ms": took, "file_bytes": made["vm-state-size"]}


def delete_snapshot(qmp):
    node, _ = disk_of(qmp)
    run_job(qmp, "snapshot-delete", devices=[node])


def restore(host, argv, path):
    """From the start of a QEMU until it runs the guest, and until that has printed something."""
    begun = time.monotonic()
    vm = raw_qemu.RawVm(host, argv, incoming=True)
    try:
        with path.open("rb") as file:
            vm.qmp.send_descriptor(NAME, file.fileno())
            vm.qmp.command("migrate-incoming", uri=f"fd:{NAME}")
        vm.qmp.wait_migrated()
        vm.qmp.command("cont")
        runs = since_ms(begun)
        await_console(vm.console)
        return {"took_ms": runs, "console_ms": since_ms(begun)}
    finally:
        vm.close()


def await_console(read):
    deadline = time.monotonic() + raw_qemu.DEADLINE
    while not read():
        if time.monotonic() > deadline:
            raise raw_qemu.QmpError("the guest prints nothing on its console")
        time.sleep(0.002)


def boot(host, argv):
    """From the start of a QEMU until the agent is ready."""
    begun = time.monotonic()
    vm = raw_qemu.RawVm(host, argv)
    try:
        vm.start()
        return {"first_output_ms": since_ms(begun)}
    finally:
        vm.close()


def write_alone(source, path):
    """What the disk needs for as many bytes: the file copied by the kernel, and brought there."""
    begun = time.monotonic()
    with source.open("rb") as original, path.open("wb") as copy:
        left = source.stat().st_size
        while left > 0:
            left -= os.sendfile(copy.fileno(), original.fileno(), None, left)
    sync(path)
    return {"took_ms": since_ms(begun)}
