"""Certificates made by `ferryctl pki`: enough for a fleet, and nothing is overwritten."""
import json
import subprocess

import pytest

from harness.ctl import ferryctl


def pki(*arguments, **options):
    return subprocess.run([ferryctl(), *map(str, arguments)], capture_output=True, text=True,
                          timeout=60, **options)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pki"
    made = pki("pki", "init", folder)
    assert made.returncode == 0, made
    assert "copy it to every host" in made.stdout
    return folder


def show(file):
    return json.loads(pki("--output", "json", "pki", "show", file).stdout)


def test_files_are_private_and_never_overwritten(folder):
    assert pki("pki", "issue", folder, "alice", "--role", "viewer").returncode == 0
    before = {file: (file.read_bytes(), file.stat().st_mode & 0o777)
              for file in folder.iterdir()}
    assert sorted(file.name for file in before) == ["alice.key", "alice.pem", "ca.key", "ca.pem"]
    assert {mode for _, mode in before.values()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    for again in (("init", folder), ("issue", folder, "alice", "--role", "admin")):
        refused = pki("pki", *again)
        assert refused.returncode == 4 and "is not overwritten" in refused.stderr, refused
    (folder / "alice.key").unlink()
    assert pki("pki", "issue", folder, "alice", "--role", "admin").returncode == 4
    assert not (folder / "alice.key").exists()
    assert (folder / "alice.pem").read_bytes() == before[folder / "alice.pem"][0]


def test_what_was_issued_is_shown(folder):
    issued = pki("pki", "issue", folder, "host-a", "--role", "peer", "--role", "operator", "--san",
                 "DNS:host-a.example.net", "--san", "IP:192.0.2.1", "--days", "7")
    assert issued.returncode == 0 and "start ferryd there with" in issued.stdout, issued
    shown = show(folder / "host-a.pem")
    assert shown["name"] == "host-a" and shown["roles"] == ["operator", "peer"]
    assert shown["names"][:2] == ["DNS:host-a.example.net", "IP:192.0.2.1"]
    assert shown["validity"] == "valid" and shown["issuer"] == "Ferry CA"
    assert 7 * 86400 <= shown["not_after"] - shown["not_before"] <= 8 * 86400
    assert show(folder / "ca.pem")["is_authority"]
    text = pki("pki", "show", folder / "host-a.pem").stdout
    assert "Roles:   operator, peer" in text and "(valid)" in text


def test_bad_orders_are_refused_and_leave_nothing(folder):
    before = sorted(folder.iterdir())
    for order in (("alice",), ("alice", "--role", "root"), ("../alice", "--role", "viewer"),
                  ("ca", "--role", "admin"), ("a" * 65, "--role", "viewer"),
                  ("alice", "--role", "viewer", "--days", "0"),
                  ("alice", "--role", "viewer", "--days", "4000"),
                  ("host", "--role", "peer", "--san", "host"),
                  ("host", "--role", "peer", "--san", "DNS:*.example.net")):
        assert pki("pki", "issue", folder, *order).returncode == 2, order
    assert pki("pki", "issue", folder.parent, "alice", "--role", "viewer").returncode == 2
    assert sorted(folder.iterdir()) == before


def test_the_authoritys_files_are_not_anybodys(folder, tmp_path):
    refused = pki("pki", "issue", folder, "ca", "--role", "peer", "--out", tmp_path / "out")
    assert refused.returncode == 2 and "authority's own files" in refused.stderr, refused
    assert not (tmp_path / "out").exists()


def test_what_did_not_fit_on_the_disk_is_not_left_there(folder):
    before = sorted(folder.iterdir())
    issue = [ferryctl(), "pki", "issue", folder, "alice", "--role", "viewer"]
    # The key is written in part and the kernel says how much, as on a full disk.
    full = subprocess.run(["prlimit", "--fsize=100", *map(str, issue)], capture_output=True,
                          text=True, timeout=60)
    assert full.returncode != 0 and "cannot write" in full.stderr, full
    assert sorted(folder.iterdir()) == before


def test_a_fleet_works_with_what_was_made(bare_hosts, folder):
    def issue(name, role, *more):
        made = pki("pki", "issue", folder, name, "--role", role, *more)
        assert made.returncode == 0, made
        return ["--tls-ca", folder / "ca.pem", "--tls-cert", folder / f"{name}.pem", "--tls-key",
                folder / f"{name}.key"]

    for host in bare_hosts:
        address = host.address.rsplit(":", 1)[0]
        host.security = issue(f"host-{host.name}", "peer", "--san", f"IP:{address}")
        host.ctl.address = host.address
        host.ctl.security = []
    operator = issue("alice", "operator")
    for host in bare_hosts:
        host.ctl.security = operator
    source, destination = bare_hosts.start()
    source.ctl.create("vm")
    source.ctl.start("vm")
    source.ctl.migrate("vm", destination)
    assert destination.ctl.state("vm") == "running"
