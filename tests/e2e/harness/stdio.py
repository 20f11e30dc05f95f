"""A ferryctl with pipes on its stdio, whose output is read at once and stamped."""
import bisect
import os
import subprocess
import threading
import time


def longest_gap_ms(times, since, until):
    """The longest silence that touches [since, until], of output that came at these times (s)."""
    first = max(bisect.bisect_left(times, since) - 1, 0)
    last = bisect.bisect_right(times, until) + 1
    window = times[first:last]
    return max((later - earlier for earlier, later in zip(window, window[1:])), default=0.0) * 1000


class Attached:
    """Keeps all that the process printed, and when each piece came."""

    def __init__(self, command):
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE, bufsize=0)
        self._changed = threading.Condition()
        self._output = bytearray()
        self._errors = bytearray()
        self._times = []
        self._ends = []  # how many bytes there were after the piece of the same index
        self._ended = 0
        self._bytes_per_second = 0
        self._still = False
        self._written = 0
        for stream, sink in ((self._process.stdout, self._output),
                             (self._process.stderr, self._errors)):
            threading.Thread(target=self._read, args=(stream, sink), daemon=True).start()

    def _read(self, stream, sink):
        while piece := os.read(stream.fileno(), 65536):
            now = time.monotonic()
            with self._changed:
                self._changed.wait_for(lambda: not self._still)
                self._keep(piece, sink, now)
                self._changed.notify_all()
                rate = self._bytes_per_second
            if rate:
                time.sleep(len(piece) / rate)
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def _keep(self, piece, sink, now):
        sink.extend(piece)
        if sink is self._output:
            self._times.append(now)
            self._ends.append(len(sink))

    def stand_still(self):
        """Reads nothing more, as somebody who looks at the first page."""
        with self._changed:
            self._still = True

    def go_on(self):
        """Reads what came meanwhile, and what comes."""
        with self._changed:
            self._still = False
            self._changed.notify_all()

    def pace(self, bytes_per_second):
        """Reads no faster than this from now on; 0: as fast as it comes."""
        with self._changed:
            self._bytes_per_second = bytes_per_second

    def write(self, data):
        """Writes all of it; blocks while nobody takes it."""
        view = memoryview(data)
        while view:
            count = os.write(self._process.stdin.fileno(), view[:65536])
            with self._changed:
                self._written += count
            view = view[count:]

    def wait_until_full(self, seconds=0.5):
        """Waits until nothing of what another thread writes has been taken for that long."""
        deadline = time.monotonic() + 60
        with self._changed:
            before = None
            while before != self._written:
                assert time.monotonic() < deadline, "it takes what is written all the time"
                before = self._written
                self._changed.wait_for(lambda: self._written != before, seconds)

    def close_stdin(self):
        self._process.stdin.close()

    @property
    def written(self):
        with self._changed:
            return self._written

    @property
    def received(self):
        with self._changed:
            return len(self._output)

    def output(self):
        with self._changed:
            return bytes(self._output)

    def errors(self):
        with self._changed:
            return bytes(self._errors).decode(errors="replace")

    def wait_until(self, condition, timeout=60):
        """Waits until `condition(output)` holds for all that was printed so far."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition(self._output):
                left = deadline - time.monotonic()
                if left <= 0 or self._ended == 2:
                    raise TimeoutError(f"waited in vain; {len(self._output)} bytes came, the last "
                                       f"are {bytes(self._output[-200:])!r}; stderr: "
                                       f"{bytes(self._errors[-500:])!r}")
                self._changed.wait(min(left, 1))

    def wait_for_errors(self, words, timeout=60):
        """Waits until these words were printed as an error."""
        self.wait_until(lambda _: words.encode() in self._errors, timeout)

    def lines(self, timeout=60):
        """Whole lines of the output as they come, until it ends."""
        deadline = time.monotonic() + timeout
        start = 0
        while True:
            with self._changed:
                while (end := self._output.find(b"\n", start)) < 0 and self._ended < 2:
                    if not self._changed.wait(max(deadline - time.monotonic(), 0)):
                        raise TimeoutError(f"no end within {timeout} s")
                if end < 0:
                    return
                line, start = bytes(self._output[start:end]), end + 1
            yield line

    def arrival(self, offset):
        """When the byte at `offset` of the output came, on this machine's monotonic clock."""
        with self._changed:
            return self._times[bisect.bisect_right(self._ends, offset)]

    def read_after(self, since):
        """When output came for the first time after that; None if none has."""
        with self._changed:
            at = bisect.bisect_right(self._times, since)
            return self._times[at] if at < len(self._times) else None

    def longest_gap(self, since, until):
        """Milliseconds without output: the longest silence that touches [since, until]."""
        with self._changed:
            return longest_gap_ms(list(self._times), since, until)

    def wait(self, timeout=60):
        """Waits for the end of the process and of its output; returns its exit status."""
        status = self._process.wait(timeout)
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._ended < 2:
                if not self._changed.wait(max(deadline - time.monotonic(), 0)):
                    raise TimeoutError("ferryctl ended but its output did not")
        return status

    def signal(self, number):
        self._process.send_signal(number)

    @property
    def pid(self):
        return self._process.pid

    def running(self):
        return self._process.poll() is None

    def close(self):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.go_on()
        with self._changed:
            self._changed.wait_for(lambda: self._ended == 2, 10)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            try:
                stream.close()
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
