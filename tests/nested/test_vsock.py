"""The guest link over the kernel's AF_VSOCK, on hosts that have it."""
import concurrent.futures
import contextlib
import json
import signal
import subprocess
import time

from conversation import DEADLINE, KEYS, TICKER, Conversation, Keyboard
from harness import box, oracles, workload
from harness.build import guest_binaries
from harness.mover import SLOW
from harness.waiting import wait_for

BRIDGE_PORT = 0x40000000
MEMORY = "192M"
EXIT_STATUS = 7
BOOT_DEADLINE = 600  # seconds, on this machine's clock
SIZE = (31, 97)
PRINTED = ("random", "--bytes", "300000", "--seed", "4")
FURTHER_ROUNDS = 4  # there and back; ten migrations with those before


@contextlib.contextmanager
def timed(what):
    """Whoever reads of a failure sees whether this machine is fast enough."""
    begun = time.monotonic()
    try:
        yield
    finally:
        print(f"{what}: {time.monotonic() - begun:.1f} s")


def boot(host, vm):
    host.ctl.create(vm, memory=MEMORY)
    with timed(f"the boot of {vm}"):
        # On a busy machine it takes longer than ferryctl waits, and goes on without that.
        started = host.ctl.run("vm", "start", vm, timeout=BOOT_DEADLINE)
        oracles.wait_for_state(host, vm, "running", "failed", timeout=BOOT_DEADLINE)
    assert host.ctl.state(vm) == "running", started.stderr
    with timed(f"the first process in {vm}"):
        # All that it runs is translated then, twice over; the next ones are quick.
        wait_for(lambda: host.ctl.exec(vm, "true").returncode == 0,
                 f"the agent of {vm} starts nothing", BOOT_DEADLINE)


def context_id(host, vm):
    """By which the kernel knows the VM; 0 without vsock."""
    document = json.loads(host.ctl.vm(vm)["machine_document_json"])
    socket = document["VirtualMachine"]["Devices"].get("HvSocket", {})
    return socket.get("HvSocketConfig", {}).get("Ferry", {}).get("GuestCid", 0)


def connected_ports(host, cid):
    """The host's ports with an open connection of this VM."""
    return {port for state, port, peer in host.vsock() if state == "ESTAB" and peer == cid}


def await_closed(host, cid):
    """Waits until no connection of a VM that is gone is left. The kernel keeps one that was closed
    while its peer went away for some seconds more."""
    wait_for(lambda: not connected_ports(host, cid),
             f"{host.name} keeps connections of the context id {cid}, which is gone")


def migrate(vm, source, destination):
    """Migrates; the VM has another context id then, and no connection of the former one is left."""
    former = context_id(source, vm)
    with timed(f"the migration of {vm}"):
        source.ctl.migrate(vm, destination, timeout=DEADLINE)
    assert source.ctl.state(vm) == "absent"
    assert destination.ctl.state(vm) == "running"
    new = context_id(destination, vm)
    assert new not in (0, former)
    for host in (source, destination):
        await_closed(host, former)


def assert_share_ports(host, vms):
    """The VMs are connected to the same ports of one host, each of which has one listener."""
    common = set.intersection(*(connected_ports(host, context_id(host, vm)) for vm in vms))
    sockets = host.vsock()
    for port in common:
        listeners = [found for found in sockets if found == ("LISTEN", port, None)]
        assert len(listeners) == 1, (port, sockets)
    assert BRIDGE_PORT in common and common - {BRIDGE_PORT}, sockets


def assert_nothing_left(host):
    wait_for(lambda: host.vsock() == [], f"{host.name} keeps vsock sockets")
    assert host.run("ls /var/lib/ferry/vm | grep -v accelerator.json; ls /var/lib/ferry/mig") == ""
    assert host.run("pidof qemu-system-x86_64 || echo none") == "none\n"


def talk_in_vm(host, vm):
    return Conversation(host.ctl.attach("exec", "-i", vm, "--", *TICKER), vm)


def talk_in_container(host, vm, name):
    """With the main process of a new container, which may write nothing."""
    return Conversation(host.ctl.attach("run", "-i", "--read-only", "--name", name, "--vm", vm,
                                        box.NAME, *TICKER), name)


def type_in(host, *where):
    rows, columns = SIZE
    return Keyboard(host.ctl.terminal("exec", "-it", "--detach-keys", "", *where, "--", *KEYS,
                                      rows=rows, columns=columns), rows, columns)


def running(host, vm):
    return len([each for each in host.ctl.processes(vm) if each.get("running")])


@contextlib.contextmanager
def one_more(host, vm):
    """Waits until what is started in here runs: of several at once an agent may not answer all in
    time."""
    before = running(host, vm)
    yield
    with timed(f"process {before + 1} of {vm}"):
        wait_for(lambda: running(host, vm) > before, f"it does not start in {vm}", DEADLINE)


def layers(host):
    return host.run("ls /var/lib/ferry/images/layers")


