"""Two daemons that know each other and their clients by certificates."""
import pytest

from harness import workload
from harness.certificates import Authority
from harness.ctl import Ctl


@pytest.fixture
def secure_hosts(bare_hosts, tmp_path):
    authority = Authority(tmp_path)
    client = authority.flags("client")
    for host in bare_hosts:
        address = host.address.rsplit(":", 1)[0]
        host.security = authority.flags(f"host-{host.name}", address)
        host.ctl.security = client
    return bare_hosts.start()


def over_tcp(host, security, *command):
    """ferryctl with these --tls-* flags, by way of the host's TCP address."""
    ctl = Ctl(host)
    ctl.address, ctl.security = host.address, security
    return ctl.run(*command, timeout=60)


def test_only_clients_with_a_certificate_are_served(secure_hosts, tmp_path):
    host = secure_hosts[0]
    known = host.ctl.security
    assert over_tcp(host, known, "vm", "list").returncode == 0
    plain = over_tcp(host, [], "vm", "list")
    assert plain.returncode != 0 and plain.stderr
    stranger = Authority(tmp_path, "strangers").flags("client")
    foreign = over_tcp(host, ["--tls-ca", known[1], *stranger[2:]], "vm", "list")
    assert foreign.returncode != 0 and foreign.stderr
    # The Unix socket needs no certificate: its folder is closed to others.
    host.ctl.security = []
    assert host.ctl.vms() == []


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
    strangers = Authority(tmp_path, "strangers").flags("host", address)
    destination.security = strangers
    destination.ctl.security = []
    destination.start()
    source.ctl.create("vm")
    source.ctl.start("vm")
    refused = source.ctl.run("migrate", "vm", "--to", destination.address)
    assert refused.returncode != 0 and refused.stderr
    assert source.ctl.state("vm") == "running"
    assert destination.ctl.vms() == []
