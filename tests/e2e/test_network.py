"""Network cards: what the guest gets, what stays of it when the VM moves, and what is refused."""
import pytest

from harness import box, lan
from harness.ctl import number, parse_json
from harness.oracles import wait_for_state

NIC = ("bridge=br0,address=192.0.2.7/24,address=2001:db8:2::7/64,gateway=192.0.2.1,"
       "gateway=2001:db8:2::1")
MAC = "02:fe:00:00:00:07"
PORT = 7000


def boot(host, name, *nics, serve=True):
    """A VM with these cards, and a server in it that sends back what it gets."""
    host.ctl.create(name, "256M", 1, *(word for nic in nics for word in ("--nic", nic)))
    host.ctl.start(name)
    if serve:
        host.ctl.ok("exec", "-d", name, "--", "nc", "-ll", "-p", str(PORT), "-e", "cat")


def dry_run(source, vm, destination):
    result = source.ctl.run("--output", "json", "migrate", vm, "--to", destination.address,
                            "--dry-run")
    return {check["name"]: check for check in parse_json(result.stdout)["checks"]}


def assert_stays(source, destination, vm):
    assert source.ctl.state(vm) == "running"
    assert destination.ctl.state(vm) == "absent"
    assert destination.processes("qemu-system") == []


def taps(host):
    """The tap devices in a host's bridges: name to whether it is up."""
    lines = host.run(["ip", "-o", "link", "show", "type", "tun"], check=True, text=True,
                     capture_output=True).stdout.splitlines()
    return {line.split(": ")[1]: ",UP" in line.split(">")[0] for line in lines}


@pytest.fixture
def network(isolated, two_hosts):
    with lan.Lan(two_hosts) as made:
        yield made


def migrate_there_and_back(hosts, vm, times):
    """Blackouts in milliseconds."""
    blackouts = []
    source, destination = hosts
    for _ in range(times):
        session = source.ctl.migrate(vm, destination)
        blackouts.append(number(session["statistics"], "blackout_ms"))
        source, destination = destination, source
    return blackouts


def test_connections_survive_migrations(two_hosts, network):
    boot(two_hosts[0], "web", NIC)
    streams = [network.stream(address, PORT) for address in lan.GUEST]
    pings = [network.ping(address) for address in lan.GUEST]
    blackouts = migrate_there_and_back(two_hosts, "web", 10)
    reports = [stream.report() for stream in streams]
    lost = [ping.report() for ping in pings]
    print(f"blackouts {blackouts} ms; streams {reports}; pings {lost}")
    for report in reports:
        assert report["records"] > 100
    for report in lost:
        assert report["lost"] < report["sent"] / 2
    assert list(taps(two_hosts[0]).values()) == [True]
    assert taps(two_hosts[1]) == {}


def test_connections_to_a_container_survive_migrations(two_hosts, network, tmp_path):
    source, destination = two_hosts
    box.import_into(source, tmp_path)
    source.ctl.ok("run", "-d", "--name", "web", "--read-only", "--nic", NIC, "box", "busybox", "nc",
                  "-ll", "-p", str(PORT), "-e", "cat")
    vm = box.inspect(source, "web")["vm_name"]
    streams = [network.stream(address, PORT) for address in lan.GUEST]
    blackouts = migrate_there_and_back(two_hosts, vm, 10)
    reports = [stream.report() for stream in streams]
    print(f"blackouts {blackouts} ms; streams {reports}")
    for report in reports:
        assert report["records"] > 100
    # So has whatever joins it; and others have nothing of it.
    look = ("--read-only", "box", "cat", "/proc/net/dev")
    assert "eth0" in source.ctl.ok("run", "--rm", "--pod", "web", *look)
    source.ctl.ok("container", "rm", "-f", "web")
    assert taps(source) == taps(destination) == {}
    boot(source, "other", "user", serve=False)
    assert "eth0" in source.ctl.ok("run", "--rm", "--vm", "other", "--network", "vm", *look)
    assert "eth0" not in source.ctl.ok("run", "--rm", "--vm", "other", *look)


def test_where_a_vm_is_is_announced(two_hosts, network):
    boot(two_hosts[0], "web", f"{NIC},mac={MAC}", serve=False)
    announced = network.listen(1, MAC)
    two_hosts[0].ctl.migrate("web", two_hosts[1])
    seen = announced.report()
    assert all(seen.values()), seen


def test_a_rolled_back_vm_keeps_its_connections(two_hosts, network):
    source, destination = two_hosts
    boot(source, "web", f"{NIC},mac={MAC}")
    stream = network.stream(lan.GUEST[0], PORT)
    destination.freeze_at("PREPARED.before")
    client = source.ctl.start_migration("web", destination)
    destination.wait_frozen()
    announced = network.listen(0, MAC)
    destination.kill()
    client.wait(120)
    client.close()
    wait_for_state(source, "web", "running")
    assert stream.report()["records"] > 10
    seen = announced.report()
    assert all(seen.values()), seen
    assert list(taps(source).values()) == [True]


