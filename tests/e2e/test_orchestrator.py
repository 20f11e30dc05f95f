"""Migrations that a caller drives itself, with the two daemons' calls and proofs."""
import contextlib
import itertools

import grpc
import pytest

from harness import workload
from harness.rpc import Rpc, connected_pair, error_info

PB = Rpc.pb
# So slow that a transfer cannot end by itself while a test looks at it.
SLOW = {"max_bandwidth": 1_000_000}

_sessions = itertools.count(1)


@contextlib.contextmanager
def refused(code=grpc.StatusCode.FAILED_PRECONDITION):
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    assert caught.value.code() == code, caught.value


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
        seen = []
        for message in side.notifications(self.id):
            seen.append(message.notification.phase)
            if seen[-1] == phase:
                return
        raise AssertionError(f"no phase {phase} in {seen}: {side.session(self.id)}")

    def to_the_vote(self, **options):
        self.transfer(self.prepare(**options))
        self.await_phase(self.source, PB.MIGRATION_PHASE_OFFLINE_DONE)
        assert self.source.session(self.id).state == PB.SESSION_STATE_TRANSFER_COMPLETED

    def close(self):
        self.source.close()
        self.destination.close()


@pytest.fixture
def run(two_hosts, vm):
    made = Run(two_hosts, vm)
    yield made
    made.close()


@pytest.fixture
def client(ticker):
    return ticker


def assert_talks(client, word):
    client.write(word + b"\n")
    client.wait_until(lambda output: b"echo " + word + b"\n" in output)


def assert_whole(client):
    numbers = [number for number, _ in workload.ticks(client.output())]
    assert workload.lost_and_repeated(numbers, first=numbers[0]) == (0, 0)


def assert_runs_only_on(hosts, vm, index):
    assert hosts[index].ctl.state(vm) == "running"
    assert hosts[1 - index].ctl.state(vm) == "absent"
    assert hosts[1 - index].processes("qemu-system") == []


def phases(side, session):
    """All notifications from the first to the end of the stream, checked for their order."""
    messages = list(side.notifications(session))
    ids = [message.message_id for message in messages]
    assert ids == sorted(set(ids))
    return [(message.notification.phase, message.notification.state) for message in messages]


def in_order(found, *wanted):
    rest = iter(phase for phase, _ in found)
    return all(phase in rest for phase in wanted)


def test_both_sides_driven_by_calls_and_proofs(two_hosts, vm, client, run):
    run.to_the_vote()
    with refused() as error:
        run.destination.resume(run.id)
    assert error_info(error.value).session_id == run.id
    assert two_hosts[1].ctl.state(vm) == "incoming"

    go = run.source.stop(run.id)
    assert go
    assert two_hosts[0].ctl.state(vm) == "in_doubt"
    assert run.source.stop(run.id) == go  # asked again
    done = run.destination.resume(run.id, go)
    assert done
    assert run.destination.resume(run.id, go) == done
    run.source.stop(run.id, done)
    assert_runs_only_on(two_hosts, vm, 1)
    assert_talks(client, b"there")
    assert_whole(client)

    source, destination = (phases(side, run.id) for side in (run.source, run.destination))
    assert in_order(source, PB.MIGRATION_PHASE_SETUP_DONE, PB.MIGRATION_PHASE_BLACKOUT_STARTED,
                    PB.MIGRATION_PHASE_OFFLINE_DONE, PB.MIGRATION_PHASE_DONE), source
    assert in_order(destination, PB.MIGRATION_PHASE_BLACKOUT_EXITED,
                    PB.MIGRATION_PHASE_DONE), destination
    success = PB.MIGRATION_PHASE_STATE_SUCCESS
    assert source[-1] == destination[-1] == (PB.MIGRATION_PHASE_DONE, success)
    for side in (run.source, run.destination):
        assert side.session(run.id).done
        assert side.session(run.id).vm_location == two_hosts[1].address
        side.cleanup(run.id)
        side.cleanup(run.id)


