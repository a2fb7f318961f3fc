#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks the protocol's models with spin, and that each model notices when a rule is left out: run_models.py [--full] [--list] [WORD…]

A case is a model, the names that are defined for it (a mutant is called WITHOUT_… after the rule that it leaves out), and what spin
must find: nothing; an assertion that fails; an end in which somebody still waits; or an endless run in which something that must end
does not. WORDs choose the cases whose name contains one of them. --full adds larger bounds, which take minutes and gigabytes."""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TIMEOUT_S = 1500
HOLDS, ASSERTION, STUCK, ENDLESS = "holds", "assertion violated", "invalid end state", "acceptance cycle"
# Models with a process that watches for the end of everything: a dead client's threads stand where they died.
WATCHED = {"break", "wake_up", "grant_recall", "setattr"}


class Case:
    """`claims`: the formulas to check (under weak fairness) instead of safety."""

    def __init__(self, model, defines="", finds=HOLDS, claims=(), full=False):
        self.model, self.defines, self.finds, self.claims, self.full = model, defines.split(), finds, claims, full
        self.name = " ".join([model] + self.defines)


def each(model, mutants, finds, common="", claims=()):
    return [Case(model, f"{common} {m}", finds, claims) for m in mutants.split()]


ADMISSION = ("breaks_end", "requests_end")
CASES = [
    Case("pin_and_gate"),
    *each("pin_and_gate", "WITHOUT_P2_FENCE WITHOUT_P2_SECOND_LOOK WITHOUT_G2_SEQUENCE WITHOUT_G2_GENERATION WITHOUT_G3_FENCE "
          "WITHOUT_G3_ORDER WITHOUT_G4_CLOSED_WORD WITHOUT_G5_GENERATION", ASSERTION),
    Case("pin_and_gate", "PINS=5 BREAKS=4", full=True),
    Case("gate_list"),
    *each("gate_list", "WITHOUT_G1_COUNT WITHOUT_G6_CHANGING WITHOUT_G6_OVERFLOW", ASSERTION),
    Case("gate_list", "PINS=3", full=True),
    Case("transient_slot", claims=("break_ends",)),
    Case("transient_slot", "WITHOUT_P1", ENDLESS, ("break_ends",)),

    Case("wake_up"),
    Case("wake_up", "CLIENT_NEVER_RINGS"),
    *each("wake_up", "WITHOUT_U1_EXCHANGE WITHOUT_U1_CANCELLATION_OFF WITHOUT_P2_UNDO_BY_UNPIN WITHOUT_U2_DRAIN_FIRST "
          "WITHOUT_U2_REGISTER_FIRST WITHOUT_U2_COMPARE_AND_SWAP WITHOUT_U2_SEQUENCE WITHOUT_U3_EARLY_WAKE WITHOUT_U3_DEATH", ASSERTION),
    Case("wake_up", "CLIENT_NEVER_RINGS WITHOUT_U3_RESCAN", ASSERTION),
    Case("wake_up", "PINS=3", full=True),

    Case("break"),
    Case("break", "INTERRUPTS"),
    Case("break", "LATE_ANSWERS"),
    Case("break", "DEATH"),
    *each("break", "WITHOUT_G3_ORDER WITHOUT_P3_BEFORE_THE_REPLY WITHOUT_B2_DROPPED_LOCK WITHOUT_B2_RESCAN WITHOUT_B3_KEPT_LOCK "
          "WITHOUT_B3_ANSWERS", ASSERTION),
    Case("break", "INTERRUPTS WITHOUT_G1_COUNT", ASSERTION),
    Case("break", "LATE_ANSWERS WITHOUT_B4_START_OVER", ASSERTION),
    *each("break", "WITHOUT_D1_MEMORY WITHOUT_D1_PINS_END", ASSERTION, "DEATH"),
    *(Case("break", f"ANY_PAGE {more}", full=True) for more in ("", "INTERRUPTS", "LATE_ANSWERS", "DEATH")),
    Case("range_lock", claims=("break_ends",)),
    Case("range_lock", "WITHOUT_B1_FIFO", ENDLESS, ("break_ends",)),

    *(Case("admission", f"SCENARIO={s} TWO_BREAKS {more}", claims=ADMISSION)
      for s, more in ((1, ""), (2, ""), (2, "ONE_CLIENT WIDE_BREAK"), (3, ""), (4, ""), (5, "ONE_CLIENT"), (6, ""), (7, "ONE_CLIENT WIDE_BREAK"))),
    *(Case("admission", f"SCENARIO={s} TWO_BREAKS ONE_CLIENT {more}", claims=ADMISSION, full=True)
      for s in (1, 2, 3, 4, 5, 6, 7) for more in ("", "WIDE_BREAK")),
    *(Case("admission", f"SCENARIO={s} {more} {mutant}", ENDLESS, (claim,)) for s, more, mutant, claim in (
        (2, "TWO_BREAKS", "NOBODY_PASSES", "requests_end"),
        (1, "ONE_CLIENT", "HOLDERS_OF_THE_CLIENT_PASS", "breaks_end"),
        (2, "TWO_BREAKS ONE_CLIENT", "HOLDERS_PASS", "breaks_end"),
        (1, "TWO_BREAKS", "WITHOUT_A1_TICKET_SHOWN", "breaks_end"),
        (2, "TWO_BREAKS ONE_CLIENT", "WITHOUT_A2_EPISODES", "requests_end"),
        (2, "TWO_BREAKS ONE_CLIENT", "WITHOUT_A3_OWN_AGE", "requests_end"),
        (7, "ONE_CLIENT WIDE_BREAK", "WITHOUT_A3_PASSED_BEFORE", "requests_end"),
        (5, "ONE_CLIENT", "WITHOUT_A3_SIBLINGS", "requests_end"),
        (1, "TWO_BREAKS ONE_CLIENT", "INHERITED_AGE", "breaks_end"),
        (6, "TWO_BREAKS", "WITHOUT_A4_BOUND", "breaks_end"))),
    Case("fault_across_inodes"),
    Case("fault_across_inodes", "WITHOUT_A5", STUCK),
    Case("deadlock"),
    *each("deadlock", "WITHOUT_A6_SEARCH WITHOUT_A6_DEPTH WITHOUT_A6_OWN_THREAD WITHOUT_A6_ONE_MUTEX", STUCK),

    Case("grant_recall"),
    Case("grant_recall", "FORCE"),
    *each("grant_recall", "WITHOUT_F1_ONE_FIFO WITHOUT_F1_ACK_AFTER WITHOUT_F1_ONE_HOLD WITHOUT_F1_BOOK WITHOUT_F2_MEMORY "
          "WITHOUT_F3_NO_LOCK_OVER_FAULTS", ASSERTION),
    Case("grant_recall", "FORCE WITHOUT_F4_QUARANTINE", ASSERTION),
    Case("grant_recall", "CHANGES=3 FORCE", full=True),

    Case("page_cache"),
    *each("page_cache", "WITHOUT_C1_DRAIN WITHOUT_C1_RECALL WITHOUT_C4_DROP_NUMBERS WITHOUT_C5_PINS", ASSERTION),
    Case("page_cache", "WITHOUT_C4_PROOF WITHOUT_C4_FILL_BEHIND", STUCK),
    # Either alone is slow, not wrong: the lock is dropped before long, or write-backs do not need it.
    Case("page_cache", "WITHOUT_C3_AT_ONCE WITHOUT_B4_DROPPED_LOCK", STUCK),
    Case("page_cache", "ENDLESS", claims=("direct_faults_end",)),
    *each("page_cache", "WITHOUT_C4_UNANSWERED WITHOUT_C4_FILL_BEHIND", ENDLESS, "ENDLESS", ("direct_faults_end",)),
    Case("page_cache", "TOUCHES=3", full=True),
    Case("page_cache_range"),
    Case("page_cache_range", "HOLDER_FILLS"),
    Case("page_cache_range", "WITHOUT_C5_DEADLINE"),
    Case("page_cache_range", "WITHOUT_C5_DEADLINE WITHOUT_C4_ISSUED_ANEW", STUCK),
    Case("page_cache_range", "HOLDER_FILLS WITHOUT_C5_DEADLINE", STUCK),
    # The drops that C4 issues anew cover for it.
    Case("page_cache_range", "WITHOUT_C5_DEADLINE WITHOUT_C2_ONE_FOLIO"),
    Case("setattr"),
    *each("setattr", "WITHOUT_C6_VERDICT WITHOUT_C6_SECOND_VERDICT WITHOUT_C6_PARK WITHOUT_C6_PARK_AT_LOCK", ASSERTION),

    Case("holds"),
    *each("holds", "WITHOUT_F4_HOLD WITHOUT_F4_ONE_STEP WITHOUT_F4_HELD_FREE WITHOUT_F4_COUNT", ASSERTION),
    Case("reflink"),
    *each("reflink", "WITHOUT_T1_ORDER WITHOUT_T1_ONE_RANGE", STUCK),
    *each("reflink", "WITHOUT_T2_ATOMIC WITHOUT_T3_LOCK WITHOUT_P4_MARK", ASSERTION),
    Case("reflink", "WITHOUT_T3_LOCK WITH_RECHECK_ALONE", ASSERTION),
    Case("shared_pin"),
    Case("shared_pin", "WITHOUT_P4", STUCK),
]


class Failed(Exception):
    pass


def run(command, where, ok=(0,)):
    try:
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} took more than {TIMEOUT_S} s") from None
    if done.returncode not in ok:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check(case, compiler, where):
    """Returns what spin found, and how many states it saw."""
    shutil.copy(HERE / f"{case.model}.pml", where)
    run(["spin", "-a", *(f"-D{d}" for d in case.defines), f"{case.model}.pml"], where)
    options = ["-DNFAIR=4"] if case.claims else ["-DSAFETY"]
    run([compiler, "-O1", "-w", "-DVECTORSZ=2048", *options, "-o", "pan", "pan.c"], where)
    found, states = HOLDS, 0
    for claim in case.claims or (None,):
        command = ["./pan", "-m500000", *(["-a", "-f", "-N", claim] if claim else []), *(["-E"] if case.model in WATCHED else [])]
        said = run(command, where)
        if "max search depth too small" in said or "out of memory" in said:
            raise Failed(said)
        errors = re.search(r"errors: (\d+)", said)
        stored = re.search(r"^ *(\d+) states, stored", said, re.M)
        if not errors or not stored:
            raise Failed(said)
        states += int(stored.group(1))
        if int(errors.group(1)):
            what = re.search(r"^pan:1: (.*?)(?: \(at depth|$)", said, re.M)
            kinds = [k for k in (ASSERTION, STUCK, ENDLESS) if what and what.group(1).startswith(k)]
            found = kinds[0] if kinds else said
    return found, states


def one(case, compiler):
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="pindax-model-") as where:
            found, states = check(case, compiler, pathlib.Path(where))
        good = found == case.finds
        text = f"{found} as it must" if good and found != HOLDS else found if good else f"{found}, but expected: {case.finds}"
        text += f" ({states} states, {time.monotonic() - start:.1f} s)"
    except Failed as error:
        good, text = False, str(error)
    print(f"{'ok     ' if good else 'FAILED '} {case.name}: {text}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="larger bounds, too")
    parser.add_argument("--list", action="store_true", help="print the cases and what each must find")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("words", nargs="*", help="only cases whose name contains one of these")
    options = parser.parse_args()
    cases = [c for c in CASES if (options.full or not c.full) and (not options.words or any(w in c.name for w in options.words))]
    if options.list:
        for c in cases:
            print(f"{c.name}: {c.finds}")
        return 0
    compiler = os.environ.get("CC") or next((c for c in ("gcc", "cc", "clang") if shutil.which(c)), None)
    missing = "spin is not installed" if not shutil.which("spin") else "" if compiler else "there is no C compiler"
    if missing:
        print(f"skipped: all {len(cases)} cases: {missing}\n0 passed, 0 failed, {len(cases)} skipped")
        return 77
    # Full cases want all the memory there is.
    with concurrent.futures.ThreadPoolExecutor(1 if options.full else options.jobs) as pool:
        results = list(pool.map(lambda c: one(c, compiler), cases))
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
