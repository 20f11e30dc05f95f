"""A VM with containers moves: what they consist of, what runs in them, and who is attached."""
import contextlib
import re
import shutil

import pytest

from harness import box, workload
from harness.box import containers, inspect, state
from harness.ctl import number, parse_json
from harness.driven import PB, Run, refused
from harness.fixtures import lock, note_isolation
from harness.host import Hosts
from harness.inotify import wait_until
from harness.mover import SLOW, wait_until_moving
from harness.rpc import error_info
from harness.waiting import wait_for


CPU_LIMIT = "/sys/fs/cgroup/cpu.max"  # as a container sees its own


@pytest.fixture
def shared(tmp_path):
    return tmp_path


def layers(host):
    return [layer.name for layer in box.layers(host)]


def test_containers_move_with_their_vm_and_their_clients(box_hosts, box_vm, shared):
    source, destination = box_hosts
    ctl = source.ctl
    with ctl.attach("run", "-i", "--name", "web", "--vm", box_vm, "--scratch-dir", shared, "box",
                    "cat") as client:
        client.write(b"before\n")
        client.wait_until(lambda output: output == b"before\n")
        ctl.ok("exec", "--container", "web", "--", "sh", "-c", "echo kept > /kept")
        process = inspect(source, "web")["process_id"]
        assert layers(destination) == []
        ctl.ok("migrate", box_vm, "--to", destination.address, "--dry-run")
        ctl.migrate(box_vm, destination)
        client.write(b"after\n")
        client.wait_until(lambda output: output == b"before\nafter\n")
        assert containers(source) == []
        there = destination.ctl
        assert state(destination, "web") == "running"
        assert inspect(destination, "web")["process_id"] == process
        assert layers(destination) == layers(source)
        assert there.ok("exec", "--container", "web", "--", "cat", "/kept") == "kept\n"
        # And back again, where the layers are already.
        there.migrate(box_vm, source)
        client.write(b"back\n")
        client.wait_until(lambda output: output == b"before\nafter\nback\n")
        assert ctl.ok("exec", "--container", "web", "--", "cat", "/kept") == "kept\n"
        client.close_stdin()
        assert client.wait() == 0
    assert inspect(source, "web")["exit_status"] == {"code": 0}
    assert containers(destination) == []
    ctl.ok("container", "rm", "web")
    assert sorted(path.name for path in shared.glob("*.qcow2*")) == []


def test_containers_move_between_hosts_with_certificates(pytestconfig, authority, tmp_path):
    with Hosts(shared_folder=tmp_path) as hosts:
        note_isolation(pytestconfig, hosts)
        source, destination = lock(hosts, authority).start()
        box.import_into(source, tmp_path)
        source.ctl.create("vm")
        source.ctl.start("vm")
        with source.ctl.attach("run", "-i", "--name", "web", "--vm", "vm", "--scratch-dir", tmp_path,
                               "box", "cat") as client:
            client.write(b"before\n")
            client.wait_until(lambda output: output == b"before\n")
            source.ctl.migrate("vm", destination)
            client.write(b"after\n")
            client.wait_until(lambda output: output == b"before\nafter\n")
            client.close_stdin()
            assert client.wait() == 0
        assert layers(destination) == layers(source)
        assert containers(source) == [] and state(destination, "web") == "stopped"


