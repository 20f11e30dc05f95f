"""A relay on the session connection of two hosts, which can look at it, cut, stop or damage it."""
import socket
import threading

from .passage import Passage
from .rpc import socket_in

PORT = 7900


class Relay(Passage):
    """Stands between two isolated hosts, where `destination` seems to listen.

    `before_answer()` is called before each piece that the destination sends is passed on.
    The destination's daemon must be started with the flags in `flags`.
    """

    flags = ["--migration-listen", f"127.0.0.1:{PORT}"]

    def __init__(self, source, destination, before_answer=None):
        self._destination = destination
        self._before_answer = before_answer
        self._lock = threading.Lock()
        self._fault, self._after = None, 0
        self.struck = threading.Event()  # the fault that was set has happened
        self._closed = threading.Event()
        listener = socket_in(source)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", PORT))
        listener.listen(4)
        super().__init__(listener, self._reach)

    def _reach(self):
        far = socket_in(self._destination)
        far.connect(("127.0.0.1", PORT))
        return far

    def cut(self, after=0):
        """Ends the connection once the source has sent so many more bytes."""
        self._set("cut", after)

    def stop(self, after=0):
        """From then on no byte passes in either direction, and nobody is told."""
        self._set("stop", after)

    def flip(self, after=0):
        """Turns the bits of one byte around."""
        self._set("flip", after)

    def _set(self, fault, after):
        with self._lock:
            self.struck.clear()
            self._fault, self._after = fault, after
            ends = list(self._open)
        if fault == "cut" and after == 0:
            self._strike(ends)

    def _back(self, piece):
        if self._before_answer:
            self._before_answer()
        if self._fault == "stop" and self.struck.is_set():
            self._closed.wait()
        return piece

    def _forth(self, piece):
        with self._lock:
            fault, after = self._fault, self._after
            self._after -= len(piece)
            if fault is None or after >= len(piece):
                return piece
            ends = list(self._open)
            if fault == "flip":
                self._fault = None
        if fault == "flip":
            self.struck.set()
            return piece[:after] + bytes([piece[after] ^ 0xFF]) + piece[after + 1:]
        after = max(after, 0)
        if after:
            ends[-1].sendall(piece[:after])
        if fault == "stop":
            self.struck.set()
            self._closed.wait()
        self._strike(ends)
        return b""

    def _strike(self, ends):
        with self._lock:
            self._fault = None
        self._end(ends)
        self.struck.set()

    def close(self):
        self._closed.set()
        super().close()
