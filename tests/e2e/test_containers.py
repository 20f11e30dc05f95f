"""Containers in VMs, as people run them: like docker's."""
import signal

import pytest

from harness import booted, box
from harness.oracles import assert_next_step

REFUSED = 4
OWN_FAILURE = 125
KILLED = 128 + signal.SIGKILL
KEYS = ("/bin/ferry-workload", "keys")


@pytest.fixture
def host(bare_hosts, request, tmp_path):
    """One that has the image."""
    if "one" in request.fixturenames:
        booted.give(bare_hosts[0])
    bare_hosts[0].start()
    box.import_into(bare_hosts[0], tmp_path)
    return bare_hosts[0]


@pytest.fixture
def one(host):
    """The name of a VM that runs."""
    return booted.run_on(host)


def run(host, *words, **options):
    return host.ctl.run("run", *words, **options)


def run_detached(host, name, *words):
    """A container that runs, with this name; its id."""
    return host.ctl.ok("run", "-d", "--name", name, *words).strip()


def in_container(host, name, *words):
    """What a command in it prints."""
    return host.ctl.ok("exec", "--container", name, "--", *words).strip()


def assert_nothing_there(host):
    assert host.ctl.vms() == []
    assert box.containers(host) == []


def test_run_has_output_and_status_and_its_vm_goes_with_the_container(host):
    result = run(host, "--name", "shop", box.NAME, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 7)
    shop = box.inspect(host, "shop")
    assert shop["state"] == "CONTAINER_STATE_STOPPED"
    assert shop["exit_status"] == {"code": 7}
    assert shop["owns_vm"]
    assert host.ctl.state(shop["vm_name"]) == "running"
    # It ran once.
    again = host.ctl.run("container", "start", "shop")
    assert again.returncode == REFUSED and "stopped" in again.stderr.lower(), again
    host.ctl.ok("container", "rm", "shop")
    assert_nothing_there(host)


def test_run_with_rm_leaves_no_vm_no_container_and_no_scratch_disk(host):
    folder = host.folder / "scratch"
    host.outside(folder).mkdir()
    with host.ctl.attach("run", "-i", "--rm", "--name", "shop", "--scratch-dir", folder,
                         "--scratch-size", "64M", box.NAME, "sh", "-c",
                         "echo up; cat >/tmp/kept; exit 3") as client:
        client.wait_until(lambda output: output == b"up\n")
        file = host.outside(box.inspect(host, "shop")["scratch_file"])
        assert file.exists() and list(host.outside(folder).iterdir()) != []
        client.write(b"x" * 100_000)
        client.close_stdin()
        assert client.wait() == 3, client.errors()
    assert not file.exists()
    assert list(host.outside(folder).iterdir()) == []
    assert_nothing_there(host)


def test_a_shell_on_a_terminal_has_a_vm_of_its_own(host):
    with host.ctl.terminal("run", "-it", box.NAME, "sh", rows=31, columns=97) as terminal:
        terminal.wait_for(b"# ", timeout=180)
        assert terminal.is_raw()
        (shell,) = box.containers(host)
        assert shell["owns_vm"] and host.ctl.state(shell["vm_name"]) == "running"
        terminal.type(b"stty size\r")
        terminal.wait_for(b"31 97\r\n")
        terminal.type(b"echo $((6 * 7))\r")
        terminal.wait_for(b"\n42\r\n")
        terminal.type(b"exit 6\r")
        assert terminal.wait() == 6
        assert terminal.is_restored()
    assert box.inspect(host, shell["id"])["exit_status"] == {"code": 6}
    host.ctl.ok("container", "rm", shell["id"])
    assert_nothing_there(host)


def test_ctrl_c_before_it_runs_takes_everything_back(host):
    with host.ctl.terminal("run", "-it", box.NAME, "sh") as terminal:
        terminal.wait_for(b"starting a VM ...")
        terminal.type(b"\x03")
        assert terminal.wait(120) == 130
        assert terminal.is_restored()
        assert b"Calling it off" in terminal.screen()
    assert_nothing_there(host)


