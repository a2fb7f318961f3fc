# SPDX-License-Identifier: BSD-3-Clause
"""Leases, long-term, transferable and stuck pins."""
import json
import os
import sys
import time

from policies import *


def test_lease_is_asked_for(m):
    """a lease's holder is asked at once when a change finds it, ends it, and the change goes on"""
    path, c = holder(m, words=("lease",))
    c.ask("onlease", "unpin")
    start = time.monotonic()
    check_equal(by_mount(path).result(5), None)
    check(time.monotonic() - start < 3, "well before the deadline of five seconds")
    check_equal(c.ask("asked"), ["1"])
    check(zeroed(path))
    # The command does the same.
    p = m.pin("f", "64K", "4K", extra=("--kind", "lease"))
    work = Background(lambda: punch(path, 64 * KiB, 4096))
    work.result(5)
    check_equal(p.wait(5), 0)
    check("asked to end the lease" in p.stdout.read())


def test_lease_that_stays(m):
    """a lease that outlasts its deadline: wait completes by quarantine, refuse is ETXTBSY, evict kills; it is shown as stuck"""
    path, c = holder(m, words=("lease",))
    os.setxattr(path, "user.pindax.on_busy", b"refuse=10")
    check_equal(by_mount(path).result(5), "ETXTBSY")
    check_equal([(p["kind"], p["stuck"]) for p in m.pins()], [("lease", True)])
    check(m.pins()[0]["asked_ms"] >= 500)
    os.removexattr(path, "user.pindax.on_busy")
    wait_until(lambda: m.pins()[0]["asked_ms"] > 1100, "the daemon would ask again")
    work = by_mount(path)
    check_equal(work.result(5), None)
    check_equal(m.info()["quarantine_bytes"], 4096)
    check_equal(c.ask("asked"), ["1"], "asked once, however many changes wait")
    c.ask("unpin", 0)
    wait_until(lambda: m.info()["quarantine_bytes"] == 0, "the quarantine drains")
    path, c = holder(m, "g", words=("lease",))
    os.setxattr(path, "user.pindax.on_busy", b"evict")
    must_evict(m, by_mount(path), path, c)


test_lease_that_stays.mount = {"options": "lease_deadline=500ms"}


def test_lease_of_an_unmapped_mapping(m):
    """[R7] a lease whose mapping was unmapped is asked for, too"""
    path, c = holder(m, words=("lease",))
    c.ask("onlease", "unpin")
    c.ask("unmap")
    check_equal(by_mount(path).result(5), None)
    check_equal(c.ask("asked"), ["1"])


def test_leases_need_a_callback(m):
    """without a callback a lease is refused; without the mount's word a long-term pin is"""
    m.file("f", 1 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    check_equal(c.refuse("pin", 0, 0, 4096, "longterm"), "EOPNOTSUPP")


def test_longterm_quota(m):
    """long-term pins count against their client's quota, and make room when they end"""
    path = m.file("f", 1 * MiB)
    clients = [m.client() for _ in range(2)]
    for c in clients:
        c.ask("open", "f", "rw")
        c.ask("map", 0, 1 * MiB)
        c.ask("pin", 0, 0, 40 * KiB, "longterm")
        c.ask("pin", 1, 64 * KiB, 24 * KiB, "longterm", "write")
        check_equal(c.refuse("pin", 2, 128 * KiB, 1, "longterm"), "ENOMEM")
        c.send("pin", 2, 128 * KiB, 1, "longterm")
        check("65536 bytes" in c.answer(), "the error names the quota")
        c.ask("pin", 3, 128 * KiB, 64 * KiB)
        c.ask("unpin", 0)
        c.ask("pin", 4, 512 * KiB, 40 * KiB, "longterm")
    check_equal(len(m.pins("--kind", "longterm")), 4)
    check_equal(len(m.pins("--kind", "transient")), 2)


test_longterm_quota.mount = {"options": "long_term_pins=64K"}


def test_transferable_pin(m):
    """[R37] the thread that truncates what it pins itself gets EDEADLK; with a transferable pin it waits for whoever ends it"""
    path, c = holder(m)
    check_equal(c.refuse("truncate", 0), "EDEADLK")
    c.ask("unpin", 0)
    c.ask("pin", 1, 0, 4096, "transferable", "lease")
    c.ask("onlease", "unpin")  # the library's thread ends it
    c.ask("truncate", 0)
    check_equal(os.path.getsize(path), 0)


def test_stuck_pins(m):
    """a pin older than the soft deadline is logged once, counted, and marked in every listing"""
    path, c = holder(m)
    wait_until(lambda: m.info()["stuck_pins"] == 1, "it is counted")
    time.sleep(2.5)  # two more looks of the daemon
    check_equal(m.info()["stuck_pins_ever"], 1)
    with open(m.dir / "log") as log:
        lines = [line for line in log if "stuck pin" in line]
    check_equal(len(lines), 1, "lines in the log")
    check(str(c.pid) in lines[0], lines[0])
    check_equal([p["stuck"] for p in m.pins("--stuck")], [True])
    check_equal(m.clients()[0]["stuck_pins"], 1)
    stat = json.loads(run(PINDAX, "stat", path, "--json").stdout)
    check_equal((stat["pins"], stat["stuck_pins"], stat["mappings"]), (1, 1, 1))
    for command in (("pins", m.path), ("layout", path)):
        check("STUCK" in run(PINDAX, *command).stdout, str(command))
    work = by_mount(path)
    m.wait_for_waiter()
    check(m.waiters()[0]["waits_for"][0]["stuck"])
    check("STUCK" in run(PINDAX, "waiters", m.path).stdout)
    c.ask("unpin", 0)
    work.result(5)
    check_equal(m.pins("--stuck"), [])
    wait_until(lambda: m.info()["stuck_pins"] == 0, "it is not counted any more")


test_stuck_pins.mount = {"options": "stuck_after=300ms,logfile={dir}/log"}


if __name__ == "__main__":
    sys.exit(main(globals()))
