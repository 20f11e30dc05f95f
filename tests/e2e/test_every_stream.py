"""What is promised of streams, of every kind of process at once: of the VM, a container's own and
others in it, with pipes and with a terminal."""
import contextlib
import json
import random
import signal
import time

import pytest

from harness import box, streams, workload
from harness.ctl import number
from harness.driven import PB, Run
from harness.flood import MUCH
from harness.mover import SLOW, phase_seen, wait_until_moving
from harness.talk import Conversation
from harness.waiting import wait_for

PACE = 0.05  # of each conversation, in seconds between two lines
TICK = 10_000  # of each process, in microseconds
MEMORY_GROWTH_KIB = 24 * 1024
FLOOD = b"flood %d\n"


@pytest.fixture
def folder(tmp_path):
    """Where scratch disks lie that both hosts see."""
    return tmp_path


@pytest.fixture
def talks(box_hosts, box_vm, folder):
    """A conversation with one of each kind."""
    with streams.open_all(box_hosts[0], box_vm, folder, *streams.ticker(TICK)) as clients, \
            contextlib.ExitStack() as closing:
        made = {}
        for kind, client in clients.items():
            made[kind] = Conversation(client, PACE)
            closing.callback(made[kind].close)
        yield made


def assert_all_go_on(talks):
    for kind, talk in talks.items():
        print(f"{kind}:")  # for whoever sees one fail
        talk.assert_goes_on()


def test_ten_migrations(box_hosts, box_vm, talks):
    host = box_hosts[0]
    for _ in range(10):
        host.ctl.migrate(box_vm, box_hosts.other(host))
        host = box_hosts.other(host)
    assert_all_go_on(talks)


def test_a_migration_that_is_called_off(box_hosts, box_vm, talks):
    source, destination = box_hosts
    with source.ctl.start_migration(box_vm, destination, *SLOW) as mover:
        wait_until_moving(mover)
        session, = [one["session_id"] for one in source.ctl.sessions() if not one.get("done")]
        source.ctl.ok("migration", "cancel", session)
        assert mover.wait() != 0
    assert_all_go_on(talks)
    source.ctl.migrate(box_vm, destination)
    assert_all_go_on(talks)


def test_a_migration_that_is_rolled_back_when_all_was_there(box_hosts, box_vm, talks):
    source, destination = box_hosts
    with contextlib.closing(Run(box_hosts, box_vm)) as run:
        config = run.source.export(run.id, box_vm, destination.address)
        run.destination.import_sandbox(run.id, config)
        for container in box.containers(source):
            run.destination.bind(run.id, container["id"])
        run.source.send_layers(run.id, run.destination.receive_layers(run.id))
        run.transfer(run.destination.prepare(run.id))
        run.await_phase(run.source, PB.MIGRATION_PHASE_OFFLINE_DONE)
        run.source.resume(run.id)
    assert source.ctl.state(box_vm) == "running"
    assert_all_go_on(talks)
    source.ctl.migrate(box_vm, destination)
    assert_all_go_on(talks)


def test_daemons_that_are_killed(box_hosts, box_vm, talks):
    source, destination = box_hosts
    source.kill()
    source.start()
    assert_all_go_on(talks)
    with source.ctl.start_migration(box_vm, destination, *SLOW) as mover:
        wait_until_moving(mover)
        source.kill()
    source.start()
    assert_all_go_on(talks)
    wait_for(lambda: not destination.processes("qemu-system"), "the destination keeps something")
    source.ctl.migrate(box_vm, destination)
    destination.kill()
    destination.start()
    assert_all_go_on(talks)


def printed(host, vm):
    """{process: bytes that it has got rid of} of all that flood, by the guest's kernel."""
    script = ('for p in $(pidof ferry-workload); do '
              'echo "$p $(grep wchar /proc/$p/io)"; done')
    lines = [line.split() for line in host.ctl.ok("exec", vm, "--", "sh", "-c", script).splitlines()]
    return {int(process): int(count) for process, _, count in lines}


def assert_get_more(readers):
    for reader in readers.values():
        taken = reader.received
        reader.wait_until(lambda output, taken=taken: len(output) > taken + 100_000, timeout=120)


