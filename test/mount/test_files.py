# SPDX-License-Identifier: BSD-3-Clause
"""What ordinary tools see through the mount."""
import errno
import fcntl
import mmap
import os
import stat
import struct
import sys

from harness import *


def test_copy_and_compare(m):
    """a tree copied with cp, tar and rsync compares equal, also after a remount"""
    source = m.dir / "source"
    (source / "deep/er").mkdir(parents=True)
    for i in range(50):
        (source / f"deep/file{i}").write_bytes(os.urandom(i * 777))
    (source / "deep/er/link").symlink_to("../file7")
    os.link(source / "deep/file3", source / "hard")
    run("cp", "-a", source, m.path / "cp")
    run("bash", "-c", f"tar -C {m.dir} -cf - source | tar -C {m.path} -xf -")
    run("diff", "-r", source, m.path / "cp")
    run("diff", "-r", source, m.path / "source")
    check_equal(os.stat(m.path / "source/hard").st_nlink, 2, "links of a hard link")
    m.umount()
    m.mount()
    run("diff", "-r", source, m.path / "cp")
    run("diff", "-r", source, m.path / "source")
    m.umount()
    m.fsck()


def test_rename_flags(m):
    """rename: NOREPLACE refuses, EXCHANGE swaps, a plain rename replaces, a directory does not go below itself"""
    (m.path / "a").write_text("a")
    (m.path / "b").write_text("b")
    renameat2 = lambda a, b, flags: LIBC.renameat2(-100, os.fsencode(m.path / a), -100, os.fsencode(m.path / b), flags)
    check_equal(renameat2("a", "b", 1), -1)
    check_equal(ctypes.get_errno(), errno.EEXIST, "NOREPLACE")
    check_equal(renameat2("a", "b", 2), 0, "EXCHANGE")
    check_equal((m.path / "a").read_text(), "b")
    os.rename(m.path / "a", m.path / "b")
    check_equal((m.path / "b").read_text(), "b")
    check(not (m.path / "a").exists())
    (m.path / "d/e").mkdir(parents=True)
    try:
        os.rename(m.path / "d", m.path / "d/e/f")
        raise Failed("rename below itself succeeded")
    except OSError as error:
        check_equal(error.errno, errno.EINVAL)


def test_unlinked_open_file(m):
    """an unlinked open file lives until its last close; its space comes back"""
    before = os.statvfs(m.path).f_bfree
    f = open(m.file("gone", 4 * MiB), "r+b")
    os.unlink(m.path / "gone")
    check_equal(len(f.read()), 4 * MiB, "bytes of an unlinked file")
    check(os.statvfs(m.path).f_bfree <= before - 1024, "space is not yet free")
    f.close()
    wait_until(lambda: os.statvfs(m.path).f_bfree >= before - 8, "the space of an unlinked file comes back")


def test_sparse(m):
    """holes: SEEK_HOLE and SEEK_DATA, st_blocks, cp --sparse, zeros"""
    path = m.path / "sparse"
    with open(path, "wb") as f:
        f.seek(1 * MiB)
        f.write(b"x" * 4096)
        f.truncate(8 * MiB)
    fd = os.open(path, os.O_RDONLY)
    check_equal(os.lseek(fd, 0, os.SEEK_DATA), 1 * MiB, "SEEK_DATA")
    check_equal(os.lseek(fd, 1 * MiB, os.SEEK_HOLE), 1 * MiB + 4096, "SEEK_HOLE")
    check_equal(os.pread(fd, 4096, 0), bytes(4096), "a hole")
    check_equal(os.fstat(fd).st_blocks, 8, "st_blocks of one block")
    os.close(fd)
    run("cp", "--sparse=always", path, m.path / "copy")
    run("cmp", path, m.path / "copy")


def test_fallocate(m):
    """fallocate: default grows, KEEP_SIZE does not, punch and zero read as zeros and keep the rest"""
    path = m.file("f", 64 * KiB, fill=0xAB)
    fallocate(path, 0, 0, 128 * KiB)
    check_equal(os.path.getsize(path), 128 * KiB)
    fallocate(path, FALLOC_KEEP_SIZE, 128 * KiB, 64 * KiB)
    check_equal(os.path.getsize(path), 128 * KiB)
    punch(path, 1000, 10000)
    fallocate(path, FALLOC_ZERO, 30000, 5000)
    want = bytearray(b"\xab" * (64 * KiB) + bytes(64 * KiB))
    want[1000:11000] = bytes(10000)
    want[30000:35000] = bytes(5000)
    check(path.read_bytes() == bytes(want), "contents after punch and zero")
    for mode, offset, length, want_errno in ((0, 0, 0, errno.EINVAL), (FALLOC_PUNCH, 0, 4096, errno.EOPNOTSUPP)):
        try:
            fallocate(path, mode, offset, length)
            raise Failed(f"fallocate({mode}, {offset}, {length}) succeeded")
        except OSError as error:
            check_equal(error.errno, want_errno, f"fallocate({mode})")


