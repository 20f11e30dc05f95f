"""Fails when docs/failure-matrix.md misses a row, names a test that does not exist, or does not
name one that says by its own name that it is the row's (test_row_07_..., test_rows_18_19_...).

Usage: failure_matrix_test.py SOURCE_ROOT
"""
import pathlib
import re
import sys

from parity_test import known_tests, names_in, rows_of

COUNT = 33
NOT_YET = "not yet: "
OF_ROWS = re.compile(r"::test_rows?((?:_\d+)+)_")


def rows_claimed(name: str) -> list[int]:
    """The rows that a test says it is of."""
    match = OF_ROWS.search(name)
    return [int(number) for number in match[1][1:].split("_")] if match else []


def problems(text: str, known: set[str]) -> list[str]:
    found = []
    seen = []
    named = set()
    for numbers, cell in rows_of(text):
        seen += numbers
        names = names_in(cell)
        named |= {(number, name) for number in numbers for name in names}
        if not names and not cell.startswith(NOT_YET):
            found.append(f"{numbers}: names no test, and does not say '{NOT_YET}...'")
        found += [f"{numbers}: there is no test {name}" for name in sorted(names - known)]
    if seen != list(range(1, COUNT + 1)):
        found.append(f"the rows are {seen}, not 1 to {COUNT}")
    found += [f"{number}: does not name {name}" for name in sorted(known)
              for number in rows_claimed(name) if (number, name) not in named]
    return found


def self_test() -> None:
    whole = "\n".join(f"| {number} | x | `Suite.Case` |" for number in range(1, COUNT + 1))
    assert problems(whole, {"Suite.Case"}) == []
    assert len(problems(whole, set())) == COUNT
    assert problems(whole.replace("| 7 |", "| 8 |"), {"Suite.Case"}) != []
    assert problems(whole.replace("`Suite.Case`", "some day"), {"Suite.Case"}) != []
    assert problems(whole.replace("`Suite.Case`", "not yet: x"), {"Suite.Case"}) == []
    of_two = "tests/a.py::test_rows_07_8_x"
    assert problems(whole, {"Suite.Case", of_two}) == [f"{number}: does not name {of_two}"
                                                       for number in (7, 8)]
    assert problems(whole.replace("| 7 | x |", f"| 7 | x | `{of_two}`"),
                    {"Suite.Case", of_two}) == [f"8: does not name {of_two}"]
    assert rows_claimed("tests/a.py::test_row_of_three") == []


if __name__ == "__main__":
    self_test()
    root = pathlib.Path(sys.argv[1])
    bad = problems((root / "docs/failure-matrix.md").read_text(), known_tests(root))
    print("\n".join(bad) or f"failure matrix: all {COUNT} rows have their answer")
    sys.exit(1 if bad else 0)
