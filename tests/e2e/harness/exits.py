"""Processes that end around a blackout."""
import contextlib
import threading
import time

from . import workload
from .ctl import number
from .mover import last_word, phase_seen


class Exits:
    """Migrations of one VM during which processes in it end one after another."""

    def __init__(self, vm):
        self._vm = vm
        # From the start of a migration to its switchover, as the last one took: the processes end
        # from half of that on until one and a half times of it.
        self._lead = 1.5
        self.around = 0  # how many of them ended at a switchover

    def migrate(self, source, destination, count=16):
        """Migrates while `count` processes end, and checks that each status comes once.

        Counted are those that were to end before the guest ran on, and whose client heard of it
        after the guest was stopped: the status was under way when the connection was cut, or arose
        right behind.
        """
        ended = {}
        with contextlib.ExitStack() as clients:
            # Each waits for a line, so that all of them run before the first one ends.
            attached = [clients.enter_context(self._start(source, index, count))
                        for index in range(count)]
            mover = clients.enter_context(source.ctl.start_migration(self._vm, destination))
            begun = time.monotonic()
            due, waiting = [], []
            for index, client in enumerate(attached):
                client.write(b"now\n")
                due.append(time.monotonic() + self._after(index, count))

                def wait(index=index, client=client):
                    status = client.wait(120)
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
            self._lead = stopped - begun
            self.around += sum(due[index] <= runs and stopped <= ended[index][1]
                               for index in range(count))

    def _after(self, index, count):
        """Seconds from the line to a process's end."""
        return self._lead * (0.5 + index / count)

    def _start(self, host, index, count):
        after_ms = int(self._after(index, count) * 1000)
        command = (f"echo up; read -r line; "
                   f"exec {workload.PROGRAM} exit {index + 20} --after-ms {after_ms}")
        client = host.ctl.attach("exec", "-i", self._vm, "--", "sh", "-c", command)
        client.wait_until(lambda output: output == b"up\n")
        return client
