"""Containers: run, attached and detached, exec, pods, limits, and what ends them."""
import json
import pathlib
import re

import pytest

from harness import images
from harness.inotify import wait_until

LINKS = ("sh", "cat", "echo", "env", "head", "hostname", "id", "ls", "pwd", "sleep", "stty", "tail",
         "test", "touch", "true")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nalice:x:7:8::/home/alice:/bin/sh\n"


def make_image(host, folder, name="box"):
    """An image of a busybox, imported under this name."""
    tar = images.make_tar({"bin": None, "bin/busybox": images.busybox(), "etc": None,
                           "etc/passwd": PASSWD, "etc/group": b"root:x:0:\nstaff:x:8:\n",
                           "tmp": None, **{f"bin/{link}": "busybox" for link in LINKS}})
    path = pathlib.Path(folder) / f"{name}.tar"
    path.write_bytes(tar)
    host.ctl.ok("image", "import", name, path)
    return name


@pytest.fixture
def host(bare_hosts, tmp_path):
    bare_hosts[0].start()
    make_image(bare_hosts[0], tmp_path)
    return bare_hosts[0]


@pytest.fixture
def ctl(host):
    return host.ctl


@pytest.fixture
def vm(ctl):
    ctl.create("vm")
    ctl.start("vm")
    return "vm"


def containers(ctl, *options):
    value = ctl.json("container", "list", "--all", *options)
    return value.get("containers", []) if isinstance(value, dict) else value


def inspect(ctl, name):
    value = ctl.json("container", "inspect", name)
    return value[0] if isinstance(value, list) else value


def state(ctl, name):
    return inspect(ctl, name)["state"].replace("CONTAINER_STATE_", "").lower()


def scratch_files(host):
    folder = host.outside(host.state / "containers")
    return sorted(folder.rglob("*.qcow2")) if folder.exists() else []


def test_run_gives_output_errors_and_status_and_leaves_nothing(host, ctl):
    result = ctl.run("run", "--rm", "box", "sh", "-c", "echo out; echo err >&2; id -u; exit 7")
    assert (result.stdout, result.returncode) == ("out\n0\n", 7), result.stderr
    assert "err\n" in result.stderr
    assert containers(ctl) == [] and ctl.vms() == [] and scratch_files(host) == []


def test_run_carries_stdin_byte_for_byte(ctl, vm):
    data = bytes(byte for byte in range(256)) * 4000
    with ctl.attach("run", "--rm", "-i", "--vm", vm, "box", "cat") as client:
        client.write(data)
        client.close_stdin()
        assert client.wait(120) == 0, client.errors()
        assert client.output() == data


def test_run_on_a_terminal_feels_like_one(ctl, vm):
    with ctl.terminal("run", "--rm", "-it", "--vm", vm, "box", "sh", rows=31, columns=97) as term:
        term.type(b"stty size\r")
        term.wait_for(b"31 97\r\n")
        term.set_size(50, 132)
        term.type(b"sleep 0; stty size\r")
        term.wait_for(b"50 132\r\n")
        term.type(b"exit 3\r")
        assert term.wait() == 3
        assert term.is_restored()
    assert containers(ctl) == []


def test_detached_container_is_attached_to_and_stopped(ctl, vm):
    container = ctl.ok("run", "-d", "-i", "--name", "web", "--vm", vm, "box", "sh", "-c",
                       "trap 'exit 5' TERM; echo early; while read line; do echo got $line; done"
                       ).strip()
    assert re.fullmatch("[0-9a-f]{64}", container)
    with ctl.attach("container", "attach", "web") as client:
        client.wait_until(lambda output: output == b"early\n")
        client.write(b"one\n")
        client.wait_until(lambda output: output == b"early\ngot one\n")
        # A shell that waits in `read` takes its trap at once.
        ctl.ok("container", "stop", "-t", "60", "web")
        assert client.wait() == 5
    found = inspect(ctl, container[:12])
    assert found["exit_status"] == {"code": 5}
    assert ctl.run("container", "start", "web").returncode != 0
    ctl.ok("container", "rm", "web")
    assert containers(ctl) == []


def test_a_live_mount_is_refused_with_what_to_do(ctl):
    result = ctl.run("run", "--rm", "-v", "/srv:/srv", "box", "true")
    assert result.returncode == 125 or result.returncode == 2
    assert "move" in result.stderr
    assert ctl.vms() == []


def test_exec_has_what_the_container_has_and_what_it_says_itself(ctl, vm):
    ctl.ok("run", "-d", "--name", "web", "--vm", vm, "-e", "A=1", "-e", "B=1", "-w", "/tmp", "box",
           "sleep", "1000")
    run = ctl.ok("exec", "--container", "web", "-e", "B=2", "--", "sh", "-c",
                 "echo $A $B $(pwd) $(id -u)")
    assert run == "1 2 /tmp 0\n"
    run = ctl.ok("exec", "--container", "web", "-u", "7:8", "-w", "/etc", vm, "--", "sh", "-c",
                 "echo $(pwd) $(id -u) $(id -g)")
    assert run == "/etc 7 8\n"
    missing = ctl.run("exec", "--container", "web", "--", "/no/such/program")
    assert missing.returncode in (125, 126, 127)
    ctl.ok("container", "rm", "--force", "web")
    assert "web" in ctl.run("exec", "--container", "web", "--", "true").stderr


