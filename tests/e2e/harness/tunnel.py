"""A way from the tests' own network to a port of a host's."""
import socket
import threading

from .rpc import socket_in


class Tunnel:
    """Listens on `address` ("host:port") outside, and passes each connection on to the host."""

    def __init__(self, host):
        self._host = host
        self._target = host.address.rsplit(":", 1)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket_in(self._host) if self._host.namespace else socket.socket()
                far.setblocking(True)
                far.connect((self._target[0], int(self._target[1])))
            except OSError:
                return
            self._open += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=ends, daemon=True).start()

    @staticmethod
    def _pass(come_from, go_to):
        try:
            while piece := come_from.recv(1 << 16):
                go_to.sendall(piece)
            go_to.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one end is gone

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
