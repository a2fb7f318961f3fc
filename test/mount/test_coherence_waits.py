# SPDX-License-Identifier: BSD-3-Clause
"""What goes on, and what waits for what, while layout changes and fills wait for pins (docs/coherence.md, "What the kernel forces")."""
import mmap
import os
import signal
import sys
import time

from harness import *

PAGE = 4096

TOUCH = """
import mmap, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a handler in Python would wait for the fault
f = open(sys.argv[1], 'rb')
s = mmap.mmap(f.fileno(), 16 * 4096, prot=mmap.PROT_READ)
print('mapped', flush=True)
print(s[int(sys.argv[2])], flush=True)
"""


def handles_signals(m, path, offset):
    """As touch(), with a handler for SIGUSR1."""
    child = m.spawn(sys.executable, "-c", "import signal\nsignal.signal(signal.SIGUSR1, lambda *a: None)\n" + TOUCH, path, offset,
                    stdout=-1, text=True)
    check_equal(child.stdout.readline().strip(), "mapped")
    return child


def touch(m, path, offset):
    """A process that reads one byte through an mmap of the mount."""
    child = m.spawn(sys.executable, "-c", TOUCH, path, offset, stdout=-1, text=True)
    check_equal(child.stdout.readline().strip(), "mapped")
    return child


def test_interrupted_fill(m):
    """[R8] a process whose page fault waits for a pin can be killed at once, also after a signal that it handles, which does it no
    harm; the pin's end lets others go on"""
    path = m.file("f", 16 * PAGE, 5)
    pin = m.pin("f", 0, PAGE)
    for number in (signal.SIGKILL, signal.SIGINT):
        for handled in (False, True):
            victim = handles_signals(m, path, 10)
            m.wait_for_waiter()
            if handled:
                victim.send_signal(signal.SIGUSR1)
                time.sleep(0.1)
            victim.send_signal(number)
            check(victim.wait(4) in (-number, -signal.SIGBUS), f"exit {victim.returncode}")  # before the fill's own deadline
            wait_until(lambda: not m.waiters(), "nobody waits any more")
    other = handles_signals(m, path, 10)
    m.wait_for_waiter()
    other.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    check_equal(other.poll(), None, "a signal with a handler")
    pin.kill()
    check_equal(other.stdout.readline().strip(), "5", "the byte")
    check_equal(other.wait(10), 0, "exit")


@options(mount={"options": "attr_timeout=0"})
def test_pins_through_the_mount(m):
    """[R18] a client that may not map the pool loads and stores what it has pinned; zeros that others show give way to blocks that
    its pin makes"""
    path = m.file("f")
    os.truncate(path, 16 * PAGE)
    through, reader, writer = m.client("indirect"), m.client(), m.client()
    for client in (through, reader, writer):
        client.ask("open", "f", "rw")
        client.ask("map", 0, 16 * PAGE, "lazy")
    check_equal(through.ask("direct"), ["0"], "direct")
    check_equal(reader.ask("load", 3 * PAGE, 2), ["0000"], "a hole")
    through.ask("pin", 1, 3 * PAGE, PAGE, "write")
    check_equal(os.stat(path).st_blocks, 8, "blocks")
    writer.ask("store", 3 * PAGE, "aabb")
    check_equal(reader.ask("load", 3 * PAGE, 2), ["aabb"], "what another one stored into the new block")
    check_equal(through.ask("load", 3 * PAGE, 2), ["aabb"], "through the mount, pinned")
    through.ask("store", 3 * PAGE, "cc")
    check_equal(reader.ask("load", 3 * PAGE, 2), ["ccbb"], "what was stored through the mount")
    through.ask("unpin", 1)


def test_disjoint_changes(m):
    """[R38] with one punch by the library blocked, another range of the file is punched, faulted, loaded, stored, pinned, read"""
    path = m.file("f", 64 * PAGE, 5)
    holder, blocked, free = m.client(), m.client(), m.client()
    for client in (holder, blocked, free):
        client.ask("open", "f", "rw")
        client.ask("map", 0, 64 * PAGE, "lazy")
    holder.ask("pin", 1, 0, PAGE)
    blocked.send("fallocate", FALLOC_PUNCH | FALLOC_KEEP_SIZE, 0, 2 * PAGE)
    m.wait_for_waiter()
    fd = os.open(path, os.O_RDWR)
    for page in range(8, 60, 4):
        check_equal(free.ask("load", page * PAGE, 1), ["05"], "load")
        free.ask("store", page * PAGE, "06")
        free.ask("pin", 1, page * PAGE, PAGE, "write")
        free.ask("unpin", 1)
        free.ask("fallocate", FALLOC_PUNCH | FALLOC_KEEP_SIZE, (page + 1) * PAGE, PAGE)
        check_equal(os.pread(fd, 1, page * PAGE), b"\6", "read(2)")
        check_equal(os.pread(fd, 1, (page + 1) * PAGE), b"\0", "read(2) of a punched page")
    check_equal(free.ask("load", 0, 1), ["05"], "a load inside the blocked range")
    check_equal(len(m.waiters()), 1, "waiting operations")
    holder.ask("unpin", 1)
    check_equal(blocked.answer(), "ok", "the punch")
    check_equal(os.pread(fd, 1, 0), b"\0", "the punched byte")
    os.close(fd)


