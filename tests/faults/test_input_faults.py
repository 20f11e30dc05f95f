"""Calls and documents that are damaged, doubled, late or at odds with each other. Rows 26 to 28 and
30 of docs/failure-matrix.md."""
import random
import threading

import grpc
import pytest

from harness import oracles
from harness.driven import PB, SLOW, Run, await_phase, refused
from harness.rpc import Rpc, error_info

REFUSALS = (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.DATA_LOSS)
BODY_STEP = 16  # of the plan's body every so many bytes is flipped, of its head every one
HEAD = 64


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1:]


def test_row_26_damaged_cut_or_foreign_plan_is_refused_whole(trial, run):
    destination = trial.destination
    plan = run.source.export(run.id, trial.vm, destination.address)
    damaged = [flipped(plan, at)
               for at in [*range(HEAD), *range(HEAD, len(plan), BODY_STEP), len(plan) - 1]]
    damaged += [plan[:length] for length in range(0, len(plan), BODY_STEP)]
    damaged += [plan + b"\0", plan + plan]
    for blob in damaged:
        with pytest.raises(grpc.RpcError) as error:
            run.destination.import_sandbox(run.id, blob)
        assert error.value.code() in REFUSALS, (error.value, blob)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        run.destination.import_sandbox(run.id + "-other", plan)
    assert destination.ctl.vms() == []
    assert oracles.journal(destination) == []
    oracles.assert_nothing_left([destination], None)
    # The undamaged one is as good as ever; once its session is over it is worth nothing.
    run.destination.import_sandbox(run.id, plan)
    run.destination.cancel(run.id)
    run.source.cancel(run.id)
    run.source.resume(run.id)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        run.destination.import_sandbox(run.id, plan)
    trial.settle(trial.source)


class Doubler(grpc.UnaryUnaryClientInterceptor):
    """Sends every call twice, and keeps them to be sent again.

    What only looks may see a session go on between the two; all others are answered alike.
    """

    def __init__(self):
        self.calls = []

    def intercept_unary_unary(self, continuation, details, request):
        first, second = continuation(details, request), continuation(details, request)
        if second.exception() is None:
            looks = details.method.rpartition("/")[2].startswith(("Get", "List"))
            assert first.exception() is None, details.method
            assert looks or second.result() == first.result(), details.method
        else:
            assert second.code() in REFUSALS, (details.method, second)
        self.calls.append((continuation, details, request))
        return first

    def replay(self, generator):
        """Sends them all again, out of order; whatever they achieve, they are answered."""
        for continuation, details, request in generator.sample(self.calls, len(self.calls)):
            answer = continuation(details, request)
            assert answer.exception() is None or answer.code() in REFUSALS, (details.method, answer)


def test_row_27_calls_doubled_reordered_and_late(trial, run):
    generator = random.Random(27)
    doubled = [Doubler(), Doubler()]
    run.close()
    run.source, run.destination = (Rpc(host, interceptors=[each])
                                   for host, each in zip(trial.hosts, doubled))
    run.to_the_vote()
    go = run.source.stop(run.id)
    done = run.destination.resume(run.id, go)
    run.source.stop(run.id, done)
    trial.settle(trial.destination)
    for side in (run.source, run.destination):
        with refused():
            side.cancel(run.id)
    for _ in range(3):
        for each in doubled:
            each.replay(generator)
    trial.settle(trial.destination)

    # While another session moves the VM back, the old one's calls come once more.
    over = threading.Event()

    def disturb():
        while not over.is_set():
            for each in doubled:
                each.replay(generator)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        trial.destination.ctl.migrate(trial.vm, trial.source)
    finally:
        over.set()
        disturber.join()
    trial.settle(trial.source)


def test_row_28_of_many_sessions_for_one_vm_one_opens(trial):
    answers = []

    def ask(rpc, number):
        request = PB.MigrateRequest(vm=trial.vm, destination=trial.destination.address,
                                    request_id=str(number),
                                    options=PB.InitializeOptions(max_bandwidth=1_000_000))
        try:
            answers.append(rpc.migrate(request))
        except grpc.RpcError as error:
            answers.append(error)

    with Rpc(trial.source) as rpc, Rpc(trial.destination) as other:
        askers = [threading.Thread(target=ask, args=(rpc, number)) for number in range(32)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        opened, = [answer for answer in answers if isinstance(answer, PB.Session)]
        for answer in answers:
            if answer is not opened:
                assert answer.code() == grpc.StatusCode.ALREADY_EXISTS, answer
                assert opened.session_id in answer.details()
        # Nor does it move from where it has not arrived.
        back = PB.MigrateRequest(vm=trial.vm, destination=trial.source.address)
        await_phase(rpc, opened.session_id, PB.MIGRATION_PHASE_TRANSFER_IN_PROGRESS)
        assert trial.destination.ctl.state(trial.vm) == "incoming"
        with pytest.raises(grpc.RpcError) as error:
            other.migrate(back)
        assert error.value.code() in (grpc.StatusCode.ALREADY_EXISTS,
                                      grpc.StatusCode.FAILED_PRECONDITION)
        rpc.cancel(opened.session_id)
    trial.settle(trial.source)


def to_exported(run):
    return run.source.export(run.id, run.vm, run.hosts[1].address)


def to_imported(run):
    run.destination.import_sandbox(run.id, to_exported(run))


def to_prepared(run):
    run.prepare()


def to_waiting(run):
    run.prepare()
    run.destination.transfer(run.id)


def to_transferring(run):
    run.transfer(run.prepare(**SLOW))
    run.await_phase(run.source, PB.MIGRATION_PHASE_TRANSFER_IN_PROGRESS)


def to_voted(run):
    run.to_the_vote()


def test_row_30_cancel_in_every_state_before_commit_once_and_twice(trial):
    for number, advance in enumerate((to_exported, to_imported, to_prepared, to_waiting,
                                      to_transferring, to_voted)):
        for times in (1, 2):
            run = Run(trial.hosts, trial.vm)
            advance(run)
            for _ in range(times):
                run.source.cancel(run.id)
                if number > 0:
                    run.destination.cancel(run.id)
            for _ in range(times):
                run.source.resume(run.id)
            run.source.cleanup(run.id)
            run.close()
            trial.settle(trial.source)


def test_row_30_cancel_after_commit_is_refused(trial, run):
    run.to_the_vote()
    go = run.source.stop(run.id)

    def assert_too_late(side):
        for _ in range(2):
            with refused() as error:
                side.cancel(run.id)
            assert error_info(error.value).reason == "past_point_of_no_return"

    assert_too_late(run.source)
    done = run.destination.resume(run.id, go)
    assert_too_late(run.destination)
    run.source.stop(run.id, done)
    trial.settle(trial.destination)
