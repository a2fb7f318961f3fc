# SPDX-License-Identifier: BSD-3-Clause
"""Blocks that files share: cp, clone and dedupe; copy-on-write by every way of storing; pins and recalls of what is shared."""
import json
import mmap
import os
import signal
import time

from harness import *

PAGE = 4096


def free_bytes(m):
    s = os.statvfs(m.path)
    return s.f_bfree * s.f_frsize


def clone(a, b, *extra):
    run(PINDAX, "clone", a, b, *extra)


def fsck_clean(m):
    for child in m.children:
        if child.poll() is None:
            child.kill()
            child.wait(10)
    m.umount()
    m.fsck()


def test_reading_keeps_sharing(m):
    """pindax_pread of a clone copies nothing: blocks stay shared, the reader takes the mapping's way, and truncates cannot cut it short with a signal"""
    a = m.file("a", 64 * 4096, fill=7)
    run(PINDAX, "clone", a, m.path / "b")
    before = pool_blocks(a)
    c = opened(m, "b", 64 * 4096)
    for page in range(64):
        check_equal(c.ask("pread", page * 4096 + 5, 3), ["070707"], "bytes")
    check_equal(pool_blocks(m.path / "b"), before, "blocks of the clone")
    check(all(e["shared"] for e in layout(m.path / "b")["extents"]), "all of it is shared still")
    c.ask("store", 8 * 4096, "55")
    check_equal(c.ask("pread", 8 * 4096, 2), ["5507"], "after a copy-on-write")
    check_equal(c.ask("pread", 9 * 4096, 2), ["0707"], "its neighbour")
    check_equal(len(pool_blocks(m.path / "b").items() & before.items()), 63, "shared blocks")


def translated(m, client, block):
    """What a client, stopped or not, sees where it translates to the block of the pool: 16 bytes."""
    with open(f"/proc/{client.pid}/maps") as maps:
        for line in maps:
            words = line.split()
            if words[-1] != str(m.pool):
                continue
            begin, end = (int(x, 16) for x in words[0].split("-"))
            at = begin + block * PAGE - int(words[2], 16)
            if begin <= at < end and end - begin < m.pool.stat().st_size:
                with open(f"/proc/{client.pid}/mem", "rb") as memory:
                    memory.seek(at)
                    return memory.read(16)
    raise Failed(f"process {client.pid} does not map block {block}")


@options(mount={"options": "recall_deadline=300ms"})
def test_stopped_reader_of_a_clone(m):
    """stores and truncates wait for a stopped reader of shared blocks no longer than a recall's deadline, and what he still sees of the file stays as it was, whatever the clone's owner does"""
    a = m.file("a", 32 * PAGE, fill=7)
    b = m.path / "b"
    clone(a, b)
    blocks = pool_blocks(a)
    reader = m.client()
    reader.ask("open", "a", "r")
    reader.ask("map", 0, 32 * PAGE)
    reader.ask("load", 0, 1)
    os.kill(reader.pid, signal.SIGSTOP)
    sees = lambda page: check_equal(translated(m, reader, blocks[page]), b"\x07" * 16, f"what the reader sees of page {page}")

    writer = opened(m, "a", 32 * PAGE, lazy=True)
    with open(a, "r+b") as fa, open(b, "r+b") as fb:
        os.pwrite(fa.fileno(), b"w" * PAGE, 0)
        writer.ask("store", 4 * PAGE, "5a5a")
        os.truncate(a, 8 * PAGE)
        check_equal(content(a)[:2] + content(a)[4 * PAGE:4 * PAGE + 2], b"wwZZ", "the file")
        for page in (0, 4, 16):
            os.pwrite(fb.fileno(), b"b" * PAGE, page * PAGE)
            sees(page)
            check_equal(os.pread(fb.fileno(), 2, page * PAGE), b"bb", "the clone")
    os.unlink(b)
    wait_until(lambda: m.info()["quarantine_bytes"] > 0, "what the reader still sees is in quarantine")
    filler = m.path / "filler"
    run("dd", "if=/dev/urandom", f"of={filler}", "bs=1M", "count=16", "status=none")
    for page in (0, 4, 16, 31):
        sees(page)
    os.unlink(filler)
    os.kill(reader.pid, signal.SIGCONT)
    wait_until(lambda: m.info()["quarantine_bytes"] == 0, "the quarantine drains")
    check_equal(reader.ask("load", 0, 2), ["7777"], "the file, as the reader sees it now")
    os.unlink(a)
    fsck_clean(m)


