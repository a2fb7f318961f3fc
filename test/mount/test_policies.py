# SPDX-License-Identifier: BSD-3-Clause
"""What a layout change does about pins in its way: policies by mount, by file and by call, deadlines, eviction."""
import os
import signal
import sys
import threading
import time

from policies import *


def make_tests():
    for policy in (WAIT, REFUSE, QUARANTINE, EVICT):
        def by_option(m, policy=policy):
            path, c = holder(m)
            os.kill(c.pid, signal.SIGSTOP)
            row = m.pins()[0]
            check_equal((row["pid"], row["path"], row["offset_bytes"], row["length_bytes"]), (c.pid, "/f", 0, 4096))
            work = by_mount(path)
            if policy == WAIT:
                m.wait_for_waiter()
                time.sleep(0.1)
                check(not work.done(), "it waits for the stopped process")
            elif policy != EVICT:
                check_equal(work.result(5), "ETXTBSY" if policy == REFUSE else None)
            if policy != EVICT:
                os.kill(c.pid, signal.SIGCONT)
            EXPECT[policy](m, work, path, c)
        by_option.__doc__ = f"[R9] [R12] policy {NAMES[policy]} of the mount, and a stopped holder"
        by_option.mount = {"options": f"on_busy={NAMES[policy]},recall_deadline=500ms"}
        globals()[f"test_{NAMES[policy]}_by_mount"] = by_option

        def by_attribute(m, policy=policy):
            path, c = holder(m)
            os.setxattr(path, "user.pindax.on_busy", NAMES[policy].encode())
            EXPECT[policy](m, by_mount(path), path, c)
        by_attribute.__doc__ = f"[R9] [R12] policy {NAMES[policy]} of the file, against the mount's"
        by_attribute.mount = {"options": "on_busy=wait" if policy == REFUSE else "on_busy=refuse"}
        globals()[f"test_{NAMES[policy]}_by_attribute"] = by_attribute

        def by_call(m, policy=policy):
            path, c = holder(m)
            os.setxattr(path, "user.pindax.on_busy", b"wait" if policy == REFUSE else b"refuse")
            EXPECT[policy](m, by_library(m, "f", policy), path, c)
        by_call.__doc__ = f"[R9] [R12] policy {NAMES[policy]} of the call, against the file's"
        globals()[f"test_{NAMES[policy]}_by_call"] = by_call


make_tests()


def test_deadlines(m):
    """[R9] wait=TIME refuses, quarantine=TIME and evict=TIME act, at the deadline and not before; so does a call's deadline"""
    path, c = holder(m)
    start = time.monotonic()
    check_equal(by_mount(path).result(5), "ETXTBSY", "on_busy=wait=300ms of the mount")
    check(time.monotonic() - start >= 0.29, "not before the deadline")
    start = time.monotonic()
    check_equal(by_library(m, "f", WAIT, 200).result(5), "ETXTBSY", "wait and 200 ms of the call")
    os.setxattr(path, "user.pindax.on_busy", b"quarantine=200ms")
    check_equal(os.getxattr(path, "user.pindax.on_busy"), b"quarantine=0.200")
    start = time.monotonic()
    work = by_mount(path)
    must_quarantine(m, work, path, c)
    check(time.monotonic() - start >= 0.19, "not before the deadline")
    path, c = holder(m, "g")
    os.setxattr(path, "user.pindax.on_busy", b"evict=0.2")
    start = time.monotonic()
    work = by_mount(path)
    must_evict(m, work, path, c)
    check(time.monotonic() - start >= 0.19, "not before the deadline")


test_deadlines.mount = {"options": "on_busy=wait=300ms"}


