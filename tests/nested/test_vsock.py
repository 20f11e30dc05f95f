"""The guest link over the kernel's AF_VSOCK, on hosts that have it."""
import concurrent.futures
import contextlib
import json

from conversation import DEADLINE, Conversation
from harness import oracles, workload
from harness.waiting import wait_for

BRIDGE_PORT = 0x40000000
MEMORY = "192M"
EXIT_STATUS = 7
BOOT_DEADLINE = 600  # seconds, on this machine's clock


def boot(host, vm):
    host.ctl.create(vm, memory=MEMORY)
    # On a busy machine it takes longer than ferryctl waits, and goes on without that.
    started = host.ctl.run("vm", "start", vm, timeout=BOOT_DEADLINE)
    oracles.wait_for_state(host, vm, "running", "failed", timeout=BOOT_DEADLINE)
    assert host.ctl.state(vm) == "running", started.stderr


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


def test_migrations_reset_vsock_and_no_byte_is_lost(outer_hosts):
    outer_hosts.start()
    a, b = outer_hosts
    assert all(host.ctl.json("host")["guest_link"] == "vsock" for host in (a, b))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(boot, (a, b), ("red", "blue")))
    with contextlib.ExitStack() as open_clients:
        red, blue = (open_clients.enter_context(Conversation(host, vm))
                     for host, vm in ((a, "red"), (b, "blue")))
        waiting = open_clients.enter_context(
            a.ctl.attach("exec", "-i", "red", "--", workload.PROGRAM, "exit-on-line",
                         str(EXIT_STATUS)))
        for talk in (red, blue):
            talk.wait_for_more()
        migrate("red", a, b)
        for talk in (red, blue):
            talk.wait_for_more()
        assert_share_ports(b, ("red", "blue"))
        migrate("red", b, a)
        for talk in (red, blue):
            talk.wait_for_more()
            talk.finish()
        waiting.write(b"now\n")
        assert waiting.wait(DEADLINE) == EXIT_STATUS, waiting.errors()
    for host, vm in ((a, "red"), (b, "blue")):
        host.ctl.ok("vm", "delete", "--force", vm)
    for host in (a, b):
        assert_nothing_left(host)
        host.end_daemon()
