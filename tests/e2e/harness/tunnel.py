"""A way from the tests' own network to a port of a host's."""
import socket

from .passage import Passage
from .rpc import socket_in


class Tunnel(Passage):
    """Listens on `address` ("host:port") outside, and passes each connection on to the host."""

    def __init__(self, host):
        self._host = host
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % listener.getsockname()[1]
        super().__init__(listener, self._reach)

    def _reach(self):
        address, port = self._host.address.rsplit(":", 1)
        far = socket_in(self._host) if self._host.namespace else socket.socket()
        far.setblocking(True)
        far.connect((address, int(port)))
        return far
