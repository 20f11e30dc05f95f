"""VMs in files, for tests."""
import pytest

from .talk import Talk

RESTORE_REFUSED = 9
REFUSED = 4
USAGE = 2


@pytest.fixture
def host(two_hosts):
    """The one that the VM is on."""
    return two_hosts[0]


@pytest.fixture
def talk(host, vm):
    """Somebody who talks to a process in the VM all the time."""
    made = Talk(host, vm)
    yield made
    made.close()


def own_file(host, vm):
    """The file that the VM is saved in, as seen from here."""
    return host.outside(host.ctl.vm(vm)["saved"]["file"])


def own_files(host, vm):
    """All that its host keeps of saved states of the VM."""
    folder = host.outside(host.state / "saved" / host.ctl.vm(vm)["id"])
    return sorted(folder.iterdir()) if folder.exists() else []


def save(host, vm, *options):
    host.ctl.ok("stop", "--save", vm, *options)
    assert host.ctl.state(vm) == "saved"
    assert not host.processes("qemu-system")


def start(host, vm, *options):
    host.ctl.ok("start", vm, *options)
    assert host.ctl.state(vm) == "running"
    assert len(host.processes("qemu-system")) == 1


def kills_the_vmm(host, point, *command):
    """The VMM dies at this point of what the command does; the command's end."""
    host.freeze_at(point)
    with host.ctl.attach(*command) as running:
        host.wait_frozen()
        host.kill_vmm()
        host.thaw()
        running.wait()
    return running
