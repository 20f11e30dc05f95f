"""A look at what QEMU itself says, over the monitor that Ferry keeps spare."""
import json
import socket
import time


class Qmp:
    DEADLINE = 30
    AT_ONCE = 500

    def __init__(self, host):
        """Of the only VM that runs on the host."""
        folders = list(host.outside(host.state / "vm").glob("*/qmp-spare"))
        if len(folders) != 1:
            raise RuntimeError(f"not one VM runs on {host.name}: {folders}")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(self.DEADLINE)
        self._socket.connect(str(folders[0]))
        self._answers = self._socket.makefile("r")
        self._questions = self._socket.makefile("w")
        self._answers.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self._questions.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._questions.flush()
        answer = self._answer(command)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        return answer["return"]

    def _answer(self, command):
        """The next one, whatever events come before it."""
        while line := self._answers.readline():
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                return answer
        raise RuntimeError(f"{command}: QEMU hung up")

    def insist(self, command, meanwhile, **arguments):
        """Has it done as soon as it is not refused any more.

        It is asked so many times at once that QEMU always has one of them to answer, whatever
        holds up who asks: what makes it possible is followed by it at once.
        meanwhile -- Called once the first are asked.
        """
        line = json.dumps({"execute": command, "arguments": arguments}) + "\n"
        self._questions.write(line * self.AT_ONCE)
        self._questions.flush()
        meanwhile()
        unanswered, done = self.AT_ONCE, False
        deadline = time.monotonic() + self.DEADLINE
        while unanswered:
            answer = self._answer(command)
            done = done or "return" in answer
            if done:
                unanswered -= 1
                continue
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command}: {answer['error']}")
            self._questions.write(line)
            self._questions.flush()

    def capability(self, name):
        return next(each["state"] for each in self.ask("query-migrate-capabilities")
                    if each["capability"] == name)

    def set_capabilities(self, states):
        self.ask("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": state} for name, state in states.items()])

    def close(self):
        self._answers.close()
        self._questions.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