def test_append_by_several_writers(m):
    """O_APPEND by several processes at once loses and overwrites nothing"""
    path = m.path / "log"
    path.touch()
    script = "import os,sys\nfd=os.open(sys.argv[1],os.O_WRONLY|os.O_APPEND)\nfor i in range(500): os.write(fd,(sys.argv[2]+'%05d\\n'%i).encode())"
    writers = [m.spawn(sys.executable, "-c", script, path, name) for name in "abcd"]
    for writer in writers:
        check_equal(writer.wait(60), 0)
    lines = path.read_text().split("\n")[:-1]
    check_equal(sorted(lines), sorted(f"{n}{i:05d}" for n in "abcd" for i in range(500)), "lines")


def test_shared_mmap_store_is_copied(m):
    """[R44] a store through mmap of the mount into a hole, not synced, is seen by cp and read"""
    path = m.path / "s"
    with open(path, "wb") as f:
        f.truncate(1 * MiB)
    with open(path, "r+b") as f:
        memory = mmap.mmap(f.fileno(), 1 * MiB)
        memory[300000:300005] = b"hello"
        run("cp", path, m.dir / "copy")
        run("cmp", m.dir / "copy", path)
        check_equal((m.dir / "copy").read_bytes()[300000:300005], b"hello", "the copy")
        run("bash", "-c", f"tar -C {m.path} -Scf - s | tar -C {m.dir} -xf -")
        check_equal((m.dir / "s").read_bytes()[300000:300005], b"hello", "tar -S")
        memory.close()


def test_mmap_store_stamps_mtime(m):
    """a store through a shared mapping of the mount moves mtime once written back"""
    path = m.file("t", 8192, fill=1)
    os.utime(path, (1000, 1000))
    with open(path, "r+b") as f:
        memory = mmap.mmap(f.fileno(), 8192)
        memory[0:1] = b"z"
        memory.flush()
        memory.close()
    check(os.stat(path).st_mtime > 1000, "mtime after a store through mmap")


def test_set_id_bits_drop(m):
    """a write, punch or fallocate by an unprivileged user drops set-id bits"""
    for index, change in enumerate((lambda p: open(p, "r+b").write(b"x"), lambda p: punch(p, 0, 4096),
                                    lambda p: fallocate(p, 0, 0, 16384), lambda p: fallocate(p, FALLOC_ZERO, 0, 4096),
                                    lambda p: os.truncate(p, 100))):
        path = m.file(f"suid{index}", 8192, fill=1)
        os.chown(path, 12345, 12345)
        os.chmod(path, 0o6775)
        os.stat(path)  # the kernel may remember the mode now
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setgid(12345)
                os.setuid(12345)
                change(path)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        check_equal(os.waitpid(pid, 0)[1], 0, "unprivileged change")
        check_equal(stat.S_IMODE(os.stat(path).st_mode), 0o775, f"mode after change {index}")


test_set_id_bits_drop.mount = {"options": "allow_other"}


def test_file_capabilities_drop(m):
    """a write, truncate, punch or chown drops file capabilities, whoever does it"""
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    for index, change in enumerate((lambda p: open(p, "r+b").write(b"x"), lambda p: os.truncate(p, 100), lambda p: punch(p, 0, 4096),
                                    lambda p: os.chown(p, 1, 1))):
        path = m.file(f"cap{index}", 8192, fill=1)
        os.setxattr(path, "security.capability", capability)
        check("security.capability" in os.listxattr(path), "set")
        change(path)
        check("security.capability" not in os.listxattr(path), f"dropped by change {index}")


def test_default_acl_is_inherited(m):
    """a default ACL of a directory shapes what is created in it"""
    if not shutil.which("setfacl"):
        raise Skip("no setfacl")
    d = m.path / "d"
    d.mkdir()
    run("setfacl", "-d", "-m", "u:12345:rwx,g::r-x,o::---", d)
    (d / "f").touch()
    text = run("getfacl", "-cp", d / "f").stdout
    check("user:12345:rwx" in text, text)
    check("other::---" in text, text)
    (d / "sub").mkdir()
    check("default:user:12345:rwx" in run("getfacl", "-cp", d / "sub").stdout, "a subdirectory inherits the default")


