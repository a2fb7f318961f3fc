# SPDX-License-Identifier: BSD-3-Clause
"""Layout changes that the kernel does not forward, large files, and what is at the limits."""
import errno
import fcntl
import mmap
import os
import struct
import sys

from harness import *

COLLAPSE, INSERT, UNSHARE = 8, 32, 64
IOC_FALLOCATE = 1 << 30 | 24 << 16 | ord("P") << 8 | 0x42


def ioctl_fallocate(path, mode, offset, length):
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.ioctl(fd, IOC_FALLOCATE, struct.pack("=IIQQ", mode, 0, offset, length))
    finally:
        os.close(fd)


def refuses(number, work, what=""):
    try:
        work()
    except OSError as error:
        check_equal(error.errno, number, what or "errno")
    else:
        raise Failed(f"{what}: must fail with {errno.errorcode[number]}")


def by_ioctl(m, path, mode, offset, length):
    ioctl_fallocate(path, mode, offset, length)


def by_command(m, path, mode, offset, length):
    run(PINDAX, "fallocate", {COLLAPSE: "-c", INSERT: "-i", UNSHARE: "-u"}[mode], "-o", offset, "-l", length, path)


def by_library(m, path, mode, offset, length):
    c = m.client()
    c.ask("open", path.name, "rw")
    c.ask("fallocate", mode, offset, length)
    c.send("exit")
    c.process.wait(10)


WAYS = (by_ioctl, by_command, by_library)


