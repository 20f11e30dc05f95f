"""A VM under test: watched from all sides while something goes wrong."""
import contextlib

from . import mover, oracles
from .copies import CopyCounter
from .talk import Talk


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
        return self.source.ctl.start_migration(self.vm, self.destination, *options)

    def migrate_slowly(self):
        """Starts a migration that is still transferring when this returns."""
        running = self.migrate(*mover.SLOW)
        mover.wait_until_moving(running)
        return running

    @contextlib.contextmanager
    def frozen_at(self, host, point):
        """A migration during which this host's daemon stands still at a failpoint.

        The daemon is restarted for that. Who lets it go on, or ends it, is the test.
        """
        host.freeze_at(point)
        with self.migrate() as running:
            host.wait_frozen()
            yield running

    def consoles(self):
        """For a report: the ends of what was said on the VMMs' consoles, but for the counting."""
        for (host, folder), text in self.copies.text().items():
            lines = [line for line in text.decode(errors="replace").splitlines()
                     if not line.startswith("beat ")]
            yield f"console of {folder} on {host}", "\n".join(lines[-40:])

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
