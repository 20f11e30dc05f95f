"""`ferryctl logs`: what detached containers and processes have printed, and are printing."""
import base64
import json

from harness import box, workload
from harness.box import inspect, state
from harness.inotify import wait_until
from harness.oracles import assert_next_step

TICK = (workload.PROGRAM, "tick")
REFUSED = 4
KEPT = 1024 * 1024
MUCH_BYTES = 3_000_000
MUCH = f"head -c {MUCH_BYTES} /dev/zero | tr '\\0' x"


def run_detached(host, vm, name, *words, options=()):
    host.ctl.ok("run", "-d", "--name", name, "--vm", vm, "--read-only", *options, box.NAME, *words)


def wait_stopped(host, name):
    wait_until(host.outside(host.state), lambda: state(host, name) == "stopped")


def assert_no_tick_is_missing(output):
    numbers = [number for number, _ in workload.ticks(output)]
    assert len(numbers) > 100
    assert workload.lost_and_repeated(numbers) == (0, 0)
    assert workload.strange_bytes(output) == 0


def test_logs_are_kept_until_the_container_is_removed(box_hosts, box_vm):
    host = box_hosts[0]
    run_detached(host, box_vm, "web", "sh", "-c", "echo out; echo err >&2; exit 3")
    wait_stopped(host, "web")
    kept = host.ctl.run("logs", "web")
    assert (kept.stdout, kept.stderr, kept.returncode) == ("out\n", "err\n", 0)
    # They outlive the VM's boot, the daemon, and the next boot.
    host.ctl.ok("stop", box_vm)
    assert host.ctl.ok("logs", "web") == "out\n"
    host.kill()
    host.start()
    assert host.ctl.ok("logs", "web") == "out\n"
    host.ctl.start(box_vm)
    kept = host.ctl.run("logs", "-f", "web")
    assert (kept.stdout, kept.stderr, kept.returncode) == ("out\n", "err\n", 0)
    host.ctl.ok("container", "rm", "web")
    gone = host.ctl.run("logs", "web")
    assert gone.returncode == REFUSED and gone.stdout == ""


def test_logs_begin_where_they_are_asked_to(box_hosts, box_vm):
    host = box_hosts[0]
    run_detached(host, box_vm, "web", "sh", "-c", "echo 0123456789; echo abcdef >&2")
    wait_stopped(host, "web")
    since = host.ctl.run("logs", "--since", "4", "web")
    assert (since.stdout, since.stderr) == ("456789\n", "ef\n")
    since = host.ctl.run("logs", "--since", "11,0", "web")
    assert (since.stdout, since.stderr) == ("", "abcdef\n")
    assert host.ctl.ok("logs", "--since", "1000", "web") == ""
    lines = host.ctl.ok("--output", "json", "logs", "--since", "8", "web").splitlines()
    assert [(line["stream"], int(line["offset"]), base64.b64decode(line["data"]))
            for line in map(json.loads, lines)] == [("STDIO_STREAM_STDOUT", 8, b"89\n")]


def test_logs_are_bounded_and_say_what_is_missing(box_hosts, box_vm):
    host = box_hosts[0]
    run_detached(host, box_vm, "web", "sh", "-c", f"echo begin; {MUCH}; echo end")
    wait_stopped(host, "web")
    kept = host.ctl.run("logs", "--since", "1", "web")
    assert 0 < len(kept.stdout) <= KEPT
    assert kept.stdout.endswith("xend\n")
    missing = len("begin\nend\n") + MUCH_BYTES - len(kept.stdout)
    assert f"{missing - 1} bytes of stdout before byte {missing} are not kept" in kept.stderr
    spools = host.outside(host.state / "spool")
    assert sum(file.stat().st_size for file in spools.rglob("*") if file.is_file()) <= 2.1 * KEPT