def test_xattrs(m):
    """extended attributes up to 64 KiB, create and replace flags, listing, remount"""
    path = m.file("x")
    os.setxattr(path, "user.small", b"1")
    big = os.urandom(60000)
    os.setxattr(path, "user.big", big)
    for name, flag, want in (("user.small", os.XATTR_CREATE, errno.EEXIST), ("user.none", os.XATTR_REPLACE, errno.ENODATA)):
        try:
            os.setxattr(path, name, b"2", flag)
            raise Failed("succeeded")
        except OSError as error:
            check_equal(error.errno, want)
    m.umount()
    m.mount()
    check_equal(sorted(os.listxattr(path)), ["user.big", "user.small"])
    check_equal(os.getxattr(path, "user.big"), big)
    os.removexattr(path, "user.big")
    check_equal(os.listxattr(path), ["user.small"])


def test_full_pool(m):
    """a full pool: ENOSPC, what was there stays, deleting gives the space back"""
    keep = m.file("keep", 1 * MiB)
    kept = keep.read_bytes()
    try:
        with open(m.path / "big", "wb", buffering=0) as f:
            while True:
                f.write(bytes(1 * MiB))
    except OSError as error:
        check_equal(error.errno, errno.ENOSPC)
    check_equal(keep.read_bytes(), kept, "another file")
    os.unlink(m.path / "big")
    wait_until(lambda: os.statvfs(m.path).f_bavail * 4096 > 8 * MiB, "space after unlink")
    m.file("again", 4 * MiB)
    m.umount()
    m.fsck()


test_full_pool.mount = {"size": "32M"}


def test_name_limits(m):
    """255 bytes of name work, 256 do not; a symlink of 4095 bytes works"""
    (m.path / ("n" * 255)).touch()
    try:
        (m.path / ("n" * 256)).touch()
        raise Failed("256 bytes accepted")
    except OSError as error:
        check_equal(error.errno, errno.ENAMETOOLONG)
    os.symlink("t" * 4095, m.path / "link")
    check_equal(os.readlink(m.path / "link"), "t" * 4095)


def test_flags_append_and_immutable(m):
    """chattr +a and +i are kept and obeyed"""
    if not shutil.which("chattr"):
        raise Skip("no chattr")
    path = m.file("a", 10, fill=1)
    run("chattr", "+a", path)
    try:
        open(path, "r+b")
        raise Failed("an append-only file was opened for writing")
    except OSError as error:
        check_equal(error.errno, errno.EPERM)
    with open(path, "ab") as f:
        f.write(b"more")
    os.utime(path)  # the present may be stamped, a chosen time not
    try:
        os.utime(path, (0, 0))
        raise Failed("times of an append-only file were set")
    except OSError as error:
        check_equal(error.errno, errno.EPERM)
    before = path.stat().st_ctime_ns
    run("chattr", "-a", path)
    check(path.stat().st_ctime_ns > before, "ctime after chattr")
    os.utime(path, (0, 0))
    check_equal(path.stat().st_mtime, 0)
    run("chattr", "+i", path)
    try:
        os.unlink(path)
        raise Failed("an immutable file was unlinked")
    except OSError as error:
        check_equal(error.errno, errno.EPERM)
    run("chattr", "-i", path)


def test_direct_io_and_locks(m):
    """O_DIRECT, flock and POSIX locks between processes"""
    path = m.file("d", 64 * KiB)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4096)
    buffer.write(b"D" * 4096)
    check_equal(os.pwritev(fd, [buffer], 8192), 4096)
    os.close(fd)
    check_equal(path.read_bytes()[8192:12288], b"D" * 4096)
    f = open(path, "r+b")
    fcntl.flock(f, fcntl.LOCK_EX)
    done = run(sys.executable, "-c", f"import fcntl;f=open('{path}');fcntl.flock(f,fcntl.LOCK_EX|fcntl.LOCK_NB)", ok=None)
    check(done.returncode != 0, "a second flock was granted")
    fcntl.lockf(f, fcntl.LOCK_EX, 10, 0)
    done = run(sys.executable, "-c", f"import fcntl;f=open('{path}','r+b');fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,10,5)", ok=None)
    check(done.returncode != 0, "an overlapping POSIX lock was granted")


@options(mounted=False)
def test_helpers_of_mount(m):
    """mount.fuse.pindax and umount.fuse.pindax: silent, set-id bits and devices as on any mount by root, remount read-only and back"""
    for name in ("mount.fuse.pindax", "umount.fuse.pindax", "mkfs.pindax", "fsck.pindax"):
        (m.dir / name).symlink_to(PINDAX)
    line = lambda: next(l for l in open("/proc/mounts") if str(m.path) in l)
    for options, expect in (("rw,allow_other", "rw,relatime"), ("remount,ro", "ro,relatime"), ("remount,rw", "rw,relatime")):
        done = run(m.dir / "mount.fuse.pindax", m.pool, m.path, "-o", options)
        check_equal(done.stdout + done.stderr, "", "what the helper prints")
        check(expect in line() and "fuse.pindax" in line() and line().startswith(str(m.pool)), line())
    check("nosuid" not in line() and "nodev" not in line(), line())
    (m.path / "x").touch()
    run(m.dir / "umount.fuse.pindax", m.path)
    run(m.dir / "fsck.pindax", "-a", m.pool)
    run(m.dir / "mkfs.pindax", "--force", m.pool)


