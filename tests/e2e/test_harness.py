"""The harness itself, with simple programs instead of daemons."""
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from harness import ctl, flood, namespaces, workload
from harness.host import Hosts
from harness.stdio import Attached

LISTEN = ("import socket,sys; s=socket.create_server((sys.argv[1], int(sys.argv[2]))); "
          "print('up', flush=True); c,_=s.accept(); c.sendall(c.recv(100)[::-1])")
DIAL = ("import socket,sys; s=socket.create_connection((sys.argv[1], int(sys.argv[2])), 20); "
        "s.sendall(b'ferry'); print(s.recv(100).decode())")


def test_hosts_reach_each_other_by_their_addresses(bare_hosts):
    one, other = bare_hosts
    address = other.address.split(":")
    server = subprocess.Popen(other.wrap([sys.executable, "-c", LISTEN, *address], client=True),
                              stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "up\n"
        answer = one.run([sys.executable, "-c", DIAL, *address], capture_output=True, text=True)
        assert answer.stdout == "yrref\n", answer.stderr
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


@pytest.mark.usefixtures("isolated")
def test_hosts_share_no_writable_path(bare_hosts):
    one, other = bare_hosts
    one.run(["sh", "-c", f"echo secret > {one.folder}/file; echo x > /run/file"], check=True)
    assert one.outside(one.folder / "file").read_text() == "secret\n"
    for path in (one.folder / "file", "/run/file"):
        assert other.run(["test", "-e", path]).returncode == 1
    assert not (one.folder / "file").exists()
    here = pathlib.Path(__file__).parent
    for folder in ("/var", "/etc", here):
        refused = one.run(["touch", f"{folder}/ferry-must-not-write"], capture_output=True)
        assert refused.returncode != 0


@pytest.mark.usefixtures("isolated")
def test_closing_ends_every_process(bare_hosts):
    host = bare_hosts[0]
    host.run(["sh", "-c", "setsid sleep 1000 & echo $!"], check=True, stdout=subprocess.DEVNULL)
    space = process_space(host.namespace)
    host.close()
    assert not processes_in(space)


def process_space(namespace):
    """What tells the namespace's processes from all others."""
    return pathlib.Path(f"/proc/{namespace.pid}/ns/pid").readlink()


def processes_in(space):
    return [entry for entry in pathlib.Path("/proc").glob("[0-9]*/ns/pid") if _is(entry, space)]


def _is(entry, space):
    try:
        return entry.readlink() == space
    except OSError:
        return False


def test_a_process_is_signalled_by_its_id_on_its_host(bare_hosts):
    host = bare_hosts[0]
    process = subprocess.Popen(host.wrap(["sh", "-c", "echo $$; exec sleep 1000"]),
                               stdout=subprocess.PIPE, text=True)
    host.signal_process(int(process.stdout.readline()), 9)
    assert process.wait(20) != 0
    process.stdout.close()


def refuse_namespaces(monkeypatch):
    def refuse(*_):
        raise namespaces.Refused("unshare: not today\n")

    monkeypatch.setattr(namespaces, "Namespace", refuse)


def test_without_namespaces_the_hosts_are_two_ports_of_this_machine(monkeypatch):
    refuse_namespaces(monkeypatch)
    with Hosts() as hosts:
        assert (hosts.isolated, hosts.refusal) == (False, "unshare: not today")
        one, other = hosts
        assert one.address != other.address and one.state != other.state
        for host in hosts:
            assert host.address.startswith("127.0.0.1:")
            assert host.wrap(["true"]) == ["true"]
        file = one.folder / "file"
        one.run(["touch", file], check=True)
        assert one.outside(file) == other.outside(file) == file and file.exists()
    assert not file.exists()


def test_a_cable_that_is_refused_leaves_no_namespace(monkeypatch):
    spaces = []

    def refuse(one, other, _):
        spaces.extend(process_space(namespace) for namespace in (one, other))
        raise namespaces.Refused("ip: not today")

    monkeypatch.setattr(namespaces, "connect", refuse)
    with Hosts() as hosts:
        if not spaces:
            pytest.skip(f"namespaces are refused here ({hosts.refusal})")
        assert hosts.refusal == "ip: not today"
        assert not any(processes_in(space) for space in spaces)


def test_without_namespaces_tests_say_so():
    """One that needs hosts of its own is skipped, another is marked in the summary."""
    here = pathlib.Path(__file__)
    names = ("test_hosts_share_no_writable_path", "test_hosts_reach_each_other_by_their_addresses")
    # Nothing is found that could make a namespace.
    result = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider",
                             *(f"{here}::{name}" for name in names)], capture_output=True,
                            text=True, timeout=120, env={**os.environ, "PATH": "/nonexistent"})
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed, 1 skipped" in result.stdout
    assert "namespaces are refused here" in result.stdout.split("SKIPPED")[1]
    assert "NOT ISOLATED: namespaces are refused here" in result.stdout
    assert "loopback ports" in result.stdout