def test_containers_in_every_state_move_as_they_are(box_hosts, box_vm, shared):
    source, destination = box_hosts
    ctl, there = source.ctl, destination.ctl
    scratch = ("--vm", box_vm, "--scratch-dir", shared)
    ctl.ok("container", "create", "--name", "created", *scratch, "box", "echo", "at last")
    ctl.ok("run", "-d", "--name", "running", *scratch, "box", "sleep", "1000")
    ctl.ok("run", "-d", "-i", "--name", "paused", *scratch, "box", "cat")
    ctl.ok("container", "pause", "paused")
    ctl.ok("run", "-d", "--name", "stopped", *scratch, "box", "sh", "-c", "exit 9")
    ctl.ok("run", "-d", "--name", "bare", "--vm", box_vm, "--read-only", "box", "sleep", "1000")
    unread = ctl.ok("exec", "-d", "--container", "running", "--", "sh", "-c",
                    "echo unread; exit 4").strip()
    wait_until(source.outside(source.state), lambda: state(source, "stopped") == "stopped")
    ctl.migrate(box_vm, destination)
    assert {one["spec"]["name"]: one["state"].removeprefix("CONTAINER_STATE_").lower()
            for one in containers(destination)} == {
                "created": "created", "running": "running", "paused": "paused",
                "stopped": "stopped", "bare": "running"}
    assert inspect(destination, "stopped")["exit_status"] == {"code": 9}
    # Whoever follows that host's events learns of an exit that it was not there for.
    told = {each["attributes"]["name"]: each["attributes"] for each in map(
        parse_json, there.ok("--output", "json", "events").splitlines())
            if each["type"] == "container.arrived"}
    assert {name: each["state"] for name, each in told.items()} == {
        "created": "created", "running": "running", "paused": "paused", "stopped": "stopped",
        "bare": "running"}
    assert told["stopped"]["code"] == "9"
    with there.attach("attach", box_vm, unread) as client:
        assert client.wait() == 4
        assert client.output() == b"unread\n"
    with there.attach("container", "start", "-a", "created") as client:
        assert client.wait() == 0, client.errors()
        assert client.output() == b"at last\n"
    there.ok("container", "resume", "paused")
    with there.attach("container", "attach", "paused") as client:
        client.write(b"awake\n")
        client.wait_until(lambda output: output == b"awake\n")
    for name in ("running", "paused", "bare"):
        there.ok("container", "stop", "-t", "0", name)
    for name in ("created", "running", "paused", "stopped", "bare"):
        there.ok("container", "rm", name)
    assert containers(destination) == []
    assert sorted(path.name for path in shared.glob("*.qcow2*")) == []


def inside(host, container, *words):
    return host.ctl.ok("exec", "--container", container, "--", *words).strip()


def test_a_pod_moves_as_one(box_hosts, box_vm, shared):
    """Its containers share what they shared, within the limits that they had, and whoever talks to
    a process in one goes on talking to it."""
    source, destination = box_hosts
    ctl, there = source.ctl, destination.ctl
    ctl.ok("run", "-d", "-i", "--name", "shop", "--vm", box_vm, "--hostname", "shop",
           "--scratch-dir", shared, "box", "cat")
    ctl.ok("run", "-d", "-i", "--name", "side", "--pod", "shop", "--scratch-dir", shared,
           "--memory", "32M", "--pids", "20", "box", "cat")
    kinds = ("net", "ipc", "uts", "mnt", "pid")
    namespaces = [[inside(source, name, "readlink", f"/proc/self/ns/{kind}") for kind in kinds]
                  for name in ("shop", "side")]
    assert namespaces[0][:3] == namespaces[1][:3]
    ctl.ok("container", "update", "side", "--cpus", "0.25")
    assert inside(source, "side", "cat", CPU_LIMIT) == "25000 100000"
    talks = [ctl.attach("exec", "-i", "--container", name, "--", "cat")
             for name in ("shop", "side") for _ in range(2)]
    with contextlib.ExitStack() as closing:
        for talk in talks:
            closing.enter_context(talk)
            talk.write(b"before\n")
            talk.wait_until(lambda output: output == b"before\n")
        terminal = closing.enter_context(ctl.terminal("exec", "-it", "--container", "side", "--",
                                                      workload.PROGRAM, "keys"))
        terminal.wait_for(b"size 24 80 lines")
        ctl.migrate(box_vm, destination)
        terminal.type(b"q\r")
        assert terminal.wait() == 7
        for talk in talks:
            talk.write(b"after\n")
            talk.wait_until(lambda output: output == b"before\nafter\n")
            talk.close_stdin()
            assert talk.wait() == 0, talk.errors()
    assert namespaces == [[inside(destination, name, "readlink", f"/proc/self/ns/{kind}")
                           for kind in kinds] for name in ("shop", "side")]
    limits = box.stats(destination, "side")
    assert int(limits["memory_limit_bytes"]) == 32 << 20 and int(limits["pids_limit"]) == 20
    assert "memory_limit_bytes" not in box.stats(destination, "shop")
    assert inside(destination, "side", "cat", CPU_LIMIT) == "25000 100000"
    assert inspect(destination, "side")["spec"]["limits"]["cpu_millis"] == 250
    # And it is a pod still.
    box.import_into(destination, shared)
    there.ok("run", "-d", "-i", "--name", "late", "--pod", "shop", "--scratch-dir", shared, "box",
             "cat")
    assert inside(destination, "late", "hostname") == "shop"
    assert inside(destination, "late", "readlink", "/proc/self/ns/net") == namespaces[0][0]


