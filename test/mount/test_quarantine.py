# SPDX-License-Identifier: BSD-3-Clause
"""Blocks that left their file under a pin: whose space they are, and how long."""
import errno
import os
import sys
import time

from harness import *


def refused(work):
    try:
        work()
    except OSError as error:
        return error.errno
    raise Failed("it was not refused")


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


if __name__ == "__main__":
    sys.exit(main(globals()))
