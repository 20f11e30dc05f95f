"""Hosts that know themselves under names: what is bound and what others are told differ."""
import pytest

from harness.host import PORT


def name_hosts(hosts):
    """Gives both hosts names, as Debian does: a host's own name is a loopback address there."""
    for host in hosts:
        other = hosts.other(host)
        lines = ("127.0.0.1 localhost", f"127.0.1.1 host-{host.name}",
                 f"{other.address.split(':')[0]} host-{other.name}")
        host.run(["sh", "-c", 'printf "%s\\n" "$@" > "$0" && mount --bind "$0" /etc/hosts',
                  host.folder / "hosts", *lines], check=True)
    for host in hosts:
        host.listen = f"0.0.0.0:{PORT}"
        host.address = f"host-{host.name}:{PORT}"


@pytest.mark.parametrize("flags", [[], ["--migration-listen", "0.0.0.0:7720"]],
                         ids=["beside-the-api", "on-a-wildcard"])
@pytest.mark.usefixtures("isolated")
def test_hosts_that_advertise_their_names_migrate_to_each_other(bare_hosts, flags):
    name_hosts(bare_hosts)
    source, destination = bare_hosts
    source.flags = destination.flags = flags
    bare_hosts.start()
    source.ctl.create("named")
    source.ctl.start("named")
    with source.ctl.attach("exec", "-i", "named", "--", "cat") as client:
        client.write(b"before\n")
        client.wait_until(lambda output: output == b"before\n")
        source.ctl.migrate("named", destination)
        client.write(b"after\n")
        client.wait_until(lambda output: output == b"before\nafter\n")
        destination.ctl.migrate("named", source)
        client.close_stdin()
        assert client.wait() == 0, client.errors()
    assert source.ctl.state("named") == "running"