def test_readers_that_stand_still(box_hosts, box_vm, folder):
    """Over two migrations: each blocks its process, and nothing else; then all of it comes. Before
    that they keep up, over one."""
    source, destination = box_hosts
    with streams.open_all(source, box_vm, folder, "sh", "-c",
                          f"echo up; read -r go; exec {workload.PROGRAM} flood") as readers:
        for reader in readers.values():
            reader.wait_until(lambda output: b"up\n" in output)
        for reader in readers.values():
            reader.write(b"go\n")
        assert_get_more(readers)
        source.ctl.migrate(box_vm, destination)
        assert_get_more(readers)
        source, destination = destination, source
        for reader in readers.values():
            reader.signal(signal.SIGSTOP)
        wait_for(lambda: printed(source, box_vm) == printed(source, box_vm),
                 "they print although nobody reads")
        stood = printed(source, box_vm)
        assert len(stood) == len(readers)
        before = {host: host.resident_kib() for host in box_hosts}
        for host in (source, destination):
            host.ctl.migrate(box_vm, box_hosts.other(host))
            assert box_hosts.other(host).ctl.exec(box_vm, "echo", "served").stdout == "served\n"
        assert printed(source, box_vm) == stood
        for host in box_hosts:
            assert host.resident_kib() - before[host] < MEMORY_GROWTH_KIB, host.name
        for kind, reader in readers.items():
            taken = reader.received
            reader.signal(signal.SIGCONT)
            reader.wait_until(lambda output: len(output) > taken + MUCH, timeout=120)
            reader.signal(signal.SIGSTOP)
            lines = workload.whole_lines(reader.output())
            count = lines.count(b"\n")
            assert lines == b"up\n" + b"".join(FLOOD % each for each in range(count - 1)), kind


def test_input_that_ends_just_before(box_hosts, box_vm, folder):
    """All of it arrives, and its end, and all of what comes back; then the status, once."""
    source, destination = box_hosts
    data = random.Random(5).randbytes(300_000)
    with_pipes = [kind for kind in streams.KINDS if not kind[1]]
    command = f"echo up >&2; {workload.PROGRAM} cat; exit 7"
    with streams.open_all(source, box_vm, folder, "sh", "-c", command, kinds=with_pipes) as pipes, \
            contextlib.ExitStack() as closing:
        at_terminals = {
            place: closing.enter_context(source.ctl.terminal(*words, "sh", "-c",
                                                             "stty -echo; echo up; cat; exit 8"))
            for place, words in (
                (streams.OF_THE_VM, ("exec", "-it", box_vm, "--")),
                (streams.INIT, ("run", "-it", "--vm", box_vm, "--scratch-dir", folder, box.NAME)),
                (streams.IN_CONTAINER, ("exec", "-it", "--container", "home", "--")))}
        for client in pipes.values():
            client.wait_for_errors("up")
            client.write(data)
            client.close_stdin()
        for terminal in at_terminals.values():
            terminal.wait_for(b"up")
            terminal.type(b"all of it\r\x04")
        source.ctl.migrate(box_vm, destination)
        for kind, client in pipes.items():
            assert client.wait(120) == 7, (kind, client.errors())
            assert client.output() == data, kind
        for place, terminal in at_terminals.items():
            assert terminal.wait() == 8, place
            assert terminal.lines()[-1] == b"all of it", place


ROUNDS = 8  # a blackout lasts some ten milliseconds, and a test must not depend on catching the first


def test_exits_in_a_blackout(box_hosts, box_vm, folder):
    """Of one of each kind: what is said to it while the guest stands still makes it exit behind
    that. Each status comes once, after the last byte."""
    host = box_hosts[0]
    for status in range(20, 20 + ROUNDS):
        if exits_in_a_blackout(box_hosts, host, box_vm, folder, status):
            return
        host = box_hosts.other(host)
        for name in ("pipes", "terminal"):
            host.ctl.ok("container", "rm", name)
    raise AssertionError(f"in {ROUNDS} migrations nothing was said during the blackout")


def exits_in_a_blackout(hosts, host, vm, folder, status):
    command = f"echo up; read -r go; echo last; exit {status}"
    with streams.open_all(host, vm, folder, "sh", "-c", command) as clients:
        for client in clients.values():
            client.wait_until(lambda output: b"up\n" in output)
        with host.ctl.start_migration(vm, hosts.other(host)) as mover:
            mover.wait_until(lambda output: b"BLACKOUT_STARTED" in output)
            for client in clients.values():
                client.write(b"go\n")
            said = time.monotonic()
            assert mover.wait(120) == 0, mover.errors()
            stopped = phase_seen(mover, b"BLACKOUT_STARTED")
            lasted = number(json.loads(mover.output().splitlines()[-1])["statistics"],
                            "blackout_ms")
        for kind, client in clients.items():
            assert client.wait() == status, (kind, client.errors())
            assert client.output().endswith(b"up\nlast\n"), kind
    # The message came a little after the stop, so only the first half counts.
    return said < stopped + lasted / 2000
