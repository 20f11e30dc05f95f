"""A small image to run containers of: a busybox and the workload, without a network."""
from . import images
from .build import guest_binaries

NAME = "box"
APPLETS = ("cat", "chmod", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls",
           "mkdir", "ps", "pwd", "readlink", "rm", "sh", "sleep", "stat", "stty", "tail", "touch", "tr",
           "top", "true", "vi", "wc")


def workload():
    """The program that the guest image has, too."""
    return (guest_binaries() / "ferry-workload").read_bytes()


def archive():
    """Its root file system as a tar."""
    entries = {"bin": None, "bin/busybox": images.busybox(), "bin/ferry-workload": workload(),
               "etc": None, "etc/passwd": b"root:x:0:0::/:/bin/sh\nweb:x:7:8::/srv:/bin/sh\n",
               "etc/group": b"root:x:0:\nweb:x:8:\n", "srv": None, "tmp": None, "proc": None,
               "sys": None, "dev": None, "run": None}
    entries.update({f"bin/{applet}": "busybox" for applet in APPLETS})
    return images.make_tar(entries)


def import_into(host, folder):
    """Gives the host the image."""
    tar = folder / "box.tar"
    tar.write_bytes(archive())
    host.ctl.ok("image", "import", NAME, tar)


def layers(host):
    """The files of the host's layers, by name."""
    return sorted(host.outside(host.state / "images" / "layers").iterdir())


def containers(host, *options):
    """What `container list` shows of all, also of those that have stopped."""
    return host.ctl.json("container", "list", "-a", *options).get("containers", [])


def inspect(host, container):
    return host.ctl.json("container", "inspect", container)


def state(host, container):
    """One word; "absent" if there is no such container."""
    for entry in containers(host):
        if container in (entry["spec"]["name"], entry["id"]):
            return entry["state"].lower().replace("container_state_", "")
    return "absent"


def stats(host, container):
    """Its numbers, once."""
    return host.ctl.json("container", "stats", "--no-stream", container)


def run_web_and_job(host, vm):
    """Two containers in the VM, one that runs and one that has ended: their ids. And how to do
    something in the first."""
    web = host.ctl.ok("run", "-d", "--name", "web", "--vm", vm, NAME, "sh", "-c",
                      "while :; do sleep 1; done").strip()
    job = host.ctl.ok("run", "-d", "--name", "job", "--vm", vm, NAME, "cat").strip()

    def in_web(*words):
        return host.ctl.run("exec", "--container", "web", "--", *words)

    return web, job, in_web
