"""A conversation with a process in a VM that never pauses, and of which every byte is accounted."""
import hashlib
import threading

from . import workload


class Conversation:
    """Sends numbered lines of many lengths to a `ferry-workload tick` that somebody is attached to,
    and keeps what comes back."""

    def __init__(self, client, pace):
        """pace -- Seconds between two lines."""
        self._client = client
        self._pace = pace
        self._sent = []
        self._client.wait_until(lambda output: b"tick" in output)
        self._start()

    def _start(self):
        self._stop = threading.Event()
        self._speaker = threading.Thread(target=self._speak, args=(self._stop,), daemon=True)
        self._speaker.start()

    def _speak(self, stop):
        while not stop.wait(self._pace):
            number = len(self._sent)
            line = b"line %d %s" % (number, b"." * (number % 700))
            self._sent.append(line)
            try:
                self._client.write(line + b"\n")
            except OSError:
                return  # the client has ended

    def _hush(self):
        self._stop.set()
        self._speaker.join(60)
        assert not self._speaker.is_alive(), "nobody takes the input"

    def _output(self):
        """All output; asserts that its ticks are whole and that it holds nothing else."""
        output = self._client.output()
        numbers = [number for number, _ in workload.ticks(output)]
        assert workload.lost_and_repeated(numbers, first=0) == (0, 0), output[:300]
        assert numbers == sorted(numbers)
        assert workload.strange_bytes(output) == 0
        return output

    def _assert_whole(self):
        self._hush()
        last = b"echo " + self._sent[-1] + b"\n"
        self._client.wait_until(lambda output: last in output[-200000:])
        assert digest(workload.echoes(self._output())) == digest(self._sent)

    def assert_goes_on(self):
        """The process still answers, and both directions are whole to the last byte."""
        self._assert_whole()
        self._start()

    def finish(self):
        """As that, and the process ends with its input."""
        self._assert_whole()
        self._client.close_stdin()
        assert self._client.wait() == 0, self._client.errors()

    def assert_cut_off(self):
        """The VM is lost: the client says so, and what came until then is whole."""
        assert self._client.wait() != 0
        assert self._client.errors(), "it ended without a word"
        self._hush()
        echoes = workload.echoes(self._output())
        assert digest(echoes) == digest(self._sent[:len(echoes)])

    def close(self):
        self._stop.set()
        self._client.close()
        self._speaker.join(10)


class Talk(Conversation):
    """One with a process of its own in the VM."""

    PACE = 0.005

    def __init__(self, host, vm):
        super().__init__(host.ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "tick"),
                         self.PACE)


def digest(lines):
    return hashlib.sha256(b"\n".join(lines)).hexdigest()
