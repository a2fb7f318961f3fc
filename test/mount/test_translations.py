# SPDX-License-Identifier: BSD-3-Clause
"""What a direct mapper sees of a file that changes, and others of its stores."""
import ctypes
import os
import sys

from harness import *


def test_stale_translations_are_recalled(m):
    """[R15] [R16] after a truncate or punch a direct mapper sees zeros or SIGBUS, never old bytes"""
    path = m.file("f", 1 * MiB, fill=3)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    check_equal(c.ask("load", 64 * KiB, 4), ["03030303"])
    punch(path, 64 * KiB, 4096)
    check_equal(c.ask("load", 64 * KiB, 4), ["00000000"], "punched")
    c.ask("store", 64 * KiB, "61626364")
    check_equal(content(path)[64 * KiB:64 * KiB + 4], b"abcd", "a store after the punch")
    os.truncate(path, 128 * KiB)
    check_equal(c.refuse("load", 512 * KiB, 4), "SIGBUS", "beyond the end")
    os.truncate(path, 1 * MiB)
    check_equal(c.ask("load", 512 * KiB, 4), ["00000000"], "grown again")


def test_hole_beside_a_recalled_page(m):
    """a hole that is read across the place of a recalled page is served"""
    path = m.file("f")
    os.truncate(path, 1 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB, "lazy")
    c.ask("load", 20 * 4096, 1)
    c.ask("store", 5 * 4096, "61")
    punch(path, 5 * 4096, 4096)
    for page in (4, 2, 5, 6):
        check_equal(c.ask("load", page * 4096, 2), ["0000"], f"page {page}")


def test_write_pin_of_a_hole_that_was_read(m):
    """[R18] a write pin takes away the zeros that its own mapping showed: what others store there is seen"""
    path = m.file("f")
    os.truncate(path, 1 * MiB)
    c, other = m.client(), m.client()
    for client in (c, other):
        client.ask("open", "f", "rw")
        client.ask("map", 0, 1 * MiB, "lazy")
    check_equal(c.ask("load", 4096, 1), ["00"])
    c.ask("pin", 0, 4096, 8192, "write")
    other.ask("store", 8190, "61626364")
    check_equal(c.ask("load", 8190, 4), ["61626364"], "what the other stored")
    c.ask("unpin", 0)


def test_growth_over_a_gap(m):
    """a write or a zeroing far behind the end turns what was beyond it into a hole, for mappers too"""
    for name, grow in (("write", lambda p: os.pwrite(p, b"x", 512 * KiB)),
                       ("zero", lambda p: LIBC.fallocate(p, FALLOC_ZERO, ctypes.c_long(512 * KiB), ctypes.c_long(4096)))):
        path = m.file(name, 0)
        c = m.client()
        c.ask("open", name, "rw")
        c.ask("map", 0, 1 * MiB)
        c.refuse("load", 64 * KiB, 1)
        fd = os.open(path, os.O_RDWR)
        grow(fd)
        os.close(fd)
        check_equal(c.ask("load", 64 * KiB, 4), ["00000000"], name)


def test_stores_into_populated_pages(m):
    """a populated writable mapping takes stores, and read(2) sees them; persist succeeds; a child process has no mapping"""
    path = m.file("f", 1 * MiB, fill=3)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    check_equal(c.ask("direct"), ["1"], "direct")
    c.ask("fill", 0, 1 * MiB, 0x41)
    check_equal(content(path), b"A" * MiB)
    c.ask("persist", 0, 1 * MiB)
    with open(path, "r+b") as f:
        f.write(b"from write(2)")
    check_equal(bytes.fromhex(c.ask("load", 0, 13)[0]), b"from write(2)")
    check_equal(c.ask("syscall_write", 4096, 65536), ["65536"], "the kernel reads the mapping")
    check_equal(c.ask("fork")[0], "ENOTCONN", "a pin in a forked child")


def test_scattered_extents_are_one_range(m):
    """a file of many extents maps to one contiguous range, holes read as zeros and take stores"""
    a, b = m.file("a"), m.file("b")
    with open(a, "r+b", buffering=0) as fa, open(b, "r+b", buffering=0) as fb:
        for i in range(64):
            for f in (fa, fb):
                f.seek(i * 3 * 4096)
                f.write(bytes([i + 1]) * 4096)
    c = m.client()
    c.ask("open", "a", "rw")
    c.ask("map", 0, 64 * 3 * 4096)
    for i in range(64):
        check_equal(c.ask("load", i * 3 * 4096, 2), [f"{i + 1:02x}" * 2])
        if i < 63:
            check_equal(c.ask("load", i * 3 * 4096 + 4096, 2), ["0000"], "a hole")
    before = os.stat(a).st_blocks
    c.ask("store", 4096 + 5, "7a7a")
    check_equal(content(a)[4096:4096 + 8], b"\0\0\0\0\0zz\0")
    check_equal(os.stat(a).st_blocks, before + 8, "the first store allocates one block")
    check_equal(c.refuse("load", 63 * 3 * 4096 + 4096, 1), "SIGBUS", "beyond the end")


if __name__ == "__main__":
    sys.exit(main(globals()))
