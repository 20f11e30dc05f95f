"""Fails when docs/failure-matrix.md misses a row, or names a test that does not exist.

Usage: failure_matrix_test.py SOURCE_ROOT
"""
import pathlib
import sys

from parity_test import known_tests, names_in, rows_of

COUNT = 33
NOT_YET = "not yet: "


def problems(text: str, known: set[str]) -> list[str]:
    found = []
    seen = []
    for numbers, cell in rows_of(text):
        seen += numbers
        names = names_in(cell)
        if not names and not cell.startswith(NOT_YET):
            found.append(f"{numbers}: names no test, and does not say '{NOT_YET}...'")
        found += [f"{numbers}: there is no test {name}" for name in sorted(names - known)]
    if seen != list(range(1, COUNT + 1)):
        found.append(f"the rows are {seen}, not 1 to {COUNT}")
    return found


def self_test() -> None:
    whole = "\n".join(f"| {number} | x | `Suite.Case` |" for number in range(1, COUNT + 1))
    assert problems(whole, {"Suite.Case"}) == []
    assert len(problems(whole, set())) == COUNT
    assert problems(whole.replace("| 7 |", "| 8 |"), {"Suite.Case"}) != []
    assert problems(whole.replace("`Suite.Case`", "some day"), {"Suite.Case"}) != []
    assert problems(whole.replace("`Suite.Case`", "not yet: x"), {"Suite.Case"}) == []


if __name__ == "__main__":
    self_test()
    root = pathlib.Path(sys.argv[1])
    bad = problems((root / "docs/failure-matrix.md").read_text(), known_tests(root))
    print("\n".join(bad) or f"failure matrix: all {COUNT} rows have their answer")
    sys.exit(1 if bad else 0)