def test_logs_follow_a_container_from_host_to_host(box_hosts, box_vm):
    source, destination = box_hosts
    run_detached(source, box_vm, "ticker", *TICK, options=("-i",))
    with source.ctl.attach("logs", "-f", "ticker") as follower:
        for host, other in ((source, destination), (destination, source)):
            follower.wait_until(lambda output: output.count(b"\n") > 200)
            before = len(follower.output())
            host.ctl.migrate(box_vm, other)
            follower.wait_until(lambda output: output.count(b"\n", before) > 200)
        # Nobody was attached to it, and nobody is.
        assert not source.ctl.processes(box_vm)[0].get("attached")
        source.ctl.ok("container", "kill", "-s", "KILL", "ticker")
        assert follower.wait() == 0, follower.errors()
        assert_no_tick_is_missing(follower.output())
    assert inspect(source, "ticker")["exit_status"] == {"signal": 9}


def test_logs_follow_a_container_until_its_vm_ends(box_hosts, box_vm):
    host = box_hosts[0]
    run_detached(host, box_vm, "ticker", *TICK, options=("-i",))
    with host.ctl.attach("logs", "-f", "ticker") as follower:
        follower.wait_until(lambda output: output.count(b"\n") > 200)
        host.ctl.ok("stop", "--force", box_vm)
        assert follower.wait() == 0, follower.errors()
        assert_no_tick_is_missing(follower.output())
        assert follower.output().decode() == host.ctl.ok("logs", "ticker")


def test_logs_follow_from_a_byte_that_is_not_written_yet(box_hosts, box_vm):
    host = box_hosts[0]
    run_detached(host, box_vm, "web", "sh", "-c", "printf 0123; read go; echo 456789",
                 options=("-i",))
    with host.ctl.attach("logs", "-f", "--since", "8", "web") as follower, \
            host.ctl.attach("container", "attach", "web") as client:
        client.wait_until(lambda output: output == b"0123")
        client.write(b"go\n")
        assert client.wait() == 0, client.errors()
        assert follower.wait() == 0, follower.errors()
        assert follower.output() == b"89\n"


def test_logs_follow_a_process_over_its_daemons_death(box_hosts, box_vm):
    host = box_hosts[0]
    process = host.ctl.ok("exec", "-d", "-i", box_vm, "--", *TICK).strip()
    with host.ctl.attach("logs", "-f", box_vm, process) as follower:
        follower.wait_until(lambda output: output.count(b"\n") > 200)
        host.kill()
        host.start()
        before = len(follower.output())
        follower.wait_until(lambda output: output.count(b"\n", before) > 200)
        host.ctl.ok("kill", "-s", "KILL", box_vm, process)
        assert follower.wait() == 0, follower.errors()
        assert_no_tick_is_missing(follower.output())


def test_logs_of_a_container_of_a_former_boot_move(box_hosts, box_vm):
    source, destination = box_hosts
    run_detached(source, box_vm, "old", "sh", "-c", "echo long ago; echo gone wrong >&2")
    wait_stopped(source, "old")
    source.ctl.ok("stop", box_vm)
    source.ctl.start(box_vm)
    source.ctl.migrate(box_vm, destination)
    kept = destination.ctl.run("logs", "old")
    assert (kept.stdout, kept.stderr, kept.returncode) == ("long ago\n", "gone wrong\n", 0)
    assert list(source.outside(source.state / "containers").iterdir()) == []


def test_a_follower_that_reads_nothing_does_not_hold_the_process_up(box_hosts, box_vm):
    host = box_hosts[0]
    run_detached(host, box_vm, "web", "sh", "-c", f"read go; {MUCH}", options=("-i",))
    with host.ctl.attach("logs", "-f", "web") as follower:
        follower.pace(1)
        with host.ctl.attach("container", "attach", "web") as client:
            client.write(b"go\n")
            assert client.wait(120) == 0, client.errors()


def test_logs_of_what_keeps_none_are_refused(box_hosts, box_vm):
    host = box_hosts[0]
    with host.ctl.attach("run", "-i", "--name", "web", "--vm", box_vm, "--read-only", box.NAME,
                         "cat") as client:
        client.write(b"x\n")
        client.wait_until(lambda output: output == b"x\n")
        refused = host.ctl.run("logs", "web")
        assert refused.returncode == REFUSED and "not detached" in refused.stderr
        assert_next_step(refused.stderr, "-d")
        client.close_stdin()
        assert client.wait() == 0
    assert host.ctl.run("logs", "nobody").returncode == REFUSED
    assert host.ctl.run("logs", box_vm, "99999").returncode == REFUSED
