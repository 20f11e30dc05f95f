"""The guest link over the kernel's AF_VSOCK, on hosts that have it."""
import concurrent.futures
import contextlib
import json
import time

from conversation import DEADLINE, KEYS, TICKER, Conversation, Keyboard
from harness import box, oracles, workload
from harness.waiting import wait_for

BRIDGE_PORT = 0x40000000
MEMORY = "192M"
EXIT_STATUS = 7
BOOT_DEADLINE = 600  # seconds, on this machine's clock
SIZE = (31, 97)


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
        begin = open_clients.enter_context
        with one_more(a, "red"):
            waiting = begin(a.ctl.attach("exec", "-i", "red", "--", workload.PROGRAM,
                                         "exit-on-line", str(EXIT_STATUS)))
        with one_more(a, "red"):
            keys = begin(type_in(a, "red"))
        web = begin(talk_in_container(a, "red", "web"))
        with timed("the container"):
            wait_for(lambda: box.state(a, "web") == "running", "it does not start", DEADLINE)
        inside = begin(type_in(a, "--container", "web"))
        inside.begin()
        with timed("a process in the container, to the first keys that it has read"):
            inside.wait_for_more(pieces=1)
        with one_more(a, "red"):
            red = begin(talk_in_vm(a, "red"))
        with one_more(b, "blue"):
            blue = begin(talk_in_vm(b, "blue"))
        # What runs in a container ends with its main process, so that one comes later.
        talks = [keys, inside, web, red, blue]
        for talk in talks:
            if talk is not inside:
                talk.begin()
        for talk in talks:
            talk.wait_for_more()
        migrate("red", a, b)
        for talk in talks:
            talk.wait_for_more()
        assert_share_ports(b, ("red", "blue"))
        assert box.containers(a) == [] and box.state(b, "web") == "running"
        assert layers(a) == layers(b) != ""
        for terminal in (keys, inside):
            terminal.resize(44, 120)
        migrate("red", b, a)
        for talk in talks:
            talk.wait_for_more()
        for terminal in (keys, inside):
            terminal.resize(25, 83)
        for talk in talks:
            talk.finish()
        waiting.write(b"now\n")
        assert waiting.wait(DEADLINE) == EXIT_STATUS, waiting.errors()
    for host, vm in ((a, "red"), (b, "blue")):
        host.ctl.ok("vm", "delete", "--force", vm)
    assert box.containers(a) == []
    for host in (a, b):
        assert_nothing_left(host)
        host.end_daemon()
