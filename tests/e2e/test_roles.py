"""What a certificate permits, who gets through the doors without one, and what is written of it."""
import json
import os
import subprocess
import sys

import grpc
import pytest

from harness.rpc import Rpc, error_info
from harness.tunnel import Tunnel

REFUSED = 4  # ferryctl's exit status when nothing was changed
NOBODY = 65534
SESSION_PORT = 7718
# Connects and reads to the end: whoever is served gets HTTP/2's settings and no end.
KNOCK = ("import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
         "sys.exit(0 if s.recv(1) == b'' else 1)")


def audit(host):
    lines = host.outside(host.state / "audit.log").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_each_role_permits_what_it_is_for(locked_hosts, authority):
    host = locked_hosts[0]
    host.start()
    viewer, operator, admin, peer, nobody = (
        authority.flags(name, roles) for name, roles in
        (("alice", ["viewer"]), ("bob", ["operator"]), ("root", ["admin"]), ("host-c", ["peer"]),
         ("carl", [])))
    steps = [
        (viewer, ("vm", "list"), 0), (viewer, ("vm", "create", "v1"), REFUSED),
        (operator, ("vm", "create", "v1"), 0), (operator, ("vm", "delete", "v1"), REFUSED),
        (peer, ("vm", "list"), REFUSED), (nobody, ("vm", "list"), REFUSED),
        (peer, ("migrate", "v1", "--to", "192.0.2.1:1"), REFUSED),
        (admin, ("vm", "delete", "v1"), 0)]
    for security, command, status in steps:
        result = host.ctl.over_tcp(security, *command)
        assert result.returncode == status, (command, result)
        assert status == 0 or "it takes the role" in result.stderr, result
    seen = [(line["name"], line["method"], line["outcome"]) for line in audit(host)]
    assert seen == [
        ("alice", "VmService/CreateVm", "PERMISSION_DENIED"),
        ("bob", "VmService/CreateVm", "begun"), ("bob", "VmService/CreateVm", "OK"),
        ("bob", "VmService/DeleteVm", "PERMISSION_DENIED"),
        ("host-c", "VmService/ListVms", "PERMISSION_DENIED"),
        ("", "VmService/ListVms", "PERMISSION_DENIED"),
        ("host-c", "MigrationService/Migrate", "PERMISSION_DENIED"),
        ("root", "VmService/DeleteVm", "begun"), ("root", "VmService/DeleteVm", "OK")]
    assert audit(host)[1]["roles"] == ["operator"]
    assert audit(host)[1]["request"] == {"name": "v1"}
    log = host.outside(host.state / "audit.log").stat()
    assert log.st_mode & 0o777 == 0o600


def test_the_audit_log_knows_local_users_and_outlives_the_daemon(bare_hosts):
    host = bare_hosts[0]
    host.start()
    host.ctl.create("v1")
    host.kill()
    host.start()
    host.ctl.ok("vm", "delete", "v1")
    assert host.ctl.run("vm", "stop", "v1").returncode == REFUSED
    lines = [(line["uid"], line["method"], line["outcome"], *line["request"].values())
             for line in audit(host)]
    assert lines == [(os.getuid(), f"VmService/{method}", outcome, "v1")
                     for method, end in (("CreateVm", "OK"), ("DeleteVm", "OK"),
                                         ("StopVm", "NOT_FOUND"))
                     for outcome in ("begun", end)]


def test_another_user_is_not_served_locally(bare_hosts):
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    host = bare_hosts[0]
    host.start()
    inside = host.outside(host.socket)
    assert inside.stat().st_mode & 0o777 == 0o600
    knock = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable,
             "-c", KNOCK, host.socket]
    inside.parent.chmod(0o755)
    assert b"PermissionError" in host.run(knock, capture_output=True).stderr
    # And if somebody opened the socket to all, the door behind it stays shut.
    inside.chmod(0o666)
    assert host.run(knock).returncode == 0
    assert [(line["uid"], line["outcome"]) for line in audit(host)] == [
        (NOBODY, "PERMISSION_DENIED")]


def test_a_session_is_its_hosts_and_no_other_host_gets_in(secure_hosts, authority):
    source, destination = secure_hosts
    source.ctl.create("vm")
    source.ctl.start("vm")
    # Host C has a good certificate, and a session with the destination.
    other = authority.flags("host-c", ["peer"])
    with Tunnel(destination) as way, Rpc(source) as there, \
            Rpc(destination, other, way.address) as c, \
            Rpc(destination, source.security, way.address) as a:
        config = there.export("s1", "vm", destination.address)
        c.import_sandbox("s1", config)
        for call in (a.prepare, a.cancel, a.cleanup, a.session):
            with pytest.raises(grpc.RpcError) as caught:
                call("s1")
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert error_info(caught.value).reason == "not_your_session"
        prepared = c.prepare("s1")
        c.transfer("s1")
        # The source's own certificate does not fit C's session, though it shows the token.
        there.transfer("s1", prepared)
        # It fails before the guest was stopped, so that is the end of it.
        for message in there.notifications("s1"):
            if message.notification.phase == Rpc.pb.MIGRATION_PHASE_DONE:
                break
        failed = there.session("s1")
        assert "not host-a's" in failed.error, failed
        there.resume("s1")
        assert source.ctl.state("vm") == "running"
        c.cancel("s1")
    refusals = [line for line in audit(destination) if line["method"] == "session connection"]
    assert [(line["name"], line["request"]["session_id"]) for line in refusals] == [
        ("host-a", "s1")]
    assert refusals[0]["address"].rsplit(":", 1)[0] == source.address.rsplit(":", 1)[0]


def test_who_is_no_host_is_written_at_the_session_port(locked_hosts, authority):
    host = locked_hosts[0]
    address = host.address.rsplit(":", 1)[0]
    host.flags = ["--migration-listen", f"{address}:{SESSION_PORT}"]
    host.start()
    ca, certificate, key = authority.flags("alice", ["admin"])[1::2]
    host.run(["openssl", "s_client", "-connect", f"{address}:{SESSION_PORT}", "-CAfile", ca,
              "-cert", certificate, "-key", key, "-ign_eof"], stdin=subprocess.DEVNULL,
             capture_output=True)
    host.stop()
    line = next(line for line in audit(host) if line["method"] == "session connection")
    assert line["name"] == "alice" and line["roles"] == ["admin"]
    assert line["address"].startswith(f"{address}:")
    assert "has not the role peer" in line["request"]["message"]