class Company:
    """All who are attached to something in VM red, which is on host a at first, and one who is in
    VM blue."""

    def __init__(self, begin, a, b):
        """begin -- Enters a context that is left at the end."""
        with one_more(a, "red"):
            self.waiting = begin(a.ctl.attach("exec", "-i", "red", "--", workload.PROGRAM,
                                              "exit-on-line", str(EXIT_STATUS)))
        with one_more(a, "red"):
            self.keys = begin(type_in(a, "red"))
        self.web = begin(talk_in_container(a, "red", "web"))
        with timed("the container"):
            wait_for(lambda: box.state(a, "web") == "running", "it does not start", DEADLINE)
        self.inside = begin(type_in(a, "--container", "web"))
        self.inside.begin()
        with timed("a process in the container, to the first keys that it has read"):
            self.inside.wait_for_more(pieces=1)
        with one_more(a, "red"):
            self.red = begin(talk_in_vm(a, "red"))
        with one_more(b, "blue"):
            self.blue = begin(talk_in_vm(b, "blue"))
        with one_more(a, "red"):
            self.sender = begin(a.ctl.attach("exec", "-i", "red", "--", "cat"))
        with one_more(a, "red"):
            self.printer = begin(a.ctl.attach(
                "exec", "-i", "red", "--", "sh", "-c",
                f"read -r go; exec {' '.join((workload.PROGRAM, *PRINTED))}"))
        # What runs in a container ends with its main process, so that one comes later.
        self.talks = [self.keys, self.inside, self.web, self.red, self.blue]
        for talk in self.talks:
            if talk is not self.inside:
                talk.begin()
        self.wait_for_more()

    def wait_for_more(self):
        for talk in self.talks:
            talk.wait_for_more()

    def resize(self, rows, columns):
        for terminal in (self.keys, self.inside):
            terminal.resize(rows, columns)

    def finish(self):
        for talk in self.talks:
            talk.finish()


def call_off_a_migration(company, source, destination):
    with source.ctl.start_migration("red", destination, *SLOW) as mover:
        mover.wait_until(lambda output: b"TRANSFER_IN_PROGRESS" in output, DEADLINE)
        session, = [one["session_id"] for one in source.ctl.sessions() if not one.get("done")]
        source.ctl.ok("migration", "cancel", session)
        assert mover.wait(DEADLINE) != 0
    company.wait_for_more()
    assert destination.ctl.state("red") == "absent"


def migrate_with_all_that_may_happen(company, source, destination):
    """Input ends just before, a process prints at full speed, a reader has stopped, and what comes
    while the guest stands still makes a process exit."""
    expected = subprocess.run([guest_binaries() / "ferry-workload", *PRINTED], check=True,
                              capture_output=True).stdout
    company.red.signal(signal.SIGSTOP)
    company.printer.write(b"go\n")
    company.printer.wait_until(lambda output: len(output) > len(expected) // 20, DEADLINE)
    company.sender.write(expected)
    company.sender.close_stdin()
    with source.ctl.start_migration("red", destination) as mover:
        mover.wait_until(lambda output: b"BLACKOUT_STARTED" in output, DEADLINE)
        company.waiting.write(b"now\n")
        assert mover.wait(DEADLINE) == 0, mover.errors()
    company.red.signal(signal.SIGCONT)
    for client, status in ((company.sender, 0), (company.printer, 0),
                           (company.waiting, EXIT_STATUS)):
        assert client.wait(DEADLINE) == status, client.errors()
    assert company.sender.output() == company.printer.output() == expected


def test_migrations_reset_vsock_and_no_byte_is_lost(outer_hosts, tmp_path):
    outer_hosts.start()
    a, b = outer_hosts
    # Nobody told them to; they found out that they have it.
    assert all(host.ctl.json("host")["guest_link"] == "vsock" for host in (a, b))
    box.import_into(a, tmp_path)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(boot, (a, b), ("red", "blue")))
    assert all(context_id(host, vm) for host, vm in ((a, "red"), (b, "blue")))
    with contextlib.ExitStack() as open_clients:
        company = Company(open_clients.enter_context, a, b)
        migrate("red", a, b)
        company.wait_for_more()
        assert_share_ports(b, ("red", "blue"))
        assert box.containers(a) == [] and box.state(b, "web") == "running"
        assert layers(a) == layers(b) != ""
        company.resize(44, 120)
        with timed("a migration that is called off"):
            call_off_a_migration(company, b, a)
        with timed("another daemon"):
            b.kill_daemon()
            company.wait_for_more()
        with timed("all that may happen around a migration"):
            migrate_with_all_that_may_happen(company, b, a)
            company.wait_for_more()
        company.resize(25, 83)
        for source, destination in ((a, b), (b, a)) * FURTHER_ROUNDS:
            migrate("red", source, destination)
        company.wait_for_more()
        company.finish()
    for host, vm in ((a, "red"), (b, "blue")):
        host.ctl.ok("vm", "delete", "--force", vm)
    assert box.containers(a) == []
    for host in (a, b):
        assert_nothing_left(host)
        host.end_daemon()
