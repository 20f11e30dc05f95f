"""Commands of ferryctl that no other test gives, from their words to what the daemon does."""
from harness import oracles
from harness.ctl import parse_json


def events(ctl, *options):
    """(id, type, subject) of each event, the oldest first."""
    lines = ctl.ok("--output", "json", "events", *options).splitlines()
    return [(int(event["id"]), event["type"], event["subject"])
            for event in map(parse_json, lines)]


def test_a_vm_is_stopped_and_restarted_by_the_short_commands(two_hosts, vm):
    host = two_hosts[0]
    assert host.ctl.ok("stop", vm) == f"{vm} stopped\n"
    assert host.ctl.state(vm) == "stopped"
    oracles.assert_one_copy([host], None)
    # What is stopped already only starts.
    for command in (["restart", vm], ["vm", "restart", vm], ["restart", "--force", vm]):
        before = host.ctl.vm(vm).get("vmm_pid")
        host.ctl.exec(vm, "touch", "/tmp/of-the-last-boot")
        assert host.ctl.ok(*command) == f"{vm} running\n", command
        assert host.ctl.state(vm) == "running"
        assert host.ctl.vm(vm)["vmm_pid"] != before, command
        oracles.assert_one_copy([host], host)
        assert host.ctl.exec(vm, "test", "-e", "/tmp/of-the-last-boot").returncode == 1, command
    oracles.assert_nothing_left(two_hosts, host)


def test_a_running_vm_is_deleted_by_force(two_hosts, vm):
    host = two_hosts[0]
    assert host.ctl.run("vm", "delete", vm).returncode == 4
    host.ctl.ok("vm", "delete", "--force", vm)
    assert host.ctl.state(vm) == "absent"
    oracles.assert_one_copy([host], None)
    oracles.assert_nothing_left(two_hosts, None)


def test_events_are_told_from_an_id_on(two_hosts):
    ctl, vm = two_hosts[0].ctl, "web"
    ctl.create(vm)
    ctl.start(vm)
    subject = ctl.vm(vm)["id"]
    ctl.ok("vm", "pause", vm)
    ctl.ok("vm", "resume", vm)
    told = events(ctl)
    assert [kind for _, kind, of in told if of == subject] == [
        "vm.created", "vm.starting", "vm.started", "vm.paused", "vm.resumed"]
    ids = [number for number, _, _ in told]
    assert ids == sorted(set(ids))
    for position, number in enumerate(ids):
        assert events(ctl, "--since", str(number)) == told[position + 1:]
