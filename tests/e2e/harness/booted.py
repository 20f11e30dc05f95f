"""A VM that was booted once, for all tests that do not care how theirs came to run.

Under TCG a boot takes longer than most tests do. So one VM is booted and saved to a file, and the
state folder is kept in which a ferryd knows it. A test's host starts with a copy of that folder,
and its VM goes on from the file. Both lie in the build folder, for as long as what they were made
with is there unchanged.
"""
import contextlib
import fcntl
import hashlib
import os
import pathlib
import platform
import shutil
import tempfile

from .build import build_folder
from .host import Hosts
from .waiting import wait_for

NAME = "vm"
QEMU = "/usr/bin/qemu-system-x86_64"


def give(host):
    """Lets a host that has never been started know the VM, which is stopped there."""
    shutil.copytree(_made() / "state", host.outside(host.state))


def run_on(host):
    """Has the VM run on a host that it was given to; its name."""
    host.ctl.ok("start", NAME, "--from", file())
    # Unlike a boot, that does not wait for the agent, which needs a moment on a busy machine.
    wait_for(lambda: host.ctl.exec(NAME, "true").returncode == 0, "the agent does not come back")
    return NAME


def file():
    """What it goes on from."""
    return _made() / "vm.ferry"


def _made():
    """The folder with what is kept, which is made if need be. Other processes wait for that."""
    everything = build_folder() / "e2e-vm"
    folder = everything / _inputs()
    if folder.exists():
        return folder
    everything.mkdir(exist_ok=True)
    with _locked(everything / "lock"):
        if not folder.exists():
            _make(everything, folder)
    return folder


def _inputs():
    """A name that tells apart what it is made with."""
    here = pathlib.Path(__file__).parent
    files = (build_folder() / "bin/ferryd", build_folder() / "guest/manifest.json", QEMU,
             here / "booted.py", here / "ctl.py", here / "host.py")
    seen = [(str(file), status.st_size, status.st_mtime_ns)
            for file in files for status in [os.stat(file)]]
    seen.append((platform.release(), os.path.exists("/dev/kvm")))
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(path):
    with open(path, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(everything, folder):
    for former in everything.iterdir():
        if former.is_dir():
            shutil.rmtree(former)
    with tempfile.TemporaryDirectory(dir=everything, prefix="new-") as scratch, Hosts() as hosts:
        host = hosts[0]
        host.start()
        host.ctl.create(NAME)
        host.stop()
        # Before anything has happened to it.
        shutil.copytree(host.outside(host.state), f"{scratch}/whole/state")
        host.start()
        host.ctl.start(NAME)
        file = host.folder / "vm.ferry"
        host.ctl.ok("save", NAME, "--live", "--to", file)
        shutil.copyfile(host.outside(file), f"{scratch}/whole/vm.ferry")
        os.rename(f"{scratch}/whole", folder)
