"""A look at what QEMU itself says, over the monitor that Ferry keeps spare."""
import json
import socket


class Qmp:
    DEADLINE = 30

    def __init__(self, host):
        """Of the only VM that runs on the host."""
        folders = list(host.outside(host.state / "vm").glob("*/qmp-spare"))
        if len(folders) != 1:
            raise RuntimeError(f"not one VM runs on {host.name}: {folders}")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(self.DEADLINE)
        self._socket.connect(str(folders[0]))
        self._lines = self._socket.makefile("rw")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while line := self._lines.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']}")
        raise RuntimeError(f"{command}: QEMU hung up")

    def capability(self, name):
        return next(each["state"] for each in self.ask("query-migrate-capabilities")
                    if each["capability"] == name)

    def set_capabilities(self, states):
        self.ask("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": state} for name, state in states.items()])

    def close(self):
        self._lines.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
