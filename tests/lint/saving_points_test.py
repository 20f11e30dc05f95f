"""Fails when a point at which daemons can be made to die while they save a VM or bring it back is
not in the table of tests/e2e/harness/saving_points.py, or one of that table is not in the code, or
when what is chosen of it for sanitizers leaves a point or a death out.

Usage: saving_points_test.py SOURCE_ROOT
"""
import pathlib
import re
import sys

POINT = re.compile(r'"((?:SAVE|RESTORE|CHECKPOINT|REVERT|DELETE|CLONE|SNAPSHOT)\.[a-z_]+)"')


def points_in(text: str) -> set[str]:
    return set(POINT.findall(text))


def problems(code: set[str], table: dict) -> list[str]:
    known = {point for points in table.values() for point in points}
    found = [f"{point}: what it leaves of a VM is not in the table" for point in code - known]
    found += [f"{point}: there is no such point in the code" for point in known - code]
    return sorted(found)


def left_out(table: dict, deaths, some: dict) -> list[str]:
    """What of all that there is the tests with a sanitizer would not see at all."""
    found = [f"{way}: none of its deaths is among some" for way in table if not some[way]]
    everything = set().union(*map(deaths, table))
    chosen = set().union(*some.values())
    for of_death in (0, 1):
        missing = {each[of_death] for each in everything} - {each[of_death] for each in chosen}
        found += [f"{each} is not among some deaths" for each in sorted(missing)]
    return found


def self_test() -> None:
    code = points_in('Reached(below ? "CHECKPOINT.placed" : "CHECKPOINT.put_back"); F("DISK.x");')
    assert code == {"CHECKPOINT.placed", "CHECKPOINT.put_back"}
    assert problems(code, {"a": {"CHECKPOINT.placed": 0}, "b": {"CHECKPOINT.put_back": 0}}) == []
    assert len(problems(code, {"a": {"CHECKPOINT.placed": 0, "SAVE.stopped": 0}})) == 2
    everything = [("SAVE.stopped", "vmm"), ("SAVE.sealed", "daemon")]
    assert left_out({"a": 0}, lambda _: everything, {"a": everything}) == []
    assert len(left_out({"a": 0}, lambda _: everything, {"a": everything[:1]})) == 2
    assert len(left_out({"a": 0, "b": 0}, lambda _: everything, {"a": everything, "b": []})) == 1


if __name__ == "__main__":
    self_test()
    root = pathlib.Path(sys.argv[1])
    sys.path.insert(0, str(root / "tests/e2e"))
    from harness.saving_points import SOME_DEATHS, TABLE, deaths
    in_code = set().union(*(points_in(file.read_text()) for file in root.glob("vmmanager/**/*.cc")))
    bad = problems(in_code, TABLE) + left_out(TABLE, deaths, SOME_DEATHS)
    print("\n".join(bad) or f"saving points: all {len(in_code)} are in the table")
    sys.exit(1 if bad else 0)