def test_what_cannot_be_run_leaves_nothing_and_says_why(host):
    for words, status, answer in (
            (["-v", "/tmp:/tmp", box.NAME, "sh"], OWN_FAILURE, "could not move with the container"),
            (["no-such-image"], OWN_FAILURE, "no-such-image"),
            ([box.NAME], OWN_FAILURE, "says no command"),
            (["--memory", "1K", box.NAME, "sh"], OWN_FAILURE, "memory limit"),
            (["--pod", "none", box.NAME, "sh"], OWN_FAILURE, "container list"),
            (["-it", box.NAME, "sh"], OWN_FAILURE, "not a terminal"),
            ([box.NAME, "no-such-program"], 127, "no-such-program")):
        result = run(host, *words)
        assert (result.returncode, result.stdout) == (status, ""), (words, result)
        assert answer in result.stderr, (words, result)
        assert_nothing_there(host)


def test_input_reaches_the_container_byte_for_byte(host, one):
    sent = bytes(range(256)) * 12_000
    with host.ctl.attach("run", "-i", "--rm", "--vm", one, box.NAME, "cat") as client:
        client.write(sent)
        client.close_stdin()
        assert client.wait(120) == 0, client.errors()
        assert client.output() == sent
    assert box.containers(host) == []
    assert host.ctl.state(one) == "running"


def test_a_terminal_has_the_windows_size_and_learns_a_new_one(host, one):
    with host.ctl.terminal("run", "-it", "--rm", "--vm", one, box.NAME, "sh",
                           rows=31, columns=97) as terminal:
        terminal.wait_for(b"# ")
        assert terminal.is_raw()
        terminal.type(b"stty size\r")
        terminal.wait_for(b"31 97\r\n")
        terminal.type(b"exit 6\r")
        assert terminal.wait() == 6
        assert terminal.is_restored()
    with host.ctl.terminal("run", "-it", "--rm", "--vm", one, box.NAME, *KEYS) as terminal:
        terminal.wait_for(b"size 24 80 lines")
        terminal.set_size(50, 132)
        terminal.wait_for_line(b"size 50 132")
        terminal.type(b"q\r")
        assert terminal.wait() == 7
        assert terminal.is_restored()


def test_a_detached_container_is_attached_to_and_stopped(host, one):
    command = 'trap "exit 5" TERM; echo up; while read -r line; do echo "got $line"; done'
    container = run_detached(host, "shop", "-i", "--vm", one, box.NAME, "sh", "-c", command)
    assert len(container) == 64
    with host.ctl.attach("container", "attach", container[:12]) as client:
        client.wait_until(lambda output: output == b"up\n")
        client.write(b"a line\n")
        client.wait_until(lambda output: output.endswith(b"got a line\n"))
        assert host.ctl.ok("container", "stop", "-t", "120", "shop") == "shop stopped\n"
        assert client.wait() == 5, client.errors()
    assert box.inspect(host, "shop")["exit_status"] == {"code": 5}
    # One that takes no notice is killed.
    run_detached(host, "deaf", "-i", "--vm", one, box.NAME, "sh", "-c",
                 'trap "" TERM; echo up; cat')
    with host.ctl.attach("container", "attach", "deaf") as client:
        client.wait_until(lambda output: output == b"up\n")
        host.ctl.ok("container", "stop", "-t", "1", "deaf")
        assert client.wait() == KILLED, client.errors()
    # And by hand, at once.
    run_detached(host, "cat", "-i", "--vm", one, box.NAME, "cat")
    host.ctl.ok("container", "kill", "cat")
    host.ctl.ok("container", "stop", "cat")
    assert box.inspect(host, "cat")["exit_status"] == {"signal": 9}
    host.ctl.ok("container", "rm", "shop", "deaf", "cat")
    assert box.containers(host) == []


def test_one_client_takes_a_container_over_from_another(host, one):
    run_detached(host, "shop", "-i", "--vm", one, box.NAME, "cat")
    with host.ctl.attach("container", "attach", "shop") as first:
        first.write(b"mine\n")
        first.wait_until(lambda output: output == b"mine\n")
        assert host.ctl.run("container", "attach", "shop").returncode == OWN_FAILURE
        with host.ctl.attach("container", "attach", "--steal", "shop") as second:
            assert first.wait() == OWN_FAILURE
            second.write(b"yours\n")
            # What the host keeps of a detached process comes first.
            second.wait_until(lambda output: output == b"mine\nyours\n")
            second.close_stdin()
            assert second.wait() == 0


