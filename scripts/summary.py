#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Prints what meson test runs (their logs are the arguments) did: the skipped ones by name and reason, their number, then 'N passed, N failed'.

A test program may count for itself: the last line of its output of the form 'N passed, N failed[, N skipped]' (ours) or
Catch2's 'test cases: N | N passed | N failed' or 'All tests passed (… in N test cases)' is added up; else it counts as one."""
import json
import re
import sys

OWN = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", re.M)
CATCH_ALL = re.compile(r"All tests passed \(.* in (\d+) test cases?\)")
CATCH_SOME = re.compile(r"^test cases: +(\d+)(.*)$", re.M)
SKIPPED = re.compile(r"^(?:SKIPPED|skipped): (.*)$", re.M)


def counts(test):
    text = (test.get("stdout") or "") + (test.get("stderr") or "")
    if found := OWN.findall(text):
        passed, failed, skipped = found[-1]
        return int(passed), int(failed), int(skipped or 0)
    if found := CATCH_ALL.findall(text):
        return int(found[-1]), 0, 0
    if found := CATCH_SOME.findall(text):
        rest = found[-1][1]
        number = lambda word: int((re.search(r"(\d+) " + word, rest) or [0, 0])[1])
        return number("passed"), number("failed"), number("skipped")
    return {"OK": (1, 0, 0), "EXPECTEDFAIL": (1, 0, 0), "SKIP": (0, 0, 1)}.get(test["result"], (0, 1, 0))


def main():
    passed = failed = skipped = 0
    for path in sys.argv[1:]:
        with open(path) as log:
            tests = [json.loads(line) for line in log]
        for test in tests:
            p, f, s = counts(test)
            if test["result"] not in ("OK", "SKIP", "EXPECTEDFAIL") and f == 0:
                f = 1  # died before it could count
            passed, failed, skipped = passed + p, failed + f, skipped + s
            text = (test.get("stdout") or "") + (test.get("stderr") or "")
            for reason in SKIPPED.findall(text):
                print(f"skipped: {test['name']}: {reason}")
            if f:
                print(f"FAILED: {test['name']} ({test['result']})")
    if skipped:
        print(f"{skipped} skipped, named above")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