def test_collapse_and_insert(m):
    """collapse and insert by ioctl, command and library: read, stat and mappings of the mount see it at once"""
    for way in WAYS:
        path = m.file(f"f-{way.__name__}", 1 * MiB)
        data = content(path)
        with open(path, "r+b") as f:
            shared = mmap.mmap(f.fileno(), 1 * MiB)
            shared[5 * 4096:5 * 4096 + 3] = b"new"  # a dirty page that has to move along
            data = data[:5 * 4096] + b"new" + data[5 * 4096 + 3:]
            way(m, path, COLLAPSE, 8192, 8192)
            data = data[:8192] + data[16384:]
            check_equal(os.stat(path).st_size, len(data), "size after the collapse")
            check(shared[:len(data)] == data, "the mapping after the collapse")
            check(content(path) == data, "the file after the collapse")
            way(m, path, INSERT, 4096, 1 * MiB)
            data = data[:4096] + bytes(1 * MiB) + data[4096:]
            check_equal(os.stat(path).st_size, len(data), "size after the insert")
            fd = os.open(path, os.O_RDONLY)
            check_equal(os.lseek(fd, 0, os.SEEK_HOLE), 4096, "SEEK_HOLE")
            check_equal(os.lseek(fd, 4096, os.SEEK_DATA), 4096 + 1 * MiB, "SEEK_DATA")
            os.close(fd)
            check(content(path) == data, "the file after the insert")
            check(shared[:1 * MiB] == data[:1 * MiB], "the mapping after the insert")
            longer = mmap.mmap(f.fileno(), len(data))
            check(longer[:] == data, "a mapping of what it is now")
            longer.close()
            way(m, path, UNSHARE, 4096, 1 * MiB)
            check(content(path) == data, "the file after unshare")
            check_equal(os.stat(path).st_blocks, (len(data) + 4095) // 4096 * 8, "blocks after unshare")
            shared.close()
    m.umount()
    m.fsck()


def test_shift_breaks_to_the_end(m):
    """[R27] collapse and insert wait for a pin anywhere behind the offset, not for one before it; the client sees the moved bytes"""
    for number, (way, mode) in enumerate([(by_ioctl, COLLAPSE), (by_library, COLLAPSE), (by_ioctl, INSERT), (by_library, INSERT)]):
        path = m.file(f"f{number}", 1 * MiB)
        data = content(path)
        c = m.client()
        c.ask("open", path.name, "rw")
        c.ask("map", 0, 2 * MiB)
        c.ask("pin", 0, 0, 64 * KiB)          # before the offset
        c.ask("pin", 1, 900 * KiB, 4096)      # far behind it
        work = Background(lambda: way(m, path, mode, 64 * KiB, 64 * KiB))
        m.wait_for_waiter()
        row = m.waiters()[0]
        check_equal(row["operation"], "collapse" if mode == COLLAPSE else "insert", "the operation")
        check_equal(row["offset_bytes"], 64 * KiB, "it breaks from its offset")
        time.sleep(0.1)
        check(not work.done(), "it waits for the pin behind the offset")
        check_equal(content(path), data, "nothing has moved yet")
        c.ask("unpin", 1)
        work.result(5)
        data = data[:64 * KiB] + (data[128 * KiB:] if mode == COLLAPSE else bytes(64 * KiB) + data[64 * KiB:])
        check(content(path) == data, "the file")
        for at in (0, 60 * KiB, 64 * KiB, 100 * KiB, 130 * KiB, 800 * KiB):
            check_equal(c.ask("load", at, 16), [data[at:at + 16].hex()], f"the client's load at {at}")
        c.ask("store", 700 * KiB, "aabbcc")
        check_equal(content(path)[700 * KiB:700 * KiB + 3], bytes.fromhex("aabbcc"), "a store after the move")
        c.ask("unpin", 0)
        c.send("exit")


def test_interrupt_of_a_waiting_collapse(m):
    """[R8] a collapse that waits for a pin is interrupted with nothing done"""
    path = m.file("f", 1 * MiB)
    before = content(path)
    m.pin("f", "512K", "4K")
    done = run("timeout", "-s", "INT", "0.5", PINDAX, "fallocate", "-c", "-o", "4K", "-l", "4K", path, ok=None)
    check(done.returncode != 0, "does not succeed")
    wait_until(lambda: m.waiters() == [], "the waiter is gone")
    check(content(path) == before, "the file")


def test_shift_refusals(m):
    """collapse and insert give Linux's errors, by ioctl and by command"""
    path = m.file("f", 10000)
    for mode, offset, length, number in [
        (COLLAPSE, 1, 4096, errno.EINVAL), (COLLAPSE, 0, 100, errno.EINVAL), (COLLAPSE, 8192, 4096, errno.EINVAL),
        (COLLAPSE, 0, 12288, errno.EINVAL), (COLLAPSE | 1, 0, 4096, errno.EINVAL), (INSERT, 12288, 4096, errno.EINVAL),
        (INSERT, 100, 4096, errno.EINVAL), (INSERT, 0, (1 << 63) - 8192, errno.EFBIG), (INSERT, 0, 0, errno.EINVAL),
        (INSERT | COLLAPSE, 0, 4096, errno.EINVAL), (0x4000, 0, 4096, errno.EOPNOTSUPP), (2, 0, 4096, errno.EOPNOTSUPP)]:
        refuses(number, lambda: ioctl_fallocate(path, mode, offset, length), f"mode {mode} [{offset}, +{length})")
    check_equal(os.stat(path).st_size, 10000, "the size")
    fd = os.open(path, os.O_RDONLY)
    refuses(errno.EBADF, lambda: fcntl.ioctl(fd, IOC_FALLOCATE, struct.pack("=IIQQ", COLLAPSE, 0, 0, 4096)), "a read-only descriptor")
    os.close(fd)
    run("chattr", "+a", path)
    refuses(errno.EPERM, lambda: punch(path, 0, 4096) if False else run_append_collapse(path), "append-only")
    run("chattr", "-a", path)
    done = run(PINDAX, "fallocate", "-c", "-o", "1", "-l", "4096", path, ok=None)
    check_equal(done.returncode, 4, "the command's exit code")
    check("multiple" in done.stderr, f"the command says why: {done.stderr}")
    check_equal(run(PINDAX, "fallocate", "-c", "-p", "-l", "1", path, ok=None).returncode, 2, "two modes at once")


def run_append_collapse(path):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        fcntl.ioctl(fd, IOC_FALLOCATE, struct.pack("=IIQQ", COLLAPSE, 0, 0, 4096))
    finally:
        os.close(fd)


def test_fallocate_command(m):
    """pindax fallocate knows util-linux's options: allocate, -n, -p, -z, -d, -v"""
    path = m.path / "f"
    run(PINDAX, "fallocate", "-l", "1M", path)
    check_equal((os.stat(path).st_size, os.stat(path).st_blocks), (1 * MiB, 2048), "allocated")
    run(PINDAX, "fallocate", "-n", "-o", "1M", "-l", "1M", path)
    check_equal((os.stat(path).st_size, os.stat(path).st_blocks), (1 * MiB, 4096), "reserved behind the end")
    path.write_bytes(b"x" * 64 * KiB + bytes(64 * KiB) + b"y" * 10000 + bytes(10000))
    run(PINDAX, "fallocate", "-p", "-o", "4096", "-l", "8192", path)
    check_equal(content(path)[4000:13000], b"x" * 96 + bytes(8192) + b"x" * 712, "a hole")
    run(PINDAX, "fallocate", "-z", "-o", "100", "-l", "10", path)
    check_equal(content(path)[99:111], b"x" + bytes(10) + b"x", "zeros")
    before, size = content(path), os.stat(path).st_blocks
    said = run(PINDAX, "fallocate", "-d", "-v", path).stdout
    check("converted to sparse holes" in said, said)
    check(content(path) == before, "digging changes no byte")
    check(os.stat(path).st_blocks <= size - 16 * 8, f"digging freed blocks: {size} -> {os.stat(path).st_blocks}")


@options(mount={"size": "1T", "sparse": True}, mounted=False)
def test_large_files(m):
    """a 1 TiB pool and a 16 TiB sparse file: writes far out, holes between, the largest offset refused as Linux does"""
    m.mount()
    path = m.path / "f"
    with open(path, "w+b") as f:
        for tib in (0, 1, 7, 16):
            f.seek(tib << 40)
            f.write(b"here %d" % tib)
        f.flush()
        check_equal(os.fstat(f.fileno()).st_size, (16 << 40) + 7, "size")
        check_equal(os.fstat(f.fileno()).st_blocks, 32, "blocks")
        check_equal(os.lseek(f.fileno(), 4096, os.SEEK_DATA), 1 << 40, "SEEK_DATA")
        f.seek(7 << 40)
        check_equal(f.read(8), b"here 7" + bytes(2), "far out")
        limit = (1 << 63) - 1
        os.ftruncate(f.fileno(), limit)
        check_equal(os.fstat(f.fileno()).st_size, limit, "the largest size")
        refuses(errno.EINVAL, lambda: os.posix_fallocate(f.fileno(), limit, 0) or LIBC_fallocate(f.fileno(), 0, limit, 1 << 63), "negative length")
        refuses(errno.EFBIG, lambda: LIBC_fallocate(f.fileno(), 0, limit - 100, 4096), "fallocate beyond the largest size")
        refuses(errno.EINVAL, lambda: os.pwrite(f.fileno(), b"x", limit), "a write that would pass the largest size")
        check_equal(os.pwrite(f.fileno(), b"z", limit - 1), 1, "the last byte that there can be")
        check_equal(os.pread(f.fileno(), 1, limit - 1), b"z", "read back")
        os.ftruncate(f.fileno(), 1 << 40)
        check_equal(os.fstat(f.fileno()).st_blocks, 8, "blocks")
    g = m.path / "g"
    start = time.monotonic()
    fallocate(m.file("g"), 0, 0, 100 << 30)
    took = time.monotonic() - start
    check_equal(os.stat(g).st_blocks >= (100 << 30) // 512, True, "100 GiB are reserved")
    print(f"        100 GiB allocated in {took * 1000:.1f} ms")
    m.umount()


def LIBC_fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        err = ctypes.get_errno()
        raise OSError(err, os.strerror(err))


def test_many_links_and_long_attributes(m):
    """65,000 links of an inode and no more (EMLINK), attributes of 64 KiB and no more"""
    path = m.file("f", 10)
    folder = m.path / "links"
    folder.mkdir()
    for i in range(64999):
        os.link(path, folder / str(i))
    check_equal(os.stat(path).st_nlink, 65000, "links")
    refuses(errno.EMLINK, lambda: os.link(path, folder / "more"), "one more link")
    os.setxattr(path, "user.large", b"v" * 65536)
    check_equal(os.getxattr(path, "user.large"), b"v" * 65536, "the attribute")
    refuses(errno.E2BIG, lambda: os.setxattr(path, "user.larger", b"v" * 65537), "a longer attribute")
    m.umount()
    m.fsck()
    m.mount()
    check_equal(os.stat(path).st_nlink, 65000, "links after a mount")
    check_equal(os.getxattr(path, "user.large"), b"v" * 65536, "the attribute after a mount")


def test_append_and_immutable(m):
    """chattr +a and +i hold for every change of contents and of names, through mount and library"""
    path = m.file("f", 8192)
    run("chattr", "+a", path)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    check_equal(os.write(fd, b"more"), 4, "append")
    os.close(fd)
    refuses(errno.EPERM, lambda: os.open(path, os.O_WRONLY), "open without O_APPEND")
    refuses(errno.EPERM, lambda: os.truncate(path, 0), "truncate")
    refuses(errno.EPERM, lambda: os.unlink(path), "unlink")
    refuses(errno.EPERM, lambda: os.rename(path, m.path / "g"), "rename")
    refuses(errno.EPERM, lambda: os.link(path, m.path / "g"), "link")
    refuses(errno.EPERM, lambda: os.chmod(path, 0o600), "chmod")
    run("chattr", "-a", "+i", path)
    for what, work in {"open for appending": lambda: os.open(path, os.O_WRONLY | os.O_APPEND), "truncate": lambda: os.truncate(path, 0),
                       "unlink": lambda: os.unlink(path), "link": lambda: os.link(path, m.path / "g"),
                       "xattr": lambda: os.setxattr(path, "user.a", b"x")}.items():
        refuses(errno.EPERM, work, "immutable: " + what)
    c = m.client()
    check_equal(c.refuse("open", "f", "rw"), "EPERM", "the library")
    check("i" in run("lsattr", path).stdout.split()[0], "lsattr")
    folder = m.path / "d"
    folder.mkdir()
    run("chattr", "+i", folder)
    refuses(errno.EPERM, lambda: (folder / "x").write_bytes(b""), "a name in an immutable directory")
    run("chattr", "-i", "+A", folder)
    (folder / "x").write_bytes(b"")
    check("A" in run("lsattr", "-d", folder).stdout.split()[0], "lsattr of a directory")
    m.umount()
    m.mount()
    refuses(errno.EPERM, lambda: os.unlink(path), "immutable after a mount")
    run("chattr", "-i", path)
    os.unlink(path)


def fragmented(m, name, size):
    """A file in pieces of 64 KiB, with known contents: nothing else is free while it is written."""
    wall, path = m.path / "wall", m.path / name
    data = random.Random(name).randbytes(size)
    at, piece = 0, 64 * MiB
    with open(wall, "wb") as f:
        while piece >= 4096:
            try:
                LIBC_fallocate(f.fileno(), 0, at, piece)
                at += piece
            except OSError as error:
                check_equal(error.errno, errno.ENOSPC, "the wall")
                piece //= 2
    for i in range(size // (64 * KiB) + 8):
        punch(wall, 1 * MiB + i * 128 * KiB, 64 * KiB)
    path.write_bytes(data)
    wall.unlink()
    wait_until(lambda: os.statvfs(m.path).f_bfree * 4096 > 100 * MiB, "the wall is gone")
    return path, data


def extents_of(path):
    return layout(path)["extents"]


def test_defrag(m):
    """pindax defrag makes a file contiguous and aligned while a client maps it; a pinned one is named, or waited for"""
    path, data = fragmented(m, "f", 12 * MiB)
    check(len(extents_of(path)) > 20, f"{len(extents_of(path))} extents")
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 12 * MiB)
    c.ask("pin", 0, 1 * MiB, 4096)
    done = run(PINDAX, "defrag", path, ok=(1,))
    check(str(path) in done.stdout and "pinned" in done.stdout, done.stdout)
    check(len(extents_of(path)) > 20, "a pinned chunk stays where it is")
    work = Background(lambda: run(PINDAX, "defrag", path, "--wait", "20s"))
    m.wait_for_waiter()
    check_equal(m.waiters()[0]["operation"], "defragment", "the operation")
    c.ask("unpin", 0)
    check("1 files" in work.result(20).stdout, "the summary")
    extents = extents_of(path)
    check_equal(len(extents), 1, f"extents: {extents}")
    check(extents[0]["huge_aligned"], "aligned to 2 MiB")
    check(content(path) == data, "the file")
    for at in range(0, 12 * MiB, MiB):
        check_equal(c.ask("load", at, 16), [data[at:at + 16].hex()], f"the client's load at {at}")
    c.ask("store", 5 * MiB, "00112233")
    check_equal(content(path)[5 * MiB:5 * MiB + 4].hex(), "00112233", "a store after the move")
    check_equal(json.loads(run(PINDAX, "defrag", m.path, "--json").stdout)["failed"], 0, "the whole mount")
    c.send("exit")
    c.process.wait(5)
    m.umount()
    m.fsck()


def test_resize(m):
    """pindax resize makes an unmounted pool larger; a mounted one and a smaller size are refused"""
    path = m.file("f", 20 * MiB)
    data = content(path)
    run(PINDAX, "resize", m.pool, "--size", "512M", ok=(4,))
    m.umount()
    check("grow" in run(PINDAX, "resize", m.pool, "--size", "128M", ok=(4,)).stderr, "shrinking is refused")
    check("grown from 256 MiB" in run(PINDAX, "resize", m.pool, "--size", "512M").stdout, "what was done")
    m.fsck()
    m.mount()
    check(content(path) == data, "the file")
    m.file("g", 300 * MiB, fill=7)
    check_equal(os.stat(m.path / "g").st_size, 300 * MiB, "a file that had no room before")
    m.umount()
    m.fsck()


@options(mounted=False)
def test_huge_pages(m):
    """big files lie aligned to 2 MiB, and on a tmpfs with huge pages a mapping uses them, as the kernel itself says"""
    host, mnt = m.dir / "huge", m.dir / "mnt2"
    host.mkdir()
    mnt.mkdir()
    if run("mount", "-t", "tmpfs", "-o", "huge=always,size=300M", "none", host, ok=None).returncode != 0:
        raise Skip("this kernel has no huge pages for tmpfs")
    try:
        run(PINDAX, "mkfs", host / "pool", "--size", "200M", "--quiet")
        run(PINDAX, "mount", host / "pool", mnt)
        try:
            (mnt / "small").write_bytes(b"x")
            with open(mnt / "big", "wb", buffering=0) as f:
                for _ in range(16):
                    f.write(b"y" * MiB)
            aligned = sum(e["length_bytes"] for e in extents_of(mnt / "big") if e["huge_aligned"])
            check(aligned >= 15 * MiB, f"aligned: {extents_of(mnt / 'big')}")
            info = json.loads(run(PINDAX, "map", mnt / "big", "--json").stdout.splitlines()[0])
            check(info["huge_bytes"] >= 10 * MiB, f"bytes that lie so that 2 MiB pages can be used: {info['huge_bytes']}")
            print(f"        {info['pmd_mapped_bytes'] // MiB} of 16 MiB mapped by 2 MiB pages")
            check(info["pmd_mapped_bytes"] % (2 * MiB) == 0, "whole pages")
        finally:
            run(PINDAX, "umount", mnt)
    finally:
        run("umount", "-l", host)


def test_lost_metadata(m):
    """pages of the pool that vanish under the daemon, metadata's too, are EIO for who needs them, and the daemon lives"""
    for i in range(50):
        (m.path / f"d{i}").mkdir()
        (m.path / f"d{i}" / "f").write_bytes(b"x" * 10000)
    m.umount()
    m.mount()
    pid = m.daemon_pid()
    os.truncate(m.pool, 64 * KiB)
    refuses(errno.EIO, lambda: os.listdir(m.path / "d7"), "a directory whose blocks are gone")
    refuses(errno.EIO, lambda: (m.path / "d8" / "f").read_bytes(), "a file below it")
    check(process_alive(pid), "the daemon lives")
    check_equal(m.daemon_pid(), pid, "and answers")
    m.kill_daemon()


def test_lost_data(m):
    """a read of data whose page of the pool has vanished is EIO, by read, by copy_file_range and through the library without a mapping"""
    path = m.file("f", 64 * MiB)
    (m.path / "g").write_bytes(b"")
    pid = m.daemon_pid()
    blocks = extents_of(path)
    last = max(e["block"] + e["length_blocks"] for e in blocks)
    size = os.stat(m.pool).st_size
    m.umount()
    m.mount()
    pid = m.daemon_pid()
    at = next(e["offset_bytes"] + e["length_bytes"] for e in blocks if e["block"] + e["length_blocks"] == last) - 4096
    os.truncate(m.pool, (last - 1) * 4096)
    fd = os.open(path, os.O_RDONLY)
    refuses(errno.EIO, lambda: os.pread(fd, 4096, at), "read")
    other = os.open(m.path / "g", os.O_RDWR)
    refuses(errno.EIO, lambda: os.copy_file_range(fd, other, 1000, at + 7, 0), "copy_file_range")
    os.close(fd)
    os.close(other)
    check(process_alive(pid), "the daemon lives")
    os.truncate(m.pool, size)  # now a hole of the host file
    m.kill_daemon()


def test_set_group_id_of_a_stranger(m):
    """fallocate by somebody outside the file's group drops the set-group-id bit, whether or not the group may execute; a member's keeps it"""
    path = m.file("f", 64 * KiB, fill=1)
    for mode, groups, left in ((0o6666, "--clear-groups", 0o666), (0o6676, "--clear-groups", 0o676), (0o2666, "--groups=0", 0o2666),
                               (0o2676, "--groups=0", 0o676)):
        for how in (("-p", "-o", "0", "-l", "4096"), ("-o", "65536", "-l", "4096")):
            os.chmod(path, mode)
            run("setpriv", "--reuid=1000", "--regid=1000", groups, "fallocate", *how, path)
            check_equal(oct(os.stat(path).st_mode & 0o7777), oct(left), f"{oct(mode)} {groups}")


test_set_group_id_of_a_stranger.mount = {"options": "allow_other"}


if __name__ == "__main__":
    sys.exit(main(globals()))