def test_a_wrong_or_foreign_proof_moves_nothing(two_hosts, vm, client, run):
    run.to_the_vote()
    go = run.source.stop(run.id)
    for proof in (b"no proof", go[:-1], bytes([go[0] ^ 1]) + go[1:]):
        with pytest.raises(grpc.RpcError):
            run.destination.resume(run.id, proof)
        with pytest.raises(grpc.RpcError):
            run.source.stop(run.id, proof)
        with pytest.raises(grpc.RpcError):
            run.source.resume(run.id, proof)
    assert two_hosts[0].ctl.state(vm) == "in_doubt"
    assert two_hosts[1].ctl.state(vm) == "incoming"
    run.source.stop(run.id, run.destination.resume(run.id, go))
    assert_runs_only_on(two_hosts, vm, 1)
    assert_talks(client, b"there")


def test_rollback_before_the_end(two_hosts, vm, client, run):
    run.transfer(run.prepare(**SLOW))
    run.await_phase(run.source, PB.MIGRATION_PHASE_TRANSFER_IN_PROGRESS)
    run.source.cancel(run.id)
    run.destination.cancel(run.id)
    assert run.source.session(run.id).state == PB.SESSION_STATE_CANCELLED
    with refused():
        run.source.cleanup(run.id)  # the VM is not yet given back
    run.source.resume(run.id)
    run.source.cleanup(run.id)
    run.destination.cleanup(run.id)
    assert_runs_only_on(two_hosts, vm, 0)
    assert_talks(client, b"still here")
    assert_whole(client)
    # Nothing stands in the way of another one.
    two_hosts[0].ctl.migrate(vm, two_hosts[1])
    assert_runs_only_on(two_hosts, vm, 1)
    assert_talks(client, b"and there")
    assert_whole(client)


def test_rollback_after_the_vote(two_hosts, vm, client, run):
    run.to_the_vote()
    run.source.cancel(run.id)
    run.source.resume(run.id)
    assert_talks(client, b"still here")
    # The abort reaches the destination over the session connection; asking for it is harmless.
    run.destination.stop(run.id)
    assert_runs_only_on(two_hosts, vm, 0)
    assert_whole(client)
    for side in (run.source, run.destination):
        side.cleanup(run.id)


def test_resume_on_the_source_after_stop_needs_the_refusal(two_hosts, vm, client, run):
    run.to_the_vote()
    go = run.source.stop(run.id)
    with refused() as error:
        run.source.resume(run.id)
    assert error_info(error.value).next_step
    with refused():
        run.source.cancel(run.id)
    assert two_hosts[0].ctl.state(vm) == "in_doubt"

    refusal = run.destination.stop(run.id)
    assert refusal
    run.source.resume(run.id, refusal)
    assert_runs_only_on(two_hosts, vm, 0)
    with refused():
        run.destination.resume(run.id, go)  # it refused for good
    assert_runs_only_on(two_hosts, vm, 0)
    assert_talks(client, b"back")
    assert_whole(client)
    for side in (run.source, run.destination):
        side.cleanup(run.id)


def test_migration_over_a_socket_of_the_callers(two_hosts, vm, client, run):
    run.prepare()
    near, far = connected_pair(*two_hosts)
    with near, far:
        run.source.give_socket(run.id, near)
        run.destination.give_socket(run.id, far)
    run.transfer()
    run.await_phase(run.source, PB.MIGRATION_PHASE_OFFLINE_DONE)
    go = run.source.stop(run.id)
    run.source.stop(run.id, run.destination.resume(run.id, go))
    assert_runs_only_on(two_hosts, vm, 1)
    assert_talks(client, b"there")
    assert_whole(client)


def test_an_unknown_ticket_is_refused(two_hosts, vm, run):
    run.prepare()
    with refused(grpc.StatusCode.NOT_FOUND):
        run.source.redeem(run.id, "0" * 64)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        run.source.redeem(run.id, "not a ticket")
    run.source.cancel(run.id)
    run.source.resume(run.id)
    run.destination.cancel(run.id)
    assert_runs_only_on(two_hosts, vm, 0)


