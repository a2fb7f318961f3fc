#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Holds the rooms' one-way dependencies: a file of a room includes headers of its own room and of those listed here only."""
import pathlib
import re
import sys

BASE = {"base"}
CORE = BASE | {"format", "pmem", "journal"}
ALLOWED = {
    "base": set(),
    "format": BASE,
    "pmem": BASE | {"format"},
    "journal": BASE | {"format", "pmem"},
    "tree": CORE,
    "alloc": CORE | {"tree"},
    "proto": BASE,
    # The protocol room sees the shared memory's structs, not the messages' transport.
    "layout": BASE | {"format", "proto"},
    "fs": CORE | {"tree", "alloc", "layout"},
    "fsck": CORE | {"tree", "alloc", "layout", "fs"},
    "server": CORE | {"tree", "alloc", "layout", "fs", "proto"},
    "fuse": CORE | {"tree", "alloc", "layout", "fs", "proto"},
    "daemon": CORE | {"tree", "alloc", "layout", "fs", "proto", "server", "fuse"},
    "client": {"base", "proto"},
    "preload": {"base", "proto", "client"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)/', re.M)
STORES = re.compile(r"\bpmem2_|libpmem2\.h")
LIMIT_LINES = 700  # a file that passes 400 wants a reason, one that passes this has none


def main():
    root = pathlib.Path(sys.argv[1])
    problems = []
    checked = 0
    for path in sorted((root / "src").rglob("*")):
        if path.suffix not in (".h", ".cc"):
            continue
        checked += 1
        room = path.relative_to(root / "src").parts[0]
        text = path.read_text()
        if room not in ALLOWED:
            problems.append(f"{path}: room '{room}' is unknown to test/lint/arrows.py")
            continue
        for other in INCLUDE.findall(text):
            if other in ALLOWED and other != room and other not in ALLOWED[room]:
                problems.append(f"{path}: room '{room}' may not include '{other}/'")
        if "libfuse" not in room and room != "fuse" and room != "daemon" and re.search(r"#\s*include\s+<fuse", text):
            problems.append(f"{path}: only the fuse and daemon rooms may use libfuse")
        if room not in ("pmem", "client") and STORES.search(text):
            problems.append(f"{path}: only the pmem room (and the client library) may use libpmem2")
        if not text.startswith("// SPDX-License-Identifier: BSD-3-Clause"):
            problems.append(f"{path}: no SPDX line at the top")
        if room not in ("base",) and re.search(r"\bstd::(shared_)?mutex\b", text):
            problems.append(f"{path}: use the ranked locks of base/mutex.h")
        if text.count("\n") > LIMIT_LINES:
            problems.append(f"{path}: {text.count(chr(10))} lines; split it")
    for problem in problems:
        print(problem)
    print(f"{checked} files, {len(problems)} problems")
    return 1 if problems or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