@options(mounted=False)
def test_access_times(m):
    """noatime, nodiratime, relatime and strictatime: who reads a file or a directory stamps it never, once, or each time"""
    def stamps(options):
        m.mount(options)
        path = m.path / "d" / "f"
        if not path.exists():
            path.parent.mkdir()
            path.write_bytes(b"x")
        seen = []
        for _ in range(2):
            time.sleep(0.02)
            before = path.stat().st_atime_ns, path.parent.stat().st_atime_ns
            path.read_bytes()
            os.listdir(path.parent)
            after = path.stat().st_atime_ns, path.parent.stat().st_atime_ns
            seen.append(tuple(a > b for a, b in zip(after, before)))
        m.umount()
        return seen
    check_equal(stamps("attr_timeout=0,noatime"), [(False, False), (False, False)], "noatime")
    check_equal(stamps("attr_timeout=0,nodiratime"), [(True, False), (False, False)], "relatime, nodiratime")
    check_equal(stamps("attr_timeout=0"), [(False, True), (False, False)], "relatime")
    check_equal(stamps("attr_timeout=0,strictatime"), [(True, True), (True, True)], "strictatime")


def test_seldom_asked(m):
    """calls that few programs make: mkfifo, mknod, O_TMPFILE that gets a name, birth time, fsync of a directory, FS_IOC_FSSETXATTR, clone and dedupe by ioctl"""
    os.mkfifo(m.path / "pipe", 0o640)
    check(stat.S_ISFIFO((m.path / "pipe").stat().st_mode), "a pipe")
    if os.geteuid() == 0:
        os.mknod(m.path / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        check_equal((m.path / "null").stat().st_rdev, os.makedev(1, 3), "device number")
    fd = os.open(m.path, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"nameless")
    os.link(f"/proc/self/fd/{fd}", m.path / "named", src_dir_fd=fd, follow_symlinks=True)  # by linkat
    os.close(fd)
    check_equal((m.path / "named").read_bytes(), b"nameless", "contents")
    born = run("stat", "-c", "%W", m.path / "named").stdout.strip()
    check(abs(int(born) - time.time()) < 100, f"birth time {born}")
    fd = os.open(m.path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    fd = os.open(m.path / "named", os.O_RDWR)
    fcntl.ioctl(fd, 0x401C5820, struct.pack("=IIIII8x", 0x80, 0, 0, 0, 0))  # FS_IOC_FSSETXATTR, nodump
    check_equal(struct.unpack_from("=I", fcntl.ioctl(fd, 0x801C581F, bytes(28)))[0], 0x80, "flags by FS_IOC_FSGETXATTR")
    os.close(fd)
    source, target = m.file("source", 8 * 4096, fill=7), m.file("target", 8 * 4096, fill=7)
    clone = lambda data, flags: fcntl.ioctl(data, 0xC0385043, struct.pack("=16sQQQIIQ", token(source), 0, 0, 8 * 4096, flags, 0, 0))
    def token(path):
        with open(path, "rb") as f:
            return fcntl.ioctl(f.fileno(), 0x80205041, bytes(32))[:16]
    data = os.open(target, os.O_RDWR)
    check_equal(struct.unpack_from("=Q", clone(data, 1), 48)[0], 8 * 4096, "bytes deduplicated")
    check_equal(pool_blocks(source), pool_blocks(target), "blocks after dedupe")
    os.pwrite(data, b"other", 4096)
    check_equal(struct.unpack_from("=Q", clone(data, 0), 48)[0], 8 * 4096, "bytes cloned")
    check_equal(target.read_bytes(), source.read_bytes(), "contents of the clone")
    try:
        fcntl.ioctl(data, 0xC0385043, struct.pack("=16sQQQIIQ", bytes(16), 0, 0, 0, 0, 0, 0))
        raise Failed("a clone with a token of nobody")
    except OSError as error:
        check_equal(error.errno, errno.EACCES)
    os.close(data)


def test_many_entries(m):
    """twenty thousand names in one directory: created, listed once each, deleted while listed"""
    d = m.path / "d"
    d.mkdir()
    for i in range(20000):
        os.close(os.open(d / f"f{i}", os.O_CREAT | os.O_WRONLY))
    check_equal(len(set(os.listdir(d))), 20000)
    for entry in os.scandir(d):
        os.unlink(entry.path)
    check_equal(os.listdir(d), [])
    os.rmdir(d)


if __name__ == "__main__":
    sys.exit(main(globals()))
