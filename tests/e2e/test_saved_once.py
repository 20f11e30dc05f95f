"""Several starts of one saved state at once: one goes on from it, the others are told why not."""
import contextlib
import pathlib
import tempfile
import threading

import pytest

from harness import booted
from harness.fixtures import note_isolation
from harness.host import Hosts
from harness.records import assert_goes_on, last_on_host, start_with_two_disks, start_writer
from harness.saving import REFUSED, RESTORE_REFUSED, host  # noqa: F401


def at_once(*commands):
    """Runs each of these (host, words of ferryctl) at the same time; their ends."""
    answers = [None] * len(commands)

    def run(index, at, words):
        answers[index] = at.ctl.run(*words)

    threads = [threading.Thread(target=run, args=(index, *command))
               for index, command in enumerate(commands)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def assert_one_went_on(answers, words="is RUNNING"):
    """The one that did."""
    [went_on] = [index for index, answer in enumerate(answers) if answer.returncode == 0]
    for answer in answers[:went_on] + answers[went_on + 1:]:
        assert answer.returncode == REFUSED and words in answer.stderr, answer
        assert "Next:" in answer.stderr, answer
    return went_on


def vmms(*hosts):
    return sum(len(each.processes("qemu-system")) for each in hosts)


@pytest.fixture
def disks(host):
    """A VM with two disks, of both formats."""
    return start_with_two_disks(host, "1G")


def test_one_of_several_starts_from_a_file_goes_on(host, disks):
    vm = disks
    writer = start_writer(host, vm)
    for number in range(3):
        file = host.folder / f"{number}.ferry"
        host.ctl.ok("save", "--to", file, vm)
        last = last_on_host(host, (host.folder / "root.qcow2", "qcow2"),
                            (host.folder / "data.raw", "raw"))
        # None of them boots it instead, and none says that it did.
        start = ("start", "--from", file, "--or-boot", vm)
        assert_one_went_on(at_once(*[(host, start)] * 4))
        assert vmms(host) == 1
        assert_goes_on(host, vm, writer, last)
    # By then it has written to its disks; that it runs is the reason all the same.
    refused = host.ctl.run("start", "--from", file, vm)
    assert refused.returncode == REFUSED and "is RUNNING" in refused.stderr, refused


def test_a_file_that_can_be_used_again_is_used_once_at_a_time(host, vm):
    file = host.folder / "moment.ferry"
    host.ctl.ok("save", "--live", "--to", file, vm)
    for _ in range(3):
        host.ctl.ok("stop", "--force", vm)
        assert_one_went_on(at_once(*[(host, ("start", "--from", file, vm))] * 4))
        assert vmms(host) == 1
    # Whoever only wants it to run is content with either.
    host.ctl.ok("stop", "--force", vm)
    booted_it, from_file = at_once((host, ("start", vm)), (host, ("start", "--from", file, vm)))
    assert booted_it.returncode == 0 and from_file.returncode in (0, REFUSED), from_file
    assert vmms(host) == 1


def test_only_the_host_that_has_the_vm_goes_on_from_its_file(two_hosts, vm):
    host, other = two_hosts
    file = host.folder / "moment.ferry"
    host.ctl.ok("save", "--live", "--to", file, vm)
    host.ctl.migrate(vm, other)
    other.ctl.ok("stop", "--force", vm)
    there = other.folder / "there.ferry"
    other.outside(there).write_bytes(host.outside(file).read_bytes())
    answers = at_once((host, ("start", "--from", file, vm)),
                      (other, ("start", "--from", there, vm)))
    assert answers[1].returncode == 0, answers
    assert answers[0].returncode == REFUSED and vm in answers[0].stderr, answers
    assert vmms(host, other) == 1
    # Another VM under that name is another one.
    host.ctl.create(vm)
    refused = host.ctl.run("start", "--from", file, vm)
    assert refused.returncode == RESTORE_REFUSED and "it is VM vm" in refused.stderr, refused
    assert vmms(host, other) == 1


@contextlib.contextmanager
def twins(pytestconfig):
    """Two hosts that both believe to have the VM, as after a state folder was copied; they share
    the folder of their locks."""
    with tempfile.TemporaryDirectory(prefix="ferry-lock-", dir="/tmp") as folder, \
            Hosts(shared_folder=pathlib.Path(folder)) as hosts:
        note_isolation(pytestconfig, hosts)
        for each in hosts:
            booted.give(each)
            each.flags = ["--fence-lock-dir", folder]
        yield hosts.start()


def test_hosts_that_share_their_locks_go_on_from_a_file_once(pytestconfig):
    with twins(pytestconfig) as hosts:
        file = booted.file()
        for _ in range(2):
            answers = at_once(*[(each, ("start", "--from", file, booted.NAME)) for each in hosts])
            went_on = hosts[assert_one_went_on(answers, "lock")]
            assert vmms(*hosts) == 1
            assert went_on.ctl.exec(booted.NAME, "echo", "here").stdout == "here\n"
            went_on.ctl.ok("stop", "--force", booted.NAME)
