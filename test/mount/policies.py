# SPDX-License-Identifier: BSD-3-Clause
"""A punch under a pin, asked for in several ways, and what each policy makes of it."""
import errno

from harness import *

INHERIT, WAIT, REFUSE, QUARANTINE, EVICT = range(5)
NAMES = ["inherit", "wait", "refuse", "quarantine", "evict"]


def by_library(m, name, policy, ms=0):
    """A punch of the first 64 KiB through the library with a policy of its own; the errno's name or None."""
    caller = m.client()
    caller.ask("open", name, "rw")
    caller.send("fallocate", FALLOC_PUNCH | FALLOC_KEEP_SIZE, 0, 64 * KiB, policy, ms)
    def answer():
        line = caller.answer()
        return None if line.startswith("ok") else line.split()[1]
    return Background(answer)


def by_mount(path):
    def work():
        try:
            punch(path, 0, 64 * KiB)
        except OSError as error:
            return errno.errorcode[error.errno]
    return Background(work)


def zeroed(path):
    with open(path, "rb") as f:
        return f.read(4096) == bytes(4096)


def must_wait(m, work, path, c):
    m.wait_for_waiter()
    time.sleep(0.1)
    check(not work.done(), "it waits")
    c.ask("unpin", 0)
    check_equal(work.result(5), None)
    check(zeroed(path), "and is done after the unpin")


def must_refuse(m, work, path, c):
    check_equal(work.result(5), "ETXTBSY")
    check(not zeroed(path), "nothing was done")
    check_equal(m.waiters(), [])
    c.ask("unpin", 0)


def must_quarantine(m, work, path, c):
    check_equal(work.result(5), None)
    check(zeroed(path), "the file has a hole")
    check_equal(c.ask("load", 0, 4), ["07070707"], "the holder keeps the old block")
    wait_until(lambda: m.info()["quarantine_bytes"] == 4096, "the pinned block is in quarantine, and nothing else")
    c.ask("unpin", 0)
    wait_until(lambda: m.info()["quarantine_bytes"] == 0, "the quarantine drains by itself")


def must_evict(m, work, path, c):
    check_equal(work.result(10), None)
    check(zeroed(path), "done")
    check_equal(c.process.wait(5), -signal.SIGKILL, "the holder was killed")
    check_equal(m.info()["quarantine_bytes"], 0, "quarantine")
    check_equal((m.info()["evictions"], m.pins()), (1, []))


EXPECT = {WAIT: must_wait, REFUSE: must_refuse, QUARANTINE: must_quarantine, EVICT: must_evict}