def test_a_scratch_disk_of_one_host_alone_is_refused_with_the_reason(box_hosts, box_vm):
    source, destination = box_hosts
    source.ctl.ok("run", "-d", "--name", "web", "--vm", box_vm, "box", "sleep", "1000")
    as_it_is = ("migrate", box_vm, "--to", destination.address, "--copy-storage", "none")
    answer = source.ctl.run(*as_it_is)
    assert answer.returncode != 0
    assert "scratch disk of container web" in answer.stderr and "--scratch-dir" in answer.stderr
    dry = source.ctl.run(*as_it_is, "--dry-run")
    assert dry.returncode != 0 and "scratch disk of container web" in dry.stdout + dry.stderr
    assert state(source, "web") == "running"
    assert source.ctl.ok("exec", "--container", "web", "--", "echo", "on") == "on\n"


def own_scratch(host):
    """The scratch disks in the host's own folder."""
    return sorted(host.outside(host.state / "containers").glob("*/scratch*"))


def test_a_scratch_disk_of_one_host_alone_comes_along(box_hosts, box_vm):
    if not box_hosts.isolated:
        pytest.skip("the box_hosts share all folders here")
    source, destination = box_hosts
    with source.ctl.attach("run", "-i", "--name", "web", "--vm", box_vm, "box", "sh", "-c",
                           "while read line; do echo $line >> /kept; sync; echo $line; "
                           "done") as client:
        sent = b""
        for owner, other in ((source, destination), (destination, source)):
            for line in (b"before\n", b"after\n"):
                client.write(line)
                sent += line
                client.wait_until(lambda output: output == sent)
                if line == b"before\n":
                    owner.ctl.ok("migrate", box_vm, "--to", other.address, "--dry-run")
                    owner.ctl.migrate(box_vm, other)
            # What it had where it was is of no use to anybody.
            wait_for(lambda: own_scratch(owner) == [], "the source keeps its copy")
            assert len(own_scratch(other)) == 1
            kept = other.ctl.ok("exec", "--container", "web", "--", "cat", "/kept")
            assert kept.encode() == sent
        client.close_stdin()
        assert client.wait() == 0
    source.ctl.ok("container", "rm", "web")
    assert own_scratch(source) == []


def test_a_scratch_disk_stays_whole_where_its_migration_fails(box_hosts, box_vm):
    if not box_hosts.isolated:
        pytest.skip("the box_hosts share all folders here")
    source, destination = box_hosts
    source.ctl.ok("run", "-d", "--name", "web", "--vm", box_vm, "box", "sleep", "1000")
    fill = "i=0; while [ $i -lt 24 ]; do cat /bin/busybox >> /fill; i=$((i+1)); done; sync; echo ok"
    assert source.ctl.ok("exec", "--container", "web", "--", "sh", "-c", fill) == "ok\n"

    def crash():
        destination.kill()
        destination.start()

    for fails in (destination.kill_vmm, crash):
        with source.ctl.attach("migrate", box_vm, "--to", destination.address, "--max-bandwidth",
                               "1M") as migration:
            wait_until_disks_move(source)
            assert len(own_scratch(destination)) == 1
            fails()
            assert migration.wait() != 0
        wait_for(lambda: own_scratch(destination) == [] and not destination.ctl.vms(),
                 "half of it stays")
        assert source.ctl.ok("exec", "--container", "web", "--", "sh", "-c",
                             "echo on > /on; sync; cat /on") == "on\n"
    source.ctl.migrate(box_vm, destination)
    assert destination.ctl.ok("exec", "--container", "web", "--", "cat", "/on") == "on\n"


def wait_until_disks_move(host):
    def move():
        return any(number(host.ctl.session(each["session_id"]).get("progress") or {},
                          "disk_done_bytes")
                   for each in host.ctl.sessions() if not each.get("done"))
    wait_for(move, "no disk is being copied")


def test_a_copy_of_the_scratch_disk_is_not_the_scratch_disk(box_hosts, box_vm, isolated_folder):
    source, destination = box_hosts
    source.ctl.ok("run", "-d", "--name", "web", "--vm", box_vm, "--scratch-dir",
                  isolated_folder.here, "box", "sleep", "1000")
    isolated_folder.copy()
    answer = source.ctl.run("migrate", box_vm, "--to", destination.address, "--copy-storage",
                            "none")
    assert answer.returncode != 0 and "not seen" in answer.stderr, answer.stderr
    assert state(source, "web") == "running"
    assert containers(destination) == [] and destination.ctl.vms() == []
    # It is not taken for one either, if it is to be copied.
    source.ctl.ok("exec", "--container", "web", "--", "sh", "-c", "echo later > /kept")
    source.ctl.migrate(box_vm, destination)
    assert destination.ctl.ok("exec", "--container", "web", "--", "cat", "/kept") == "later\n"
    [scratch] = own_scratch(destination)
    assert scratch.parent.name == inspect(destination, "web")["id"]


