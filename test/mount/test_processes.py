# SPDX-License-Identifier: BSD-3-Clause
"""exec, vfork, posix_spawn and dlclose in a process that maps and pins: its blocks stay its own as long as anybody can store to them, and no
longer."""
import os
import signal
import sys
import time

from harness import *

PROGRAM = BUILD / "test/mount/process_client"
LIBRARY = BUILD / "src/client/libpindax.so"


def started(m, how):
    """The process, after it has mapped, stored and pinned."""
    path = m.file("f", 64 * KiB, fill=1)
    p = m.spawn(PROGRAM, LIBRARY, m.path, "/f", how, stdout=subprocess.PIPE, text=True)
    check_equal(p.stdout.readline().strip(), "ready", "the client")
    return path, p


def reuse_blocks(m):
    """A file of nearly all free blocks."""
    s = os.statvfs(m.path)
    return m.file("g", (s.f_bfree - 2048) * 4096, fill=2)


def unharmed(path):
    check_equal(set(path.read_bytes()), {2}, "bytes of the file that got the blocks")


def ended(pid):
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not process_alive(pid), "the process is gone")


SMALL = {"size": "48M"}


def test_exec_ends_everything(m):
    """[R10] exec ends a process's pins and mappings: a truncate goes on although the process lives, and all blocks come back"""
    path, p = started(m, "exec")
    os.truncate(path, 0)
    check(process_alive(p.pid), "it lives on as another program")
    wait_until(lambda: m.info()["quarantine_bytes"] == 0 and m.clients() == [], "nothing is left of it")
    unharmed(reuse_blocks(m))


test_exec_ends_everything.mount = SMALL


def test_spawned_child_holds_nothing(m):
    """[R11] a program that a client started holds none of its blocks when the client is killed"""
    path, p = started(m, "spawn")
    child = int(p.stdout.readline())
    try:
        p.kill()
        p.wait(10)
        os.truncate(path, 0)
        wait_until(lambda: m.info()["quarantine_bytes"] == 0 and m.clients() == [], "nothing is left of it")
        check(process_alive(child), "the child lives")
        unharmed(reuse_blocks(m))
    finally:
        ended(child)


test_spawned_child_holds_nothing.mount = SMALL


def test_vfork_child_shares_the_memory(m):
    """[R10] [R11] a client is killed while a child by vfork still uses its memory: what that child stores lands in no other file"""
    path, p = started(m, "vfork")
    child = int(p.stdout.readline())
    try:
        p.kill()
        p.wait(10)
        change = Background(lambda: os.truncate(path, 0))
        try:
            change.result(3)
        except Failed:
            pass  # it may wait for the memory
        other = reuse_blocks(m)
        os.kill(child, signal.SIGUSR1)
        time.sleep(0.3)
        unharmed(other)
    finally:
        ended(child)
    change.result(10)
    wait_until(lambda: m.info()["quarantine_bytes"] == 0 and m.clients() == [], "nothing is left of it")


test_vfork_child_shares_the_memory.mount = SMALL


def test_dlclose(m):
    """dlclose of the library with a mapping alive: the mapping works on, fork works, the process ends well"""
    path, p = started(m, "dlclose")
    check_equal(p.stdout.readline().strip(), "done")
    check_equal(p.wait(10), 0, "its end")
    data = path.read_bytes()
    check_equal((data[0:1], data[8 * 4096 : 8 * 4096 + 1]), (b"m", b"d"), "what it stored")


if __name__ == "__main__":
    sys.exit(main(globals()))
