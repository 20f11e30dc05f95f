"""What a guest's kernel and agent log comes to the log of the daemon that has the guest."""
import contextlib
import re
import select
import time

from harness.inotify import Inotify

DEADLINE = 60
LINE = re.compile(r": line (\d+)[.]")


def lines_of(host, text):
    log = host.outside(host.log).read_text(errors="replace")
    return [line for line in log.splitlines() if text in line]


def wait_for_line(host, text):
    """The lines of the daemon's log that hold the text, once there is one."""
    with contextlib.closing(Inotify()) as notices:
        notices.watch(host.outside(host.log).parent)
        deadline = time.monotonic() + DEADLINE
        while not (found := lines_of(host, text)):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([notices], [], [], left)[0], \
                f"no line with {text!r}:\n{host.log_tail()}"
            notices.appeared()
        return found


def say(host, vm, text, priority):
    result = host.ctl.exec(vm, "sh", "-c", f'echo "<{priority}>{text}" >/dev/kmsg')
    assert result.returncode == 0, result.stderr


def test_the_guests_log_goes_where_the_guest_goes(two_hosts, vm):
    source, destination = two_hosts
    (ready,) = wait_for_line(source, f"guest {vm}: ferry-guest: ready")
    assert "info" in ready
    say(source, vm, "the fan is slow", 12)
    (warning,) = wait_for_line(source, f"guest {vm}: the fan is slow")
    assert "warn" in warning

    source.ctl.migrate(vm, destination)
    say(destination, vm, "the fan stands", 11)
    (error,) = wait_for_line(destination, f"guest {vm}: the fan stands")
    assert "error" in error
    # What the source has taken is not told again.
    assert not lines_of(destination, "the fan is slow")
    assert not lines_of(source, "the fan stands")


def test_nothing_is_lost_around_a_migration(two_hosts, vm):
    source, destination = two_hosts
    said = ('i=0; while [ ! -e /tmp/enough ]; do i=$((i + 1)); echo "<13>line $i." >/dev/kmsg; '
            'sleep 0.2; done; echo $i >/tmp/said')
    source.ctl.ok("exec", "-d", vm, "--", "sh", "-c", said)
    wait_for_line(source, f"guest {vm}: line 1.")
    source.ctl.migrate(vm, destination)
    newest = wait_for_line(destination, f"guest {vm}: line ")[-1]
    wait_for_line(destination, f"guest {vm}: line {int(LINE.search(newest)[1]) + 5}.")
    destination.ctl.ok("exec", vm, "--", "touch", "/tmp/enough")
    last = int(destination.ctl.ok("exec", vm, "--", "sh", "-c",
                                  "while ! [ -s /tmp/said ]; do sleep 0.1; done; cat /tmp/said"))
    wait_for_line(destination, f"guest {vm}: line {last}.")
    for number in range(1, last + 1):
        found = [lines_of(host, f"guest {vm}: line {number}.") for host in two_hosts]
        assert sum(map(len, found)) == 1, (number, found)


def test_nothing_is_lost_while_the_daemon_is_away(two_hosts, vm):
    host = two_hosts[0]
    said = 'for i in $(seq 30); do echo "<13>line $i of 30" >/dev/kmsg; sleep 0.2; done'
    host.ctl.ok("exec", "-d", vm, "--", "sh", "-c", said)
    wait_for_line(host, f"guest {vm}: line 1 of 30")
    host.kill()
    host.start()
    wait_for_line(host, f"guest {vm}: line 30 of 30")
    for number in range(1, 31):
        assert lines_of(host, f"guest {vm}: line {number} of 30"), number
