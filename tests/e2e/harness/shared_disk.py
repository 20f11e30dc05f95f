"""Two hosts that both see the files of a VM's disk."""
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


class FailingDisk:
    """The disk of the only VM of a host, which does not do that, until it is mended."""
    _NODE = {"node-name": "disk-root-fmt", "driver": "qcow2", "read-only": False}

    def __init__(self, host, what):
        """what -- "read", "write" or "flush"."""
        self._qmp = Qmp(host)
        self._qmp.ask("blockdev-add", **{
            "node-name": "broken", "driver": "blkdebug", "image": "disk-root-file",
            "inject-error": [{"event": "none", "errno": 5, "once": False, "iotype": what}]})
        self._use("broken")

    def mend(self):
        self._use("disk-root-file")

    def run_state(self):
        return self._qmp.ask("query-status")["status"]

    def _use(self, node):
        self._qmp.ask("blockdev-reopen", options=[{**self._NODE, "file": node}])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._qmp.close()
