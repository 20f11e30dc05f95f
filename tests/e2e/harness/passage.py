"""Connections that pass through the tests' hands."""
import socket
import threading


class Passage:
    """Takes connections at `listener`, and passes the bytes of each on to one that `connect()`
    makes, and back. Works from the moment it is made."""

    def __init__(self, listener, connect):
        self._listener = listener
        self._connect = connect
        self._open = []
        self.failure = None  # of _forth() or _back(), for the test to see
        threading.Thread(target=self._accept, daemon=True).start()

    def _forth(self, piece):
        """What is passed on of what came from the one who connected."""
        return piece

    def _back(self, piece):
        return piece

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
                far = self._connect()
            except OSError:
                return
            self._open += [near, far]
            for way in ((near, far, self._forth), (far, near, self._back)):
                threading.Thread(target=self._pass, args=way, daemon=True).start()

    def _pass(self, come_from, go_to, look_at):
        try:
            while piece := come_from.recv(1 << 20):
                go_to.sendall(look_at(piece))
            go_to.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one end is gone
        except Exception as error:
            self.failure = error
            go_to.close()

    @staticmethod
    def _end(sockets):
        for end in sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        # A shutdown wakes whoever waits in it, a mere close does not.
        ends = [self._listener, *self._open]
        self._end(ends)
        for end in ends:
            end.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
