"""Processes that end around a blackout."""
import contextlib
import threading
import time

from . import workload
from .ctl import number
from .mover import last_word, phase_seen

# From before a migration's switchover until after it.
FIRST_END_MS = 300
BETWEEN_ENDS_MS = 60


def exits_around_a_blackout(source, destination, vm, count=16):
    """Migrates while processes end one after another; how many of them did so at the switchover.

    Counted are those whose client heard of the exit after the guest was stopped and before it had
    run on for a moment: the status was under way when the connection was cut, or arose right
    behind.
    """
    ended = {}
    waiting = []
    with contextlib.ExitStack() as clients:
        # Each waits for a line, so that all of them run before the first one ends.
        attached = []
        for index in range(count):
            command = (f"echo up; read -r line; exec {workload.PROGRAM} exit {index + 20} "
                       f"--after-ms {FIRST_END_MS + index * BETWEEN_ENDS_MS}")
            attached.append(clients.enter_context(
                source.ctl.attach("exec", "-i", vm, "--", "sh", "-c", command)))
            attached[-1].wait_until(lambda output: output == b"up\n")
        mover = clients.enter_context(source.ctl.start_migration(vm, destination))
        for index, client in enumerate(attached):
            client.write(b"now\n")

            def wait(index=index, client=client):
                status = client.wait(60)
                ended[index] = (status, time.monotonic())

            waiting.append(threading.Thread(target=wait))
            waiting[-1].start()
        assert mover.wait(120) == 0, mover.errors()
        for thread in waiting:
            thread.join()
        for index in range(count):
            assert ended[index][0] == index + 20, ended
        stopped = phase_seen(mover, b"BLACKOUT_STARTED")
        assert stopped is not None, mover.output()
        runs = stopped + number(last_word(mover)["statistics"], "blackout_ms") / 1000
        return sum(stopped <= when <= runs + 0.1 for _, when in ended.values())
