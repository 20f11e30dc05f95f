"""Fails where a co_await stands in an arm of a conditional operator. g++ 12 destroys the value of such
an expression once too often: a count in memory that was freed is changed, and the heap is found
broken somewhere else, much later.

Usage: coroutines_test.py SOURCE_ROOT
"""
import pathlib
import re
import sys

FOLDERS = ("bridge", "guestmanager", "migration", "tests", "tools", "vmmanager")
TEXT_OR_COMMENT = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"\((?:.*?)\)"|"(?:\\.|[^"\\\n])*"|(?<!\d)\'(?:\\.|[^\'\\\n])*\'', re.S)
AWAIT = re.compile(r"\bco_await\b")


def blank(text: str) -> str:
    """The same with neither comments nor literals, which keep their lines."""
    return TEXT_OR_COMMENT.sub(lambda match: "\n" * match[0].count("\n") or " ", text)


def problems(text: str) -> list[int]:
    """The lines of what is wrong in a source."""
    code = blank(text)
    return [code.count("\n", 0, match.start()) + 1 for match in AWAIT.finditer(code)
            if "?" in re.split(r"[;{}]", code[: match.start()])[-1]]


def self_test() -> None:
    assert problems("Status s = ok ?\n co_await Run() : other;") == [2]
    assert problems("x = ok ? other : co_await Run();") == [1]
    assert not problems("x = co_await Run() ? 1 : 2;")
    assert not problems("if (a) { b = c ? 1 : 2; co_await Run(c ? d : e); }")
    assert not problems('b("? {"); co_await Run("a ? b"); // x ? co_await y : z')
    assert not problems("/* c ? co_await x : y */ b = '?' ; co_await x;")


if __name__ == "__main__":
    self_test()
    root = pathlib.Path(sys.argv[1])
    bad = [f"{path.relative_to(root)}:{line}: co_await in a conditional operator; use an if"
           for folder in FOLDERS
           for pattern in ("*.cc", "*.h")
           for path in sorted((root / folder).rglob(pattern))
           for line in problems(path.read_text())]
    print("\n".join(bad) or "coroutines: nothing that g++ 12 gets wrong")
    sys.exit(1 if bad else 0)
