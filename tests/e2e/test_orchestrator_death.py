"""An orchestrator that is killed between any two of its calls, and what becomes of its session."""
import itertools
import signal
import subprocess
import sys

from harness import orchestrator
from harness.oracles import assert_runs_only_at, assert_stream_whole
from harness.rpc import Rpc

PB = Rpc.pb
_sessions = itertools.count(1)


def run(source, destination, vm, session, *flags):
    """Runs the orchestrator as a program of its own; returns how it ended."""
    sockets = [str(host.outside(host.socket)) for host in (source, destination)]
    program = [sys.executable, orchestrator.__file__, *sockets, session, vm, destination.address]
    return subprocess.run([*program, *flags], timeout=200).returncode


def new_session():
    return f"driven-{next(_sessions)}"


def dies_and_comes_back(hosts, vm, ticker, steps):
    """One migration for each of the steps, in which the orchestrator dies after it."""
    owner = hosts[0]
    for step in steps:
        other = hosts.other(owner)
        session = new_session()
        assert run(owner, other, vm, session, "--die-after", step) == -signal.SIGKILL, step
        assert run(owner, other, vm, session) == 0, step
        assert_runs_only_at(hosts, vm, other)
        for host in (owner, other):
            with Rpc(host) as side:
                ended = side.session(session)
                assert ended.outcome == PB.SESSION_OUTCOME_SUCCEEDED, (step, ended)
                told = [message.notification.phase for message in side.notifications(session)]
                assert told.count(PB.MIGRATION_PHASE_DONE) == 1, (step, told)
                assert told[-1] == PB.MIGRATION_PHASE_DONE, (step, told)
        assert_stream_whole(ticker, step.encode())
        owner = other
    ticker.close_stdin()
    assert ticker.wait() == 0, ticker.errors()


def test_killed_while_it_prepares(two_hosts, vm, ticker):
    dies_and_comes_back(two_hosts, vm, ticker, orchestrator.STEPS[:3])


def test_killed_around_the_transfer(two_hosts, vm, ticker):
    dies_and_comes_back(two_hosts, vm, ticker, orchestrator.STEPS[3:6])


def test_killed_around_the_commit(two_hosts, vm, ticker):
    dies_and_comes_back(two_hosts, vm, ticker, orchestrator.STEPS[6:9])


def test_killed_while_it_cleans_up(two_hosts, vm, ticker):
    dies_and_comes_back(two_hosts, vm, ticker, orchestrator.STEPS[9:])


def test_killed_for_good_with_the_guest_stopped(two_hosts, vm, ticker):
    """Nobody comes back, so both sides end the session by themselves."""
    session = new_session()
    assert run(*two_hosts, vm, session, "--die-after", "off_line", "--expiry",
               "2") == -signal.SIGKILL
    # The guest is stopped until the session has expired; then it answers, where it was.
    assert_stream_whole(ticker, b"still here")
    for host in two_hosts:
        with Rpc(host) as side:
            told = list(side.notifications(session))  # to the end
            ended = side.session(session)
            assert ended.done and ended.reason == "expired", ended
            assert ended.outcome == PB.SESSION_OUTCOME_CANCELLED, ended
            assert told[-1].message_id == ended.last_message_id
    assert_runs_only_at(two_hosts, vm, two_hosts[0])
    # Nothing stands in the way of another one.
    assert run(*two_hosts, vm, new_session()) == 0
    assert_runs_only_at(two_hosts, vm, two_hosts[1])
    assert_stream_whole(ticker, b"there")


def test_killed_for_good_with_the_go_in_its_hands(two_hosts, vm, ticker):
    session = new_session()
    assert run(*two_hosts, vm, session, "--die-after", "stop", "--expiry", "2") == -signal.SIGKILL
    # The source settles it with the destination, one way or the other.
    assert_stream_whole(ticker, b"somewhere")
    with Rpc(two_hosts[0]) as source, Rpc(two_hosts[1]) as destination:
        told = list(source.notifications(session))  # to the end
        ended = source.session(session)
        list(destination.notifications(session))  # to its end
    moved = ended.outcome == PB.SESSION_OUTCOME_SUCCEEDED
    assert ended.done
    assert told[-1].notification.phase == (PB.MIGRATION_PHASE_DONE if moved else
                                           PB.MIGRATION_PHASE_RECOVERY_DONE)
    assert_runs_only_at(two_hosts, vm, two_hosts[1 if moved else 0])
