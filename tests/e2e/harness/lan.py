"""A network that both hosts are in: a third namespace whose bridge theirs are cabled to."""
import json
import pathlib
import subprocess
import sys

from . import namespaces

STREAM = pathlib.Path(__file__).with_name("lan_stream.py")
LISTEN = pathlib.Path(__file__).with_name("lan_listen.py")
PING = pathlib.Path(__file__).with_name("lan_ping.py")
HERE = ("192.0.2.1", "2001:db8:2::1")
GUEST = ("192.0.2.7", "2001:db8:2::7")


class Lan:
    """Made for hosts in namespaces of their own; the VM's cards go into each one's bridge."""

    def __init__(self, hosts, bridges=("br0", "br0")):
        self.space = namespaces.Namespace(hosts.folder)
        self._clients = []
        self._ip("link", "add", "lan0", "type", "bridge")
        for number, (host, bridge) in enumerate(zip(hosts, bridges)):
            self._cable(host, f"port{number}", bridge)
        self._ip("link", "set", "lan0", "up")
        self._ip("link", "set", "lo", "up")
        self._ip("addr", "add", f"{HERE[0]}/24", "dev", "lan0")
        self._ip("addr", "add", f"{HERE[1]}/64", "dev", "lan0", "nodad")

    def _ip(self, *words):
        subprocess.run(self.space.wrap(["ip", *words]), check=True, timeout=30)

    def _cable(self, host, port, bridge):
        subprocess.run(["ip", "link", "add", port, "netns", str(self.space.pid), "type", "veth",
                        "peer", "name", "uplink", "netns", str(host.namespace.pid)],
                       check=True, timeout=30)
        self._ip("link", "set", port, "master", "lan0", "up")
        for words in (["link", "add", bridge, "type", "bridge"],
                      ["link", "set", "uplink", "master", bridge, "up"],
                      ["link", "set", bridge, "up"]):
            host.run(["ip", *words], check=True)

    def start(self, program, *arguments):
        """A client that runs until its report is asked for."""
        client = Client(self.space.wrap([sys.executable, program, *arguments], client=True))
        self._clients.append(client)
        return client

    def stream(self, address, port):
        return self.start(STREAM, address, str(port))

    def ping(self, address):
        return self.start(PING, address)

    def listen(self, number, mac):
        """What comes from that host's cable; its report is there once all announcements are."""
        return self.start(LISTEN, f"port{number}", mac)

    def close(self):
        for client in self._clients:
            client.close()
        self.space.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Client:
    """A process that says "ready" once it is under way, and a line of JSON when its stdin ends."""

    def __init__(self, command):
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE, text=True)
        line = self._process.stdout.readline()
        assert line == "ready\n", line + self._process.stderr.read()

    def report(self):
        out, errors = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, errors
        return json.loads(out)

    def close(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
