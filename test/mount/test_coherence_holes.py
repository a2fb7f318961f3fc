# SPDX-License-Identifier: BSD-3-Clause
"""Holes, sizes, full pools, times and durability: the same through the mount and the library (docs/coherence.md)."""
import errno
import mmap
import os
import signal
import subprocess
import sys
import time

from harness import *

PAGE = 4096


def data_ranges(fd, size):
    """As SEEK_DATA and SEEK_HOLE tell it, in pages."""
    pages, at = [], 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            check_equal(error.errno, errno.ENXIO, "SEEK_DATA")
            break
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        pages.append((begin // PAGE, (end + PAGE - 1) // PAGE))
        at = end
    return pages


def blocks(path):
    return os.stat(path).st_blocks * 512 // PAGE


@options(mount={"options": "attr_timeout=0"})
def test_sparse_files_agree(m):
    """[R17] [R18] SEEK_DATA, SEEK_HOLE, st_blocks and contents of a sparse file are the same after stores by library and mount"""
    path = m.file("f")
    os.truncate(path, 256 * PAGE)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, 256 * PAGE, "lazy")
    fd = os.open(path, os.O_RDWR)
    check_equal(data_ranges(fd, 256 * PAGE), [], "an empty file")
    client.ask("store", 10 * PAGE + 5, "aa")
    os.pwrite(fd, b"\xbb", 20 * PAGE)
    client.ask("pwrite", 30 * PAGE, "cc")
    with mmap.mmap(fd, 256 * PAGE) as shared:
        shared[40 * PAGE] = 0xdd
        check_equal(data_ranges(fd, 256 * PAGE), [(10, 11), (20, 21), (30, 31), (40, 41)], "with a dirty page of the kernel")
    check_equal(data_ranges(fd, 256 * PAGE), [(10, 11), (20, 21), (30, 31), (40, 41)], "data")
    check_equal(blocks(path), 4, "blocks")
    check_equal(client.ask("load", 40 * PAGE, 2), ["dd00"], "what the mount stored")
    punch(path, 10 * PAGE, 11 * PAGE)
    check_equal(data_ranges(fd, 256 * PAGE), [(30, 31), (40, 41)], "after a punch")
    check_equal(client.ask("load", 10 * PAGE + 5, 1), ["00"], "a punched byte")
    want = bytearray(256 * PAGE)
    want[30 * PAGE], want[40 * PAGE] = 0xcc, 0xdd
    check_equal(os.pread(fd, 256 * PAGE, 0) == bytes(want), True, "read(2)")
    check_equal(client.ask("load", 0, 64 * PAGE)[0] == bytes(want[:64 * PAGE]).hex(), True, "the library")
    os.close(fd)


@options(mount={"options": "attr_timeout=0"})
def test_reads_of_holes_are_free(m):
    """[R18] reads of a hole by library, mmap and read(2) allocate nothing, and cost the client no mapping a page"""
    path = m.file("f")
    size = 2000 * PAGE
    os.truncate(path, size)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, size, "lazy")
    vmas = lambda: len(open(f"/proc/{client.pid}/maps").readlines())
    before = vmas()
    for page in range(0, 2000, 7):
        check_equal(client.ask("load", page * PAGE, 8), ["00" * 8], "a hole")
    check(vmas() - before < 8, f"{vmas() - before} more mappings after loads of a hole")
    check_equal(path.read_bytes()[:100], bytes(100), "read(2)")
    check_equal(blocks(path), 0, "blocks")
    client.ask("store", 999 * PAGE, "01")
    check_equal(blocks(path), 1, "blocks after a store")
    other = m.file("g")
    os.truncate(other, size)
    with open(other, "rb") as f, mmap.mmap(f.fileno(), size, prot=mmap.PROT_READ) as shared:  # nobody may store
        check_equal(shared[5 * PAGE], 0)
    check_equal(blocks(other), 0, "blocks after a load through mmap")


def faults(m):
    return json.loads(run(PINDAX, "stat", m.path, "--totals", "--json").stdout)["faults"]


