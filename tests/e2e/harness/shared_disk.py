"""Two hosts that both see the files of a VM's disk."""
import contextlib

import pytest

from .fixtures import note_isolation
from .host import Hosts
from .qmp import Qmp


@pytest.fixture
def hosts(pytestconfig, tmp_path):
    """With a VM on the first whose disk is in the folder that they share."""
    with Hosts(shared_folder=tmp_path) as pair:
        note_isolation(pytestconfig, pair)
        pair.start()
        pair[0].run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "root.qcow2", "1G"],
                    check=True)
        pair[0].ctl.create("vm", "256M", 1, "--disk",
                           f"name=root,file={tmp_path}/root.qcow2,format=qcow2")
        pair[0].ctl.start("vm")
        yield pair


@contextlib.contextmanager
def reads_that_fail(host):
    """Of the disk of the only VM of the host, until that is mended."""
    broken = {"node-name": "broken", "driver": "blkdebug", "image": "disk-root-file",
              "inject-error": [{"event": "none", "errno": 5, "once": False, "iotype": "read"}]}
    disk = {"node-name": "disk-root-fmt", "driver": "qcow2", "read-only": False}
    with Qmp(host) as qmp:
        qmp.ask("blockdev-add", **broken)
        qmp.ask("blockdev-reopen", options=[{**disk, "file": "broken"}])
        yield lambda: qmp.ask("blockdev-reopen", options=[{**disk, "file": "disk-root-file"}])