def test_cp_shares(m):
    """cp of a file shares its blocks: no space, any size at once, and the copy lives by itself"""
    a = m.file("a", 64 * MiB)
    before = free_bytes(m)
    run("cp", a, m.path / "b")
    check(before - free_bytes(m) < 1 * MiB, f"cp took {before - free_bytes(m)} bytes")
    check_equal(pool_blocks(m.path / "b"), pool_blocks(a), "blocks of the copy")
    check(content(m.path / "b") == content(a), "contents")
    os.unlink(a)
    check(len(content(m.path / "b")) == 64 * MiB)
    check_equal(free_bytes(m) // MiB, before // MiB, "free space after the original is gone")
    fsck_clean(m)


def test_cp_of_odd_ends(m):
    """copies of parts, with odd offsets and ends, have the right bytes"""
    a = m.file("a", 1 * MiB + 123)
    want = bytearray(2 * MiB)
    whole = content(a)
    with open(m.path / "b", "wb+") as b:
        b.truncate(2 * MiB)
        src = os.open(a, os.O_RDONLY)
        for src_off, dst_off, n in ((0, 0, 300000), (5000, 401000, 9000), (8192, 409600, 100000), (100, 4196, 50000), (1 * MiB, 1536 * KiB, 123)):
            done = 0
            while done < n:
                got = os.copy_file_range(src, b.fileno(), n - done, src_off + done, dst_off + done)
                check(got > 0, "copy_file_range ended early")
                done += got
            want[dst_off:dst_off + n] = whole[src_off:src_off + n]
        os.close(src)
    check(content(m.path / "b") == bytes(want), "contents")
    fsck_clean(m)


def test_write_copies_the_block(m):
    """write(2) into a shared block copies that block for that file; every other reader sees the old bytes"""
    a = m.file("a", 1 * MiB, fill=1)
    clone(a, m.path / "b")
    reader = m.client()
    reader.ask("open", "b", "r")
    reader.ask("map", 0, 1 * MiB)
    check_equal(reader.ask("load", 8192, 2), ["0101"], "before")
    with open(a, "r+b", buffering=0) as f:
        f.seek(8192)
        f.write(b"\x02\x02")
    check_equal(reader.ask("load", 8192, 2), ["0101"], "the clone")
    same = pool_blocks(a).items() & pool_blocks(m.path / "b").items()
    check_equal(len(same), 255, "blocks still shared")
    with open(m.path / "b", "r+b", buffering=0) as f:
        f.seek(16384)
        f.write(b"\x03")
    check_equal(reader.ask("load", 16384, 2), ["0301"], "a mapping of the file that was written")
    check_equal(content(a)[16384:16386], b"\x01\x01", "the other file")
    fsck_clean(m)


def test_direct_store_copies(m):
    """[R29] stores through direct mappings of both sharers copy each block once, and a third mapper of the file sees them"""
    a = m.file("a", 1 * MiB, fill=1)
    clone(a, m.path / "b")
    writer, reader, other = m.client(), m.client(), m.client()
    for c, name in ((writer, "a"), (reader, "a"), (other, "b")):
        c.ask("open", name, "rw")
        c.ask("map", 0, 1 * MiB)
        check_equal(c.ask("load", 4096, 1), ["01"], name)
    writer.ask("store", 4096, "22")
    check_equal(reader.ask("load", 4096, 1), ["22"], "the same file, another process")
    check_equal(other.ask("load", 4096, 1), ["01"], "the other file")
    other.ask("store", 4096, "33")
    check_equal(reader.ask("load", 4096, 1), ["22"], "after the other's store")
    check_equal(content(m.path / "b")[4096:4097], b"\x33", "read(2)")
    fsck_clean(m)


def test_mapped_writer_is_recalled_by_clone(m):
    """a writable direct mapping does not store into blocks that a clone shares"""
    a = m.file("a", 1 * MiB, fill=1)
    c = m.client()
    c.ask("open", "a", "rw")
    c.ask("map", 0, 1 * MiB)
    c.ask("store", 0, "11")
    clone(a, m.path / "b")
    c.ask("store", 0, "22")
    c.ask("store", 512 * KiB, "22")
    check_equal(content(m.path / "b")[0:1] + content(m.path / "b")[512 * KiB:512 * KiB + 1], b"\x11\x01", "the clone")
    check_equal(content(a)[0:1], b"\x22", "the file")


def test_truncate_takes_what_readers_of_shared_blocks_hold(m):
    """[V7] a truncate and a punch of blocks that a file shares with itself leave a writable mapping that only read them nothing"""
    a = m.file("a", 64 * KiB, fill=1)
    reader = m.client()
    for change in ("truncate", "punch"):
        clone(a, a, "--offset", "0", "--to", str(64 * KiB), "--length", str(64 * KiB))
        reader.ask("open", "a", "rw")
        reader.ask("map", 0, 128 * KiB)
        check_equal(reader.ask("load", 100 * KiB, 2), ["0101"], "before")
        if change == "truncate":
            os.truncate(a, 0)
            os.truncate(a, 128 * KiB)
        else:
            punch(a, 0, 128 * KiB)
        check_equal(reader.ask("load", 100 * KiB, 2), ["0000"], "after")
        a = m.file("a", 64 * KiB, fill=1)
    fsck_clean(m)


def test_mount_mmap_copies(m):
    """a store through mmap on the mount copies the block, also where the page was cached before the clone or by a reader"""
    a = m.file("a", 1 * MiB, fill=1)
    fd = os.open(a, os.O_RDWR)
    shared = mmap.mmap(fd, 1 * MiB)
    shared[0:2] = b"\x05\x05"  # a dirty page
    reader = os.open(a, os.O_RDONLY)
    seen = mmap.mmap(reader, 1 * MiB, prot=mmap.PROT_READ)
    check_equal(seen[4096], 1, "cached by a reader")
    clone(a, m.path / "b")
    check_equal(content(m.path / "b")[0:3], b"\x05\x05\x01", "dirty pages come along")
    check_equal(seen[8192], 1, "cached while shared")
    shared[0] = 9
    shared[4096] = 9
    shared[8192] = 9
    shared.flush()
    got = content(m.path / "b")
    check_equal((got[0], got[4096], got[8192]), (5, 1, 1), "the clone")
    got = content(a)
    check_equal((got[0], got[4096], got[8192]), (9, 9, 9), "the file")
    check_equal((seen[0], seen[8192]), (9, 9), "the reader's mapping")
    shared.close()
    seen.close()
    os.close(fd)
    os.close(reader)
    # Cached by a reader while nobody may write; then a writer opens.
    reader = os.open(m.path / "b", os.O_RDONLY)
    seen = mmap.mmap(reader, 1 * MiB, prot=mmap.PROT_READ)
    check_equal(seen[12288], 1, "b")
    fd = os.open(m.path / "b", os.O_RDWR)
    shared = mmap.mmap(fd, 1 * MiB)
    shared[12288] = 7
    shared.flush()
    check_equal(content(a)[12288], 1, "the source")
    check_equal((content(m.path / "b")[12288], seen[12288]), (7, 7), "the clone")
    shared.close()
    seen.close()
    os.close(fd)
    os.close(reader)
    fsck_clean(m)


def test_pins_and_clones(m):
    """[R28] clones to and fro wait for pins of either file, deadlock nobody, and a pin's block is nobody else's"""
    a, b = m.file("a", 1 * MiB, fill=1), m.file("b", 1 * MiB, fill=2)
    pa, pb = m.client(), m.client()
    for c, name in ((pa, "a"), (pb, "b")):
        c.ask("open", name, "rw")
        c.ask("map", 0, 1 * MiB)
        c.ask("pin", 0, 8192, 4096)
    there = Background(lambda: clone(a, b, "--offset", 0, "--length", 65536, "--to", 0))
    back = Background(lambda: clone(b, a, "--offset", 131072, "--length", 65536, "--to", 131072))
    back.result(10)  # nothing pinned there
    m.wait_for_waiter()
    check(not there.done(), "waits for the pin of the source")
    check_equal(pb.ask("load", 8192, 1), ["02"], "a fault meanwhile")
    pa.ask("unpin", 0)
    time.sleep(0.2)
    check(not there.done(), "waits for the pin of the destination")
    check_equal(pb.ask("load", 8192, 1), ["02"], "pinned")
    pb.ask("unpin", 0)
    there.result(10)
    check_equal(pb.ask("load", 8192, 1), ["01"], "after the clone")
    # A pin of a shared block, for reading too, makes it the file's own.
    before = pool_blocks(a)[2]
    pa.ask("pin", 0, 8192, 4096)
    pb.ask("pin", 0, 8192, 4096, "write")
    check(pool_blocks(a)[2] != pool_blocks(b)[2], "pinned and shared")
    check_equal(pa.ask("load", 8192, 1) + pb.ask("load", 8192, 1), ["01", "01"])
    check(before in (pool_blocks(a)[2], pool_blocks(b)[2]), "one of them keeps the block")
    pa.ask("unpin", 0)
    pb.ask("unpin", 0)


def test_crosswise_clones(m):
    """[R28] clones in both directions at once, with writers, end; fsck finds every count right"""
    a, b = m.file("a", 4 * MiB, fill=1), m.file("b", 4 * MiB, fill=2)

    def work(src, dst, byte):
        for i in range(12):
            off = (i * 37 % 60) * 65536
            clone(src, dst, "--offset", off, "--length", 65536, "--to", off)
            with open(src, "r+b", buffering=0) as f:
                f.seek(off)
                f.write(bytes([byte]) * 5000)

    jobs = [Background(lambda: work(a, b, 3)), Background(lambda: work(b, a, 4))]
    for job in jobs:
        job.result(60)
    fsck_clean(m)


def test_copy_does_not_wait_for_pins(m):
    """copy_file_range copies what is pinned by bytes instead of waiting, in the source and in the destination"""
    a, b = m.file("a", 1 * MiB, fill=1), m.file("b", 1 * MiB, fill=2)
    c, d = m.client(), m.client()
    for client, name in ((c, "a"), (d, "b")):
        client.ask("open", name, "rw")
        client.ask("map", 0, 1 * MiB)
        client.ask("pin", 0, 65536, 4096, "write")
    start = time.monotonic()
    src, dst = os.open(a, os.O_RDONLY), os.open(b, os.O_RDWR)
    done = 0
    while done < 1 * MiB:
        done += os.copy_file_range(src, dst, 1 * MiB - done, done, done)
    check(time.monotonic() - start < 5, "took too long")
    check_equal(content(b), content(a), "contents")
    check(pool_blocks(a)[16] != pool_blocks(b)[16], "the pinned block is shared")
    check_equal(d.ask("load", 65536, 1), ["01"], "the pin's holder sees the copy")
    os.close(src)
    os.close(dst)


def test_dedupe(m):
    """pindax clone --dedupe and pindax_dedupe_range share what is equal, and nothing else"""
    a, b = m.file("a", 1 * MiB, fill=1), m.file("b", 1 * MiB, fill=1)
    with open(b, "r+b", buffering=0) as f:
        f.seek(700000)
        f.write(b"x")
    c = m.client()
    check_equal(c.ask("dedupe", "a", 0, "b", 0, 1 * MiB), ["0"], "different")
    before = free_bytes(m)
    check_equal(c.ask("dedupe", "a", 0, "b", 0, 512 * KiB), [str(512 * KiB)], "equal")
    check(free_bytes(m) > before, "space comes back")
    check_equal(content(b)[700000:700001], b"x")
    same = m.file("same", 1 * MiB, fill=1)
    got = json.loads(run(PINDAX, "clone", a, same, "--dedupe", "--json").stdout)
    check_equal(got["shared_bytes"], 1 * MiB, "whole file")
    fsck_clean(m)


def test_clone_command(m):
    """pindax clone refuses what cannot be shared with a sentence, and sizes and ranges are right"""
    a = m.file("a", 100000)
    clone(a, m.path / "b")
    check_equal(content(m.path / "b"), content(a), "whole file")
    os.chmod(a, 0o640)
    clone(a, m.path / "c", "--offset", 4096, "--to", 8192)
    check_equal(content(m.path / "c"), bytes(8192) + content(a)[4096:], "a range")
    check_equal(os.stat(m.path / "c").st_mode & 0o777, 0o640, "mode of a new file")
    for args, word in (((a, m.path / "d", "--offset", 5), "4096"), ((a, "/dev/shm/x"), "same file system"), ((a, a), "same file"),
                       ((m.path / "none", m.path / "d"), "No such file"), ((a, m.path), "directory")):
        failed = run(PINDAX, "clone", *args, ok=(4,))
        check(word in failed.stderr, f"{args}: {failed.stderr!r}")
    c = m.client()
    check_equal(c.refuse("clone", "a", 0, "b", 0, 5000), "EINVAL", "a part of a block inside the destination")


def test_unshare_command(m):
    """pindax fallocate --unshare-range gives a file blocks of its own under those who map it; the bytes of both files stay"""
    a = m.file("a", 1 * MiB, fill=1)
    b = m.path / "b"
    clone(a, b)
    reader = m.client()
    reader.ask("open", "b", "rw")
    reader.ask("map", 0, 1 * MiB)
    check_equal(reader.ask("load", 4096, 1), ["01"])
    run(PINDAX, "fallocate", "--unshare-range", "-o", 64 * KiB, "-l", 128 * KiB, b)
    of_a = pool_blocks(a)
    own = {i for i, block in pool_blocks(b).items() if block != of_a[i]}
    check_equal(own, set(range(16, 48)), "blocks of its own")
    run(PINDAX, "fallocate", "--unshare-range", "-l", 1 * MiB, b)
    check(not set(pool_blocks(a).values()) & set(pool_blocks(b).values()), "blocks are shared still")
    reader.ask("store", 4096, "22")
    check_equal(content(b), b"\x01" * 4096 + b"\x22" + b"\x01" * (1 * MiB - 4097), "the file")
    check_equal(content(a), b"\x01" * (1 * MiB), "its former sharer")
    fsck_clean(m)


def test_block_owners(m):
    """pindax layout --block names every sharer of a block with its offset, and who maps or pins it"""
    a = m.file("a", 1 * MiB, fill=1)
    clone(a, m.path / "b")
    clone(a, m.path / "c", "--offset", 8192, "--length", 4096, "--to", 0)
    c = m.client()
    c.ask("open", "b", "rw")
    c.ask("map", 0, 1 * MiB)
    block = pool_blocks(a)[2]
    got = json.loads(run(PINDAX, "layout", m.path, "--block", block, "--json").stdout)
    check_equal(sorted((f["path"], f["offset_bytes"]) for f in got["files"]), [("/a", 8192), ("/b", 8192), ("/c", 0)], "owners")
    check_equal([[x["pid"] for x in f["clients"]] for f in sorted(got["files"], key=lambda f: f["path"])], [[], [c.pid], []], "clients")
    c.ask("store", 8192, "22")
    got = json.loads(run(PINDAX, "layout", m.path, "--block", block, "--json").stdout)
    check_equal(sorted(f["path"] for f in got["files"]), ["/a", "/c"], "owners after a store")
    check("/a" in run(PINDAX, "layout", m.path, "--block", block).stdout, "text")
    free = json.loads(run(PINDAX, "layout", m.path, "--block", block + 20000, "--json").stdout)
    check_equal(free["files"], [], "a free block")


def test_kill_daemon_with_shares(m):
    """kill -9 of the daemon between clones and stores loses neither bytes nor counts"""
    a = m.file("a", 4 * MiB)
    want = content(a)
    clone(a, m.path / "b")
    with open(a, "r+b", buffering=0) as f:
        f.write(b"new")
    m.kill_daemon()
    m.mount()
    check(content(m.path / "b") == want, "the clone")
    check(content(a) == b"new" + want[3:], "the file")
    os.unlink(a)
    check(content(m.path / "b") == want, "the clone alone")
    fsck_clean(m)


@options(mount={"size": "1G"})
def test_clone_is_instant(m):
    """a clone's time does not grow with its bytes"""
    a = m.path / "a"
    fallocate_file(a, 512 * MiB)
    start = time.monotonic()
    clone(a, m.path / "b")
    took = time.monotonic() - start
    print(f"        clone of 512 MiB: {took * 1000:.1f} ms with the command's start", flush=True)
    check_equal(len(pool_blocks(m.path / "b")), 512 * MiB // 4096, "blocks")


def fallocate_file(path, size):
    with open(path, "wb") as f:
        chunk = bytes([7]) * (4 * MiB)
        for _ in range(size // len(chunk)):
            f.write(chunk)


if __name__ == "__main__":
    sys.exit(main(globals()))
