"""What is checked before a migration, and what is refused before any byte moves."""
import shutil
import subprocess
import sys

import pytest

from harness import other_qemu
from harness.build import build_folder
from harness.ctl import parse_json

VERSION = [r'"micro": \d+', '"micro": 99']
MACHINE = [r'"pc-q35-7\.\d+"', '"pc-q35-99"']
FEATURE = [r'"avx2": true', '"avx2": false']
MODEL = [r'"name": "Nehalem"', '"name": "Gone"']


def dry_run(source, vm, destination, *options):
    """(exit status, checks by name) of a dry run."""
    result = source.ctl.run("--output", "json", "migrate", vm, "--to", destination.address,
                            "--dry-run", *options)
    checks = parse_json(result.stdout)["checks"] if result.stdout else []
    return result.returncode, {check["name"]: check for check in checks}


def failed(checks):
    return {name for name, check in checks.items()
            if check["result"] == "PREFLIGHT_RESULT_FAIL"}


def start_vm(host, name, *options):
    host.ctl.create(name, "256M", 1, *options)
    host.ctl.start(name)


def restart_with_qemu(host, changes):
    """Starts the host's daemon anew with a QEMU that says other things of itself."""
    host.stop()
    name = f"qemu-{len(host.flags)}-{abs(hash(str(changes)))}"
    host.flags = ["--qemu", other_qemu.install(host, name, changes)]
    host.start()


def assert_refused_without_a_trace(source, destination, vm, field, *options):
    """A migration is refused with a table that names `field`, and the VM stays where it was."""
    result = source.ctl.run("migrate", vm, "--to", destination.address, *options)
    assert result.returncode != 0
    text = result.stdout + result.stderr
    assert "FIELD" in text and field in text, text
    assert source.ctl.state(vm) == "running"
    assert destination.ctl.vms() == []
    assert destination.processes("qemu-system") == []


def test_dry_run_tells_that_it_would_be_accepted_and_changes_nothing(two_hosts, vm):
    source, destination = two_hosts
    status, checks = dry_run(source, vm, destination)
    assert status == 0, checks
    assert failed(checks) == set()
    for name in ("reachability", "versions", "agent", "migratable", "vmm_version", "machine_type",
                 "accelerator", "cpu_model", "cpu_features", "guest_image", "memory", "devices"):
        assert checks[name]["result"] == "PREFLIGHT_RESULT_PASS", checks[name]
    for side in ("source", "destination"):  # --insecure-tcp
        assert checks[f"{side}_certificate"]["result"] == "PREFLIGHT_RESULT_WARN"
    text = source.ctl.ok("migrate", vm, "--to", destination.address, "--dry-run")
    assert "The migration would be accepted." in text
    assert source.ctl.sessions() == [] and destination.ctl.sessions() == []
    assert destination.ctl.vms() == []
    source.ctl.migrate(vm, destination)
    assert destination.ctl.exec(vm, "echo", "there").stdout == "there\n"


def test_unreachable_destination_is_one_failed_check_of_many(two_hosts, vm):
    source, destination = two_hosts
    destination.stop()
    status, checks = dry_run(source, vm, destination)
    assert status == 4
    assert failed(checks) == {"reachability"}
    assert checks["agent"]["result"] == "PREFLIGHT_RESULT_PASS"


def test_another_qemu_is_refused_field_by_field(two_hosts, vm):
    source, destination = two_hosts
    for change, check, field in ((VERSION, "vmm_version", "backend_version"),
                                 (MACHINE, "machine_type", "machine_type"),
                                 (FEATURE, "cpu_features", "avx2")):
        restart_with_qemu(destination, [change])
        status, checks = dry_run(source, vm, destination)
        assert status == 4
        assert failed(checks) == {check}, checks
        assert checks[check]["fix"]
        assert_refused_without_a_trace(source, destination, vm, field)


