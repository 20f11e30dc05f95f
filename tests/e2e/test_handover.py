"""Migrations over a connection that its caller made, and that goes on without the caller."""
import contextlib
import pathlib
import signal
import subprocess
import sys

import grpc

from harness import oracles
from harness.driven import PB, refused
from harness.rpc import connected_pair, error_info, socket_in

# Slow enough to look at, and over within seconds.
SOME_SECONDS = {"max_bandwidth": 10_000_000}
HOLD = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"


def assert_moves_on(run, client):
    """The transfer is under way, ends by itself, and can be finalized by somebody else."""
    assert run.source.session(run.id).state == PB.SESSION_STATE_TRANSFERRING
    run.await_phase(run.source, PB.MIGRATION_PHASE_OFFLINE_DONE)
    run.finalize()
    oracles.assert_runs_only_at(run.hosts, run.vm, run.hosts[1])
    oracles.assert_stream_whole(client)


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


def test_the_transfer_goes_on_when_its_caller_is_killed(two_hosts, ticker, run):
    run.prepare(**SOME_SECONDS)
    near, far = connected_pair(*two_hosts)
    words = [run.id]
    for host, end in ((two_hosts[1], far), (two_hosts[0], near)):
        words += [str(host.outside(host.socket)), str(host.outside(host.state)), str(end.fileno())]
    caller = subprocess.Popen([sys.executable, "-m", "harness.caller", *words],
                              cwd=pathlib.Path(__file__).parent, stdout=subprocess.PIPE,
                              pass_fds=[near.fileno(), far.fileno()])
    near.close()
    far.close()
    with caller.stdout as output:
        assert output.readline() == b"started\n"
    run.await_phase(run.source, PB.MIGRATION_PHASE_TRANSFER_IN_PROGRESS)
    assert killed(caller) == -signal.SIGKILL
    assert_moves_on(run, ticker)


def test_sockets_of_named_processes_are_taken_from_them(two_hosts, ticker, run):
    run.prepare(**SOME_SECONDS)
    near, far = connected_pair(*two_hosts)
    with holder(two_hosts[0], near) as here, holder(two_hosts[1], far) as there:
        numbers = near.fileno(), far.fileno()
        near.close()
        far.close()
        with refused(grpc.StatusCode.NOT_FOUND):
            run.source.name_socket(run.id, here, 9999)
        run.source.name_socket(run.id, here, numbers[0])
        run.destination.name_socket(run.id, there, numbers[1])
        run.destination.transfer(run.id)
        run.source.transfer(run.id)
        run.await_phase(run.source, PB.MIGRATION_PHASE_TRANSFER_IN_PROGRESS)
        two_hosts[0].signal_process(here, signal.SIGKILL)
        two_hosts[1].signal_process(there, signal.SIGKILL)
    assert_moves_on(run, ticker)


def test_sockets_of_no_use_are_refused_by_name(two_hosts, run):
    run.prepare(**SOME_SECONDS)
    near, far = connected_pair(*two_hosts)
    listener, unconnected = (socket_in(two_hosts[0]) for _ in range(2))
    listener.listen(1)
    for useless, word in ((listener, "listens"), (unconnected, "not connected")):
        with useless, holder(two_hosts[0], useless) as here:
            with refused(grpc.StatusCode.INVALID_ARGUMENT) as error:
                run.source.name_socket(run.id, here, useless.fileno())
        assert word in error.value.details()
    # Connected, but to a stranger.
    with near, far:
        run.source.give_socket(run.id, near)
        run.source.transfer(run.id)
        far.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        for _ in run.source.notifications(run.id):
            if run.source.session(run.id).state == PB.SESSION_STATE_FAILED:
                break
        session = run.source.session(run.id)
        assert session.reason == "foreign_socket"
        assert "does not lead to the other host's daemon" in session.error
    with refused(grpc.StatusCode.FAILED_PRECONDITION) as error:
        run.source.transfer(run.id)
    assert error_info(error.value) is not None
    run.source.resume(run.id)
    run.destination.cancel(run.id)
    oracles.assert_runs_only_at(two_hosts, run.vm, two_hosts[0])