@pytest.fixture
def isolated_folder(box_hosts):
    """A folder of the same path on both box_hosts that is not the same folder."""
    class Folder:
        here = box_hosts[0].state.parent / "scratch-of-its-own"

        def copy(self):
            for path in box_hosts[0].outside(self.here).iterdir():
                shutil.copy(path, box_hosts[1].outside(self.here) / path.name)

    if not box_hosts.isolated:
        pytest.skip("the box_hosts share all folders here")
    for host in box_hosts:
        host.outside(Folder.here).mkdir(exist_ok=True)
    return Folder()


def test_a_migration_that_is_called_off_leaves_the_containers_as_they_were(box_hosts, box_vm,
                                                                           shared):
    source, destination = box_hosts
    ctl = source.ctl
    with ctl.attach("run", "-i", "--name", "web", "--vm", box_vm, "--scratch-dir", shared, "box",
                    "cat") as client:
        client.write(b"one\n")
        client.wait_until(lambda output: output == b"one\n")
        moving = ctl.start_migration(box_vm, destination, "--max-bandwidth", "1M")
        with moving:
            moving.wait_until(lambda output: b"TRANSFER_IN_PROGRESS" in output, timeout=60)
            assert ctl.run("container", "rm", "--force", "web").returncode != 0
            session = [one for one in ctl.sessions() if not one.get("done")][0]["session_id"]
            ctl.ok("migration", "cancel", session)
            assert moving.wait() != 0
        client.write(b"two\n")
        client.wait_until(lambda output: output == b"one\ntwo\n")
        assert state(source, "web") == "running"
        assert containers(destination) == [] and destination.ctl.vms() == []
        assert sorted(path.name for path in shared.glob("*.proof")) == []
        client.close_stdin()
        assert client.wait() == 0
    ctl.ok("container", "rm", "web")


def test_what_is_started_while_memory_moves_is_there_afterwards(box_hosts, box_vm, shared):
    source, destination = box_hosts
    ctl = source.ctl
    ctl.ok("container", "create", "-i", "--name", "web", "--vm", box_vm, "--scratch-dir", shared,
           "box", "cat")
    ctl.ok("run", "-d", "--name", "told", "--vm", box_vm, "--scratch-dir", shared, "box", "sh",
           "-c", "trap 'echo heard >> /heard' USR1; while :; do sleep 1000 & wait; done")
    moving = ctl.start_migration(box_vm, destination, "--max-bandwidth", "5M")
    with moving:
        moving.wait_until(lambda output: b"TRANSFER_IN_PROGRESS" in output, timeout=60)
        ctl.ok("container", "kill", "--signal", "USR1", "told")
        ctl.ok("container", "start", "web")
        process = ctl.ok("exec", "-d", "--container", "web", "--", "sleep", "1000").strip()
        with ctl.terminal("exec", "-it", "--container", "web", "--", workload.PROGRAM,
                          "keys") as terminal:
            terminal.wait_for(b"size 24 80 lines")
            terminal.set_size(30, 90)
            terminal.wait_for(b"size 30 90 lines")
            assert b"BLACKOUT_STARTED" not in moving.output(), "all of it was to be before that"
            assert moving.wait() == 0, moving.output()[-2000:]
            terminal.type(b"q\r")
            assert terminal.wait() == 7
    assert state(destination, "web") == "running"
    assert process in [str(one["id"]) for one in destination.ctl.processes(box_vm)]
    inside(destination, "told", "sh", "-c", "while ! [ -s /heard ]; do sleep 0.1; done")
    assert inside(destination, "told", "cat", "/heard") == "heard"
    with destination.ctl.attach("container", "attach", "web") as client:
        client.write(b"here\n")
        client.wait_until(lambda output: output == b"here\n")
        client.close_stdin()
        assert client.wait() == 0


