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


@contextlib.contextmanager
def migrating(vm, source, destination):
    """What is done in here migrates it; the VM has another context id then, and no connection of the
    former one is left."""
    former = context_id(source, vm)
    with timed(f"the migration of {vm}"):
        yield
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
    """All who talk to something in VM red, which is on host a at first, and one who talks to
    something in VM blue."""

    def __init__(self, begin, a, b):
        """begin -- Enters a context that is left at the end."""
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


class Ending:
    """Processes in VM red that end in its migration: one by what it is told while the guest stands
    still, one whose input ends just before, and one that prints at full speed."""

    def __init__(self, begin, host):
        def start(*command):
            with one_more(host, "red"):
                return begin(host.ctl.attach("exec", "-i", "red", "--", *command))

        self.waiting = start(workload.PROGRAM, "exit-on-line", str(EXIT_STATUS))
        self.sender = start("cat")
        self.printer = start("sh", "-c",
                             f"read -r go; exec {' '.join((workload.PROGRAM, *PRINTED))}")
        self.expected = subprocess.run([guest_binaries() / "ferry-workload", *PRINTED], check=True,
                                       capture_output=True).stdout

    def begin(self):
        self.printer.write(b"go\n")
        self.printer.wait_until(lambda output: len(output) > len(self.expected) // 20, DEADLINE)
        self.sender.write(self.expected)
        self.sender.close_stdin()

    def tell(self):
        self.waiting.write(b"now\n")

    def finish(self):
        for client, status in ((self.sender, 0), (self.printer, 0), (self.waiting, EXIT_STATUS)):
            assert client.wait(DEADLINE) == status, client.errors()
        assert self.sender.output() == self.printer.output() == self.expected


@contextlib.contextmanager
def two_vms(outer_hosts, folder):
    """Yields the hosts, with VM red on the first and VM blue on the second. Nothing is left of them
    in the end."""
    outer_hosts.start()
    a, b = outer_hosts
    # Nobody told them to; they found out that they have it.
    assert all(host.ctl.json("host")["guest_link"] == "vsock" for host in (a, b))
    box.import_into(a, folder)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(boot, (a, b), ("red", "blue")))
    assert all(context_id(host, vm) for host, vm in ((a, "red"), (b, "blue")))
    yield a, b
    for vm in ("red", "blue"):
        host, = [each for each in (a, b) if each.ctl.state(vm) != "absent"]
        host.ctl.ok("vm", "delete", "--force", vm)
    assert box.containers(a) == box.containers(b) == []
    for host in (a, b):
        assert_nothing_left(host)
        host.end_daemon()


def test_a_migration_resets_vsock_and_no_byte_is_lost(outer_hosts, tmp_path):
    with two_vms(outer_hosts, tmp_path) as (a, b), contextlib.ExitStack() as open_clients:
        ending = Ending(open_clients.enter_context, a)
        company = Company(open_clients.enter_context, a, b)
        company.red.signal(signal.SIGSTOP)  # a reader that stands still
        ending.begin()
        with migrating("red", a, b), a.ctl.start_migration("red", b) as mover:
            mover.wait_until(lambda output: b"BLACKOUT_STARTED" in output, DEADLINE)
            ending.tell()
            assert mover.wait(DEADLINE) == 0, mover.errors()
        company.red.signal(signal.SIGCONT)
        ending.finish()
        company.resize(44, 120)
        company.wait_for_more()
        assert_share_ports(b, ("red", "blue"))
        assert box.containers(a) == [] and box.state(b, "web") == "running"
        assert layers(a) == layers(b) != ""
        company.finish()


def call_off_a_migration(source, destination):
    with source.ctl.start_migration("red", destination, *SLOW) as mover:
        mover.wait_until(lambda output: b"TRANSFER_IN_PROGRESS" in output, DEADLINE)
        session, = [one["session_id"] for one in source.ctl.sessions() if not one.get("done")]
        source.ctl.ok("migration", "cancel", session)
        assert mover.wait(DEADLINE) != 0
    assert source.ctl.state("red") == "running"
    assert destination.ctl.state("red") == "absent"


def test_ten_migrations_with_one_called_off_and_a_daemon_killed(outer_hosts, tmp_path):
    with two_vms(outer_hosts, tmp_path) as (a, b), contextlib.ExitStack() as open_clients:
        company = Company(open_clients.enter_context, a, b)
        with timed("a migration that is called off"):
            call_off_a_migration(a, b)
        company.wait_for_more()
        with timed("another daemon"):
            a.kill_daemon()
            company.wait_for_more()
        for number, (source, destination) in enumerate(((a, b), (b, a)) * 5):
            company.resize(25 + number, 83 + number)
            with migrating("red", source, destination):
                source.ctl.migrate("red", destination, timeout=DEADLINE)
        company.wait_for_more()
        company.finish()
