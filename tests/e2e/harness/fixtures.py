"""Fixtures of the tests with two hosts."""
import ctypes

import pytest

from . import booted, box, postmortem, workload
from .certificates import Authority
from .driven import Run
from .host import Hosts

# Why namespaces were refused, if they were.
_REFUSAL = pytest.StashKey[str]()
PR_SET_THP_DISABLE = 41  # linux/prctl.h


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    used = getattr(item, "funcargs", {})
    for name, title in (("bare_hosts", "daemons"), ("outer_hosts", "outer machines")):
        if hosts := used.get(name):
            report.sections.append((title, hosts.logs()))
    if hosts := used.get("bare_hosts"):
        report.sections += [each for host in hosts for each in postmortem.of(host)]
    if trial := used.get("trial"):
        report.sections += trial.consoles()


@pytest.fixture(scope="session", autouse=True)
def small_pages():
    """The tests' VMs are many, live short, and use a little of their memory here and there: to clear
    huge pages for that takes half of what a VMM does at all. Whoever is started gets this, too."""
    # Only a machine that has none refuses.
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def note_isolation(config, hosts):
    """Whether these hosts are isolated is told in the end."""
    if not hosts.isolated:
        config.stash[_REFUSAL] = hosts.refusal


def pytest_terminal_summary(terminalreporter, config):
    refusal = config.stash.get(_REFUSAL, None)
    if refusal is not None:
        terminalreporter.write_line(
            f"NOT ISOLATED: namespaces are refused here ({refusal}), so the two hosts were two "
            "loopback ports that share the file system")


@pytest.fixture
def bare_hosts(pytestconfig):
    """Two hosts without daemons."""
    with Hosts() as hosts:
        note_isolation(pytestconfig, hosts)
        yield hosts


@pytest.fixture
def isolated(bare_hosts):
    """For tests that prove nothing on hosts that share a file system, a network or processes."""
    if not bare_hosts.isolated:
        pytest.skip(f"namespaces are refused here ({bare_hosts.refusal}), and the two hosts must "
                    "not be one")


@pytest.fixture
def two_hosts(bare_hosts, request):
    if "vm" in request.fixturenames:
        booted.give(bare_hosts[0])
    return bare_hosts.start()


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def lock(hosts, authority):
    """Gives hosts whose daemons do not run yet, and their ferryctl, certificates."""
    admin = authority.flags("root", ["admin"])
    for host in hosts:
        address = host.address.rsplit(":", 1)[0]
        host.security = authority.flags(f"host-{host.name}", ["peer"], address)
        host.ctl.security = admin
    return hosts


@pytest.fixture
def locked_hosts(bare_hosts, authority):
    """Two hosts without daemons, with certificates for them and for their ferryctl."""
    return lock(bare_hosts, authority)


@pytest.fixture
def secure_hosts(locked_hosts):
    return locked_hosts.start()


@pytest.fixture
def vm(two_hosts):
    """The name of a VM that runs on the first host."""
    return booted.run_on(two_hosts[0])


@pytest.fixture
def ticker(two_hosts, vm):
    """A process that ticks in the VM, and the ferryctl attached to it."""
    with workload.attach_ticker(two_hosts[0], vm) as attached:
        yield attached


@pytest.fixture
def run(two_hosts, vm):
    """A session of that VM from the first host to the other, of which nothing is done yet."""
    made = Run(two_hosts, vm)
    yield made
    made.close()


@pytest.fixture
def box_hosts(pytestconfig, tmp_path):
    """Two hosts that share a folder, and an image that only the first has."""
    with Hosts(shared_folder=tmp_path) as pair:
        note_isolation(pytestconfig, pair)
        booted.give(pair[0])
        pair.start()
        box.import_into(pair[0], tmp_path)
        yield pair


@pytest.fixture
def box_vm(box_hosts):
    """A running VM on the first of them."""
    return booted.run_on(box_hosts[0])
