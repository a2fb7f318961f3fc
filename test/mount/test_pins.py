# SPDX-License-Identifier: BSD-3-Clause
"""The walking system's promise: pins hold layout changes up, and nothing else does."""
import errno
import os
import subprocess
import sys
import time

from harness import *


def test_punch_waits_for_the_pin(m):
    """[R1] a punch of a pinned page waits, finishes at once after the unpin, and other files stay clean"""
    path = m.file("f", 16 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 16 * MiB)
    c.ask("pin", 0, 1 * MiB, 4096)
    work = Background(lambda: punch(path, 1 * MiB, 4096))
    m.wait_for_waiter()
    check(not work.done(), "the punch waits")
    other = m.file("other", 1 * MiB, fill=7)
    c.ask("unpin", 0)
    start = time.monotonic()
    work.result(5)
    check(time.monotonic() - start < 1.0, "the punch ends at once after the unpin")
    check_equal(content(path)[1 * MiB:1 * MiB + 4096], bytes(4096), "the punched page")
    check_equal(content(other), b"\x07" * MiB, "another file")


def test_rescan_of_everything(m):
    """[R2] of two pins in the range, ending one does not end the wait"""
    path = m.file("f", 1 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("pin", 0, 0, 4096)
    c.ask("pin", 1, 8192, 4096)
    work = Background(lambda: punch(path, 0, 64 * KiB))
    m.wait_for_waiter()
    c.ask("unpin", 0)
    time.sleep(0.1)
    check(not work.done(), "the punch still waits for the second pin")
    c.ask("unpin", 1)
    work.result(5)


def test_new_pin_behind_a_waiting_punch(m):
    """[R3] while a punch waits, a new pin in its range waits too or is waited for; nothing pinned is freed"""
    path = m.file("f", 1 * MiB)
    a, b = m.client(), m.client()
    for c in (a, b):
        c.ask("open", "f", "rw")
        c.ask("map", 0, 1 * MiB)
    a.ask("pin", 0, 0, 4096)
    work = Background(lambda: punch(path, 0, 64 * KiB))
    m.wait_for_waiter()
    check_equal(b.refuse("trypin", 0, 8192, 4096), "EAGAIN", "try_pin in the closed range")
    b.send("pin", 0, 8192, 4096)
    time.sleep(0.1)
    check(not work.done(), "the punch waits for the first pin")
    a.ask("unpin", 0)
    work.result(5)
    check(b.answer().startswith("ok"), "the second pin is granted after the punch")
    b.ask("unpin", 0)


def test_fault_while_a_punch_waits(m):
    """[R4] a pin holder that faults on another page of the range under a waiting punch is served"""
    path = m.file("f", 1 * MiB, fill=5)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB, "lazy")
    c.ask("pin", 0, 0, 4096)
    work = Background(lambda: punch(path, 0, 512 * KiB))
    m.wait_for_waiter()
    check_equal(c.ask("load", 300 * KiB, 4), ["05050505"], "a fault in the waiting range")
    check(not work.done())
    c.ask("unpin", 0)
    work.result(5)
    check_equal(c.ask("load", 300 * KiB, 4), ["00000000"], "after the punch")


def test_stream_of_pins_does_not_starve(m):
    """[R5] four clients that pin and unpin without pause: a truncate finishes within two seconds"""
    path = m.file("f", 1 * MiB)
    clients = [m.client() for _ in range(4)]
    for c in clients:
        c.ask("open", "f", "rw")
        c.ask("map", 0, 1 * MiB)
        c.send("churn", 0, 64 * KiB, 3000)  # milliseconds
    time.sleep(0.2)
    start = time.monotonic()
    punch(path, 0, 64 * KiB)
    took = time.monotonic() - start
    check(took < 2.0, f"took {took:.2f} s")
    for c in clients:
        check(c.answer().startswith("ok"), "churn")


