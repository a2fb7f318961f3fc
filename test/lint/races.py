#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Holds the table of races in docs/testing.md against the tests: races.py ROOT [--list | --write]

Every race R1..R46 has a row there, every row names at least one file, and every file that it names holds a test tagged [R<n>]: a
Catch2 test whose name has the tag, or a mount test whose docstring has it. --list prints the tests by race, --write brings
the table's files up to date."""
import pathlib
import re
import sys

LAST = 46
TAG = re.compile(r"\[R(\d+)\]")
CATCH = re.compile(r'TEST_CASE\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')
ROW = re.compile(r"^\| R(\d+) \|(.*)\|([^|]*)\|$", re.M)


def tagged_tests(root):
    """{race: [(file relative to test/, name)]}"""
    found = {n: [] for n in range(1, LAST + 1)}

    def add(path, name):
        for n in {int(n) for n in TAG.findall(name)}:
            found.setdefault(n, []).append((str(path.relative_to(root / "test")), name))

    for path in sorted((root / "test").rglob("*_test.cc")):
        for strings in CATCH.findall(path.read_text()):
            add(path, "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', strings)))
    for path in sorted((root / "test/mount").glob("test_*.py")):
        for line in path.read_text().split("\n"):
            if TAG.search(line):
                add(path, line.strip().strip('"'))
    return found


def main():
    root = pathlib.Path(sys.argv[1])
    tests = tagged_tests(root)
    if "--list" in sys.argv:
        for n, rows in sorted(tests.items()):
            print(f"R{n}" + ("" if any(f.startswith("mount/") for f, _ in rows) else "  (not through a mount)"))
            for file, name in rows:
                print(f"    test/{file}: {name}")
        return 0
    table = root / "docs/testing.md"
    if "--write" in sys.argv:
        files = lambda n: " ".join(f"`{f}`" for f in dict.fromkeys(f for f, _ in tests[n]))
        table.write_text(ROW.sub(lambda m: f"| R{m[1]} |{m[2]}| {files(int(m[1]))} |", table.read_text()))
    problems = []
    rows = {int(n): re.findall(r"`([^`]+)`", files) for n, _, files in ROW.findall(table.read_text())}
    for n, found in sorted(tests.items()):
        if not 1 <= n <= LAST:
            problems.append(f"[R{n}] in test/{found[0][0]}: there is no such race")
            continue
        if not found:
            problems.append(f"R{n}: no test is tagged [R{n}]")
        if not rows.get(n):
            problems.append(f"R{n}: no row of docs/testing.md names its tests")
        for file in rows.get(n, []):
            if file not in {f for f, _ in found}:
                problems.append(f"R{n}: docs/testing.md names test/{file}, which has no test tagged [R{n}]")
    for problem in problems:
        print(problem)
    print(f"{LAST} races, {sum(len(t) for t in tests.values())} tests, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
