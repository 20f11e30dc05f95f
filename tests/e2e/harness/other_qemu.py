"""QEMU binaries that are another release, or have another device, as far as a daemon can see."""
import json
import stat

QEMU = "/usr/bin/qemu-system-x86_64"

# Without a machine QEMU is only asked what it can do: then its answers are altered on the way.
SCRIPT = r'''#!/usr/bin/python3
import json, os, re, socket, subprocess, sys, threading

QEMU, CHANGES, DEVICES = json.loads({settings!r})
arguments = sys.argv[1:]
asked = any(pair == ("-machine", "none") for pair in zip(arguments, arguments[1:]))
if not asked:
    booting = "-uuid" in arguments
    os.execv(QEMU, [QEMU, *arguments, *(DEVICES if booting else [])])
daemon = socket.socket(fileno=10)
ours, theirs = socket.socketpair()
arguments = [word.replace("fd=10", f"fd={{theirs.fileno()}}") for word in arguments]
subprocess.Popen(["setpriv", "--pdeathsig", "KILL", QEMU, *arguments],
                 pass_fds=[theirs.fileno()])
theirs.close()

def ask():
    while data := daemon.recv(65536):
        ours.sendall(data)

threading.Thread(target=ask, daemon=True).start()
for line in ours.makefile("r"):
    for pattern, replacement in CHANGES:
        line = re.sub(pattern, replacement, line)
    daemon.sendall(line.encode())
'''


def install(host, name, changes=(), devices=()):
    """Puts such a QEMU on a host that is not started yet; returns its path there.

    `changes` are (pattern, replacement) for its answers, `devices` more words for its VMs.
    """
    path = host.folder / name
    place = host.outside(path)
    settings = json.dumps([QEMU, list(changes), list(devices)])
    place.write_text(SCRIPT.format(settings=settings))
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    return path