@options(mount={"options": "attr_timeout=0"})
def test_runs_of_stores_take_blocks_ahead(m):
    """a run of stores into a hole gets blocks ahead: few faults, not much in vain, nothing behind the end; stores here and there keep their holes"""
    path = m.file("f")
    os.truncate(path, 1000 * PAGE)
    c = opened(m, length=2000 * PAGE, lazy=True)
    before = faults(m)
    for page in range(0, 200):
        c.ask("store", page * PAGE + 9, "ab")
    check(faults(m) - before < 40, f"{faults(m) - before} faults")
    check(200 <= blocks(path) <= 300, f"{blocks(path)} blocks")
    for page in range(400, 600, 2):
        c.ask("store", page * PAGE, "cd")
    check(blocks(path) <= 400, f"{blocks(path)} blocks after stores with gaps")
    for page in range(900, 1000):
        c.ask("store", page * PAGE, "ef")
    with open(path, "rb") as f:
        check_equal(data_ranges(f.fileno(), 1000 * PAGE)[-1], (900, 1000), "the last data")
    want = bytearray(1000 * PAGE)
    for page in range(0, 200):
        want[page * PAGE + 9] = 0xab
    for page in range(400, 600, 2):
        want[page * PAGE] = 0xcd
    for page in range(900, 1000):
        want[page * PAGE] = 0xef
    check(path.read_bytes() == want, "contents")
    c.kill()
    m.umount()
    m.fsck()


@options(mount={"options": "attr_timeout=0"})
def test_nobody_gives_way_to_blocks_ahead(m):
    """[R38] blocks are taken ahead neither where another client has zeros, nor where the kernel has pages, nor in a range that a truncate waits for"""
    path = m.file("f")
    os.truncate(path, 300 * PAGE)
    c, stopped = [opened(m, length=300 * PAGE, lazy=True) for _ in range(2)]
    stopped.ask("load", 60 * PAGE, 1)  # zeros up to page 76
    os.kill(stopped.pid, signal.SIGSTOP)
    for page in range(0, 60):
        c.ask("store", page * PAGE, "ab")
    check(blocks(path) <= 60, f"{blocks(path)} blocks before the zeros of somebody who cannot give them back")
    os.kill(stopped.pid, signal.SIGCONT)
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 300 * PAGE, prot=mmap.PROT_READ) as shared:
        check_equal(shared[150 * PAGE], 0)
        for page in range(100, 150):
            c.ask("store", page * PAGE, "ab")
        check_equal(data_ranges(f.fileno(), 300 * PAGE)[-1], (100, 151), "data up to the kernel's page, which has a block since others may store")
        check_equal(shared[149 * PAGE], 0xab)
    other = m.file("g")
    os.truncate(other, 300 * PAGE)
    c = opened(m, "g", 300 * PAGE, lazy=True)
    c.ask("store", 280 * PAGE, "ab")
    c.ask("pin", 1, 280 * PAGE, PAGE, "write")
    truncate = m.spawn("truncate", "-s", str(260 * PAGE), other)
    wait_until(m.waiters, "the truncate waits")
    for page in range(200, 260):
        c.ask("store", page * PAGE, "ab")
    check_equal(sorted(pool_blocks(other)), [*range(200, 260), 280], "blocks")
    c.ask("unpin", 1)
    check_equal(truncate.wait(30), 0, "truncate")
    check_equal(other.stat().st_size, 260 * PAGE, "size")


def test_populate_goes_on_behind_holes(m):
    """a populated mapping of a sparse file has every block translated, behind holes too"""
    path = m.file("f")
    os.truncate(path, 1200 * PAGE)
    with open(path, "r+b") as f:
        for page in range(1, 1200, 3):  # more pieces than one answer grants
            os.pwrite(f.fileno(), b"x", page * PAGE)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, 1200 * PAGE)
    check_equal(int(client.ask("info")[1]), 400 * PAGE, "mapped bytes")


def fill_up(m):
    """Leaves no block for data."""
    fd = os.open(m.path / "filler", os.O_WRONLY | os.O_CREAT)
    for piece in (1 << 20, PAGE):
        try:
            while True:
                os.write(fd, b"f" * piece)
        except OSError as error:
            check_equal(error.errno, errno.ENOSPC, "filling the pool")
    os.close(fd)


STORE = """
import mmap, sys
f = open(sys.argv[1], 'r+b')
s = mmap.mmap(f.fileno(), 8 * 4096)
if sys.argv[2] == 'other-first':
    g = open(sys.argv[1], 'rb')
    r = mmap.mmap(g.fileno(), 8 * 4096, prot=mmap.PROT_READ)
    print(r[3 * 4096], flush=True)
s[3 * 4096] = 7
print('stored', flush=True)
s.flush()
f.close()
print('synced', flush=True)
"""