def test_containers_of_one_vm_share_layers_and_nothing_else(ctl, vm):
    for name in ("one", "two"):
        ctl.ok("run", "-d", "--name", name, "--vm", vm, "box", "sleep", "1000")
    document = json.loads(ctl.vm(vm)["machine_document_json"])
    disks = document["VirtualMachine"]["Devices"]["Scsi"]["0"]["Attachments"].values()
    assert len([disk for disk in disks if disk["Path"].endswith(".erofs")]) == 1
    assert len([disk for disk in disks if disk["Path"].endswith(".qcow2")]) == 2
    ctl.ok("exec", "--container", "one", "--", "touch", "/mine")
    assert ctl.run("exec", "--container", "two", "--", "test", "-e", "/mine").returncode == 1
    ctl.ok("container", "rm", "--force", "one")
    assert ctl.ok("exec", "--container", "two", "--", "ls", "/bin/busybox") == "/bin/busybox\n"
    ctl.ok("container", "rm", "--force", "two")
    document = json.loads(ctl.vm(vm)["machine_document_json"])
    assert not document["VirtualMachine"].get("Devices", {}).get("Scsi", {}).get("0", {}).get(
        "Attachments")


def test_a_pod_shares_host_name_and_network(ctl, vm):
    ctl.ok("run", "-d", "--name", "pod", "--vm", vm, "box", "sleep", "1000")
    ctl.ok("run", "-d", "--name", "member", "--pod", "pod", "box", "sleep", "1000")
    assert inspect(ctl, "member")["vm_id"] == inspect(ctl, "pod")["vm_id"]
    for namespace in ("net", "ipc", "uts"):
        seen = [ctl.ok("exec", "--container", name, "--", "ls", "-l",
                       f"/proc/self/ns/{namespace}").split("->")[1] for name in ("pod", "member")]
        assert seen[0] == seen[1], namespace
    names = [ctl.ok("exec", "--container", name, "--", "hostname") for name in ("pod", "member")]
    assert names[0] == names[1]


def test_memory_beyond_the_limit_ends_the_container(ctl, vm):
    result = ctl.run("run", "--name", "greedy", "--vm", vm, "--memory", "16M", "box", "sh", "-c",
                     "tail /dev/zero")
    assert result.returncode == 137
    assert inspect(ctl, "greedy")["exit_status"] in ({"signal": 9}, {"code": 137})


def test_paused_container_stands_still_until_it_is_resumed(ctl, vm):
    ctl.ok("run", "-d", "-i", "--name", "web", "--vm", vm, "box", "cat")
    with ctl.attach("container", "attach", "web") as client:
        client.write(b"one\n")
        client.wait_until(lambda output: output == b"one\n")
        ctl.ok("container", "pause", "web")
        assert state(ctl, "web") == "paused"
        client.write(b"two\n")
        refused = ctl.run("exec", "--container", "web", "--", "true")
        assert refused.returncode == 125 and "PAUSED" in refused.stderr
        assert client.output() == b"one\n"
        ctl.ok("container", "resume", "web")
        client.wait_until(lambda output: output == b"one\ntwo\n")


def test_stats_and_limits_can_be_looked_at_and_changed(ctl, vm):
    ctl.ok("run", "-d", "--name", "web", "--vm", vm, "--memory", "32M", "box", "sleep", "1000")
    text = ctl.ok("container", "stats", "--no-stream", "web")
    assert "web" in text and "32" in text
    ctl.ok("container", "update", "--memory", "48M", "web")
    text = ctl.ok("container", "stats", "--no-stream", "web")
    assert "48" in text


def test_a_name_is_taken_once_and_unknown_ones_are_said(ctl, vm):
    ctl.ok("run", "-d", "--name", "web", "--vm", vm, "box", "sleep", "1000")
    twice = ctl.run("run", "-d", "--name", "web", "--vm", vm, "box", "sleep", "1000")
    assert twice.returncode == 125 and "web" in twice.stderr
    assert len(containers(ctl)) == 1
    unknown = ctl.run("container", "inspect", "nobody")
    assert unknown.returncode != 0 and "nobody" in unknown.stderr
    assert ctl.run("run", "--rm", "--vm", vm, "nothing", "true").returncode == 125
    assert len(containers(ctl)) == 1


def test_a_daemon_that_dies_keeps_containers_and_their_clients(host, ctl, vm):
    ctl.ok("run", "-d", "-i", "--name", "web", "--vm", vm, "box", "cat")
    with ctl.attach("container", "attach", "web") as client:
        client.write(b"before\n")
        client.wait_until(lambda output: output == b"before\n")
        host.kill()
        host.start()
        client.write(b"after\n")
        client.wait_until(lambda output: output == b"before\nafter\n")
        assert state(ctl, "web") == "running"
        assert ctl.ok("exec", "--container", "web", "--", "echo", "in it") == "in it\n"
        client.close_stdin()
        assert client.wait() == 0
    wait_until(host.outside(host.state), lambda: state(ctl, "web") == "stopped")
    ctl.ok("container", "rm", "web")


def test_a_vm_that_stops_ends_its_containers_with_a_status_that_nobody_knows(ctl, vm):
    ctl.ok("run", "-d", "--name", "web", "--vm", vm, "box", "sleep", "1000")
    ctl.ok("vm", "stop", "--force", vm)
    assert state(ctl, "web") == "stopped"
    assert inspect(ctl, "web")["exit_status"] == {"unknown": True}
    ctl.start(vm)
    assert state(ctl, "web") == "stopped"
    ctl.ok("container", "rm", "web")


def test_an_image_in_use_is_kept(host, ctl, vm):
    ctl.ok("run", "-d", "--name", "web", "--vm", vm, "box", "sleep", "1000")
    refused = ctl.run("image", "rm", "box")
    assert refused.returncode != 0
    ctl.ok("container", "rm", "--force", "web")
    ctl.ok("image", "rm", "box")
    assert scratch_files(host) == []
