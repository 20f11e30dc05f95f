"""Fails when docs/parity.md misses one of hcsshim's tests or defects, or names a test that does not
exist.

Usage: parity_test.py SOURCE_ROOT
"""
import pathlib
import re
import sys

COUNT = 234
DEFECTS = 35
DEFECTS_HEADING = "## Defects"
# A row's last cell names tests, or says why there is none. What is not there yet says what brings it.
REASON = re.compile(r"not applicable: \S|not yet: comes with \w")
NOT_YET = "not yet"

ROW = re.compile(r"^\|\s*([\d][\d, -]*?)\s*\|(.+)\|\s*$")
GTEST_NAME = re.compile(r"`([A-Za-z]\w*\.[A-Z]\w*)`")
PYTHON_NAME = re.compile(r"`(tests/[\w/]+\.py::\w+)`")
GTEST_MACRO = re.compile(r"\bTEST(?:_F|_P)?\(\s*(\w+)\s*,\s*(\w+)\s*\)")
# The backend's conformance suite registers its cases by name, once for each backend.
CONFORMANCE_SUITE = re.compile(r'RegisterBackendConformance\(\s*"(\w+)"\s*,')
CONFORMANCE_CASE = re.compile(r'\{"(\w+)", \1\}')
PYTHON_TEST = re.compile(r"^\s*def (test_\w+)\(", re.M)


def numbers_of(cell: str) -> list[int]:
    """"1, 3-5" is [1, 3, 4, 5]."""
    numbers = []
    for part in cell.split(","):
        first, dash, last = part.strip().partition("-")
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers


def rows_of(text: str) -> list[tuple[list[int], str]]:
    """The numbers and the last cell of each row."""
    rows = []
    for line in text.splitlines():
        if match := ROW.match(line):
            rows.append((numbers_of(match[1]), match[2].rsplit("|", 1)[-1].strip()))
    return rows


def names_in(cell: str) -> set[str]:
    return set(GTEST_NAME.findall(cell)) | set(PYTHON_NAME.findall(cell))


def problems(text: str, known: set[str], count: int = COUNT) -> list[str]:
    """What is wrong with a part of the page whose rows are numbered from 1 to `count`."""
    found = []
    seen: dict[int, int] = {}
    for numbers, cell in rows_of(text):
        label = ", ".join(map(str, numbers))
        for number in numbers:
            seen[number] = seen.get(number, 0) + 1
        names = names_in(cell)
        if cell.startswith(NOT_YET) and not REASON.match(cell):
            found.append(f"{label}: does not say what will bring it (not yet: comes with X)")
        elif not names and not REASON.match(cell):
            found.append(f"{label}: names no test, and gives no reason (not applicable: WHY, or "
                         "not yet: comes with X)")
        found += [f"{label}: there is no test {name}" for name in sorted(names - known)]
    for number in range(1, count + 1):
        if seen.get(number, 0) != 1:
            found.append(f"{number}: appears {seen.get(number, 0)} times")
    found += [f"{number}: there is no such number in hcsshim" for number in sorted(seen)
              if not 1 <= number <= count]
    return found


def page_problems(text: str, known: set[str]) -> list[str]:
    tests, heading, defects = text.partition(DEFECTS_HEADING + "\n")
    if not heading:
        return [f"there is no section {DEFECTS_HEADING}"]
    return (problems(tests, known) +
            [f"defect {problem}" for problem in problems(defects, known, DEFECTS)])


def known_tests(root: pathlib.Path) -> set[str]:
    known, suites, cases = set(), set(), set()
    for file in (root / "tests").rglob("*.cc"):
        text = file.read_text()
        known |= {f"{suite}.{name}" for suite, name in GTEST_MACRO.findall(text)}
        suites |= set(CONFORMANCE_SUITE.findall(text))
    for file in root.glob("vmmanager/*/*_conformance.cc"):
        cases |= set(CONFORMANCE_CASE.findall(file.read_text()))
    known |= {f"{suite}.{case}" for suite in suites for case in cases}
    for file in (root / "tests").rglob("*.py"):
        path = file.relative_to(root).as_posix()
        known |= {f"{path}::{name}" for name in PYTHON_TEST.findall(file.read_text())}
    return known


def self_test() -> None:
    assert numbers_of("1, 3-5") == [1, 3, 4, 5]
    whole = f"| 1-{COUNT} | x | `Suite.Case` and `tests/a.py::test_b` |"
    known = {"Suite.Case", "tests/a.py::test_b"}
    assert problems(whole, known) == []
    assert problems(whole, {"Suite.Case"}) != []
    assert problems(whole + "\n| 7 | x | not applicable: twice |", known) == ["7: appears 2 times"]
    assert problems(f"| 2-{COUNT} | x | not yet: comes with y |", known) == ["1: appears 0 times"]
    assert problems(f"| 1-{COUNT} | x | some other day |", known) != []
    assert problems(f"| 1-{COUNT} | x | not yet: comes with y; `Suite.Case` |", known) == []
    for idle in ("not yet: nobody does it", "not yet: comes with ", "not yet"):
        assert problems(f"| 1-{COUNT} | x | {idle} |", known) != []
        assert problems(f"| 1-{COUNT} | x | {idle}; `Suite.Case` |", known) != []
    assert problems(f"| 1-{COUNT + 1} | x | not yet: comes with y |", known) != []
    assert page_problems(whole, known) != []
    page = f"{whole}\n{DEFECTS_HEADING}\n"
    assert page_problems(f"{page}| 1-{DEFECTS} | x | `Suite.Case` |", known) == []
    assert page_problems(f"{page}| 1-{DEFECTS} | x | `Suite.Other` |", known) != []
    assert page_problems(f"{page}| 2-{DEFECTS} | x | not yet: comes with y |", known) == [
        "defect 1: appears 0 times"]


if __name__ == "__main__":
    self_test()
    root = pathlib.Path(sys.argv[1])
    text = (root / "docs/parity.md").read_text()
    bad = page_problems(text, known_tests(root))
    print("\n".join(bad) or f"parity: all {COUNT} tests and {DEFECTS} defects have their answer")
    sys.exit(1 if bad else 0)
