"""A gRPC client of one host's daemon, as an orchestrator would have it."""
import json
import pathlib
import socket
import subprocess
import sys

import grpc

from .build import build_folder

sys.path.insert(0, str(build_folder() / "proto_py"))

from ferry.v1 import error_pb2, migration_pb2, migration_pb2_grpc  # noqa: E402

# Opens a socket in the network that it runs in and hands it to whoever holds the other end.
OPEN_SOCKET = ("import socket; s = socket.socket(); "
               "socket.send_fds(socket.socket(fileno=0), [b'x'], [s.fileno()])")


class Rpc:
    """Calls of the MigrationService with the message types in `pb`."""

    pb = migration_pb2
    DEADLINE = 60
    STREAM_DEADLINE = 240  # a migration may be slow on a machine that is

    def __init__(self, host, security=None, address=None, interceptors=()):
        """With `security` (--tls-* flags) over TCP, by way of `address`; else over the host's
        socket."""
        self._host = host
        if security is None:
            self._channel = grpc.insecure_channel(f"unix:{host.outside(host.socket)}")
        else:
            ca, certificate, key = (pathlib.Path(file).read_bytes() for file in security[1::2])
            self._channel = grpc.secure_channel(
                address, grpc.ssl_channel_credentials(ca, key, certificate),
                [("grpc.ssl_target_name_override", host.address.rsplit(":", 1)[0])])
        self._stub = migration_pb2_grpc.MigrationServiceStub(
            grpc.intercept_channel(self._channel, *interceptors))

    def close(self):
        self._channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def export(self, session, vm, destination="", expiry=0, **options):
        init = self.pb.InitializeOptions(memory_transport=self.pb.MEMORY_TRANSPORT_TCP, **options)
        request = self.pb.PrepareAndExportSandboxRequest(session_id=session, vm=vm, options=init,
                                                         destination=destination, expiry=expiry)
        return self._stub.PrepareAndExportSandbox(request, timeout=self.DEADLINE).config

    def import_sandbox(self, session, config, expiry=0):
        request = self.pb.ImportSandboxRequest(session_id=session, config=config, expiry=expiry)
        self._stub.ImportSandbox(request, timeout=self.DEADLINE)

    def bind(self, session, container, **here):
        """Tells a destination that it has the container's things where the source has them, and
        knows it by the same id, unless told otherwise."""
        request = self.pb.BindContainerRequest(session_id=session, source_container_id=container,
                                               **here)
        return self._stub.BindContainer(request, timeout=self.DEADLINE)

    def receive_layers(self, session):
        return self._stub.ReceiveLayers(self.pb.ReceiveLayersRequest(session_id=session),
                                        timeout=self.DEADLINE)

    def send_layers(self, session, awaited):
        """Has a source send what a destination's receive_layers() says."""
        request = self.pb.SendLayersRequest(session_id=session, layers=awaited.layers,
                                            session_address=awaited.session_address,
                                            session_token=awaited.session_token)
        self._stub.SendLayers(request, timeout=self.STREAM_DEADLINE)

    def prepare(self, session, **options):
        init = self.pb.InitializeOptions(memory_transport=self.pb.MEMORY_TRANSPORT_TCP, **options)
        return self._stub.PrepareSandbox(
            self.pb.PrepareSandboxRequest(session_id=session, init_options=init),
            timeout=self.DEADLINE)

    def transfer(self, session, prepared=None):
        request = self.pb.TransferSandboxRequest(session_id=session, timeout=60)
        if prepared is not None:
            request.session_address = prepared.session_address
            request.session_token = prepared.session_token
        self._stub.TransferSandbox(request, timeout=self.DEADLINE)

    def stop(self, session, proof=b""):
        return self._finalize(session, self.pb.FINALIZE_ACTION_STOP, proof)

    def resume(self, session, proof=b""):
        return self._finalize(session, self.pb.FINALIZE_ACTION_RESUME, proof)

    def _finalize(self, session, action, proof):
        request = self.pb.FinalizeSandboxRequest(session_id=session, action=action, proof=proof)
        return self._stub.FinalizeSandbox(request, timeout=self.DEADLINE).proof

    def cancel(self, session):
        self._stub.Cancel(self.pb.CancelRequest(session_id=session), timeout=self.DEADLINE)

    def cleanup(self, session):
        self._stub.Cleanup(self.pb.CleanupRequest(session_id=session), timeout=self.DEADLINE)

    def session(self, session):
        return self._stub.GetSession(self.pb.GetSessionRequest(session_id=session),
                                     timeout=self.DEADLINE)

    def health(self):
        """The raw answer of gRPC's health service."""
        check = self._channel.unary_unary("/grpc.health.v1.Health/Check")
        return check(b"", timeout=self.DEADLINE)

    def reflected_services(self):
        """The raw answer of gRPC's server reflection to a list_services request."""
        reflect = self._channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        return next(reflect(iter([b"\x3a\x00"]), timeout=self.DEADLINE))

    def migrate(self, request):
        return self._stub.Migrate(request, timeout=self.DEADLINE)

    def sessions(self):
        return self._stub.ListSessions(self.pb.ListSessionsRequest(),
                                       timeout=self.DEADLINE).sessions

    def give_socket(self, session, connected):
        """Hands a connected socket to the daemon and from there to the session."""
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(self.DEADLINE)
            door.connect(str(self._host.outside(self._host.state / "handoff.sock")))
            socket.send_fds(door, [b'{"version":1}\n'], [connected.fileno()])
            answer = json.loads(door.makefile().readline())
        self.redeem(session, answer["ticket"])

    def name_socket(self, session, pid, number):
        """Names a connected socket of a process on the daemon's host."""
        request = self.pb.CreateDuplicateSocketRequest(session_id=session)
        request.process_socket.pid, request.process_socket.fd = pid, number
        self._stub.CreateDuplicateSocket(request, timeout=self.DEADLINE)

    def redeem(self, session, ticket):
        request = self.pb.CreateDuplicateSocketRequest(session_id=session,
                                                       protocol_info=ticket.encode())
        self._stub.CreateDuplicateSocket(request, timeout=self.DEADLINE)

    def notifications(self, session, after=0):
        """The session's notifications as they come; ends when the session does."""
        request = self.pb.NotificationsRequest(session_id=session, after_message_id=after)
        return self._stub.Notifications(request, timeout=self.STREAM_DEADLINE)


def error_info(error):
    """Ferry's details of a failed call, None if it has none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = error_pb2.RichStatus.FromString(value)
            for detail in status.details:
                info = error_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info
    return None


def socket_in(host):
    """A TCP socket that lives in the host's network, in our hands."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(host.wrap([sys.executable, "-c", OPEN_SOCKET], client=True), stdin=theirs,
                       check=True, timeout=30)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=descriptors[0])


def connected_pair(one, other):
    """Both ends of a TCP connection between two hosts."""
    address = other.address.split(":")[0]
    with socket_in(other) as listener:
        listener.bind((address, 0))
        listener.listen(1)
        listener.settimeout(30)
        near = socket_in(one)
        near.settimeout(30)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setblocking(True)
    return near, far
