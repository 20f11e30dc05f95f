"""Processes and their stdio, without a migration and across one."""
from harness import proc, workload


def test_exec_carries_output_errors_and_status(two_hosts, vm):
    result = two_hosts[0].ctl.exec(vm, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 7)


def test_exec_of_a_missing_program_fails_with_125_or_127(two_hosts, vm):
    result = two_hosts[0].ctl.exec(vm, "/no/such/program")
    assert result.returncode in (125, 126, 127)
    assert "/no/such/program" in result.stderr


def test_end_of_input_reaches_the_process(two_hosts, vm):
    with two_hosts[0].ctl.attach("exec", "-i", vm, "--", "cat") as client:
        client.write(b"a\nb\n")
        client.close_stdin()
        assert client.wait() == 0
        assert client.output() == b"a\nb\n"


def test_large_output_arrives_whole_before_the_status(two_hosts, vm):
    with two_hosts[0].ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "random", "--bytes",
                                 "5000000", "--seed", "9") as client:
        assert client.wait(120) == 0, client.errors()
        first = client.output()
    assert len(first) == 5_000_000
    again = two_hosts[0].ctl.attach("exec", "-i", vm, "--", workload.PROGRAM, "random", "--bytes",
                                    "5000000", "--seed", "9")
    with again:
        assert again.wait(120) == 0
        assert again.output() == first


def test_detached_process_is_listed_attached_to_and_killed(two_hosts, vm):
    ctl = two_hosts[0].ctl
    process = ctl.ok("exec", "-d", "-i", vm, "--", "sh", "-c", "echo early; exec cat").strip()
    assert process in [str(entry.get("id")) for entry in ctl.processes(vm)]
    with ctl.attach("attach", vm, process) as client:
        client.wait_until(lambda output: output == b"early\n")
        client.write(b"hello\n")
        client.wait_until(lambda output: output == b"early\nhello\n")
        ctl.ok("kill", "-s", "KILL", vm, process)
        assert client.wait() == 128 + 9


def test_detached_process_keeps_its_output_across_a_migration(two_hosts, vm):
    source, destination = two_hosts
    process = source.ctl.ok("exec", "-d", "-i", vm, "--", "sh", "-c",
                            "echo before; exec cat").strip()
    source.ctl.migrate(vm, destination)
    with destination.ctl.attach("attach", vm, process) as client:
        client.wait_until(lambda output: output == b"before\n")
        client.write(b"after\n")
        client.wait_until(lambda output: output == b"before\nafter\n")
        client.close_stdin()
        assert client.wait() == 0


def test_second_attacher_is_refused_unless_it_steals(two_hosts, vm):
    ctl = two_hosts[0].ctl
    process = ctl.ok("exec", "-d", "-i", vm, "--", "cat").strip()
    with ctl.attach("attach", vm, process) as first:
        first.write(b"one\n")
        first.wait_until(lambda output: output == b"one\n")
        refused = ctl.run("attach", vm, process)
        assert refused.returncode == 125
        assert "--steal" in refused.stderr
        with ctl.attach("attach", "--steal", vm, process) as second:
            second.write(b"two\n")
            second.wait_until(lambda output: b"two\n" in output)
            assert first.wait() == 125
            assert first.errors()


def test_the_agent_goes_before_what_it_serves(two_hosts, vm):
    def niceness(process):
        return proc.niceness(two_hosts[0].ctl.exec(vm, "cat", f"/proc/{process}/stat").stdout)
    assert niceness(1) == -20
    assert niceness("self") == 0