def test_a_container_that_was_made_is_started_later(host, one):
    host.ctl.ok("container", "create", "-i", "--name", "shop", "--vm", one, box.NAME, "cat")
    assert box.state(host, "shop") == "created"
    refused = host.ctl.run("container", "attach", "shop")
    assert refused.returncode == OWN_FAILURE
    assert_next_step(refused.stderr, "container start -a shop")
    with host.ctl.attach("container", "start", "-a", "shop") as client:
        client.write(b"hello\n")
        client.close_stdin()
        assert client.wait() == 0, client.errors()
        assert client.output() == b"hello\n"


def test_exec_in_a_container_has_its_world_and_what_was_given(host, one):
    run_detached(host, "shop", "-i", "--vm", one, "-e", "MODE=fast", "-e", "A=image", "-w", "/srv",
                 "-u", "web", "--hostname", "shop", box.NAME, "cat")
    tell = 'echo "$MODE $A $(id -u):$(id -g) $(pwd) $(hostname)"'
    assert in_container(host, "shop", "sh", "-c", tell) == "fast image 7:8 /srv shop"
    given = host.ctl.ok("exec", "--container", "shop", "-u", "9:10", "-w", "/tmp", "-e", "A=exec",
                        one, "--", "sh", "-c", tell)
    assert given == "fast exec 9:10 /tmp shop\n"
    # Its processes see each other, and nothing of the VM's.
    assert in_container(host, "shop", "readlink", "/proc/1/exe") == "/bin/busybox"
    missing = host.ctl.run("exec", "--container", "shop", "--", "no-such-program")
    assert missing.returncode in (127, OWN_FAILURE) and "no-such-program" in missing.stderr
    unknown = host.ctl.run("exec", "--container", "none", "--", "true")
    assert unknown.returncode == OWN_FAILURE
    assert_next_step(unknown.stderr, "container list")
    assert host.ctl.run("exec", "-u", "7", one, "--", "true").returncode == OWN_FAILURE
    with host.ctl.terminal("exec", "-it", "--container", "shop", "--", *KEYS, rows=20,
                           columns=70) as terminal:
        terminal.wait_for_line(b"size 20 70")
        terminal.type(b"q\r")
        assert terminal.wait() == 7


def test_containers_of_one_vm_share_layers_and_nothing_that_they_write(host, one):
    for name in ("left", "right"):
        run_detached(host, name, "-i", "--vm", one, box.NAME, "cat")
    assert box.inspect(host, "left")["layers"] == box.inspect(host, "right")["layers"]
    assert host.ctl.ok("exec", one, "--", "grep", "-c", " erofs ", "/proc/mounts") == "1\n"
    in_container(host, "left", "touch", "/srv/mine")
    assert in_container(host, "left", "ls", "/srv") == "mine"
    assert in_container(host, "right", "ls", "/srv") == ""
    # The layer goes with the last of them, and the other lives on.
    host.ctl.ok("container", "rm", "-f", "left")
    assert in_container(host, "right", "ls", "/srv") == ""
    host.ctl.ok("container", "rm", "-f", "right")
    assert host.ctl.exec(one, "grep", "-c", " erofs ", "/proc/mounts").stdout == "0\n"


def test_a_read_only_container_writes_nothing(host, one):
    result = run(host, "--rm", "--read-only", "--vm", one, box.NAME, "touch", "/srv/mine")
    assert result.returncode == 1 and "Read-only" in result.stderr, result


def test_a_pod_shares_its_network_and_host_name(host, one):
    run_detached(host, "shop", "-i", "--vm", one, "--hostname", "shop", box.NAME, "cat")
    run_detached(host, "alone", "-i", "--vm", one, box.NAME, "cat")
    run_detached(host, "side", "-i", "--pod", "shop", box.NAME, "cat")

    def spaces(name):
        return [in_container(host, name, "readlink", f"/proc/self/ns/{kind}")
                for kind in ("net", "ipc", "uts", "mnt", "pid")]

    shop, side, alone = spaces("shop"), spaces("side"), spaces("alone")
    assert side[:3] == shop[:3]
    assert all(mine != others for mine, others in zip(side[3:], shop[3:]))
    assert all(mine != others for mine, others in zip(alone, shop))
    assert in_container(host, "side", "hostname") == "shop"
    # The files that say names are the pod's, too.
    in_container(host, "shop", "sh", "-c", "echo 10.0.0.7 db >>/etc/hosts")
    assert in_container(host, "side", "cat", "/etc/hostname") == "shop"
    names = in_container(host, "side", "cat", "/etc/hosts").split()
    assert {"localhost", "shop", "db"} <= set(names)
    assert box.inspect(host, "side")["vm_name"] == one


