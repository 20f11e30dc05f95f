"""Migrations that a test drives itself, with the two daemons' calls and proofs."""
import contextlib
import itertools

import grpc
import pytest

from .rpc import Rpc

PB = Rpc.pb
# So slow that a transfer cannot end by itself while a test looks at it.
SLOW = {"max_bandwidth": 1_000_000}

_sessions = itertools.count(1)


@contextlib.contextmanager
def refused(code=grpc.StatusCode.FAILED_PRECONDITION):
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    assert caught.value.code() == code, caught.value


def await_phase(side, session, phase):
    """Waits until a side tells that the session has come to a phase."""
    seen = []
    for message in side.notifications(session):
        seen.append(message.notification.phase)
        if seen[-1] == phase:
            return
    raise AssertionError(f"no phase {phase} in {seen}: {side.session(session)}")


class Run:
    """One session on both sides, up to where a test takes over."""

    def __init__(self, hosts, vm):
        self.hosts, self.vm = hosts, vm
        self.id = f"session-{next(_sessions)}"
        self.source, self.destination = (Rpc(host) for host in hosts)

    def prepare(self, **options):
        config = self.source.export(self.id, self.vm, self.hosts[1].address, **options)
        self.destination.import_sandbox(self.id, config)
        return self.destination.prepare(self.id, **options)

    def transfer(self, prepared=None):
        self.destination.transfer(self.id)
        self.source.transfer(self.id, prepared)

    def await_phase(self, side, phase):
        await_phase(side, self.id, phase)

    def to_the_vote(self, **options):
        self.transfer(self.prepare(**options))
        self.await_phase(self.source, PB.MIGRATION_PHASE_OFFLINE_DONE)
        assert self.source.session(self.id).state == PB.SESSION_STATE_TRANSFER_COMPLETED

    def finalize(self):
        """From the vote to the end: the VM runs at the destination."""
        go = self.source.stop(self.id)
        self.source.stop(self.id, self.destination.resume(self.id, go))

    def close(self):
        self.source.close()
        self.destination.close()
