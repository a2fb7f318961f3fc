# SPDX-License-Identifier: BSD-3-Clause
"""What a layout change does about pins in its way: policies by mount, by file and by call; leases, long-term and stuck pins; quarantine."""
import errno
import os
import signal
import subprocess
import sys
import threading
import time

from harness import *

INHERIT, WAIT, REFUSE, QUARANTINE, EVICT = range(5)
NAMES = ["inherit", "wait", "refuse", "quarantine", "evict"]


def holder(m, name="f", size=1 * MiB, words=()):
    """A client with a pin on the first page of a file of sevens."""
    path = m.file(name, size, fill=7)
    c = m.client()
    c.ask("open", name, "rw")
    c.ask("map", 0, size)
    c.ask("pin", 0, 0, 4096, *words)
    return path, c


def free(m):
    return os.statvfs(m.path).f_bfree


def refused(work):
    try:
        work()
    except OSError as error:
        return error.errno
    raise Failed("it was not refused")


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


def test_full_pool_and_quarantine(m):
    """[R32] ENOSPC while freed blocks sit in quarantine is said honestly, and the write succeeds once they are released"""
    total = free(m)
    size = (total * 4096 * 6 // 10) & ~(MiB - 1)
    path, c = holder(m, size=size)
    c.ask("pin", 1, 0, size)
    os.setxattr(path, "user.pindax.on_busy", b"quarantine")
    os.truncate(path, 0)
    held = m.info()["quarantine_bytes"]
    check_equal(held, size, "in quarantine")
    check(free(m) < total - size // 4096 + 64, "statfs does not call it free")
    check_equal(refused(lambda: m.file("big", size, fill=1)), errno.ENOSPC)
    os.unlink(m.path / "big")
    check_equal(c.ask("load", size - 4096, 4), ["07070707"], "the holder's bytes are as they were")
    c.ask("unpin", 0)
    time.sleep(0.1)
    check_equal(m.info()["quarantine_bytes"], held, "the other pin still holds all")
    c.ask("unpin", 1)
    wait_until(lambda: m.info()["quarantine_bytes"] == 0, "it drains by itself")
    big = m.file("big", size, fill=1)
    check_equal(os.path.getsize(big), size)


test_full_pool_and_quarantine.mount = {"size": "64M"}


def test_quarantine_survives_the_daemon(m):
    """[R23] quarantine outlives kill -9 of the daemon as long as the former client maps the pool, and drains after"""
    before = free(m)
    path, c = holder(m)
    os.setxattr(path, "user.pindax.on_busy", b"quarantine")
    os.truncate(path, 0)
    check_equal(m.info()["quarantine_bytes"], 4096)
    m.kill_daemon()
    m.mount()
    check(m.info()["quarantine_bytes"] >= 4096, "still there")
    other = m.file("other", 4 * MiB, fill=9)
    c.send("store", 0, "61626364")
    c.answer()
    check_equal(other.read_bytes(), b"\x09" * (4 * MiB), "another file after a stale store")
    c.kill()
    wait_until(lambda: m.info()["quarantine_bytes"] == 0, "it drains", 20)
    os.unlink(other)
    os.unlink(path)
    wait_until(lambda: free(m) >= before - 64, "all space is back", 20)
    m.umount()
    m.fsck()


# [R24] Where the daemon is killed, in the middle of a truncate that a pin holds up and whose mappers are recalled.
BREAK_STEPS = ["break.locked", "break.ticket", "gate.changing@2", "break.closed", "break.registered", "break.mark", "break.scanned",
               "break.sleeping", "break.woken", "break.recalled", "layout.acknowledged", "break.answered", "break.applying",
               "fs.truncate_locked", "fs.remove_step", "fs.remove_committed", "break.applied", "break.counted_out"]
# The same with policy quarantine, where the pin ends after the change; and with evict.
QUARANTINE_STEPS = ["break.applying", "fs.remove_committed", "break.applied", "held_back.pin_ended", "layout.release_quarantine", "alloc.punch"]
EVICT_STEPS = ["break.evict", "break.sleeping", "layout.client_gone", "break.applied"]


# The truncate of a file of which at most 2 MiB are mapped sends no message.
REVOKE_STEPS = ["break.freed", "break.punched", "break.applied"]


DEATH_SIZE = 4 * MiB  # a mapping of all of it is asked for first


def truncate_under_a_pin(m, c, daemon, policy):
    """The truncate, the unpin, and whatever fails because the daemon died."""
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB if policy == "revoke" else DEATH_SIZE)
    c.ask("pin", 0, 64 * KiB, 4096)
    work = Background(lambda: os.truncate(m.path / "f", 0))
    if policy in ("wait", "revoke"):
        wait_until(lambda: not process_alive(daemon) or any(w["phase"] == "waiting for pins" for w in m.waiters()), "the truncate waits")
    if policy == "quarantine":
        work.result(10)
    if policy != "evict":
        c.ask("unpin", 0)
    work.result(10)


def die_at(m, step, policy):
    """One round on a copy of the prepared pool. False if the step was not reached."""
    run("cp", "--sparse=always", m.dir / "prepared", m.pool)
    m.mount(env=dict(os.environ, PINDAX_STEPS=f"{step}=kill"), options="on_busy=wait" if policy == "revoke" else f"on_busy={policy}")
    daemon = m.daemon_pid()
    c = m.client()
    try:
        truncate_under_a_pin(m, c, daemon, policy)
    except (OSError, Failed):
        pass
    try:
        wait_until(lambda: not process_alive(daemon), "the step is reached", 5)
    except Failed:
        pass
    died = not process_alive(daemon)
    c.kill()
    if died:
        run("umount", "-l", m.path, ok=None)
        m.mounted = False
    else:
        m.umount()
    m.mount(options="on_busy=wait")
    got = os.path.getsize(m.path / "f")
    check(got in (0, DEATH_SIZE), f"{step}: size {got}")
    if got:
        check_equal((m.path / "f").read_bytes(), b"\x07" * DEATH_SIZE, f"{step}: contents")
    os.unlink(m.path / "f")
    wait_until(lambda: m.info()["quarantine_bytes"] == 0, f"{step}: the quarantine drains", 20)
    wait_until(lambda: free(m) >= m.empty_blocks - 8, f"{step}: all space is back ({free(m)} of {m.empty_blocks})", 20)
    m.umount()
    m.fsck()
    return died


@options(mounted=False, mount={"size": "32M"})
def test_death_at_every_step(m):
    """[R24] the daemon is killed at every step of a break: done or not done, nothing leaks, nothing is lost, fsck is content"""
    m.mount()
    m.empty_blocks = free(m)
    m.file("f", DEATH_SIZE, fill=7)
    m.umount()
    run("cp", "--sparse=always", m.pool, m.dir / "prepared")
    missed = []
    for policy, steps in (("wait", BREAK_STEPS), ("revoke", REVOKE_STEPS), ("quarantine", QUARANTINE_STEPS), ("evict", EVICT_STEPS)):
        for step in steps:
            if not die_at(m, step, policy):
                missed.append(f"{policy}:{step}")
    check_equal(missed, [], "steps that were never reached")


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
