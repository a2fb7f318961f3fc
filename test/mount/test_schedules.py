# SPDX-License-Identifier: BSD-3-Clause
"""Races of the protocol as schedules: the daemon stops at a named step point (base/steps.h) while somebody else goes on."""
import os
import sys
import time

from harness import *

SECRET = "5e" * 4096  # what a holder stores through its pin, as hex


def test_stores_through_a_pin_stay_in_its_file(m):
    """[R1] a client stores through its pin until 100 ms into the punch: the punch waits, and no other file ever shows those bytes"""
    path = m.file("f", 4 * MiB, fill=1)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 4 * MiB)
    c.ask("pin", 0, 1 * MiB, 64 * KiB)
    work = Background(lambda: punch(path, 0, 4 * MiB))
    m.wait_for_waiter()
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        c.ask("store", 1 * MiB, SECRET)
    check(not work.done(), "the punch waits")
    c.ask("unpin", 0)
    work.result(5)
    check_equal(content(path), bytes(4 * MiB), "the punched file")
    # What was punched is given out again: 200 MiB of a pool of 256.
    secret = bytes.fromhex(SECRET)
    for i in range(50):
        with open(m.path / f"g{i}", "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 4 * MiB)
        check(secret not in content(m.path / f"g{i}"), f"the client's bytes in file g{i}")
        with open(m.path / f"g{i}", "r+b") as f:
            f.write(b"\x07" * 4 * MiB)
    for i in range(50):
        check_equal(content(m.path / f"g{i}"), b"\x07" * (4 * MiB), f"file g{i}")


def punch_stopped_at(m, step):
    """Two clients map a file of ones, the first pins its first page, and a punch over it stands at the step."""
    stop = m.stop_at(step)
    path = m.file("f", 1 * MiB, fill=1)
    a, b = m.client(), m.client()
    for c in (a, b):
        c.ask("open", "f", "rw")
        c.ask("map", 0, 1 * MiB)
    a.ask("pin", 0, 0, 4096)
    work = Background(lambda: punch(path, 0, 64 * KiB))
    stop.reached()
    return a, b, work, stop


@options(mounted=False)
def test_pin_before_the_gate_closes(m):
    """[R3] a pin taken after the punch drew its ticket and before the gate closes is waited for"""
    a, b, work, stop = punch_stopped_at(m, "break.ticket")
    b.ask("trypin", 0, 8192, 4096)  # needs no message
    stop.release()
    m.wait_for_waiter()
    a.ask("unpin", 0)
    m.stays_waiting(work)
    check_equal(b.ask("load", 8192, 4), ["01010101"], "the page that the second client pinned")
    b.ask("unpin", 0)
    work.result(5)


@options(mounted=False)
def test_pin_after_the_gate_closed(m):
    """[R3] a pin asked for between the closing of the gate and the scan is refused, or waits for the punch, and no page is freed pinned"""
    a, b, work, stop = punch_stopped_at(m, "break.closed")
    b.send("trypin", 0, 8192, 4096)  # finds the gate closed and asks; the lock is held
    stop.release()
    check(b.answer().startswith("error EAGAIN"), "try_pin behind the waiting punch")
    b.send("pin", 1, 8192, 4096)
    m.stays_waiting(work)
    a.ask("unpin", 0)
    work.result(5)
    check(b.answer().startswith("ok"), "the pin is granted after the punch")
    check_equal(b.ask("load", 8192, 4), ["00000000"], "what it pinned")
    b.ask("unpin", 1)


def grant_against(m, change, afterwards):
    """A fault of a page has looked its extent up, and its grant is on the way, while `change` frees the page."""
    stop = m.stop_at("layout.grant")
    path = m.file("f", 1 * MiB, fill=3)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB, "lazy")
    c.send("load", 512 * KiB, 4)
    stop.reached()
    work = Background(lambda: change(path))
    time.sleep(0.3)  # it would be done long ago
    check(not work.done(), "the change queues behind the fault's hold")
    stop.release()
    # The old bytes, or, if the recall came before the load was tried again, what is there now.
    check(c.answer() in ("ok 03030303", "ok 00000000", "error SIGBUS"), "the load that was under way")
    work.result(5)
    # Whatever was installed has been recalled: the next load is served anew.
    afterwards(c)
    other = m.file("other", 1 * MiB, fill=9)
    c.send("store", 512 * KiB, "6162")
    c.answer()
    check_equal(content(other), b"\x09" * MiB, "another file")


@options(mounted=False)
def test_grant_against_truncate(m):
    """[R15] an extent that was looked up for a fault is not installed after a truncate freed it"""
    grant_against(m, lambda path: os.truncate(path, 0), lambda c: check_equal(c.refuse("load", 512 * KiB, 4), "SIGBUS", "beyond the end"))


@options(mounted=False)
def test_grant_against_punch(m):
    """[R16] nor after a punch, which leaves the size as it was"""
    grant_against(m, lambda path: punch(path, 512 * KiB, 4096), lambda c: check_equal(c.ask("load", 512 * KiB, 4), ["00000000"], "the hole"))


@options(mounted=False)
def test_map_against_punch(m):
    """[R16] a map with PINDAX_MAP_POPULATE whose extents were looked up before a punch shows the hole afterwards"""
    stop = m.stop_at("layout.grant")
    path = m.file("f", 1 * MiB, fill=3)
    c = m.client()
    c.ask("open", "f", "rw")
    c.send("map", 0, 1 * MiB)
    stop.reached()
    work = Background(lambda: punch(path, 0, 1 * MiB))
    time.sleep(0.3)
    check(not work.done(), "the punch queues behind the map's hold")
    stop.release()
    check(c.answer().startswith("ok"), "map")
    work.result(5)
    for page in (0, 100, 255):
        check_equal(c.ask("load", page * 4096, 4), ["00000000"], f"page {page}")


def test_unmapped_and_closed_with_a_pin(m):
    """[R7] pin, unmap, close, map another file in the place: a truncate waits for the pin, and for it alone"""
    path = m.file("f", 1 * MiB, fill=1)
    m.file("g", 1 * MiB, fill=2)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("pin", 0, 64 * KiB, 4096)
    c.ask("unmap")
    c.ask("close")
    punch(path, 128 * KiB, 64 * KiB)  # not pinned, not mapped
    c.ask("open", "g", "rw")
    c.ask("map", 0, 1 * MiB)
    os.truncate(m.path / "g", 0)
    work = Background(lambda: os.truncate(path, 0))
    m.wait_for_waiter()
    check_equal([(p["path"], p["offset_bytes"]) for p in m.pins()], [("/f", 64 * KiB)], "the pin is listed")
    m.stays_waiting(work)
    c.ask("unpin", 0)
    work.result(5)


if __name__ == "__main__":
    sys.exit(main(globals()))
