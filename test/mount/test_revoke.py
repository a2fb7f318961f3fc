# SPDX-License-Identifier: BSD-3-Clause
"""Clients that do not help: stopped, unprivileged, without userfaultfd, too many, too busy."""
import os
import signal
import stat
import sys
import time

from harness import *


def driver(m, *before, env=None):
    """A client process started through another command (setpriv …) or with more environment."""
    c = Client.__new__(Client)
    c.process = m.spawn(*before, DRIVER, m.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                        env={**os.environ, **(env or {})})
    check_equal(c.process.stdout.readline().strip(), "ready", "client driver")
    return c


def free_blocks(m):
    return os.statvfs(m.path).f_bfree


def stop(c):
    os.kill(c.pid, signal.SIGSTOP)
    wait_until(lambda: open(f"/proc/{c.pid}/stat").read().rsplit(")", 1)[1].split()[0] == "T", "the client is stopped")


UNPRIVILEGED = ("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups")


def test_stopped_mapper_delays_nobody(m):
    """[R12] [R20] a stopped client with mappings only: a truncate takes its blocks at once, they are reused, and its stores fault"""
    before = free_blocks(m)
    path = m.file("f", 1 * MiB, fill=1)
    c = opened(m)
    c.ask("fill", 0, 1 * MiB, 0x11)
    stop(c)
    start = time.monotonic()
    os.truncate(path, 0)
    took = time.monotonic() - start
    check(took < 2, f"the truncate took {took:.1f} s, the recall's deadline is 30")
    wait_until(lambda: free_blocks(m) >= before - 8, "the space is free although the client is stopped", 5)
    others = [m.file(f"g{i}", 8 * MiB, fill=2) for i in range(int(before * 4096 * 0.9) // (8 * MiB))]
    os.kill(c.pid, signal.SIGCONT)
    check_equal(c.refuse("store", 4096, "eeee"), "SIGBUS", "a store beyond the end")
    check_equal(c.refuse("load", 0, 1), "SIGBUS", "a load beyond the end")
    for other in others:
        check(set(other.read_bytes()) == {2}, "another file holds foreign bytes")


test_stopped_mapper_delays_nobody.mount = {"options": "recall_deadline=30", "size": "128M"}


def test_stale_pointer_after_punch(m):
    """[R20] a store through a pointer into punched blocks that another file has got lands in the first file, or nowhere"""
    path = m.file("f", 64 * KiB, fill=1)
    c = opened(m, length=64 * KiB)
    c.ask("fill", 0, 64 * KiB, 0x11)
    stop(c)
    punch(path, 0, 32 * KiB)
    fill = free_blocks(m)
    other = m.file("g", (fill - 2048) * 4096, fill=2)
    os.kill(c.pid, signal.SIGCONT)
    check_equal(c.ask("load", 0, 2), ["0000"], "what was punched")
    c.ask("store", 4096, "abcd")
    check_equal(c.ask("load", 32 * KiB, 2), ["1111"], "what was not")
    check(set(other.read_bytes()) == {2}, "the other file holds foreign bytes")
    with open(path, "rb") as f:
        f.seek(4096)
        check_equal(f.read(3), b"\xab\xcd\0", "the store")


test_stale_pointer_after_punch.mount = {"options": "recall_deadline=30", "size": "64M"}


def test_no_message_for_small_changes(m):
    """punches of mapped pages of four clients send messages as an exception only, and each client sees zeros afterwards"""
    path = m.file("f", 1 * MiB, fill=1)
    clients = [opened(m) for _ in range(4)]
    for c in clients:
        check_equal(c.ask("load", 8192, 1), ["01"])
        c.ask("open", "f", "rw")
    info = lambda: json.loads(run(PINDAX, "info", m.path, "--json").stdout)
    before = info()
    for page in range(32):
        punch(path, page * 4096, 4096)
        for c in clients:
            check_equal(c.ask("load", page * 4096, 1), ["00"], f"page {page}")
            c.ask("open", "f", "rw")  # its answer comes behind the grants: they were carried out [V2]
    after = info()
    revoked, recalls = after["revoked"] - before["revoked"], after["recalls"] - before["recalls"]
    check_equal(revoked + recalls, 32 * 4, "each client lost each page")
    check(recalls <= revoked / 8, f"{recalls} recalls; only for a record that was not durable yet [V4]")


def test_stopped_holder_and_the_policies(m):
    """[R12] a stopped client with a pin: wait waits for it, refuse says ETXTBSY, quarantine completes; the listing names it"""
    path = m.file("f", 1 * MiB, fill=1)
    c = opened(m)
    c.ask("pin", 0, 0, 4096)
    stop(c)
    run("setfattr", "-n", "user.pindax.on_busy", "-v", "refuse", path)
    done = run("truncate", "-s", "0", path, ok=None)
    check("busy" in done.stderr.lower(), done.stderr)
    run("setfattr", "-n", "user.pindax.on_busy", "-v", "wait", path)
    child = m.spawn("truncate", "-s", "0", path)
    m.wait_for_waiter()
    row = m.waiters()[0]
    check_equal((row["path"], row["waits_for"][0]["pid"]), ("/f", c.pid), "who is waited for")
    time.sleep(0.3)
    check(child.poll() is None, "it waits")
    os.kill(c.pid, signal.SIGCONT)
    c.ask("unpin", 0)
    check_equal(child.wait(5), 0)
    path = m.file("q", 1 * MiB, fill=1)
    run("setfattr", "-n", "user.pindax.on_busy", "-v", "quarantine", path)
    c.ask("open", "q", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("pin", 1, 0, 4096)
    stop(c)
    run("truncate", "-s", "0", path, timeout=5)
    other = m.file("other", 8 * MiB, fill=2)
    os.kill(c.pid, signal.SIGCONT)
    c.ask("store", 0, "eeee")
    check_equal(c.ask("load", 0, 2), ["eeee"], "the pinned page")
    check(set(other.read_bytes()) == {2}, "the other file")


def test_own_mapping_as_buffer(m):
    """[R31] write(2) of a file from its own mapping, and read(2) into it, do not deadlock and move the right bytes"""
    m.file("f", 1 * MiB, fill=7)
    for lazy in (True, False):
        c = opened(m, lazy=lazy)
        c.ask("store", 0, "61626364")
        check_equal(c.ask("write_from", 0, 64 * KiB, 512 * KiB), [str(64 * KiB)])
        check_equal(c.ask("load", 512 * KiB, 4), ["61626364"], "written from the mapping")
        check_equal(c.ask("read_into", 256 * KiB, 64 * KiB, 512 * KiB), [str(64 * KiB)])
        check_equal(c.ask("load", 256 * KiB, 4), ["61626364"], "read into the mapping")
        check_equal(c.ask("write_from", 0, 8192, 0), ["8192"], "onto itself")
        check_equal(c.ask("write_from", 0, 8192, 4096), ["8192"], "overlapping itself")


def test_recalls_at_any_moment(m):
    """[R40] recalls arrive while clients are inside map, unmap, pin, fork and exit: all end, nothing hangs"""
    path = m.file("f", 64 * 4096, fill=1)
    clients = [opened(m, length=64 * 4096) for _ in range(3)]
    for c in clients:
        c.send("restless", 3000)
    end = time.monotonic() + 3
    n = 0
    victim = None
    while time.monotonic() < end:
        if n % 3 == 2:
            os.truncate(path, 0)
            os.truncate(path, 64 * 4096)
        else:
            punch(path, (n % 60) * 4096, 4 * 4096)
        n += 1
        if n % 20 == 0:  # one that is killed in the middle of it
            if victim:
                victim.kill()
            victim = opened(m, length=64 * 4096)
            victim.send("restless", 60000)
    if victim:
        victim.kill()
    for c in clients:
        check(c.answer().startswith("ok"), "a restless client")
    os.truncate(path, 0)
    wait_until(lambda: m.pins() == [] and m.waiters() == [], "nobody waits, nothing is pinned")


def test_killed_at_every_step(m):
    """[R10] SIGKILL of a client at each of its steps: what waited goes on, its blocks are clean when reused, nothing is left behind"""
    other = opened(m, client=m.client(), name=m.file("other", 64 * KiB, fill=9).name, length=64 * KiB)
    for step in ("map_replied", "fault", "mapped", "granted", "asked", "slow_pinned", "ring", "recall", "recalled", "unmapped"):
        path = m.file("f", 8 * MiB, fill=1)
        punch(path, 4096, 4096)
        c = driver(m, env={"PINDAX_STEPS": f"client.{step}=kill"})
        for words in (("open", "f", "rw"), ("map", 0, 8 * MiB, "lazy"), ("load", 0, 1), ("load", 4096, 1), ("pin", 0, 0, 8192, "write"),
                      ("fill", 0, 8 * MiB, 7)):
            try:
                c.send(*words)
            except BrokenPipeError:
                break
        if step in ("ring", "recall", "recalled"):
            for _ in range(6):
                check(c.answer().startswith("ok"), f"{step}: the client's part before it")
            if step == "ring":
                child = m.spawn("truncate", "-s", "0", path)
                m.wait_for_waiter()
                c.send("unpin", 0)
                check_equal(child.wait(5), 0, step)
            else:
                c.ask("unpin", 0)
        elif step == "unmapped":
            c.send("unpin", 0)
            c.send("unmap")
        if step not in ("recall", "recalled"):
            c.process.wait(10)
        if step in ("recall", "recalled"):  # what is moved cannot be revoked: the client is asked
            m.spawn(PINDAX, "fallocate", "-c", "-o", 0, "-l", 4096, path).wait(20)
        else:
            os.truncate(path, 0)
        check_equal(c.process.wait(10), -9, f"client.{step}: how it ended")
        for i in range(2):
            check(set(m.file(f"new{i}", 6 * MiB, fill=2).read_bytes()) == {2}, f"{step}: foreign bytes")
        wait_until(lambda: m.pins() == [] and m.waiters() == [] and len(m.clients()) == 1, f"{step}: nothing is left behind")
    check_equal(other.ask("load", 0, 1), ["09"])
    other.kill()
    m.umount()
    m.fsck()


def test_two_hundred_clients(m):
    """200 clients map one file; a punch reaches them all; a crowd's death leaves nothing behind"""
    path = m.file("f", 64 * KiB, fill=1)
    clients = [opened(m, length=64 * KiB) for _ in range(200)]
    for c in clients:
        c.send("load", 0, 1)
    for c in clients:
        check_equal(c.answer(), "ok 01")
    check(len(m.clients()) >= 200, "clients")
    punch(path, 0, 4096)
    for c in clients:
        c.send("load", 0, 1)
    for c in clients:
        check_equal(c.answer(), "ok 00")
    for c in clients:
        c.process.kill()
    os.truncate(path, 0)
    wait_until(lambda: len(m.clients()) == 0, "they are gone", 20)


def test_sixty_four_threads(m):
    """one client in 64 threads that pin, store and unpin while the file is punched: no store under a pin is lost"""
    path = m.file("f", 64 * 4096, fill=1)
    c = opened(m, length=64 * 4096)
    c.send("threads", 64, 2000)
    end = time.monotonic() + 1.8
    while time.monotonic() < end:
        punch(path, random.randrange(64) * 4096, 4096)
    check_equal(c.answer(), "ok 0 0 0", "stores lost, calls failed, the first failure")


def test_cap_of_kernel_mappings(m):
    """a file of 40,000 extents: the client stays far from vm.max_map_count, evicts cold pieces, and reads every byte right"""
    count = 40_000
    a, b = m.file("a"), m.file("b")
    with open(a, "r+b", buffering=0) as fa, open(b, "r+b", buffering=0) as fb:
        for i in range(count // 2):
            fa.write(i.to_bytes(4, "little") + bytes(4092))
            fb.write(bytes(4096))
    extents = len(layout(a)["extents"])
    clients = opened(m, "a", count // 2 * 4096)
    second = opened(m, "b", count // 2 * 4096, client=clients)
    def pieces():
        return sum(1 for _ in open(f"/proc/{clients.pid}/maps"))
    check(pieces() < 32_000, f"{pieces()} kernel mappings of a client ({extents} extents)")
    clients.ask("open", "a", "rw")
    clients.ask("map", 0, count // 2 * 4096)
    for i in list(range(0, count // 2, 997)) + [count // 2 - 1]:
        check_equal(clients.ask("load", i * 4096, 4), [i.to_bytes(4, "little").hex()], f"page {i}")
    check(pieces() < 32_000, f"{pieces()} kernel mappings after the touches")


test_cap_of_kernel_mappings.mount = {"size": "512M"}


def test_shared_userfaultfd(m):
    """-o share_userfaultfd: a process that may not have a userfaultfd gets one, and system calls on untouched memory work"""
    m.file("f", 1 * MiB, fill=5)
    os.chmod(m.path / "f", 0o666)
    os.chmod(m.pool, 0o666)
    c = driver(m, *UNPRIVILEGED)
    opened(m, client=c, lazy=True)
    check_equal(c.ask("direct"), ["1"], "direct")
    check_equal(c.ask("why"), [], "a reservation")
    check_equal(c.ask("syscall_write", 0, 64 * KiB), [str(64 * KiB)])
    check_equal(c.ask("load", 512 * KiB, 1), ["05"])


test_shared_userfaultfd.mount = {"options": "allow_other,share_userfaultfd"}


def test_without_userfaultfd(m):
    """without a userfaultfd faults come as signals: loads, stores, holes, the end, punches as ever; system calls on untouched memory EFAULT"""
    m.file("shown", 4096, fill=1)
    for env, faults in (({}, "userfaultfd"), ({"PINDAX_FAULTS": "signals"}, "signals")):
        told = run(PINDAX, "map", m.path / "shown", env={**os.environ, **env}).stdout
        check_equal("EFAULT" in told, faults == "signals", told)
        check_equal(json.loads(run(PINDAX, "map", m.path / "shown", "--json", env={**os.environ, **env}).stdout)["faults"], faults, "map --json")
    path = m.file("f", 1 * MiB, fill=5)
    os.chmod(path, 0o666)
    os.chmod(m.pool, 0o666)
    with open("/proc/sys/vm/unprivileged_userfaultfd") as f:
        if f.read().strip() != "0":
            raise Skip("everybody may have a userfaultfd here")
    c = driver(m, *UNPRIVILEGED)
    c.ask("open", "f", "rw")
    c.ask("map", 0, 2 * MiB, "lazy")
    check_equal(c.ask("direct"), ["1"], "direct")
    check("SIGSEGV" in " ".join(c.ask("why")), "the reason is told")
    check_equal(c.refuse("syscall_write", 0, 4096), "EFAULT")
    check_equal(c.ask("load", 0, 1), ["05"])
    check_equal(c.ask("syscall_write", 0, 4096), ["4096"], "after a touch")
    check_equal(c.refuse("load", 1536 * KiB, 1), "SIGBUS", "beyond the end")
    punch(path, 0, 8192)
    check_equal(c.ask("load", 4096, 2), ["0000"], "a hole")
    check_equal(c.refuse("syscall_read", 4096, 4096), "EFAULT", "into a hole")
    c.ask("store", 4096, "abcd")
    check_equal(c.ask("syscall_read", 4096, 4096), ["4096"])
    os.truncate(path, 4096)
    check_equal(c.refuse("store", 8192, "00"), "SIGBUS", "after a truncate")
    os.truncate(path, 2 * MiB)
    check_equal(c.ask("load", 8192, 1), ["00"], "after the file grew")
    c.ask("pin", 0, 0, 4096, "write")
    c.ask("unpin", 0)


test_without_userfaultfd.mount = {"options": "allow_other"}


def test_daemon_dies_in_a_fault(m):
    """[R43] kill -9 of the daemon between allocation and grant, and after it: the old client's stores stay, nothing is allocated twice"""
    for step in ("server.fault_allocated", "layout.grant"):
        m.mount(env={**os.environ, "PINDAX_STEPS": f"{step}@3=kill"})
        path = m.file("f", 0)
        os.truncate(path, 1 * MiB)
        c = opened(m, lazy=True)
        answers = []
        for page in range(4):
            c.send("store", page * 4096, f"a{page}" * 8)
            answers.append(c.answer())
        check(any("SIGBUS" in a for a in answers), f"{step}: the daemon did not die: {answers}")
        run("umount", "-l", m.path, ok=None)
        m.mounted = False
        m.mount()
        good = [page for page, answer in enumerate(answers) if answer == "ok"]
        for page in good:  # goes on storing where it has blocks
            c.ask("store", page * 4096 + 100, f"b{page}" * 8)
        others = [m.file(f"g{i}", 4 * MiB, fill=2) for i in range(8)]
        data = path.read_bytes()
        for page in good:
            at = page * 4096
            check_equal(data[at:at + 8].hex() + data[at + 100:at + 108].hex(), f"a{page}" * 8 + f"b{page}" * 8, f"{step}: page {page}")
        for other in others:
            check(set(other.read_bytes()) == {2}, "another file holds foreign bytes")
        c.kill()
        for name in ["f"] + [f"g{i}" for i in range(8)]:
            os.unlink(m.path / name)
        m.umount()
        m.fsck()


test_daemon_dies_in_a_fault.mounted = False


if __name__ == "__main__":
    sys.exit(main(globals()))