def test_limits_hold_and_can_be_changed(host, one):
    limit = 32 << 20
    run_detached(host, "shop", "-i", "--vm", one, "--memory", "32m", "--cpus", "0.5", "--pids",
                 "30", box.NAME, "sh", "-c", 'read -r go; tail /dev/zero; echo "ended $?"; cat')
    before = box.stats(host, "shop")
    assert int(before["memory_limit_bytes"]) == limit and int(before["pids_limit"]) == 30
    assert int(before["oom_kills"]) == 0 and int(before["pids"]) == 1
    with host.ctl.attach("container", "attach", "shop") as client:
        client.write(b"go\n")
        client.wait_until(lambda output: output == b"ended 137\n")
        after = box.stats(host, "shop")
        assert int(after["oom_kills"]) >= 1
        assert int(after["cpu_total_ns"]) > int(before["cpu_total_ns"])
        client.close_stdin()
        assert client.wait() == 0, client.errors()
    assert run(host, "--rm", "--vm", one, "--memory", "32M", box.NAME,
               "tail", "/dev/zero").returncode == KILLED
    run_detached(host, "other", "-i", "--vm", one, box.NAME, "cat")
    assert "memory_limit_bytes" not in box.stats(host, "other")
    host.ctl.ok("container", "update", "other", "--memory", "64M", "--cpus", "0.25", "--pids", "9")
    assert int(box.stats(host, "other")["memory_limit_bytes"]) == 64 << 20
    assert int(box.stats(host, "other")["pids_limit"]) == 9
    assert box.inspect(host, "other")["spec"]["limits"] == {
        "memory_bytes": str(64 << 20), "cpu_millis": 250, "pids": 9}
    table = host.ctl.ok("container", "stats").splitlines()
    assert table[0].split() == ["NAME", "VM", "CPU", "MEMORY", "LIMIT", "PIDS", "LIMIT", "READ",
                                "WRITTEN", "OOM", "KILLS"]
    assert [line.split()[0] for line in table[1:]] == ["other"]


def test_a_vm_made_for_a_container_has_room_for_its_limits(host):
    run_detached(host, "shop", "-i", "--memory", "256M", "--cpus", "1.5", box.NAME, "cat")
    vm = host.ctl.vm(box.inspect(host, "shop")["vm_name"])
    assert int(vm["spec"]["memory_mb"]) == 256 + 8 + 128 and vm["spec"]["cpus"] == 2
    host.ctl.ok("container", "rm", "-f", "shop")
    assert_nothing_there(host)


def test_a_paused_container_stands_still_until_it_is_resumed(host, one):
    with host.ctl.attach("run", "-i", "--name", "shop", "--vm", one, box.NAME, "cat") as client:
        client.write(b"before\n")
        client.wait_until(lambda output: output == b"before\n")
        assert host.ctl.ok("container", "pause", "shop") == "shop paused\n"
        assert host.ctl.ok("container", "pause", "shop") == "shop paused\n"
        client.write(b"meanwhile\n")
        refused = host.ctl.run("exec", "--container", "shop", "--", "true")
        assert refused.returncode == OWN_FAILURE and "paused" in refused.stderr.lower(), refused
        assert box.state(host, "shop") == "paused"
        assert client.output() == b"before\n"
        assert host.ctl.ok("container", "resume", "shop") == "shop running\n"
        client.wait_until(lambda output: output == b"before\nmeanwhile\n")
        # One that stands still can be ended all the same.
        host.ctl.ok("container", "pause", "shop")
        host.ctl.ok("container", "stop", "-t", "0", "shop")
        assert client.wait() == KILLED, client.errors()


