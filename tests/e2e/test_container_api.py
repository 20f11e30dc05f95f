"""Containers through the API alone: made of an image, run, seen to end, and gone without a trace."""
import sys

import grpc
import pytest

from harness import images
from harness.build import build_folder
from harness.driven import refused
from harness.rpc import Rpc, error_info

sys.path.insert(0, str(build_folder() / "proto_py"))

from ferry.v1 import container_pb2 as pb  # noqa: E402
from ferry.v1 import container_pb2_grpc  # noqa: E402

DEADLINE = 240


class Containers:
    """Calls of the ContainerService of one host."""

    def __init__(self, host):
        self._host = host
        self.connect()

    def connect(self):
        self._rpc = Rpc(self._host)
        self.stub = container_pb2_grpc.ContainerServiceStub(self._rpc._channel)

    def close(self):
        self._rpc.close()

    def create(self, vm, image="web", **spec):
        request = pb.CreateContainerRequest(spec=pb.ContainerSpec(image=image, **spec))
        if vm:
            request.vm = vm
        else:
            request.new_vm.memory_mb = 256
        return self.stub.CreateContainer(request, timeout=DEADLINE)

    def ref(self, container, vm=""):
        return pb.ContainerRef(container=container, vm=vm)

    def start(self, container):
        return self.stub.StartContainer(self.ref(container), timeout=DEADLINE)

    def get(self, container):
        return self.stub.GetContainer(self.ref(container), timeout=DEADLINE)

    def stop(self, container, timeout_ms=None):
        request = pb.StopContainerRequest(ref=self.ref(container), timeout_ms=timeout_ms)
        return self.stub.StopContainer(request, timeout=DEADLINE)

    def remove(self, container, force=False):
        request = pb.RemoveContainerRequest(ref=self.ref(container), force=force)
        self.stub.RemoveContainer(request, timeout=DEADLINE)

    def list(self):
        return self.stub.ListContainers(pb.ListContainersRequest(all=True),
                                        timeout=DEADLINE).containers


@pytest.fixture
def host(two_hosts, tmp_path):
    host = two_hosts[0]
    (tmp_path / "web.tar").write_bytes(images.make_tar(images.oci_files(images.layers())))
    host.ctl.ok("image", "import", "web", tmp_path / "web.tar")
    return host


@pytest.fixture
def containers(host):
    client = Containers(host)
    yield client
    client.close()


def attach(host, vm, process):
    return host.ctl.ok("attach", vm, str(process))


def disks(host, vm):
    return host.ctl.vm(vm)["machine_document_json"].count('"Path"')


def test_a_container_runs_and_leaves_nothing(host, vm, containers):
    before = disks(host, vm)
    made = containers.create(vm, name="one", user="0:0", entrypoint=["/bin/busybox"],
                             command=["sh", "-c", "cat /srv/hello; echo $MODE; echo x > /new"])
    assert made.state == pb.CONTAINER_STATE_CREATED
    assert disks(host, vm) == before + 3
    running = containers.start("one")
    assert running.process_id
    assert attach(host, vm, running.process_id) == "hello\nfast\n"
    stopped = containers.stop("one")
    assert stopped.exit_status.WhichOneof("kind") == "code" and stopped.exit_status.code == 0
    containers.remove("one")
    assert not containers.list()
    assert disks(host, vm) == before
    assert not list(host.outside(host.state / "containers").iterdir())
    host.ctl.ok("image", "rm", "web")


def test_a_daemon_that_is_killed_finds_its_containers_again(host, vm, containers):
    containers.create(vm, name="one", user="0:0", entrypoint=["/bin/busybox"],
                      command=["sleep", "1000"], detached=True)
    containers.create(vm, name="waits", user="0:0", entrypoint=["/bin/busybox"],
                      command=["true"])
    containers.start("one")
    containers.close()
    host.kill()
    host.start()
    containers.connect()
    assert containers.get("one").state == pb.CONTAINER_STATE_RUNNING
    containers.start("waits")
    assert containers.stop("one", 0).exit_status.signal == 9
    containers.remove("one")
    containers.remove("waits", force=True)
    assert not containers.list()


def test_a_vm_of_its_own_goes_with_it(host, containers):
    made = containers.create("", name="one", user="0:0", entrypoint=["/bin/busybox"],
                             command=["sleep", "1000"])
    assert made.owns_vm and host.ctl.vm("one")["state"] == "VM_STATE_RUNNING"
    containers.start("one")
    with refused() as error:
        containers.remove("one")
    assert error_info(error.value).reason == "wrong_state"
    containers.remove("one", force=True)
    assert host.ctl.vms() == []


def test_a_vm_whose_containers_cannot_move_stays(host, vm, containers):
    containers.create(vm, name="one", user="0:0", entrypoint=["/bin/busybox"],
                      command=["true"])
    with Rpc(host) as rpc, refused(grpc.StatusCode.FAILED_PRECONDITION) as error:
        rpc.export("session", vm, copy_storage=rpc.pb.COPY_STORAGE_NONE)
    assert error_info(error.value).reason == "scratch_not_shared"
