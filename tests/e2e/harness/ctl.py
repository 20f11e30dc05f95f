"""ferryctl, run beside a host's daemon, with its JSON read."""
import json
import re
import subprocess

from .build import build_folder
from .stdio import Attached
from .terminal import Terminal


class CtlError(Exception):
    """ferryctl failed; the text is what it said."""


def ferryctl():
    return build_folder() / "bin/ferryctl"


def snake(value):
    """Keys in snake_case at every depth, whichever of protobuf's two JSON spellings was used."""
    if isinstance(value, dict):
        return {re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower(): snake(item)
                for key, item in value.items()}
    if isinstance(value, list):
        return [snake(item) for item in value]
    return value


def parse_json(text):
    """One JSON value, or the values of JSON lines as a list."""
    try:
        return snake(json.loads(text))
    except json.JSONDecodeError:
        return [snake(json.loads(line)) for line in text.splitlines() if line.strip()]


def number(message, key):
    """A numeric field: 64-bit integers are strings in protobuf's JSON, and 0 may be left out."""
    return float(message.get(key) or 0)


class Ctl:
    def __init__(self, host):
        self._host = host
        self.security = []  # --tls-* flags
        self.address = f"unix:{host.socket}"

    def command(self, *arguments, json_output=False):
        output = ["--output", "json"] if json_output else []
        return self._host.wrap([ferryctl(), "--host", self.address,
                                *self.security, *output, *arguments], client=True)

    def over_tcp(self, security, *arguments):
        """The same with these --tls-* flags, by way of the host's TCP address."""
        remote = Ctl(self._host)
        remote.address, remote.security = self._host.address, security
        return remote.run(*arguments, timeout=60)

    def run(self, *arguments, timeout=180, **options):
        """The finished process, whatever its status."""
        return subprocess.run(self.command(*arguments), timeout=timeout, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, **options)

    def ok(self, *arguments, **options):
        result = self.run(*arguments, **options)
        if result.returncode != 0:
            raise CtlError(f"ferryctl {' '.join(map(str, arguments))}: status "
                           f"{result.returncode}: {result.stderr.strip()}")
        return result.stdout

    def json(self, *arguments, timeout=60):
        result = subprocess.run(self.command(*arguments, json_output=True), timeout=timeout,
                                text=True, stdin=subprocess.DEVNULL, capture_output=True)
        if result.returncode != 0:
            raise CtlError(result.stderr.strip())
        return parse_json(result.stdout)

    def _items(self, name, *arguments):
        value = self.json(*arguments)
        return value.get(name, []) if isinstance(value, dict) else value

    def create(self, vm, memory="256M", cpus=1, *more):
        self.ok("vm", "create", vm, "--memory", memory, "--cpus", str(cpus), *more)

    def start(self, vm):
        self.ok("vm", "start", vm)

    def vms(self):
        return self._items("vms", "vm", "list")

    def vm(self, name):
        value = self.json("vm", "inspect", name)
        return value[0] if isinstance(value, list) else value

    def state(self, name):
        """The VM's state as one word, "absent" if this host has no such VM."""
        for vm in self.vms():
            if vm.get("name") == name:
                return str(vm.get("state", "")).lower().replace("vm_state_", "")
        return "absent"

    def processes(self, vm):
        return self._items("processes", "ps", vm)

    def sessions(self):
        return self._items("sessions", "migration", "list")

    def session(self, session_id):
        value = self.json("migration", "show", session_id)
        return value[0] if isinstance(value, list) else value

    def exec(self, vm, *command, **options):
        """Runs a command in the VM to its end."""
        return self.run("exec", vm, "--", *command, **options)

    def attach(self, *arguments):
        """A running `ferryctl exec -i` (or attach) with its output read and timed."""
        return Attached(self.command(*arguments))

    def terminal(self, *arguments, rows=24, columns=80):
        """A running ferryctl on a terminal of its own."""
        return Terminal(self.command(*arguments), rows, columns)

    def start_migration(self, vm, destination, *options):
        """A running `ferryctl migrate --json`."""
        return self.attach("migrate", vm, "--to", destination.address, "--json", *options)

    def migrate(self, vm, destination, *options, timeout=180):
        """Migrates and returns the session with its statistics; CtlError if it failed."""
        before = {session.get("session_id") for session in self.sessions()}
        self.ok("migrate", vm, "--to", destination.address, *options, timeout=timeout)
        return self.new_session(before)

    def new_session(self, before):
        """The session that was not there `before`, with its statistics."""
        new = [session["session_id"] for session in self.sessions()
               if session["session_id"] not in before]
        if len(new) != 1:
            raise CtlError(f"expected one new session, found {new}")
        return self.session(new[0])
