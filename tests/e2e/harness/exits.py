"""Processes that end around a blackout."""
import contextlib
import threading
import time

from . import workload
from .ctl import number
from .mover import last_word, phase_seen


def exits_around_a_blackout(source, destination, vm, count=16):
    """Migrates while processes end one after another; how many of them did so at the switchover.

    Counted are those whose client heard of the exit after the guest was stopped and before it had
    run on for a moment: the status was under way when the connection was cut, or arose right
    behind.
    """
    ended = {}
    waiting = []
    with contextlib.ExitStack() as clients:
        # The last one of them ends some time after the migration.
        first_end = time.monotonic() + 4
        for index in range(count):
            left = first_end + index * 0.06 - time.monotonic()
            client = clients.enter_context(workload.attach(
                source, vm, "exit", str(index + 20), "--after-ms", str(int(max(left, 0) * 1000))))

            def wait(index=index, client=client):
                status = client.wait(60)
                ended[index] = (status, time.monotonic())

            waiting.append(threading.Thread(target=wait))
            waiting[-1].start()
        until = first_end - 0.3 - time.monotonic()
        threading.Event().wait(max(until, 0))
        mover = clients.enter_context(source.ctl.start_migration(vm, destination))
        assert mover.wait(120) == 0, mover.errors()
        for thread in waiting:
            thread.join()
        for index in range(count):
            assert ended[index][0] == index + 20, ended
        stopped = phase_seen(mover, b"BLACKOUT_STARTED")
        assert stopped is not None, mover.output()
        runs = stopped + number(last_word(mover)["statistics"], "blackout_ms") / 1000
        return sum(stopped <= when <= runs + 0.1 for _, when in ended.values())