def test_pin_outlives_its_mapping(m):
    """[R7] a pin whose mapping was unmapped holds the range until its unpin"""
    path = m.file("f", 1 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("pin", 0, 0, 4096)
    c.ask("unmap")
    for _ in range(20):  # what was unmapped must not be in their place
        c.ask("map", 0, 1 * MiB)
        c.ask("unmap")
    c.ask("close")
    work = Background(lambda: os.truncate(path, 0))
    m.wait_for_waiter()
    c.ask("unpin", 0)
    work.result(5)


def test_interrupt_of_a_waiting_punch(m):
    """[R8] SIGINT and SIGKILL end a waiting punch promptly with nothing done"""
    path = m.file("f", 16 * MiB)
    before = content(path)
    m.pin("f", "1M", "4K")
    start = time.monotonic()
    done = run("timeout", "-s", "INT", "0.5", "fallocate", "-p", "-o", "1M", "-l", "4K", path, ok=None)
    check(time.monotonic() - start < 3, "ends promptly")
    check(done.returncode != 0, "does not succeed")
    check_equal(content(path), before, "the file")
    child = m.spawn("truncate", "-s", "0", path)
    m.wait_for_waiter()
    child.kill()
    child.wait(5)
    wait_until(lambda: m.waiters() == [], "the waiter is gone")
    check_equal(os.path.getsize(path), 16 * MiB, "size")
    check_equal(len(m.pins()), 1, "pins")
    run("fallocate", "-p", "-o", "8M", "-l", "4K", path)


def test_deadline_refuses(m):
    """[R9] policy refuse: the wait ends with ETXTBSY after the deadline, nothing done"""
    path = m.file("f", 1 * MiB)
    before = content(path)
    m.pin("f", "0", "4K")
    try:
        punch(path, 0, 4096)
        raise Failed("the punch succeeded")
    except OSError as error:
        check_equal(error.errno, errno.ETXTBSY)
    check_equal(content(path), before)
    check_equal(m.waiters(), [])


test_deadline_refuses.mount = {"options": "on_busy=refuse,busy_deadline=0.3"}


def test_death_of_a_client(m):
    """[R10] kill -9 of a client ends its pins within 200 ms, and its blocks are clean when reused"""
    path = m.file("f", 4 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 4 * MiB)
    c.ask("pin", 0, 0, 4 * MiB)
    work = Background(lambda: os.truncate(path, 0))
    m.wait_for_waiter()
    start = time.monotonic()
    c.kill()
    work.result(5)
    took = time.monotonic() - start
    check(took < 0.5, f"the truncate took {took * 1000:.0f} ms after the kill")
    check_equal(m.pins(), [])
    check_equal(os.path.getsize(path), 0)
    other = m.file("other", 8 * MiB, fill=9)
    check_equal(content(other), b"\x09" * (8 * MiB))


def test_neighbours_do_not_block(m):
    """[R13] pins at the page before and the page after a punch do not block it; a pin on its last page does"""
    path = m.file("f", 1 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("pin", 0, 60 * KiB, 4096)
    c.ask("pin", 1, 128 * KiB, 4096)
    punch(path, 64 * KiB, 64 * KiB)
    c.ask("pin", 2, 124 * KiB, 4096)
    work = Background(lambda: punch(path, 64 * KiB, 64 * KiB))
    m.wait_for_waiter()
    c.ask("unpin", 2)
    work.result(5)


def test_truncate_to_zero_scans_everything(m):
    """[R14] truncate to 0 waits for a pin anywhere; length 0 gets EINVAL"""
    path = m.file("f", 8 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 8 * MiB)
    c.ask("pin", 0, 8 * MiB - 4096, 4096)
    work = Background(lambda: os.truncate(path, 0))
    m.wait_for_waiter()
    c.ask("unpin", 0)
    work.result(5)
    for mode in (0, FALLOC_PUNCH | FALLOC_KEEP_SIZE):
        try:
            fallocate(path, mode, 0, 0)
            raise Failed("length 0 accepted")
        except OSError as error:
            check_equal(error.errno, errno.EINVAL)


def test_close_does_not_wait(m):
    """closing a descriptor of a file whose punch waits does not wait, nor does a child that drops inherited descriptors"""
    path = m.file("f", 1 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("pin", 0, 0, 4096)
    fd = os.open(path, os.O_RDWR)
    work = Background(lambda: punch(path, 0, 4096))
    m.wait_for_waiter()
    # By a process of its own: what it waits for cannot hold this one up.
    child = m.spawn(sys.executable, "-c", f"import os; os.close({fd}); print('closed', flush=True)", pass_fds=[fd], stdout=subprocess.PIPE)
    closing = Background(child.stdout.readline)
    try:
        check_equal(closing.result(10), b"closed\n", "the child")
    finally:
        c.ask("unpin", 0)
        work.result(10)
        os.close(fd)


def test_unlinked_while_pinned(m):
    """[R22] unlink of a pinned file returns at once; its blocks live until the unpin, then the space is free"""
    before = os.statvfs(m.path).f_bfree
    path = m.file("f", 4 * MiB, fill=4)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 4 * MiB)
    c.ask("pin", 0, 0, 4 * MiB)
    os.unlink(path)
    c.ask("close")
    check_equal(c.ask("load", 1 * MiB, 4), ["04040404"], "the unlinked file's bytes")
    check(os.statvfs(m.path).f_bfree <= before - 1024, "the space is not yet free")
    c.ask("unpin", 0)
    c.ask("unmap")
    wait_until(lambda: os.statvfs(m.path).f_bfree >= before - 16, "the space is free after the unpin")


def test_unlinked_while_pinned_and_a_crash(m):
    """[R22] an orphan that a pin keeps is freed after a crash, once its client is gone"""
    before = os.statvfs(m.path).f_bfree
    path = m.file("f", 4 * MiB, fill=4)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 4 * MiB)
    c.ask("pin", 0, 0, 4 * MiB)
    os.unlink(path)
    c.ask("close")
    m.kill_daemon()
    m.mount()
    check(os.statvfs(m.path).f_bfree <= before - 1024, "the former client keeps the blocks")
    c.kill()
    wait_until(lambda: os.statvfs(m.path).f_bfree >= before - 64, "the space is free", 20)
    m.umount()
    m.fsck()


def test_holder_faults_again(m):
    """[R26] the holder's page is recalled and faulted again while the truncate waits; its unpin wakes the truncate"""
    path = m.file("f", 1 * MiB, fill=5)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("pin", 0, 0, 4096)
    work = Background(lambda: os.truncate(path, 0))
    m.wait_for_waiter()
    for _ in range(5):
        run(PINDAX, "recall", path)
        check_equal(c.ask("load", 0, 4), ["05050505"])
        check(not work.done())
    start = time.monotonic()
    c.ask("unpin", 0)
    work.result(5)
    check(time.monotonic() - start < 1, "it wakes at once")


def test_thousand_waiting_truncates(m):
    """[R36] hundreds of waiting truncates leave the mount answering"""
    count = 300
    c = m.client()
    for i in range(count):
        m.file(f"p{i}", 4096, fill=1)
        c.ask("open", f"p{i}", "rw")
        c.ask("map", 0, 4096)
        c.ask("pin", i, 0, 4096)
    children = [m.spawn("truncate", "-s", "0", m.path / f"p{i}") for i in range(count)]
    wait_until(lambda: len(m.waiters()) == count, "every truncate waits", 30)
    start = time.monotonic()
    run("ls", "-l", m.path, timeout=5)
    m.file("new", 65536)
    check(time.monotonic() - start < 3, "the mount answers")
    c.kill()
    for child in children:
        check_equal(child.wait(20), 0)


def test_dirty_page_and_killed_holder(m):
    """[R41] the holder also has a dirty page through the mount; the truncate does not hang, nor does the holder's death"""
    path = m.file("f", 1 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("pin", 0, 0, 4096)
    c.ask("mmap", 1 * MiB)           # of the mount
    c.ask("mstore", 256 * KiB, "6162")  # leaves a dirty page
    child = m.spawn("truncate", "-s", "0", path)
    time.sleep(0.3)
    c.kill()
    check_equal(child.wait(10), 0)
    wait_until(lambda: m.pins() == [], "the pins are gone")
    check_equal(os.path.getsize(path), 0)


def test_open_trunc_of_a_pinned_file(m):
    """[R25] open(O_TRUNC) of a pinned file waits; unlink and rename over it do not"""
    path = m.file("f", 1 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("pin", 0, 0, 4096)
    work = Background(lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)))
    m.wait_for_waiter()
    start = time.monotonic()
    m.file("g", 4096)
    os.rename(m.path / "g", path)
    check(time.monotonic() - start < 1, "rename over a pinned file does not wait")
    c.ask("unpin", 0)
    work.result(5)


def test_listings(m):
    """pins, waiters, clients and layout name path, range, process and waiter"""
    path = m.file("some file", 4 * MiB)
    p = m.pin("some file", "1M", "8K")
    rows = m.pins()
    check_equal(len(rows), 1)
    row = rows[0]
    check_equal((row["path"], row["offset_bytes"], row["length_bytes"], row["pid"]), ("/some file", 1 * MiB, 8192, p.pid))
    check_equal(row["blocks"][0]["length_blocks"], 2, "blocks")
    check_equal(row["waited_by"], [])
    check_equal(len(m.pins("--pages")), 2, "one row a page")
    check_equal(m.pins("--pid", "1"), [])
    child = m.spawn("fallocate", "-p", "-o", "1M", "-l", "4K", path)
    m.wait_for_waiter()
    waiter = m.waiters()[0]
    check_equal((waiter["path"], waiter["offset_bytes"], waiter["length_bytes"]), ("/some file", 1 * MiB, 4096))
    check_equal(waiter["waits_for"][0]["pid"], p.pid, "who is waited for")
    check(waiter["scans"] >= 1 and "retries" in waiter, "scans and retries")
    check_equal(len(m.pins()[0]["waited_by"]), 1, "waited_by")
    for command in (("pins",), ("waiters",), ("clients",)):
        text = run(PINDAX, *command, m.path).stdout
        check(str(p.pid) in text, f"{command}: {text}")
    check("pindax" in run(PINDAX, "clients", m.path).stdout)
    text = run(PINDAX, "layout", path).stdout
    check("PINNED RANGE" in text, text)
    p.kill()
    check_equal(child.wait(5), 0)


if __name__ == "__main__":
    sys.exit(main(globals()))
