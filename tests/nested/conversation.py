"""What is said to processes in a VM and comes back, at whatever pace that has."""
import itertools
import threading

from harness import workload

# By the guest's clock, which runs ahead while it has nothing to do: some lines in a second of ours.
TICKER = (workload.PROGRAM, "tick", "--interval-us", "1000000")
KEYS = (workload.PROGRAM, "keys", "--raw", "1")
AHEAD = 8  # lines that were sent and not yet answered, so that some are always on their way
KEYSTROKES = 16  # at once
DEADLINE = 400  # seconds, on this machine's clock: also where it is busy


class Talk:
    """Says one thing after the other, in a thread of its own, from when it is to begin until it is
    to fall silent."""

    def __init__(self, client):
        self._client = client
        self._stop = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True)

    def begin(self):
        self._speaker.start()

    def signal(self, number):
        """To whoever reads."""
        self._client.signal(number)

    def _say(self, number):
        """Says the next thing, and waits until more may be said."""
        raise NotImplementedError

    def _speak(self):
        for number in itertools.count():
            try:
                self._say(number)
            except (OSError, TimeoutError):
                return  # what is missing is found in the end
            if self._stop.is_set():
                return

    def _fall_silent(self):
        self._stop.set()
        self._speaker.join(DEADLINE)
        assert not self._speaker.is_alive(), "nobody takes the input"

    def close(self):
        self._stop.set()
        self._client.close()
        if self._speaker.is_alive():
            self._speaker.join(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Conversation(Talk):
    """Sends numbered lines of many lengths to TICKER, to which somebody is attached by pipes, and
    keeps what comes back."""

    def __init__(self, client, name):
        self._name = name.encode()
        self._sent = []
        super().__init__(client)

    def _say(self, number):
        line = b"%s %d %s" % (self._name, number, b"." * (number * 37 % 700))
        self._sent.append(line)
        self._client.write(line + b"\n")
        self._client.wait_until(lambda output: self._stop.is_set() or
                                output.count(b"\necho ") >= number - AHEAD, DEADLINE)

    def wait_for_more(self, echoes=5, ticks=2):
        """Waits until so many more lines have come back, and so much more came unasked."""
        output = self._client.output()
        echoes += output.count(b"\necho ")
        ticks += output.count(b"\ntick ")
        self._client.wait_until(lambda output: output.count(b"\necho ") >= echoes and
                                output.count(b"\ntick ") >= ticks, DEADLINE)

    def finish(self):
        """The process ends with its input, and both directions were whole to the last byte."""
        self._fall_silent()
        self._client.close_stdin()
        assert self._client.wait(DEADLINE) == 0, self._client.errors()
        output = self._client.output()
        assert output.endswith(b"\n")
        assert workload.echoes(output) == self._sent
        assert [number for number, _ in workload.ticks(output)] == list(
            range(output.count(b"tick ")))
        assert workload.strange_bytes(output) == 0


class Keyboard(Talk):
    """Types at a terminal of this size, on which KEYS tells what it reads: a few keys, and the next
    when these were read."""

    def __init__(self, terminal, rows, columns):
        self._typed = bytearray()
        self._sizes = [self._line(rows, columns)]
        super().__init__(terminal)

    @staticmethod
    def _line(rows, columns):
        return b"size %d %d raw" % (rows, columns)

    def _say(self, number):
        if not number:
            self._client.wait_for_line(self._sizes[0], DEADLINE)  # from there on it takes each key
        first = number * KEYSTROKES
        keys = bytes((first + i) % 256 for i in range(KEYSTROKES)).replace(b"q", b"-")
        self._typed += keys
        self._client.type(keys)
        self._await_read(len(self._typed))

    def _await_read(self, count):
        self._client.wait_until(lambda screen: len(workload.keys_read(screen)) >= count,
                                f"fewer than {count} keys were read", DEADLINE)

    def wait_for_more(self, pieces=3):
        """Waits until so much more was read."""
        self._await_read(len(workload.keys_read(self._client.screen())) + pieces * KEYSTROKES)

    def resize(self, rows, columns):
        """The process is told of the new size."""
        self._sizes.append(self._line(rows, columns))
        self._client.set_size(rows, columns)
        self._client.wait_for_line(self._sizes[-1], DEADLINE)

    def finish(self):
        """The process has read each key once, in order, and was told of these sizes alone."""
        self._fall_silent()
        self._client.type(b"q")
        self._await_read(len(self._typed) + 1)
        assert self._client.wait(DEADLINE) == 7
        assert self._client.is_restored()
        assert workload.keys_read(self._client.screen()) == self._typed + b"q"
        # Whoever attaches again may tell it the size anew.
        told = [line for line in self._client.lines() if line.startswith(b"size")]
        assert [line for line, _ in itertools.groupby(told)] == self._sizes