def test_a_missing_bridge_is_refused_and_may_be_mapped(isolated, two_hosts):
    source, destination = two_hosts
    with lan.Lan(two_hosts, ("br0", "other0")) as network:
        boot(source, "web", NIC)
        check = dry_run(source, "web", destination)["networks"]
        assert check["result"] == "PREFLIGHT_RESULT_FAIL"
        assert "no bridge br0" in check["message"] and "ferryd --bridge br0=NAME" in check["message"]
        refused = source.ctl.run("migrate", "web", "--to", destination.address)
        assert refused.returncode != 0 and "no bridge br0" in refused.stderr
        assert_stays(source, destination, "web")
        destination.flags = ["--bridge", "br0=other0"]
        destination.restart()
        stream = network.stream(lan.GUEST[0], PORT)
        source.ctl.migrate("web", destination)
        assert stream.report()["records"] > 0


def test_a_mac_address_that_is_taken_is_refused(two_hosts):
    source, destination = two_hosts
    mac = "user,mac=02:fe:00:00:00:01"
    boot(source, "web", mac, serve=False)
    again = source.ctl.run("vm", "create", "twin", "--nic", mac)
    assert again.returncode != 0 and "VM web" in again.stderr
    destination.ctl.ok("vm", "create", "twin", "--nic", mac)
    assert dry_run(source, "web", destination)["networks"]["result"] == "PREFLIGHT_RESULT_FAIL"
    refused = source.ctl.run("migrate", "web", "--to", destination.address)
    assert refused.returncode != 0 and "02:fe:00:00:00:01" in refused.stderr
    assert_stays(source, destination, "web")


def test_a_card_without_rights_moves_too(two_hosts):
    boot(two_hosts[0], "web", "user,name=up0", serve=False)
    source, destination = two_hosts
    mac = source.ctl.vm("web")["spec"]["nics"][0]["mac"]
    source.ctl.migrate("web", destination)
    seen = destination.ctl.exec("web", "ip", "addr", "show", "up0").stdout
    assert mac in seen and "10.0.2.15/24" in seen
    assert "default via 10.0.2.2" in destination.ctl.exec("web", "ip", "route").stdout


def test_a_saved_vm_comes_back_with_its_card(two_hosts, network):
    host = two_hosts[0]
    boot(host, "web", NIC)
    streams = [network.stream(address, PORT) for address in lan.GUEST]
    host.ctl.ok("save", "web")
    assert taps(host) == {}
    host.ctl.start("web")
    assert network.stream(lan.GUEST[1], PORT).report()["records"] > 0
    # What was open goes on.
    for stream in streams:
        assert stream.report()["records"] > 0
    host.run(["ip", "link", "delete", "br0"], check=True)
    host.ctl.ok("save", "web")
    refused = host.ctl.run("start", "web")
    assert refused.returncode != 0 and "no bridge br0" in refused.stderr
    assert host.ctl.state("web") == "saved"


def test_a_restarted_daemon_knows_its_cards(two_hosts, network):
    source, destination = two_hosts
    boot(source, "web", f"{NIC},mac={MAC}")
    stream = network.stream(lan.GUEST[0], PORT)
    source.kill()
    announced = network.listen(0, MAC)
    source.start()
    seen = announced.report()
    assert all(seen.values()), seen
    source.ctl.migrate("web", destination)
    assert stream.report()["records"] > 0
    assert taps(source) == {}


def test_cards_that_share_what_they_may_not_are_refused(two_hosts):
    host = two_hosts[0]
    refused = host.ctl.run("vm", "create", "web", "--nic", "user", "--nic", "user")
    assert refused.returncode != 0 and "another card has its address" in refused.stderr
    host.ctl.ok("vm", "create", "web", "--nic", "user", "--nic", NIC)
    lone, bridged = host.ctl.vm("web")["spec"]["nics"]
    assert lone["addresses"] == ["10.0.2.15/24"] and not lone.get("gateways")
    assert bridged["gateways"] == ["192.0.2.1", "2001:db8:2::1"]


@pytest.mark.parametrize("nic, says", [
    ("bridge=br0,tap=tap0", "one place only"),
    ("name=eth0", "plugged in nowhere"),
    ("bridge=sixteen-letters-", "at most 15"),
    ("bridge=br0,mac=x", "no MAC address"),
    ("bridge=br0,address=192.0.2.7", "192.0.2.7/24"),
    ("bridge=br0,address=192.0.2.7/24,gateway=10.0.0.1", "in the network of one"),
    ("bridge=br0,address=dhcp,address=192.0.2.7/24", "beside dhcp"),
    ("user,address=dhcp", "known there"),
    ("bridge=br0,dns=shop.example.org", "no IP address"),
])
def test_what_cannot_be_is_refused(two_hosts, nic, says):
    refused = two_hosts[0].ctl.run("vm", "create", "web", "--nic", nic)
    assert refused.returncode != 0 and says in refused.stderr, refused.stderr