def test_a_container_that_is_to_go_when_it_stops_goes_at_the_destination(box_hosts, box_vm, shared):
    source, destination = box_hosts
    with source.ctl.attach("run", "--rm", "-i", "--name", "web", "--vm", box_vm, "--scratch-dir",
                           shared, "box", "cat") as client:
        client.write(b"one\n")
        client.wait_until(lambda output: output == b"one\n")
        source.ctl.migrate(box_vm, destination)
        client.close_stdin()
        assert client.wait() == 0
    wait_until(destination.outside(destination.state), lambda: containers(destination) == [])
    assert sorted(path.name for path in shared.glob("*.qcow2*")) == []


def test_a_destination_is_prepared_once_it_has_what_the_container_needs(box_hosts, box_vm, shared):
    """As a caller drives it that makes the calls itself."""
    source, destination = box_hosts
    web = source.ctl.ok("run", "-d", "-i", "--name", "web", "--vm", box_vm, "--scratch-dir", shared,
                        "box", "cat").strip()
    with contextlib.closing(Run(box_hosts, box_vm)) as run:
        with refused() as error:
            run.prepare()
        assert error_info(error.value).reason == "containers_unbound"
        assert destination.processes("qemu-system") == []
        missing = run.destination.bind(run.id, web).missing_layers
        assert len(missing) == 1
        with refused() as error:
            run.destination.prepare(run.id)
        assert error_info(error.value).reason == "layers_missing"
        awaited = run.destination.receive_layers(run.id)
        assert awaited.layers == missing
        run.source.send_layers(run.id, awaited)
        run.transfer(run.destination.prepare(run.id))
        run.await_phase(run.source, PB.MIGRATION_PHASE_OFFLINE_DONE)
        run.finalize()
    assert containers(source) == [] and state(destination, "web") == "running"
    assert layers(destination) == layers(source)
    with destination.ctl.attach("container", "attach", "web") as client:
        client.write(b"here\n")
        client.wait_until(lambda output: output == b"here\n")


def test_new_sizes_reach_a_containers_terminals_around_a_migration(box_hosts, box_vm, shared):
    source, destination = box_hosts
    keys = (workload.PROGRAM, "keys")
    with source.ctl.terminal("run", "-it", "--name", "web", "--vm", box_vm, "--scratch-dir", shared,
                             "box", *keys) as main:
        main.wait_for(b"size 24 80 lines")
        with source.ctl.terminal("exec", "-it", "--container", "web", "--", *keys) as other:
            resize_around_a_migration(source, destination, box_vm, (main, other))


def test_who_has_left_a_terminal_comes_back_to_it_at_the_destination(box_hosts, box_vm, shared):
    source, destination = box_hosts
    keys = (workload.PROGRAM, "keys")
    with source.ctl.terminal("run", "-it", "--name", "web", "--vm", box_vm, "--scratch-dir", shared,
                             "box", *keys) as terminal:
        terminal.wait_for(b"size 24 80 lines")
        terminal.type(b"first\r\x10\x11")
        assert terminal.wait() == 0
        assert terminal.is_restored()
    source.ctl.migrate(box_vm, destination)
    with destination.ctl.terminal("container", "attach", "web", rows=40, columns=100) as terminal:
        terminal.wait_for(b"read " + b"first\n".hex().encode())
        terminal.wait_for(b"size 40 100 lines")
        terminal.type(b"q\r")
        assert terminal.wait() == 7


def resize_around_a_migration(source, destination, vm, terminals):
    sizes = [b"size 24 80 lines"]

    def resize(rows, columns):
        sizes.append(b"size %d %d lines" % (rows, columns))
        for terminal in terminals:
            terminal.set_size(rows, columns)

    def assert_arrived():
        for terminal in terminals:
            terminal.wait_for(sizes[-1] + b"\r\n")

    assert_arrived()
    with source.ctl.start_migration(vm, destination, *SLOW) as mover:
        wait_until_moving(mover)
        resize(30, 90)
        assert_arrived()
        (session,) = [one["session_id"] for one in source.ctl.sessions() if not one.get("done")]
        source.ctl.ok("migration", "cancel", session)
        assert mover.wait() != 0
    with source.ctl.start_migration(vm, destination) as mover:
        mover.wait_until(lambda output: b"BLACKOUT_STARTED" in output or not mover.running())
        resize(40, 110)
        assert mover.wait() == 0, mover.errors()
    assert_arrived()
    resize(50, 132)
    assert_arrived()
    # The container ends with the main one.
    for terminal in reversed(terminals):
        # Attaching again may tell the process its size anew, but never another one.
        assert set(re.findall(rb"size \d+ \d+ \w+", terminal.screen())) == set(sizes)
        terminal.type(b"q\r")
        assert terminal.wait() == 7
        assert terminal.is_restored()
