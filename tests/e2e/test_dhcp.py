"""Addresses by DHCP: what a guest gets of a real server, and what becomes of it when the VM moves."""
import pytest

from harness import box, dhcp, lan
from harness.waiting import wait_for

NIC = "bridge=br0,address=dhcp"
PORT = 7000


@pytest.fixture
def network(isolated, two_hosts):
    with lan.Lan(two_hosts) as made:
        yield made


def serve(network, folder):
    return dhcp.Server(network.space, "lan0", folder)


def boot(host, name, nic=NIC):
    host.ctl.create(name, "256M", 1, "--nic", nic)
    host.ctl.start(name)


def seen(host, vm, *command):
    result = host.ctl.exec(vm, *command)
    assert result.returncode == 0, result.stderr
    return result.stdout


def addresses(host, vm):
    return seen(host, vm, "ip", "-4", "addr", "show", "eth0")


def test_a_guest_has_what_the_server_gives_and_keeps_it_when_it_moves(two_hosts, network, tmp_path):
    source, destination = two_hosts
    with serve(network, tmp_path) as server:
        boot(source, "web")
        lease = dhcp.await_lease(source, "web")
        assert lease["gateway"] == lease["server"] == lan.HERE[0]
        assert lease["address"] in addresses(source, "web")
        assert f"default via {lan.HERE[0]}" in seen(source, "web", "ip", "route")
        resolver = f"search example.org\nnameserver {lan.HERE[0]}\n"
        assert seen(source, "web", "cat", "/etc/resolv.conf") == resolver
        assert dhcp.NAMED in seen(source, "web", "nslookup", "-type=a", dhcp.NAME)
        source.ctl.ok("exec", "-d", "web", "--", "nc", "-ll", "-p", str(PORT), "-e", "cat")
        stream = network.stream(lease["address"].split("/")[0], PORT)
        acknowledged = server.count("DHCPACK")
        source.ctl.migrate("web", destination)
        wait_for(lambda: server.count("DHCPACK") > acknowledged, "it does not ask over there")
        assert dhcp.await_lease(destination, "web") == lease
    # It also moves while there is no server.
    destination.ctl.migrate("web", source)
    assert dhcp.await_lease(source, "web") == lease
    assert stream.report()["records"] > 10
    assert server.count("DHCPNAK") == 0
    assert lease["address"] in addresses(source, "web")


def test_without_a_server_a_vm_runs_until_one_comes(two_hosts, network, tmp_path):
    host = two_hosts[0]
    boot(host, "web", f"{NIC},address=2001:db8:2::7/64,dns=192.0.2.53")
    assert dhcp.lease(host, "web") is None
    assert "2001:db8:2::7" in seen(host, "web", "ip", "addr", "show", "eth0")
    assert "inet " not in addresses(host, "web")
    assert seen(host, "web", "cat", "/etc/resolv.conf") == "nameserver 192.0.2.53\n"
    with serve(network, tmp_path):
        lease = dhcp.await_lease(host, "web")
        assert lease["address"] in addresses(host, "web")
        # Name servers that were given are not the server's affair.
        assert "nameserver 192.0.2.53\n" in seen(host, "web", "cat", "/etc/resolv.conf")
        assert lan.HERE[0] not in seen(host, "web", "cat", "/etc/resolv.conf")


def test_on_another_network_it_gets_another_address(two_hosts, network, tmp_path):
    source, destination = two_hosts
    for words in (["link", "add", "other0", "type", "bridge"], ["link", "set", "other0", "up"],
                  ["addr", "add", "198.51.100.1/24", "dev", "other0"]):
        destination.run(["ip", *words], check=True)
    destination.flags = ["--bridge", "br0=other0"]
    destination.restart()
    with serve(network, tmp_path), dhcp.Server(destination.namespace, "other0", tmp_path,
                                               "198.51.100") as other:
        boot(source, "web")
        first = dhcp.await_lease(source, "web")
        source.ctl.migrate("web", destination)
        wait_for(lambda: (dhcp.lease(destination, "web") or first) != first,
                 "it keeps an address of another network")
        second = dhcp.lease(destination, "web")
        assert other.count("DHCPNAK") == 1
        assert second["address"].startswith("198.51.100.") and second["gateway"] == "198.51.100.1"
        now = addresses(destination, "web")
        assert second["address"] in now and first["address"] not in now
        routes = seen(destination, "web", "ip", "route")
        assert "default via 198.51.100.1" in routes and lan.HERE[0] not in routes
        assert "nameserver 198.51.100.1\n" in seen(destination, "web", "cat", "/etc/resolv.conf")


def test_a_saved_vm_asks_again_when_it_comes_back(two_hosts, network, tmp_path):
    host = two_hosts[0]
    with serve(network, tmp_path) as server:
        boot(host, "web")
        lease = dhcp.await_lease(host, "web")
        host.ctl.ok("save", "web")
        acknowledged = server.count("DHCPACK")
        host.ctl.start("web")
        wait_for(lambda: server.count("DHCPACK") > acknowledged, "it does not ask again")
        assert dhcp.await_lease(host, "web") == lease


def test_a_lease_is_renewed(two_hosts, network, tmp_path):
    host = two_hosts[0]
    with serve(network, tmp_path) as server:
        boot(host, "web")
        lease = dhcp.await_lease(host, "web")
        acknowledged = server.count("DHCPACK")
        wait_for(lambda: server.count("DHCPACK") > acknowledged, "it lets its lease end", 100)
        assert dhcp.await_lease(host, "web") == lease


def test_containers_with_the_vms_network_are_told_of_name_servers(two_hosts, network, tmp_path):
    host = two_hosts[0]
    box.import_into(host, tmp_path)
    host.ctl.ok("run", "-d", "--name", "web", "--nic", NIC, "box", "sleep", "1000")
    read = ("exec", "--container", "web", "--", "cat", "/etc/resolv.conf")
    assert host.ctl.ok(*read) == ""
    nameserver = f"nameserver {lan.HERE[0]}\n"
    with serve(network, tmp_path):
        wait_for(lambda: nameserver in host.ctl.ok(*read), "it is not told of the name server")
        joined = ("box", "cat", "/etc/resolv.conf")
        assert nameserver in host.ctl.ok("run", "--rm", "--pod", "web", *joined)
        host.ctl.ok("container", "rm", "-f", "web")
        boot(host, "other")
        dhcp.await_lease(host, "other")
        assert nameserver in host.ctl.ok("run", "--rm", "--vm", "other", "--network", "vm", *joined)
        assert host.ctl.ok("run", "--rm", "--vm", "other", *joined) == ""
