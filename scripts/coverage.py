#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Adds up what gcov says of a build with coverage: lines per room of src/, functions that never ran.

usage: coverage.py BUILD [--functions]"""
import collections
import json
import os
import pathlib
import subprocess
import sys


def documents(build):
    """gcov's JSON for every object that has notes; objects that never ran count as not executed."""
    notes = sorted(str(p) for p in build.rglob("*.gcno") if "/src/" in str(p))
    for start in range(0, len(notes), 20):
        done = subprocess.run(["gcov", "--json-format", "--stdout", "--demangled-names", *notes[start:start + 20]],
                              capture_output=True, text=True, cwd=build)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                yield json.loads(line)


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    source = pathlib.Path(__file__).resolve().parents[1] / "src"
    lines = collections.defaultdict(lambda: collections.defaultdict(int))  # file -> line -> count
    functions = collections.defaultdict(int)  # (file, line, name) -> count
    for document in documents(build):
        for file in document["files"]:
            path = pathlib.Path(os.path.normpath(build / file["file"]))
            if source not in path.parents:
                continue
            name = str(path.relative_to(source))
            for line in file["lines"]:
                lines[name][line["line_number"]] += line["count"]
            for function in file["functions"]:
                functions[name, function["start_line"], function["demangled_name"]] += function["execution_count"]
    # A template or an inline function ran if one of its copies did.
    ran = collections.defaultdict(int)
    names = {}
    for (file, line, name), count in functions.items():
        ran[file, line] += count
        names[file, line] = name
    rooms = collections.defaultdict(lambda: [0, 0])
    for name, counts in lines.items():
        room = rooms[name.split("/")[0]]
        room[0] += sum(1 for c in counts.values() if c)
        room[1] += len(counts)
    total = [sum(r[0] for r in rooms.values()), sum(r[1] for r in rooms.values())]
    for room, (hit, known) in sorted(rooms.items()) + [("all", total)]:
        print(f"{room:10} {hit:6} of {known:6} lines, {100 * hit / max(known, 1):5.1f} %")
    never = sorted(key for key, count in ran.items() if count == 0)
    print(f"{len(ran) - len(never)} of {len(ran)} functions ran, {len(never)} never")
    if "--functions" in sys.argv:
        for file, line in never:
            print(f"  {file}:{line}: {names[file, line]}")


if __name__ == "__main__":
    main()