def test_names_are_a_vms_own(host, one):
    run_detached(host, "shop", "-i", "--vm", one, box.NAME, "cat")
    again = run(host, "-d", "--name", "shop", "--vm", one, box.NAME, "cat")
    assert again.returncode == OWN_FAILURE and "shop" in again.stderr, again
    assert_next_step(again.stderr, "another name")
    for command in (["inspect"], ["stop"], ["rm"], ["kill"], ["pause"], ["stats"]):
        unknown = host.ctl.run("container", *command, "none")
        assert unknown.returncode == REFUSED, (command, unknown)
        assert_next_step(unknown.stderr, "container list")
    host.ctl.create("two")
    host.ctl.start("two")
    second = run_detached(host, "shop", "-i", "--vm", "two", box.NAME, "cat")
    both = host.ctl.run("container", "stop", "shop")
    assert both.returncode == REFUSED
    assert_next_step(both.stderr, "--vm")
    assert host.ctl.json("container", "inspect", "shop", "--vm", "two")["id"] == second
    host.ctl.ok("container", "rm", "-f", "--vm", "two", "shop")
    assert box.inspect(host, "shop")["vm_name"] == one
    running = host.ctl.run("container", "rm", "shop")
    assert running.returncode == REFUSED and "running" in running.stderr.lower(), running


def test_list_and_inspect_tell_what_is_known(host, one):
    container = run_detached(host, "shop", "-i", "--vm", one, "-l", "team=a", "--user", "7:8",
                             box.NAME, "cat")
    assert run(host, "--vm", one, "--name", "gone", box.NAME, "true").returncode == 0
    table = host.ctl.ok("container", "list").splitlines()
    assert table[0].split() == ["NAME", "IMAGE", "STATE", "EXIT", "VM", "CREATED", "ID"]
    (line,) = table[1:]
    name, image, state, ended, vm, _, short = line.split()
    assert (name, image, state, ended, vm) == ("shop", box.NAME, "running", "-", one)
    assert short == container[:12]
    listed = {entry["spec"]["name"]: entry for entry in box.containers(host, "--vm", one)}
    assert set(listed) == {"shop", "gone"}
    assert listed["gone"]["exit_status"] == {"code": 0}
    shop = box.inspect(host, short)
    assert shop["id"] == container and shop["spec"]["labels"] == {"team": "a"}
    assert shop["image_id"] == host.ctl.json("image", "inspect", box.NAME)["id"]
    assert len(shop["layers"]) == 1 and not shop.get("owns_vm")
    assert host.outside(shop["scratch_file"]).exists()
    assert str(shop["process_id"]) in [str(entry["id"]) for entry in host.ctl.processes(one)]


def test_a_daemon_that_is_killed_keeps_containers_and_clients(host, one):
    with host.ctl.attach("run", "-i", "--rm", "--name", "shop", "--vm", one, box.NAME,
                         "sh", "-c", "cat; exit 4") as client:
        client.write(b"before\n")
        client.wait_until(lambda output: output == b"before\n")
        host.kill()
        client.write(b"meanwhile\n")
        host.start()
        client.wait_until(lambda output: output == b"before\nmeanwhile\n")
        assert box.state(host, "shop") == "running"
        assert in_container(host, "shop", "echo", "here") == "here"
        client.close_stdin()
        assert client.wait() == 4, client.errors()
    assert box.containers(host) == []


def test_containers_of_a_vm_that_is_stopped_have_stopped(host, one):
    run_detached(host, "shop", "-i", "--vm", one, box.NAME, "cat")
    file = host.outside(box.inspect(host, "shop")["scratch_file"])
    with host.ctl.attach("container", "attach", "shop") as client:
        client.write(b"here\n")
        client.wait_until(lambda output: output == b"here\n")
        host.ctl.ok("stop", "--force", one)
        assert client.wait(120) != 0
    shop = box.inspect(host, "shop")
    assert shop["state"] == "CONTAINER_STATE_STOPPED"
    assert shop["exit_status"].get("unknown"), shop
    attached = host.ctl.run("container", "attach", "shop")
    assert attached.returncode == OWN_FAILURE
    host.ctl.ok("container", "rm", "shop")
    assert not file.exists()


def test_an_image_that_a_container_uses_is_not_removed(host, one):
    run_detached(host, "shop", "-i", "--vm", one, box.NAME, "cat")
    refused = host.ctl.run("image", "rm", box.NAME)
    user = box.inspect(host, "shop")["id"]
    assert refused.returncode == REFUSED and user in refused.stderr, refused
    host.ctl.ok("container", "rm", "-f", "shop")
    host.ctl.ok("image", "rm", box.NAME)
