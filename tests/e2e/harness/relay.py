"""A relay on the session connection of two hosts, which can look at it, cut, stop or damage it."""
import socket
import threading

from .rpc import socket_in

PORT = 7900


class Relay:
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
        self._listener = socket_in(source)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", PORT))
        self._listener.listen(4)
        self._open = []
        self.failure = None
        threading.Thread(target=self._accept, daemon=True).start()

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

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket_in(self._destination)
                far.connect(("127.0.0.1", PORT))
            except OSError:
                return
            self._open += [near, far]
            threading.Thread(target=self._pass, args=(near, far, self._tamper), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, self._answer),
                             daemon=True).start()

    def _pass(self, come_from, go_to, look_at):
        try:
            while piece := come_from.recv(1 << 20):
                go_to.sendall(look_at(piece))
            go_to.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one end is gone
        except Exception as error:  # of before_answer(): for the test to see
            self.failure = error
            go_to.close()

    def _answer(self, piece):
        if self._before_answer:
            self._before_answer()
        if self._fault == "stop" and self.struck.is_set():
            self._closed.wait()
        return piece

    def _tamper(self, piece):
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
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.struck.set()

    def close(self):
        self._closed.set()
        # A shutdown wakes whoever waits in it, a mere close does not.
        for end in [self._listener, *self._open]:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
