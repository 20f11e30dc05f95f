"""A conversation with a process in a VM at whatever pace that has."""
import itertools
import threading

from harness import workload

# By the guest's clock, which runs ahead while it has nothing to do: some lines in a second of ours.
TICK_US = 1_000_000
AHEAD = 8  # lines that were sent and not yet answered, so that some are always on their way
DEADLINE = 400  # seconds, on this machine's clock: also where it is busy


class Conversation:
    """Sends numbered lines of many lengths to `ferry-workload tick` and keeps what comes back."""

    def __init__(self, host, vm):
        self._vm = vm
        self._client = host.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick",
                                       "--interval-us", str(TICK_US))
        self._sent = []
        self._stop = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True)
        self._speaker.start()

    def _speak(self):
        for number in itertools.count():
            line = b"%s %d %s" % (self._vm.encode(), number, b"." * (number * 37 % 700))
            self._sent.append(line)
            try:
                self._client.write(line + b"\n")
                self._client.wait_until(
                    lambda output: self._stop.is_set() or
                    output.count(b"\necho ") >= number - AHEAD, DEADLINE)
            except (OSError, TimeoutError):
                return  # what is missing is found in the end
            if self._stop.is_set():
                return

    def wait_for_more(self, echoes=5, ticks=2):
        """Waits until so many more lines have come back, and so much more came unasked."""
        output = self._client.output()
        echoes += output.count(b"\necho ")
        ticks += output.count(b"\ntick ")
        self._client.wait_until(lambda output: output.count(b"\necho ") >= echoes and
                                output.count(b"\ntick ") >= ticks, DEADLINE)

    def finish(self):
        """The process ends with its input, and both directions were whole to the last byte."""
        self._stop.set()
        self._speaker.join(DEADLINE)
        assert not self._speaker.is_alive(), "nobody takes the input"
        self._client.close_stdin()
        assert self._client.wait(DEADLINE) == 0, self._client.errors()
        output = self._client.output()
        assert output.endswith(b"\n")
        assert workload.echoes(output) == self._sent
        assert [number for number, _ in workload.ticks(output)] == list(
            range(output.count(b"tick ")))
        assert workload.strange_bytes(output) == 0

    def close(self):
        self._stop.set()
        self._client.close()
        self._speaker.join(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