def test_calls_out_of_order_are_refused(two_hosts, vm, run):
    with refused(grpc.StatusCode.NOT_FOUND):
        run.source.transfer("no-such-session")
    config = run.source.export(run.id, vm, two_hosts[1].address)
    with refused():
        run.source.stop(run.id)  # nothing was transferred
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        run.source.export(run.id, vm)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        run.source.export(run.id + "-other", vm)
    with refused():
        run.source.prepare(run.id)  # that is the destination's
    run.destination.import_sandbox(run.id, config)
    with refused():
        run.destination.transfer(run.id)  # not prepared
    run.source.resume(run.id)
    run.destination.stop(run.id)
    assert_runs_only_on(two_hosts, vm, 0)


def test_health_and_reflection_are_on(two_hosts):
    for host in two_hosts:
        with Rpc(host) as daemon:
            assert daemon.health() == b"\x08\x01"  # status: SERVING
            services = daemon.reflected_services()
            for service in (b"ferry.v1.MigrationService", b"ferry.v1.VmService",
                            b"grpc.health.v1.Health"):
                assert service in services, services


def test_calls_that_come_again_give_the_same_answers(two_hosts, vm, client, run):
    config = run.source.export(run.id, vm, two_hosts[1].address)
    assert run.source.export(run.id, vm, two_hosts[1].address) == config
    for _ in range(2):
        run.destination.import_sandbox(run.id, config)
    prepared = run.destination.prepare(run.id)
    assert run.destination.prepare(run.id) == prepared
    for _ in range(2):
        run.transfer(prepared)
    run.await_phase(run.source, PB.MIGRATION_PHASE_OFFLINE_DONE)
    run.transfer(prepared)
    done = run.destination.resume(run.id, run.source.stop(run.id))
    for _ in range(2):
        run.source.stop(run.id, done)
    assert_runs_only_on(two_hosts, vm, 1)
    assert_talks(client, b"there")
    assert_whole(client)


def test_stop_after_resume_ends_the_vm_only_with_its_proof(two_hosts, vm, client, run):
    run.to_the_vote()
    done = run.destination.resume(run.id, run.source.stop(run.id))
    with refused() as error:
        run.destination.stop(run.id)
    assert "STOP" in error_info(error.value).next_step
    assert_talks(client, b"there")
    assert run.destination.stop(run.id, done) == done
    assert two_hosts[1].ctl.state(vm) == "stopped"
    with refused():
        run.destination.resume(run.id)


def test_a_cancelled_migration_is_told_alike_on_both_sides(two_hosts, vm, client, run):
    run.transfer(run.prepare(**SLOW))
    run.await_phase(run.source, PB.MIGRATION_PHASE_TRANSFER_IN_PROGRESS)
    run.source.cancel(run.id)
    run.source.resume(run.id)
    source, destination = (phases(side, run.id) for side in (run.source, run.destination))
    cancelled = (PB.MIGRATION_PHASE_DONE, PB.MIGRATION_PHASE_STATE_CANCELLED)
    recovered = (PB.MIGRATION_PHASE_RECOVERY_DONE, PB.MIGRATION_PHASE_STATE_SUCCESS)
    assert source[-2:] == [cancelled, recovered], source
    assert destination == [cancelled], destination
    for side in (run.source, run.destination):
        ended = side.session(run.id)
        assert ended.outcome == PB.SESSION_OUTCOME_CANCELLED, ended
        assert ended.reason == "cancelled", ended
    assert_talks(client, b"still here")
    assert_whole(client)


def test_notifications_survive_the_daemon(two_hosts, vm, run):
    run.to_the_vote()
    run.source.stop(run.id, run.destination.resume(run.id, run.source.stop(run.id)))
    sides = (run.source, run.destination)
    before = [list(side.notifications(run.id)) for side in sides]
    run.close()
    for host in two_hosts:
        host.kill()
        host.start()
    for host, told in zip(two_hosts, before):
        with Rpc(host) as side:
            assert list(side.notifications(run.id)) == told
            assert list(side.notifications(run.id, after=told[0].message_id)) == told[1:]
            assert side.session(run.id).last_message_id == told[-1].message_id
