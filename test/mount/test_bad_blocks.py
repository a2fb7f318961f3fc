# SPDX-License-Identifier: BSD-3-Clause
"""Bad blocks: who gets errors, what repairs them, what the tools say. Memory errors are the injector's (src/pmem/poison_injector.h): a
touch by the daemon, or by the kernel on its behalf, is a SIGBUS or an error."""
import errno
import json
import mmap
import os

from harness import *

BLOCK = 4096


class Poison:
    """Blocks of the pool that are bad for the daemon from now on."""

    def __init__(self, m):
        self.path = m.dir / "poison"
        self.path.touch()
        self.lines = 0

    @property
    def env(self):
        return {**os.environ, "PINDAX_POISON": str(self.path)}

    def add(self, *blocks, sign=""):
        with open(self.path, "a") as f:
            for b in blocks:
                f.write(f"{sign}{b}\n")
        self.lines += len(blocks)
        done = f"{self.path}.done"
        wait_until(lambda: os.path.exists(done) and open(done).read() == str(self.lines), "the injector has seen it")


def poisoned(m):
    p = Poison(m)
    m.mount(env=p.env)
    return p


def block_of(path, file_block=0):
    """Pool block of a file's block."""
    return pool_blocks(path)[file_block]


def pread(path, offset, length):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def pwrite(path, offset, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def fails(error, work, *args):
    try:
        work(*args)
    except OSError as e:
        check_equal(errno.errorcode[e.errno], errno.errorcode[error], "error")
        return
    raise Failed("no error")


def scrub(m, ok=(0, 1)):
    return json.loads(run(PINDAX, "scrub", m.path, "--json", ok=ok).stdout)


def damaged(m):
    return sorted((d["path"], d["offset_bytes"], d["length_bytes"]) for d in m.info()["damaged"])


def noted(m, count):
    wait_until(lambda: m.info()["bad_bytes"] == count * BLOCK, f"{count} bad blocks are known")


@options(mounted=False)
def test_sharers_lose_the_block(m):
    """[R30] a bad block that two files share: read(2), mmap and library of both give EIO and SIGBUS for it alone, nobody else is hurt, the tools name both"""
    p = poisoned(m)
    a = m.file("a", 16 * BLOCK, fill=1)
    other = m.file("other", 16 * BLOCK, fill=2)
    run(PINDAX, "clone", a, m.path / "b")
    users = {}
    for name in ("a", "b", "other"):
        users[name] = m.client(*(["cooperative"] if name == "b" else []))  # another way to map
        users[name].ask("open", name, "rw")
        users[name].ask("map", 0, 16 * BLOCK)
        users[name].ask("load", 5 * BLOCK, 1)
        users[name].ask("load", 6 * BLOCK, 1)
        check_equal(users[name].ask("pread", 5 * BLOCK, 1), ["02" if name == "other" else "01"], "read by the library")
    p.add(block_of(a, 5))
    check_equal(scrub(m)["found_bytes"], BLOCK, "scrub")
    for name in ("a", "b"):
        path = m.path / name
        fails(errno.EIO, pread, path, 5 * BLOCK, 1)
        check_equal(pread(path, 0, 16 * BLOCK), bytes([1]) * 5 * BLOCK, "what is before it")
        check_equal(pread(path, 6 * BLOCK, 16 * BLOCK), bytes([1]) * 10 * BLOCK, "what is behind it")
        wait_until(lambda: users[name].refuse("load", 5 * BLOCK, 1) == "SIGBUS", "the mapping has lost the block")
        check_equal(users[name].ask("load", 4 * BLOCK, 1), ["01"], "its neighbour")
        check_equal(users[name].ask("load", 6 * BLOCK, 1), ["01"], "its neighbour")
        check_equal(users[name].refuse("store", 5 * BLOCK, "77"), "SIGBUS", "a store")
        # The library's own reads go through a mapping, too, but a read is no load.
        check_equal(users[name].refuse("pread", 5 * BLOCK, 1), "EIO", "pindax_pread")
        check_equal(users[name].ask("pread", 4 * BLOCK, 2 * BLOCK), ["01" * BLOCK], "pindax_pread of what is before it")
        check_equal(users[name].ask("pread", 6 * BLOCK, 1), ["01"], "pindax_pread behind it")
        fails(errno.EIO, pwrite, path, 5 * BLOCK + 1, b"x")
        # An ordinary mapping of the mount.
        child = run("python3", "-c", f"import mmap\nf = open('{path}', 'rb')\nm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\nassert m[6 * 4096] == 1\nm[5 * 4096]",
                    ok=None)
        check_equal(child.returncode, -7, f"mmap: {child.stderr}")
    check_equal(users["other"].ask("load", 5 * BLOCK, 1), ["02"], "another file")
    check_equal(pread(other, 0, 16 * BLOCK), bytes([2]) * 16 * BLOCK, "another file")
    check_equal(damaged(m), [("/a", 5 * BLOCK, BLOCK), ("/b", 5 * BLOCK, BLOCK)], "info")
    check("/a" in run(PINDAX, "info", m.path).stdout, "info for people")
    check("bad" in run(PINDAX, "layout", m.path, "--block", block_of(a, 5)).stdout, "layout --block")
    check("/b" in run(PINDAX, "scrub", m.path, ok=(1,)).stdout, "scrub for people")
    # One is repaired, the other is not; then the other goes.
    pwrite(a, 5 * BLOCK, b"\x07" * BLOCK)
    check_equal(pread(a, 0, 16 * BLOCK), b"\x01" * 5 * BLOCK + b"\x07" * BLOCK + b"\x01" * 10 * BLOCK, "repaired")
    check_equal(users["a"].ask("load", 5 * BLOCK, 1), ["07"], "the mapping sees the new block")
    users["a"].ask("store", 5 * BLOCK, "08")
    fails(errno.EIO, pread, m.path / "b", 5 * BLOCK, 1)
    check_equal(damaged(m), [("/b", 5 * BLOCK, BLOCK)], "info")
    for u in users.values():
        u.kill()
    m.umount()
    report = json.loads(m.fsck("--json").stdout)
    check_equal([(d["path"], d["offset_bytes"]) for d in report["damaged"]], [("/b", 5 * BLOCK)], "fsck")
    check_equal((report["bad_bytes"], report["retired_bytes"], report["clean"]), (BLOCK, 0, True), "fsck")
    m.mount()
    os.unlink(m.path / "b")
    wait_until(lambda: m.info()["retired_bytes"] == BLOCK, "the last owner's release retires it")
    m.umount()
    m.fsck()


@options(mounted=False)
def test_daemon_meets_a_bad_block(m):
    """a bad block that a read or a write meets first is an error or a repair, not the daemon's death, and is remembered over kill -9"""
    p = poisoned(m)
    a = m.file("a", 8 * BLOCK, fill=1)
    b = m.file("b", 8 * BLOCK, fill=2)
    lost = block_of(a, 3)
    p.add(lost, block_of(b, 3))
    fails(errno.EIO, pread, a, 0, 8 * BLOCK)  # the kernel finds it in the answer
    noted(m, 1)
    check_equal(pread(a, 0, 8 * BLOCK), b"\x01" * 3 * BLOCK, "once it is known")
    check_equal(pwrite(b, 0, b"\x03" * 8 * BLOCK), 8 * BLOCK, "a write that covers it")
    check_equal(pread(b, 0, 8 * BLOCK), b"\x03" * 8 * BLOCK, "repaired")
    noted(m, 2)
    wait_until(lambda: m.info()["retired_bytes"] == BLOCK, "the replaced one is retired")
    m.kill_daemon()
    m.mount()  # without poison: the list alone says so
    fails(errno.EIO, pread, a, 3 * BLOCK, BLOCK)
    check_equal(damaged(m), [("/a", 3 * BLOCK, BLOCK)], "after kill -9")
    m.file("a", 8 * BLOCK, fill=4)
    check_equal(damaged(m), [], "written anew")
    wait_until(lambda: m.info()["retired_bytes"] == 2 * BLOCK, "both are retired")
    m.umount()
    m.fsck()


@options(mounted=False, mount={"size": "16M"})
def test_bad_free_block_is_never_given_out(m):
    """free blocks that are bad leave the free space: a full pool has all others, and df counts honestly"""
    p = poisoned(m)
    before = os.statvfs(m.path)
    m.file("probe", BLOCK)
    first = block_of(m.path / "probe") + 8
    bad = [first + 16 * i for i in range(40)]  # metadata comes from the group's end
    p.add(*bad, sign="+")
    p.add(*bad)
    check_equal(scrub(m)["found_bytes"], 40 * BLOCK, "the host's list")
    wait_until(lambda: m.info()["retired_bytes"] == 40 * BLOCK, "retired")
    s = os.statvfs(m.path)
    check_equal(before.f_blocks - s.f_blocks, 40, "size")
    check_equal(m.info()["damaged"], [], "nobody lost anything")
    fd = os.open(m.path / "all", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(fd, b"x" * 65536)
    except OSError as e:
        check_equal(errno.errorcode[e.errno], "ENOSPC", "full")
    os.close(fd)
    taken = set()
    for e in layout(m.path / "all")["extents"]:
        taken.update(range(e["block"], e["block"] + e["length_blocks"]))
    check_equal(taken & set(bad), set(), "bad blocks given out")
    size = os.stat(m.path / "all").st_size
    check_equal(len(pread(m.path / "all", 0, size)), size, "all of it can be read")
    check_equal(scrub(m, ok=(0,))["found_bytes"], 0, "nothing new")
    m.umount()
    m.fsck()


@options(mounted=False)
def test_dirty_page_repairs(m):
    """a page of a mapping of the mount that is dirty when its block goes bad is written back to another block"""
    p = poisoned(m)
    a = m.file("a", 8 * BLOCK, fill=1)
    with open(a, "r+b") as f:
        view = mmap.mmap(f.fileno(), 0)
        old = block_of(a, 3)
        view[3 * BLOCK] = 9
        p.add(old)
        scrub(m)
        view.flush()
        check_equal(view[3 * BLOCK], 9, "the store")
        view.close()
    wait_until(lambda: not damaged(m), "the page repairs the block")
    check_equal(pread(a, 3 * BLOCK, 2), b"\x09\x01", "read(2)")
    check(block_of(a, 3) != old, "another block")
    m.umount()
    m.fsck()


@options(mounted=False)
def test_pins_and_populate(m):
    """a pin of lost bytes is refused, its neighbours can be pinned; whoever maps later gets SIGBUS for the block alone"""
    p = poisoned(m)
    a = m.file("a", 8 * BLOCK, fill=1)
    p.add(block_of(a, 3))
    scrub(m)
    c = m.client()
    c.ask("open", "a", "rw")
    c.ask("map", 0, 8 * BLOCK)
    check_equal(c.ask("load", 2 * BLOCK, 1), ["01"], "before it")
    check_equal(c.refuse("load", 3 * BLOCK, 1), "SIGBUS", "the block")
    check_equal(c.ask("load", 4 * BLOCK, 1), ["01"], "behind it")
    check_equal(c.refuse("pin", 1, 2 * BLOCK, 2 * BLOCK, "write"), "EIO", "a pin")
    check_equal(c.refuse("pin", 1, 2 * BLOCK, 2 * BLOCK), "EIO", "a pin for reading")
    check_equal(c.refuse("pread", 3 * BLOCK, 8), "EIO", "pindax_pread")
    c.ask("pin", 2, 4 * BLOCK, BLOCK, "write")
    c.kill()
    m.umount()


if __name__ == "__main__":
    sys.exit(main(globals()))
