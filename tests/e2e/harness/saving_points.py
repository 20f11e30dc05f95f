"""Each point at which a daemon, a VMM or both may die while a VM is saved, restored, goes into a
checkpoint or snapshot and back: what is then left of it.

tests/lint/saving_points_test.py fails when the code has a point that this table lacks, or the
other way round.
"""
import collections

DIES = ("daemon", "vmm", "both")
# What the VM is then: "running", "saved", "stopped" or "failed"; a "+" behind it says that what was
# being made, or deleted, is there and whole. None: no VMM is there at that point.
After = collections.namedtuple("After", DIES)

_LOST = After("running", "failed", "stopped")
_ALL_WRITTEN = After("running", "failed+", "stopped")
_KEPT = After("running+", "failed+", "stopped+")
_KEPT_IN_FILE = After("saved", None, "saved")
_STANDS = After("stopped", None, "stopped")
_RESTORE = {
    "RESTORE.listening": After("saved", "saved", "saved"),
    "RESTORE.loaded": After("saved", "saved", "saved"),
    # A VMM that ended before it was told to go on has surely not run.
    "RESTORE.consumed": After("running", "saved", "stopped"),
    "RESTORE.ran": After("running", "failed", "stopped"),
}

TABLE = {
    "save": {
        "SAVE.stopped": _LOST,
        "SAVE.written": After("running", "saved", "stopped"),
        "SAVE.sealed": After("running", "saved", "stopped"),
        "SAVE.recorded": After("saved", "saved", "saved"),
        "SAVE.ended": _KEPT_IN_FILE,
    },
    "restore": _RESTORE,
    # By a VM that then goes on from it; "+": its file is there.
    "save to a file": {
        "SAVE.stopped": _LOST,
        "SAVE.written": After("running", "saved+", "stopped"),
        # All that there is of its memory then.
        "SAVE.sealed": After("running", "saved+", "stopped+"),
        "SAVE.recorded": After("saved+", "saved+", "saved+"),
        "SAVE.ended": After("saved+", None, "saved+"),
    },
    "live save to a file": {
        "SAVE.stopped": _LOST,
        "SAVE.written": After("running", "failed+", "stopped"),
        "SAVE.sealed": After("running", "failed+", "stopped+"),
    },
    # Its file stays, whatever becomes of the VM.
    "start from a file": {
        "RESTORE.listening": After("stopped", "stopped", "stopped"),
        "RESTORE.loaded": After("stopped", "stopped", "stopped"),
        "RESTORE.consumed": After("running", "stopped", "stopped"),
        "RESTORE.ran": After("running", "failed", "stopped"),
    },
    "live checkpoint": {
        "CHECKPOINT.stopped": _LOST,
        "CHECKPOINT.recorded": _LOST,
        "CHECKPOINT.overlaid": _LOST,
        "CHECKPOINT.runs": _LOST,
        "CHECKPOINT.written": _ALL_WRITTEN,
        "CHECKPOINT.sealed": _ALL_WRITTEN,
        "CHECKPOINT.whole": _KEPT,
    },
    "plain checkpoint": {
        "CHECKPOINT.stopped": _LOST,
        "CHECKPOINT.recorded": _LOST,
        "CHECKPOINT.overlaid": _LOST,
        "CHECKPOINT.written": _ALL_WRITTEN,
        "CHECKPOINT.sealed": _ALL_WRITTEN,
        "CHECKPOINT.whole": _KEPT,
    },
    "quiesced checkpoint": {
        "CHECKPOINT.frozen": _LOST,
        "CHECKPOINT.recorded": _LOST,
        "CHECKPOINT.overlaid": _LOST,
        "CHECKPOINT.thawed": _ALL_WRITTEN,
        "CHECKPOINT.written": _ALL_WRITTEN,
        "CHECKPOINT.sealed": _ALL_WRITTEN,
        "CHECKPOINT.whole": _KEPT,
    },
    # Of a VM that does not run.
    "offline checkpoint": {
        "CHECKPOINT.recorded": _STANDS,
        "CHECKPOINT.written": _STANDS,
        "CHECKPOINT.sealed": _STANDS,
        "CHECKPOINT.whole": After("stopped+", None, "stopped+"),
    },
    # One whose file has no room, so that its overlays are committed back.
    "failed checkpoint": {
        "CHECKPOINT.written": _LOST,
        "CHECKPOINT.placed": _LOST,
        "CHECKPOINT.undone": _LOST,
    },
    "revert": {
        "CHECKPOINT.ended": After("stopped", None, "stopped"),
        "CHECKPOINT.returned": _KEPT_IN_FILE,
        "CHECKPOINT.back": _KEPT_IN_FILE,
        **_RESTORE,
    },
    "delete": {
        "CHECKPOINT.merging": _LOST,
        "CHECKPOINT.placed": _LOST,
        "CHECKPOINT.put_back": _LOST,
        "CHECKPOINT.merged": _LOST,
        "CHECKPOINT.deleted": _LOST,
    },
    "offline delete": {
        "CHECKPOINT.merging": _STANDS,
        "CHECKPOINT.merged": _STANDS,
        "CHECKPOINT.deleted": _STANDS,
    },
    "delete below": {
        "CHECKPOINT.merging": _LOST,
        "CHECKPOINT.merged_below": _LOST,
        "CHECKPOINT.merged": _LOST,
        "CHECKPOINT.deleted": _LOST,
    },
    "define": {
        "CHECKPOINT.defining": _ALL_WRITTEN,
        "CHECKPOINT.defined": _KEPT,
    },
    "clone": {
        "CLONE.reserved": _ALL_WRITTEN,
        "CLONE.copied": _ALL_WRITTEN,
        "CLONE.memory": _ALL_WRITTEN,
        "CLONE.added": _KEPT,
    },
    "snapshot": {
        "SNAPSHOT.stopped": _LOST,
        "SNAPSHOT.recorded": _LOST,
        "SNAPSHOT.taken": _ALL_WRITTEN,
        "SNAPSHOT.whole": _KEPT,
    },
    "load": {
        "SNAPSHOT.loading": After("failed", "failed", "failed"),
        "SNAPSHOT.loaded": After("failed", "failed", "failed"),
        "SNAPSHOT.back": After("running", "failed", "stopped"),
    },
    "delete snapshot": {
        "SNAPSHOT.deleting": _KEPT,
        "SNAPSHOT.deleted": After("running+", "failed", "stopped+"),
        "SNAPSHOT.forgotten": _LOST,
    },
}


def deaths(way):
    """All (point, who dies) of a way."""
    return [(point, dies) for point, after in TABLE[way].items() for dies in DIES
            if getattr(after, dies) is not None]


def _some_deaths():
    """By way. What several ways go through is in the first of them; a way all of whose points are in
    others has its last."""
    some, seen = {}, set()
    for way, points in TABLE.items():
        some[way] = []
        for point in [each for each in points if each not in seen] or list(points)[-1:]:
            can_die = [dies for dies in DIES if getattr(points[point], dies) is not None]
            some[way].append((point, can_die[len(seen) % len(can_die)]))
            seen.add(point)
    return some


# Where a sanitizer looks: each way, each point and each death, but neither each death at each point
# nor each point of each way. It has to see what comes after each of them.
SOME_DEATHS = _some_deaths()