def test_eviction_needs_the_right_to_signal(m):
    """[R9] a user's evict policy kills only whom that user may signal: others' blocks are quarantined, and that is reported"""
    path, c = holder(m)
    os.chmod(path, 0o666)
    os.setxattr(path, "user.pindax.on_busy", b"evict")
    run("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "fallocate", "-p", "-o", "0", "-l", "64K", path)
    check(process_alive(c.pid), "root's client lives")
    check_equal((m.info()["evictions"], m.info()["evictions_refused"], m.info()["quarantine_bytes"]), (0, 1, 4096))
    with open(m.dir / "log") as log:
        check("cannot be killed" in log.read(), "the log tells")
    c.ask("unpin", 0)
    wait_until(lambda: m.info()["quarantine_bytes"] == 0, "the quarantine drains")


test_eviction_needs_the_right_to_signal.mount = {"options": "logfile={dir}/log"}


def test_eviction_spares_the_caller(m):
    """policy evict never kills the process that asks: its own pins are quarantined"""
    path, c = holder(m)
    c.ask("fallocate", FALLOC_PUNCH | FALLOC_KEEP_SIZE, 0, 64 * KiB, EVICT, 0)
    check_equal(m.info()["quarantine_bytes"], 4096)
    c.ask("unpin", 0)
    wait_until(lambda: m.info()["quarantine_bytes"] == 0, "the quarantine drains")


def test_silent_mapper(m):
    """[R12] a stopped client with mappings that cannot be revoked: the recall's deadline, then refuse fails, wait goes on, evict kills"""
    for policy in (REFUSE, WAIT, EVICT):
        path = m.file(f"f{policy}", 1 * MiB, fill=7)
        c = m.client("cooperative")
        c.ask("open", f"f{policy}", "rw")
        c.ask("map", 0, 1 * MiB)
        c.ask("load", 0, 4)
        os.kill(c.pid, signal.SIGSTOP)
        os.setxattr(path, "user.pindax.on_busy", NAMES[policy].encode())
        start = time.monotonic()
        work = by_mount(path)
        for row in m.waiters():  # a slow machine may look too late
            for recall in row["recalls"]:
                check_equal((recall["pid"], row["path"]), (c.pid, f"/f{policy}"))
        result = work.result(10)
        check(time.monotonic() - start >= 0.49, "not before the recall's deadline")
        check_equal(result, "ETXTBSY" if policy == REFUSE else None, NAMES[policy])
        check_equal(process_alive(c.pid), policy != EVICT, "alive")
        check_equal(m.info()["quarantine_bytes"] > 0, policy == WAIT, "quarantine")
        c.kill()
        wait_until(lambda: m.info()["quarantine_bytes"] == 0, "the quarantine drains")


test_silent_mapper.mount = {"options": "recall_deadline=500ms"}


def test_thousand_truncates_cost_no_thread(m):
    """[R36] 1,000 waiting truncates add no thread to the daemon and leave the mount answering"""
    count = 1000
    c = m.client()
    for i in range(count):
        m.file(f"p{i}", 4096, fill=1)
        c.ask("open", f"p{i}", "rw")
        c.ask("map", 0, 4096, "lazy")
        c.ask("pin", i, 0, 4096)
        c.ask("close")
    def threads():
        with open(f"/proc/{m.daemon_pid()}/status") as f:
            return int([line for line in f if line.startswith("Threads:")][0].split()[1])
    m.file("warm", 65536)
    before = threads()
    threading.stack_size(256 * KiB)
    works = [Background(lambda i=i: os.truncate(m.path / f"p{i}", 0)) for i in range(count)]
    threading.stack_size(0)
    wait_until(lambda: len(m.waiters()) == count, "every truncate waits", 60)
    check(threads() <= before + 2, f"{before} threads became {threads()}")
    start = time.monotonic()
    run("ls", "-l", m.path, timeout=20)
    m.file("new", 65536)
    check(time.monotonic() - start < 10, "the mount answers")
    text = run(PINDAX, "waiters", m.path).stdout
    check_equal(text.count("ends with:"), count)
    c.kill()
    for work in works:
        work.result(30)


if __name__ == "__main__":
    sys.exit(main(globals()))