def test_recalls_meet_every_call(m):
    """[R40] recalls that meet map, unmap, pin, fork and exit are acknowledged once: neither the client nor the changes hang"""
    length = 64 * PAGE
    path = m.file("f", length, 1)
    clients = [m.client() for _ in range(2)]
    for client in clients:
        client.ask("open", "f", "rw")
        client.send("hustle", length, 3000)
    changes = 0
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        at = (changes * 5) % 60
        punch(path, at * PAGE, 3 * PAGE)
        changes += 1
    for client in clients:
        answer = client.answer()
        check(answer.startswith("ok"), answer)
        rounds = int(answer.split()[1])
        check(rounds > 3, f"{rounds} rounds only")
    check(changes > 3, f"{changes} changes only")
    # exit in the middle of it
    client = clients[0]
    client.send("hustle", length, 60000)
    for _ in range(10):
        punch(path, 0, 8 * PAGE)
    client.kill()
    punch(path, 0, length)
    check_equal(m.waiters(), [], "waiting operations")
    check_equal(path.read_bytes(), bytes(length), "contents")


def test_own_mapping_as_buffer(m):
    """[R31] system calls on a file whose buffer is a mapping of that very file do not deadlock, in holes and in blocks"""
    path = m.file("f", 16 * PAGE, 0)
    with open(path, "r+b") as f:
        f.truncate(0)
        f.truncate(16 * PAGE)
        os.pwrite(f.fileno(), b"\7" * PAGE, 0)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, 16 * PAGE, "lazy")
    check_equal(client.ask("write_from", 0, PAGE, 4 * PAGE), [str(PAGE)], "write of a block into a hole")
    check_equal(client.ask("write_from", 100, 200, 50), ["200"], "write within a page")
    check_equal(client.ask("write_from", 8 * PAGE, PAGE, 4 * PAGE + 100), [str(PAGE)], "write of a hole")
    check_equal(client.ask("read_into", 10 * PAGE, 2 * PAGE, 0), [str(2 * PAGE)], "read into a hole")
    data = path.read_bytes()
    check_equal(data[4 * PAGE:4 * PAGE + 100], b"\7" * 100, "written")
    check_equal(data[4 * PAGE + 100:5 * PAGE + 100], bytes(PAGE), "written zeros")
    check_equal(data[10 * PAGE:12 * PAGE], b"\7" * PAGE + bytes(PAGE), "read")


def test_bystanders_of_a_waiting_punch(m):
    """[R42] while a punch through the mount waits: read, stat, open, stores elsewhere, munmap and exit of others go on; fsync of the
    file waits in the kernel and ends with it"""
    path = m.file("f", 64 * KiB, 5)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, 64 * KiB)
    client.ask("mmap", 64 * KiB)
    client.ask("mstore", 12 * PAGE, "09")
    m.pin("f", 32 * KiB, PAGE)
    waiter = m.spawn("fallocate", "-p", "-o", 32 * KiB, "-l", PAGE, path)
    m.wait_for_waiter()
    def look():
        with open(path, "rb") as f:
            check_equal(f.read(10), b"\5" * 10, "read")
        os.stat(path)
        check_equal(touch(m, path, 10).wait(10), 0, "a process that maps, reads and exits")
        client.ask("store", 3 * PAGE, "06")
        client.ask("mstore", 13 * PAGE, "0a")
        client.ask("munmap")
        client.ask("truncate", 100 * KiB)  # the library's: another range
    Background(look).result(20)
    sync = Background(lambda: run("sync", path))
    check(waiter.poll() is None, "the punch did not wait")
    waiter.send_signal(signal.SIGINT)
    waiter.wait(5)
    sync.result(10)
    data = path.read_bytes()
    check_equal((data[3 * PAGE], data[12 * PAGE], data[13 * PAGE], data[8 * PAGE], len(data)), (6, 9, 10, 5, 100 * KiB), "contents")


def test_fault_behind_a_waiting_truncate(m):
    """[R41] [R42] a fault on a page that may be stored into waits while a truncate through the mount waits for a pin; after a while the
    truncate leaves the pinned block to quarantine, and nobody gets a SIGBUS"""
    path = m.file("f", 64 * KiB, 5)
    m.pin("f", 32 * KiB, PAGE)
    with open(path, "r+b"):
        waiter = m.spawn("truncate", "-s", 16 * KiB, path)
        m.wait_for_waiter()
        bystander = touch(m, path, 10)
        check_equal(bystander.stdout.readline().strip(), "5", "the byte")
        check_equal(bystander.wait(10), 0, "exit of the bystander")
        check_equal(waiter.wait(10), 0, "exit of the truncate")
        check_equal(os.stat(path).st_size, 16 * KiB, "size")


def test_fsync_of_a_waiting_truncate(m):
    """[R42] while a truncate through the mount waits: a fault on a page that may be stored into waits, too, and can be killed; fsync and
    lseek wait in the kernel; all end with it"""
    path = m.file("f", 64 * KiB, 5)
    m.pin("f", 32 * KiB, PAGE)
    with open(path, "r+b") as f:
        waiter = m.spawn("truncate", "-s", "0", path)
        m.wait_for_waiter()
        victim = touch(m, path, 10)
        m.wait_for_waiter(2)
        victim.send_signal(signal.SIGKILL)
        check_equal(victim.wait(4), -signal.SIGKILL, "exit")
        later = Background(lambda: (os.fsync(f.fileno()), os.lseek(f.fileno(), 0, os.SEEK_DATA)))
        check(waiter.poll() is None, "the truncate did not wait")
        waiter.send_signal(signal.SIGINT)
        waiter.wait(5)
        check_equal(later.result(10)[1], 0, "lseek")


if __name__ == "__main__":
    sys.exit(main(globals()))
