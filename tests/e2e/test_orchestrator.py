"""Migrations that a caller drives itself, with the two daemons' calls and proofs."""
import time

import grpc
import pytest

from harness.driven import PB, SLOW, refused
from harness.oracles import assert_answers, assert_runs_only_at, assert_stream_whole
from harness.rpc import Rpc, connected_pair, error_info


def phases(side, session):
    """All notifications from the first to the end of the stream, checked for their order."""
    messages = list(side.notifications(session))
    ids = [message.message_id for message in messages]
    assert ids == sorted(set(ids))
    return [(message.notification.phase, message.notification.state) for message in messages]


def in_order(found, *wanted):
    rest = iter(phase for phase, _ in found)
    return all(phase in rest for phase in wanted)


def test_both_sides_driven_by_calls_and_proofs(two_hosts, vm, ticker, run):
    run.to_the_vote()
    with refused() as error:
        run.destination.resume(run.id)
    assert error_info(error.value).session_id == run.id
    assert two_hosts[1].ctl.state(vm) == "incoming"

    go = run.source.stop(run.id)
    assert go
    have_go = time.monotonic()
    assert two_hosts[0].ctl.state(vm) == "in_doubt"
    assert run.source.stop(run.id) == go  # asked again
    kept_ms = (time.monotonic() - have_go) * 1000
    done = run.destination.resume(run.id, go)
    assert done
    assert run.destination.resume(run.id, go) == done
    run.source.stop(run.id, done)
    assert_runs_only_at(two_hosts, vm, two_hosts[1])
    assert_stream_whole(ticker, b"there")

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
        # As long as the caller keeps GO, the guest stands still.
        measured = side.session(run.id).statistics
        assert measured.blackout_ms >= kept_ms
        parts = (measured.blackout_device_ms + measured.blackout_commit_ms
                 + measured.blackout_resume_ms)
        assert measured.blackout_ms == pytest.approx(parts, rel=1e-3)
        side.cleanup(run.id)
        side.cleanup(run.id)


def test_a_wrong_or_foreign_proof_moves_nothing(two_hosts, vm, ticker, run):
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
    assert_runs_only_at(two_hosts, vm, two_hosts[1])
    assert_answers(ticker, b"there")


def test_rollback_before_the_end(two_hosts, vm, ticker, run):
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
    assert_runs_only_at(two_hosts, vm, two_hosts[0])
    assert_stream_whole(ticker, b"still here")
    # Nothing stands in the way of another one.
    two_hosts[0].ctl.migrate(vm, two_hosts[1])
    assert_runs_only_at(two_hosts, vm, two_hosts[1])
    assert_stream_whole(ticker, b"and there")


def test_rollback_after_the_vote(two_hosts, vm, ticker, run):
    run.to_the_vote()
    run.source.cancel(run.id)
    run.source.resume(run.id)
    assert_answers(ticker, b"still here")
    # The abort reaches the destination over the session connection; asking for it is harmless.
    run.destination.stop(run.id)
    assert_runs_only_at(two_hosts, vm, two_hosts[0])
    assert_stream_whole(ticker)
    for side in (run.source, run.destination):
        side.cleanup(run.id)


def test_resume_on_the_source_after_stop_needs_the_refusal(two_hosts, vm, ticker, run):
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
    assert_runs_only_at(two_hosts, vm, two_hosts[0])
    with refused():
        run.destination.resume(run.id, go)  # it refused for good
    assert_runs_only_at(two_hosts, vm, two_hosts[0])
    assert_stream_whole(ticker, b"back")
    for side in (run.source, run.destination):
        side.cleanup(run.id)


def test_migration_over_a_socket_of_the_callers(two_hosts, vm, ticker, run):
    run.prepare()
    near, far = connected_pair(*two_hosts)
    with near, far:
        run.source.give_socket(run.id, near)
        run.destination.give_socket(run.id, far)
    run.transfer()
    run.await_phase(run.source, PB.MIGRATION_PHASE_OFFLINE_DONE)
    run.finalize()
    assert_runs_only_at(two_hosts, vm, two_hosts[1])
    assert_stream_whole(ticker, b"there")


def test_an_unknown_ticket_is_refused(two_hosts, vm, run):
    run.prepare()
    with refused(grpc.StatusCode.NOT_FOUND):
        run.source.redeem(run.id, "0" * 64)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        run.source.redeem(run.id, "not a ticket")
    run.source.cancel(run.id)
    run.source.resume(run.id)
    run.destination.cancel(run.id)
    assert_runs_only_at(two_hosts, vm, two_hosts[0])


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
    assert_runs_only_at(two_hosts, vm, two_hosts[0])


def test_health_and_reflection_are_on(two_hosts):
    for host in two_hosts:
        with Rpc(host) as daemon:
            assert daemon.health() == b"\x08\x01"  # status: SERVING
            services = daemon.reflected_services()
            for service in (b"ferry.v1.MigrationService", b"ferry.v1.VmService",
                            b"grpc.health.v1.Health"):
                assert service in services, services


def test_calls_that_come_again_give_the_same_answers(two_hosts, vm, ticker, run):
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
    assert_runs_only_at(two_hosts, vm, two_hosts[1])
    assert_stream_whole(ticker, b"there")


def test_stop_after_resume_ends_the_vm_only_with_its_proof(two_hosts, vm, ticker, run):
    run.to_the_vote()
    done = run.destination.resume(run.id, run.source.stop(run.id))
    with refused() as error:
        run.destination.stop(run.id)
    assert "STOP" in error_info(error.value).next_step
    assert_answers(ticker, b"there")
    assert run.destination.stop(run.id, done) == done
    assert two_hosts[1].ctl.state(vm) == "stopped"
    with refused():
        run.destination.resume(run.id)


def test_a_cancelled_migration_is_told_alike_on_both_sides(two_hosts, vm, ticker, run):
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
    assert_stream_whole(ticker, b"still here")


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
