"""What can still be learned of the VMs of a test that failed, while they are there."""
import re

from .qmp import Qmp

LINES = 100  # an agent that crashes says a lot, and the kernel after it
# Of `info registers`: where each vCPU is, and whether it waits for an interrupt.
TOLD = re.compile(r"CPU#\d+|RIP=\S+ RFL=\S+|HLT=\d")


def of(host):
    """(title, text) for a report: what each VM's console said last, and where its vCPUs are."""
    for folder in sorted(host.outside(host.state / "vm").glob("*/")):
        yield f"console of {folder.name} on {host.name}", _tail(folder / "console.log")
    yield f"vCPUs on {host.name}", _vcpus(host)


def _tail(path):
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-LINES:])
    except OSError as error:
        return f"(none: {error})"


def _vcpus(host):
    try:
        with Qmp(host) as qmp:
            status = qmp.ask("query-status")["status"]
            # Twice, so that it is seen whether they get on.
            looks = [qmp.ask("human-monitor-command", **{"command-line": "info registers -a"})
                     for _ in range(2)]
        return "\n".join([status, *(" ".join(TOLD.findall(look)) for look in looks)])
    except (OSError, RuntimeError, KeyError) as error:
        return f"(not known: {error})"
