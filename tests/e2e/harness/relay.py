"""A relay on the session connection of two hosts, which can look before it passes an answer on."""
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

    def __init__(self, source, destination, before_answer):
        self._destination = destination
        self._before_answer = before_answer
        self._listener = socket_in(source)
        self._listener.bind(("127.0.0.1", PORT))
        self._listener.listen(4)
        self._open = []
        self.failure = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket_in(self._destination)
                far.connect(("127.0.0.1", PORT))
            except OSError:
                return
            self._open += [near, far]
            threading.Thread(target=self._pass, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, self._before_answer),
                             daemon=True).start()

    def _pass(self, come_from, go_to, before):
        try:
            while piece := come_from.recv(1 << 20):
                if before:
                    before()
                go_to.sendall(piece)
            go_to.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one end is gone
        except Exception as error:  # of before(): for the test to see
            self.failure = error
            go_to.close()

    def close(self):
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
