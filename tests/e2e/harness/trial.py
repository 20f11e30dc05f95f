"""A VM under test: watched from all sides while something goes wrong."""
import json
import time

from . import oracles
from .copies import CopyCounter
from .ctl import number, snake
from .talk import Talk

# So slow that a transfer is certain to be under way whenever a test looks.
SLOW = ("--max-bandwidth", "1000000")


class Trial:
    """Somebody talks to a process in the VM all the time, and the running copies are counted."""

    def __init__(self, hosts, vm, owner=None):
        self.hosts, self.vm = hosts, vm
        self.source = owner or hosts[0]
        self.destination = hosts.other(self.source)
        self.copies = CopyCounter(hosts, self.source, vm)
        self.talk = Talk(self.source, vm)
        self._lost = False

    def migrate(self, *options):
        """Starts a migration; the running ferryctl."""
        return self.source.ctl.attach("migrate", self.vm, "--to", self.destination.address,
                                      "--json", *options)

    def migrate_slowly(self):
        """Starts a migration that is still transferring when this returns."""
        mover = self.migrate(*SLOW)
        deadline = time.monotonic() + 60
        while not any(number(session.get("progress") or {}, "transferred_bytes") > 0
                      for session in oracles.undecided(self.source)):
            assert mover.running() and time.monotonic() < deadline, mover.errors()
            time.sleep(0.05)
        return mover

    def settle(self, owner):
        """The oracles, for a VM that goes on at `owner`, and the conversation with it."""
        assert oracles.settle(self.hosts, self.vm) is owner
        oracles.assert_one_copy(self.hosts, owner)
        self.talk.assert_goes_on()
        self._assert_rest(owner)

    def settle_lost(self, failed_at):
        """The oracles, for a VM that is no more and is listed as such at this host alone."""
        self._lost = True
        self.talk.assert_cut_off()
        oracles.settle_lost(self.hosts, self.vm, failed_at)
        oracles.assert_one_copy(self.hosts, None)
        self._assert_rest(None)

    def _assert_rest(self, owner):
        self.copies.assert_never_two()
        oracles.assert_journals_agree(self.hosts)
        oracles.assert_nothing_left(self.hosts, owner)

    def close(self):
        self.talk.close()
        self.copies.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None and not self._lost:
                self.talk.finish()
        finally:
            self.close()


def last_word(mover):
    """Waits for the end of `ferryctl migrate --json`; the session, which it prints last."""
    mover.wait(120)
    lines = mover.output().splitlines()
    assert lines, mover.errors()
    return snake(json.loads(lines[-1]))


def assert_failed(mover, location):
    """The migration failed, says why, and left the VM at an address (or "nowhere")."""
    ended = last_word(mover)
    assert ended["outcome"] == "SESSION_OUTCOME_FAILED" and ended["reason"], str(ended)
    assert ended["vm_location"] == location, str(ended)


def assert_succeeded(mover, destination):
    ended = last_word(mover)
    assert ended["outcome"] == "SESSION_OUTCOME_SUCCEEDED", ended
    assert ended["vm_location"] == destination.address, ended
