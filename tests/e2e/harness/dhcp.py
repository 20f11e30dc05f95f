"""A real DHCP server, which answers for names as well."""
import re
import shutil
import subprocess

from .waiting import wait_for

# The only name that it knows.
NAME, NAMED = "shop.example.org", "192.0.2.99"
# The shortest that dnsmasq gives.
LEASE = "2m"


def dnsmasq():
    found = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
    assert found, "dnsmasq is not installed; run tools/setup"
    return found


class Server:
    """Serves one interface of a namespace until it is closed."""

    def __init__(self, space, interface, folder, network="192.0.2"):
        self._log = folder / f"dnsmasq-{interface}.log"
        arguments = [
            "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file",
            f"--interface={interface}", "--except-interface=lo", "--bind-interfaces",
            "--no-resolv", "--no-hosts", f"--address=/{NAME}/{NAMED}", "--domain=example.org",
            f"--dhcp-range={network}.100,{network}.150,255.255.255.0,{LEASE}",
            # All but a few folders are read-only in there.
            f"--dhcp-leasefile=/run/dnsmasq-{interface}.leases", "--dhcp-authoritative",
            "--no-ping", "--log-dhcp", "--log-facility=-"]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                space.wrap([dnsmasq(), *arguments], client=True), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT)
        wait_for(lambda: "DHCP, sockets bound" in self.log() or self._process.poll() is not None,
                 "dnsmasq does not come up")
        assert self._process.poll() is None, self.log()

    def log(self):
        return self._log.read_text(errors="replace")

    def count(self, message):
        """How many messages of that kind it has got or sent, such as DHCPACK."""
        return len(re.findall(rf" {message}\(", self.log()))

    def close(self):
        self._process.terminate()
        self._process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def lease(host, vm):
    """What the VM's first card has, as `vm inspect` says; None if that is nothing."""
    leases = host.ctl.vm(vm).get("leases")
    return leases[0] if leases else None


def await_lease(host, vm, timeout=60):
    wait_for(lambda: lease(host, vm) is not None, f"{vm} gets no lease", timeout)
    return lease(host, vm)