def test_attached_keeps_output_and_status():
    with Attached(["sh", "-c", "cat; echo done >&2; exit 3"]) as client:
        client.write(b"x" * 300000)
        client.close_stdin()
        assert client.wait() == 3
        assert client.output() == b"x" * 300000
        assert client.errors() == "done\n"
        assert client.written == client.received == 300000


def test_attached_says_what_came_when_it_waits_in_vain():
    with Attached(["sh", "-c", "echo only this"]) as client:
        with pytest.raises(TimeoutError, match="only this"):
            client.wait_until(lambda output: b"that" in output, 20)


def test_a_reader_that_stands_still_takes_nothing_until_it_goes_on():
    size = 1_000_000
    with Attached(["cat"]) as client:
        client.stand_still()
        writer = threading.Thread(target=client.write, args=(b"x" * size,), daemon=True)
        writer.start()
        client.wait_until_full()
        assert client.received == 0 and client.written < size
        client.go_on()
        client.wait_until(lambda output: len(output) == size)
        writer.join(20)


def test_a_flood_that_is_not_whole_is_noticed():
    for lines, whole in (([0, 1, 2], True), ([0, 2], False), ([0, 0, 1], False), ([1, 2], False),
                         ([0, 10], False), ([], False)):
        text = "".join(f"flood {number}\n" for number in lines)
        with flood.Flood(["printf", "%s", text + "flo"]) as reader:
            assert reader.wait() == 0
            assert reader.received == len(text) + 3
            if whole:
                reader.assert_whole()
                continue
            with pytest.raises(AssertionError):
                reader.assert_whole()


def test_longest_gap_is_the_silence_around_the_window():
    with Attached(["true"]) as client:
        client.wait()
        client._times = [1.0, 1.1, 1.5, 1.6, 9.0]
        assert client.longest_gap(1.2, 1.3) == pytest.approx(400)
        assert client.longest_gap(1.55, 1.58) == pytest.approx(100)


def test_lost_and_repeated_numbers_are_counted():
    assert workload.lost_and_repeated([1, 2, 3]) == (0, 0)
    assert workload.lost_and_repeated([1, 2, 4, 4, 7]) == (3, 1)
    assert workload.lost_and_repeated([2, 3], first=0) == (2, 0)


def test_lines_of_the_workload_are_taken_apart():
    output = b"tick 0 5000000\necho hi\ntick 1 9000000\ntick 2"
    assert workload.ticks(output) == [(0, 5000000), (1, 9000000)]
    assert workload.echoes(output) == [b"hi"]
    assert workload.longest_tick_gap_ms(workload.ticks(output)) == 4.0
    assert workload.tick_step_ms([(0, 0), (1, 1_000_000), (2, 9_000_000), (3, 10_000_000)]) == 1.0


def test_ticks_are_stamped_with_their_arrival():
    with Attached(["printf", r"tick %d %d\n", "0", "1000000000", "1", "1001000000"]) as client:
        client.wait()
        length = len(client.output())
        client._ends, client._times = [length // 2, length], [50.0, 50.031]
        assert workload.timed_ticks(client, 0, length) == [(50.0, 1.0), (50.031, 1.001)]
        assert workload.timed_ticks(client, 5, length) == [(50.031, 1.001)]


def test_a_standing_guest_clock_is_seen_through_late_lines():
    def run(start, clock):
        # A tick each millisecond; all but one in ten are late by up to 20 ms.
        return [(start + n / 1000 + 0.002 + (n % 10) * 0.002, clock + n / 1000)
                for n in range(1000)]

    before = run(100, 7)
    value, uncertainty = workload.stopped_ms(before, run(103.03, 10))
    assert value == pytest.approx(30, abs=0.01)
    assert uncertainty == pytest.approx(1, abs=0.1)
    value, uncertainty = workload.stopped_ms(before, run(103, 10))
    assert value == pytest.approx(0, abs=0.01)
    assert workload.stopped_ms(before, before[:100]) == (None, None)


def test_damaged_lines_are_counted():
    assert workload.strange_bytes(b"tick 1 2\necho a\ntick 3 tick 4\nrest") == 14


def test_both_json_spellings_are_read():
    assert ctl.parse_json('{"sessionId": "1", "statistics": {"blackout_ms": 2}}') == {
        "session_id": "1", "statistics": {"blackout_ms": 2}}
    assert ctl.parse_json('{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]
    assert ctl.number({"transferred_bytes": "12"}, "transferred_bytes") == 12