@options(mount={"size": "32M"})
def test_full_pool_store_into_hole(m):
    """[R44] a store through mmap into a hole of a full pool is a SIGBUS at the fault, whoever had the page filled, and never lost later"""
    path = m.file("f")
    os.truncate(path, 8 * PAGE)
    fill_up(m)
    for how in ("alone", "other-first"):
        done = subprocess.run([sys.executable, "-c", STORE, path, how], capture_output=True, text=True, timeout=30)
        check_equal(done.returncode, -signal.SIGBUS, f"{how}: exit ({done.stdout!r} {done.stderr!r})")
        check("stored" not in done.stdout, how)
    os.unlink(m.path / "filler")
    for how in ("alone", "other-first"):
        def again():
            done = subprocess.run([sys.executable, "-c", STORE, path, how], capture_output=True, text=True, timeout=30)
            return done.returncode == 0
        wait_until(again, "the store succeeds with space")
    check_equal(path.read_bytes()[3 * PAGE], 7, "the byte")


def test_size_of_clients_and_tails(m):
    """[R46] what the kernel's page or a library mapping has behind the end of file shows as zeros when the file grows, whoever grows it"""
    client = m.client()
    grow = {"library truncate": lambda p: client.ask("truncate", 3000),
            "library fallocate": lambda p: client.ask("fallocate", 0, 0, 3000),
            "append": lambda p: os.pwrite(fd, b"e", 2999), "message": lambda p: client.ask("mwrite", 2999, "65")}
    for number, (name, do) in enumerate(grow.items()):
        path = m.file(f"f{number}", 100, 7)
        client.ask("open", path.name, "rw")
        client.ask("mopen", path.name)
        client.ask("map", 0, PAGE, "lazy")
        fd = os.open(path, os.O_RDWR)
        with mmap.mmap(fd, 100) as shared:
            check_equal(shared[0:3], b"\7\7\7")
            shared[50] = 8
            client.ask("mmap", PAGE)
            client.ask("mstore", 60, "08")
            client.ask("mstore", 500, "ff" * 8)  # behind the end, in the kernel's page
            do(path)
            want = bytes([7] * 50 + [8] + [7] * 9 + [8] + [7] * 39) + bytes(2899)
            check_equal(os.pread(fd, 2999, 0), want, f"{name}: read(2)")
            check_equal(bytes.fromhex(client.ask("mload", 0, 2999)[0]), want, f"{name}: mmap")
            check_equal(bytes.fromhex(client.ask("load", 0, 2999)[0]), want, f"{name}: library")
        os.close(fd)
        client.ask("unmap")


def test_mtime(m):
    """mtime moves with a store through mmap at msync at the latest, with a library store at unmap at the latest"""
    path = m.file("f", 2 * PAGE, 1)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, 2 * PAGE)
    def moved(do, what):
        before = os.stat(path).st_mtime_ns
        time.sleep(0.02)
        do()
        wait_until(lambda: os.stat(path).st_mtime_ns > before, f"mtime moves with {what}", 5)
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), PAGE) as shared:
        def store():
            shared[5] = 9
            shared.flush()
        moved(store, "a store through mmap and msync")
        moved(lambda: os.pwrite(f.fileno(), b"x", 0), "write(2)")
    def unmap():
        client.ask("store", PAGE, "05")
        client.ask("unmap")
    moved(unmap, "a library store and unmap")


def test_stores_that_survive_the_daemon(m):
    """[R43] after kill -9 of the daemon: library stores are there without a sync, mmap stores after msync or fsync"""
    path = m.file("f", 4 * PAGE, 1)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, 4 * PAGE)
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 4 * PAGE) as shared:
        shared[0:4] = b"msyn"
        shared.flush()
        shared[PAGE:PAGE + 4] = b"fsyn"
        os.fsync(f.fileno())
    client.ask("store", 2 * PAGE, b"libr".hex())
    client.ask("pwrite", 3 * PAGE, b"call".hex())
    client.kill()
    m.kill_daemon()
    m.mount()
    data = path.read_bytes()
    check_equal([data[p * PAGE:p * PAGE + 4] for p in range(4)], [b"msyn", b"fsyn", b"libr", b"call"], "after the crash")


def test_names_of_clients(m):
    """names that a client makes or removes beside the mount are seen by the mount at once"""
    source = m.dir / "source"
    source.write_bytes(b"contents")
    (m.path / "d").mkdir()
    for round_ in range(3):
        check(not (m.path / "d" / "n").exists(), "a name that is not there yet")
        run(PINDAX, "import", "--socket", m.path, source, "/d/n")
        check_equal((m.path / "d" / "n").read_bytes(), b"contents", "an imported file")
        check_equal(os.listdir(m.path / "d"), ["n"], "the directory")
        client = m.client()
        client.ask("mopen", "d/n")
        client.ask("mremove", "d/n")
        check(not (m.path / "d" / "n").exists(), f"round {round_}: a removed name is still there")
        check_equal(os.stat(m.path / "d").st_nlink, 2, "links")


if __name__ == "__main__":
    sys.exit(main(globals()))