def test_a_pinned_cpu_model_is_what_the_guest_sees_and_where_it_can_go(two_hosts):
    source, destination = two_hosts
    result = source.ctl.run("vm", "create", "pinned", "--cpu-model", "Nehalen")
    assert result.returncode == 2 and "did you mean Nehalem" in result.stderr
    start_vm(source, "pinned", "--cpu-model", "Nehalem")
    cpu = source.ctl.exec("pinned", "cat", "/proc/cpuinfo").stdout
    assert "Nehalem" in cpu and " avx" not in cpu

    restart_with_qemu(destination, [MODEL])
    status, checks = dry_run(source, "pinned", destination)
    assert status == 4 and failed(checks) == {"cpu_model"}
    assert_refused_without_a_trace(source, destination, "pinned", "cpu_model")
    # A pinned model does not depend on what else a host's CPUs can do.
    restart_with_qemu(destination, [FEATURE])
    source.ctl.migrate("pinned", destination)
    assert "Nehalem" in destination.ctl.exec("pinned", "cat", "/proc/cpuinfo").stdout


@pytest.mark.usefixtures("isolated")
def test_another_guest_image_is_refused(two_hosts):
    source, destination = two_hosts
    image = source.folder / "own-initrd"
    shutil.copy(build_folder() / "guest/initrd.img", source.outside(image))
    with open(source.outside(image), "ab") as file:
        file.write(bytes(512))  # the guest does not see it, the digest does
    start_vm(source, "own", "--initrd", str(image))
    status, checks = dry_run(source, "own", destination)
    assert status == 4 and failed(checks) == {"guest_image"}, checks
    assert_refused_without_a_trace(source, destination, "own", "initrd")


def test_device_that_cannot_migrate_is_named(bare_hosts):
    source, destination = bare_hosts
    source.flags = ["--qemu", other_qemu.install(source, "qemu-nvme",
                                                 devices=["-device", "nvme,serial=1"])]
    bare_hosts.start()
    start_vm(source, "stuck")
    status, checks = dry_run(source, "stuck", destination)
    assert status == 4 and failed(checks) == {"migratable"}, checks
    assert "nvme" in checks["migratable"]["message"]


def test_row_17_full_destination_is_refused_with_the_numbers(two_hosts, vm):
    source, destination = two_hosts
    destination.stop()
    destination.flags = ["--memory-reserve", "1000000000"]
    destination.start()
    status, checks = dry_run(source, vm, destination)
    assert status == 4 and failed(checks) == {"memory"}
    result = source.ctl.run("migrate", vm, "--to", destination.address)
    assert result.returncode != 0
    assert "needs 320 MiB of memory" in result.stderr + result.stdout
    assert "0 MiB available" in result.stderr + result.stdout
    assert source.ctl.state(vm) == "running" and destination.ctl.vms() == []


@pytest.mark.usefixtures("isolated")
def test_row_17_full_disk_is_refused_with_the_numbers(bare_hosts):
    source, destination = bare_hosts
    destination.run(["mkdir", "-p", destination.state], check=True)
    destination.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", destination.state],
                    check=True)
    bare_hosts.start()
    start_vm(source, "web")
    status, checks = dry_run(source, "web", destination)
    assert status == 4 and failed(checks) == {"destination_state"}, checks
    result = source.ctl.run("migrate", "web", "--to", destination.address)
    assert result.returncode != 0
    assert f"of room in {destination.state}" in result.stderr + result.stdout
    assert source.ctl.state("web") == "running" and destination.ctl.vms() == []


HOLD_PORT = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("bound", flush=True)
sys.stdin.read()
"""


def test_row_24_taken_migration_port_is_told_at_start(bare_hosts):
    destination = bare_hosts[1]
    destination.start()  # without a wish any free port is taken
    destination.stop()
    address, port = destination.address.rsplit(":", 1)[0], "7720"
    destination.flags = ["--migration-listen", f"{address}:{port}"]
    with subprocess.Popen(destination.wrap([sys.executable, "-c", HOLD_PORT, address, port]),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "bound\n"
            with pytest.raises(RuntimeError) as refused:
                destination.start()
        finally:
            other.stdin.close()
        other.wait(30)
    assert f"{address}:{port}" in str(refused.value)
    assert "in use" in str(refused.value)
    destination.start()  # and once it is free again, that one is
