"""Two daemons that know each other and their clients by certificates."""
import subprocess

from harness import workload
from harness.certificates import Authority

SESSION_PORT = 7718


def test_only_clients_with_a_certificate_are_served(secure_hosts, authority, tmp_path):
    ctl = secure_hosts[0].ctl
    known = ctl.security
    assert ctl.over_tcp(known, "vm", "list").returncode == 0
    strangers = Authority(tmp_path, "strangers")
    foreign = strangers.flags("root", ["admin"])
    for security in ([], [*known[:2], *foreign[2:]],
                     authority.flags("old", ["admin"], expired=True)):
        refused = ctl.over_tcp(security, "vm", "list")
        assert refused.returncode == 3 and "no answer from" in refused.stderr, refused
        assert "Cause:" in refused.stderr, refused
    # The Unix socket needs no certificate: it serves root and the daemon's user only.
    ctl.security = []
    assert ctl.vms() == []


def test_a_host_under_another_name_is_not_talked_to(locked_hosts, authority):
    host = locked_hosts[0]
    host.security = authority.flags("host-a", ["peer"], "192.0.2.1")
    host.start()
    refused = host.ctl.over_tcp(authority.flags("alice", ["viewer"]), "vm", "list")
    assert refused.returncode == 3, refused


def test_a_host_whose_certificate_has_expired_says_so(locked_hosts, authority):
    host = locked_hosts[0]
    address = host.address.rsplit(":", 1)[0]
    host.security = authority.flags("host-a", ["peer"], address, expired=True)
    host.start()
    assert "has expired: nobody will accept it" in host.log_tail()
    refused = host.ctl.over_tcp(authority.flags("alice", ["viewer"]), "vm", "list")
    assert refused.returncode == 3, refused


def test_tcp_is_served_with_certificates_or_by_consent_only(bare_hosts):
    host = bare_hosts[0]
    for flags in (["--listen", host.address], ["--migration-listen", host.address]):
        refused = host.run([host.daemon_command()[0], "--state-dir", host.state, *flags],
                           capture_output=True, text=True)
        assert refused.returncode == 2
        assert "needs certificates" in refused.stderr and "--insecure-tcp" in refused.stderr


def test_nothing_below_tls_1_3_is_spoken(locked_hosts, authority):
    host = locked_hosts[0]
    address = host.address.rsplit(":", 1)[0]
    host.flags = ["--migration-listen", f"{address}:{SESSION_PORT}"]
    host.start()
    ca, certificate, key = authority.flags("host-b", ["peer"])[1::2]
    for port in (host.address.rsplit(":", 1)[1], SESSION_PORT):
        for version, spoken in (("-tls1_2", False), ("-tls1_3", True)):
            client = host.run(["openssl", "s_client", "-connect", f"{address}:{port}", version,
                               "-CAfile", ca, "-cert", certificate, "-key", key, "-alpn", "h2",
                               "-verify_return_error"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace")
            assert ("New, TLSv1.3, Cipher is TLS_" in client.stdout) == spoken, client
            assert spoken or "no peer certificate available" in client.stdout, client


def test_a_process_moves_between_hosts_with_certificates(secure_hosts):
    source, destination = secure_hosts
    source.ctl.create("vm")
    source.ctl.start("vm")
    with source.ctl.attach("exec", "-i", "vm", "--", workload.PROGRAM, "tick") as client:
        client.wait_until(lambda output: b"tick" in output)
        for host in (source, destination):
            host.ctl.migrate("vm", secure_hosts.other(host))
            assert secure_hosts.other(host).ctl.state("vm") == "running"
            assert host.ctl.state("vm") == "absent"
        client.write(b"back\n")
        client.wait_until(lambda output: b"echo back\n" in output)
        numbers = [number for number, _ in workload.ticks(client.output())]
        assert workload.lost_and_repeated(numbers, first=numbers[0]) == (0, 0)


def test_a_destination_with_a_foreign_certificate_gets_no_vm(secure_hosts, tmp_path):
    source, destination = secure_hosts
    destination.stop()
    address = destination.address.rsplit(":", 1)[0]
    strangers = Authority(tmp_path, "strangers").flags("host", ["peer"], address)
    destination.security = strangers
    destination.ctl.security = []
    destination.start()
    source.ctl.create("vm")
    source.ctl.start("vm")
    refused = source.ctl.run("migrate", "vm", "--to", destination.address)
    assert refused.returncode != 0 and refused.stderr
    assert source.ctl.state("vm") == "running"
    assert destination.ctl.vms() == []


def test_replaced_certificates_count_without_a_restart(secure_hosts, authority, tmp_path):
    source, destination = secure_hosts
    source.ctl.create("vm")
    source.ctl.start("vm")
    viewer = authority.flags("alice", ["viewer"])
    assert source.ctl.over_tcp(viewer, "vm", "list").returncode == 0
    # A new authority takes over: every file of both hosts is replaced.
    successor = Authority(tmp_path, "successor")
    for host in secure_hosts:
        files = successor.flags(f"host-{host.name}", ["peer"], host.address.rsplit(":", 1)[0])
        for new, old in zip(files[1::2], host.security[1::2]):
            replacement = old.with_suffix(".next")
            replacement.write_bytes(new.read_bytes())
            replacement.rename(old)
    old_ca = tmp_path / "old-ca.crt"
    old_ca.write_bytes(authority.former_certificate)
    late = source.ctl.over_tcp(["--tls-ca", old_ca, *viewer[2:]], "vm", "list")
    assert late.returncode == 3, late
    assert source.ctl.over_tcp(successor.flags("alice", ["viewer"]), "vm", "list").returncode == 0
    source.ctl.migrate("vm", destination)
    assert destination.ctl.state("vm") == "running"
