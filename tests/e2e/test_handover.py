"""Migrations over a connection that its caller made, and that goes on without the caller."""
import contextlib
import pathlib
import signal
import subprocess
import sys

import grpc
import pytest

from harness import workload
from harness.rpc import Rpc, connected_pair, error_info, socket_in

PB = Rpc.pb
# Slow enough to look at, and over within seconds.
SOME_SECONDS = {"max_bandwidth": 10_000_000}
SESSION = "handed-over"
HOLD = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"


class Sides:
    """Source and destination, each with its Rpc."""

    def __init__(self, hosts, vm):
        self.hosts, self.vm = hosts, vm
        self.source, self.destination = (Rpc(host) for host in hosts)

    def prepare(self):
        config = self.source.export(SESSION, self.vm, self.hosts[1].address, **SOME_SECONDS)
        self.destination.import_sandbox(SESSION, config)
        self.destination.prepare(SESSION, **SOME_SECONDS)

    def await_phase(self, phase):
        for message in self.source.notifications(SESSION):
            if message.notification.phase == phase:
                return
        raise AssertionError(f"no phase {phase}: {self.source.session(SESSION)}")

    def assert_moves_on(self):
        """The transfer is under way, ends by itself, and can be finalized by somebody else."""
        assert self.source.session(SESSION).state == PB.SESSION_STATE_TRANSFERRING
        self.await_phase(PB.MIGRATION_PHASE_OFFLINE_DONE)
        go = self.source.stop(SESSION)
        self.source.stop(SESSION, self.destination.resume(SESSION, go))
        assert self.hosts[0].ctl.state(self.vm) == "absent"
        assert self.hosts[1].ctl.state(self.vm) == "running"

    def assert_stays(self):
        self.source.resume(SESSION)
        self.destination.cancel(SESSION)
        assert self.hosts[0].ctl.state(self.vm) == "running"
        assert self.hosts[1].ctl.state(self.vm) == "absent"


@pytest.fixture
def sides(two_hosts, vm):
    made = Sides(two_hosts, vm)
    yield made
    made.source.close()
    made.destination.close()


@pytest.fixture
def client(two_hosts, vm):
    """A process that ticks in the VM, and the ferryctl attached to it."""
    with two_hosts[0].ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick") as attached:
        attached.wait_until(lambda output: b"tick" in output)
        yield attached


def assert_followed(client):
    client.write(b"there\n")
    client.wait_until(lambda output: b"echo there\n" in output)
    numbers = [number for number, _ in workload.ticks(client.output())]
    assert workload.lost_and_repeated(numbers, first=numbers[0]) == (0, 0)


def killed(process):
    process.kill()
    return process.wait(30)


@contextlib.contextmanager
def holder(host, connected):
    """A process on the host, the only one that has the socket; gives its id there."""
    process = subprocess.Popen(host.wrap([sys.executable, "-c", HOLD]), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, pass_fds=[connected.fileno()])
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@contextlib.contextmanager
def refused(code):
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    assert caught.value.code() == code, caught.value


def test_the_transfer_goes_on_when_its_caller_is_killed(two_hosts, vm, client, sides):
    sides.prepare()
    near, far = connected_pair(*two_hosts)
    words = [SESSION]
    for host, end in ((two_hosts[1], far), (two_hosts[0], near)):
        words += [str(host.outside(host.socket)), str(host.outside(host.state)), str(end.fileno())]
    caller = subprocess.Popen([sys.executable, "-m", "harness.caller", *words],
                              cwd=pathlib.Path(__file__).parent, stdout=subprocess.PIPE,
                              pass_fds=[near.fileno(), far.fileno()])
    near.close()
    far.close()
    with caller.stdout as output:
        assert output.readline() == b"started\n"
    sides.await_phase(PB.MIGRATION_PHASE_TRANSFER_IN_PROGRESS)
    assert killed(caller) == -signal.SIGKILL
    sides.assert_moves_on()
    assert_followed(client)


def test_sockets_of_named_processes_are_taken_from_them(two_hosts, vm, client, sides):
    sides.prepare()
    near, far = connected_pair(*two_hosts)
    with holder(two_hosts[0], near) as here, holder(two_hosts[1], far) as there:
        numbers = near.fileno(), far.fileno()
        near.close()
        far.close()
        with refused(grpc.StatusCode.NOT_FOUND):
            sides.source.name_socket(SESSION, here, 9999)
        sides.source.name_socket(SESSION, here, numbers[0])
        sides.destination.name_socket(SESSION, there, numbers[1])
        sides.destination.transfer(SESSION)
        sides.source.transfer(SESSION)
        sides.await_phase(PB.MIGRATION_PHASE_TRANSFER_IN_PROGRESS)
        two_hosts[0].signal_process(here, signal.SIGKILL)
        two_hosts[1].signal_process(there, signal.SIGKILL)
    sides.assert_moves_on()
    assert_followed(client)


def test_sockets_of_no_use_are_refused_by_name(two_hosts, vm, sides):
    sides.prepare()
    near, far = connected_pair(*two_hosts)
    listener, unconnected = (socket_in(two_hosts[0]) for _ in range(2))
    listener.listen(1)
    for useless, word in ((listener, "listens"), (unconnected, "not connected")):
        with useless, holder(two_hosts[0], useless) as here:
            with refused(grpc.StatusCode.INVALID_ARGUMENT) as error:
                sides.source.name_socket(SESSION, here, useless.fileno())
        assert word in error.value.details()
    # Connected, but to a stranger.
    with near, far:
        sides.source.give_socket(SESSION, near)
        sides.source.transfer(SESSION)
        far.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        for _ in sides.source.notifications(SESSION):
            if sides.source.session(SESSION).state == PB.SESSION_STATE_FAILED:
                break
        session = sides.source.session(SESSION)
        assert session.reason == "foreign_socket"
        assert "does not lead to the other host's daemon" in session.error
    with refused(grpc.StatusCode.FAILED_PRECONDITION) as error:
        sides.source.transfer(SESSION)
    assert error_info(error.value) is not None
    sides.assert_stays()
