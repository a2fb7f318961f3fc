# SPDX-License-Identifier: BSD-3-Clause
"""kill -9 of the daemon at any moment, mount again, check."""
import errno
import fcntl
import hashlib
import os
import signal
import sys
import threading
import time

from harness import *


def acknowledged_writer(m, stop, done):
    """Creates files and records each one that was acknowledged with its contents' checksum."""
    i = 0
    while not stop.is_set():
        data = random.randbytes(random.randrange(1, 60000))
        try:
            with open(m.path / f"w{i}", "wb", buffering=0) as f:
                f.write(data)
            done[f"w{i}"] = hashlib.sha256(data).hexdigest()
            if i % 3 == 2:
                os.rename(m.path / f"w{i - 1}", m.path / f"r{i - 1}")
                done[f"r{i - 1}"] = done.pop(f"w{i - 1}")
            if i % 5 == 4:
                os.unlink(m.path / f"w{i}")
                done.pop(f"w{i}")
        except OSError:
            done.pop(f"w{i}", None)
            return
        i += 1


def crash_round(m, seconds):
    stop, done = threading.Event(), {}
    writer = threading.Thread(target=acknowledged_writer, args=(m, stop, done), daemon=True)
    writer.start()
    time.sleep(seconds)
    m.kill_daemon()
    stop.set()
    writer.join(10)
    m.mount()
    # The operation in flight may have happened or not; every acknowledged one must have.
    lost = []
    for name, digest in done.items():
        try:
            if hashlib.sha256((m.path / name).read_bytes()).hexdigest() != digest:
                lost.append(name)
        except FileNotFoundError:
            lost.append(name)
    in_flight = 1
    check(len(lost) <= in_flight, f"lost after kill -9: {lost[:5]} of {len(done)}")
    m.umount()
    m.fsck()
    m.mount()
    for entry in os.scandir(m.path):
        os.unlink(entry.path)
    return len(done)


def test_shutdown(m):
    """FS_IOC_SHUTDOWN stops every change at once, with all that was done before it durable; reads go on; the next mount recovers"""
    path = m.file("f", 64 * KiB, fill=3)
    c = opened(m, length=64 * KiB)
    c.ask("store", 5, "77")
    fd = os.open(m.path, os.O_RDONLY)
    fcntl.ioctl(fd, 0x8004587D, 4)  # FS_IOC_SHUTDOWN
    os.close(fd)
    for change in (lambda: path.write_bytes(b"x"), lambda: (m.path / "new").mkdir(), lambda: os.unlink(path), lambda: os.truncate(path, 7)):
        try:
            change()
            raise Failed("changed after the shutdown")
        except OSError as error:
            check_equal(error.errno, errno.EIO)
    want = b"\x03" * 5 + b"\x77" + b"\x03" * (64 * KiB - 6)
    check(path.read_bytes() == want, "contents after the shutdown")
    c.kill()
    m.umount()
    check("unmounted" not in run(PINDAX, "info", m.pool).stdout, "the pool is not clean")
    m.mount()
    check(path.read_bytes() == want, "contents after recovery")
    check_equal(sorted(os.listdir(m.path)), ["f"], "names")
    m.umount()
    m.fsck()


def test_space_after_a_former_client(m):
    """[R23] what is freed while a former client lives comes back when it ends, even if another client attaches at once"""
    m.file("f", 1 * MiB)
    former = m.client()
    former.ask("open", "f", "rw")
    former.ask("map", 0, 1 * MiB)
    m.kill_daemon()
    m.mount()
    before = os.statvfs(m.path).f_bfree
    for i in range(8):
        os.unlink(m.file(f"x{i}", 1 * MiB))
    check(os.statvfs(m.path).f_bfree < before - 1024, "a former client's blocks rest")
    former.kill()
    m.client()  # would get the former client's witness byte
    wait_until(lambda: os.statvfs(m.path).f_bfree >= before - 64, "the space is free", 20)


def test_fault_when_the_daemon_dies(m):
    """a fault that the daemon took along when it was killed ends with SIGBUS"""
    m.file("f", 1 * MiB, fill=1)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB, "lazy")
    pid = m.daemon_pid()
    os.kill(pid, signal.SIGSTOP)
    c.send("load", 0, 1)
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not process_alive(pid), "the daemon dies")
    answer = Background(c.answer).result(10)
    check_equal(answer, "error SIGBUS")
    c.kill()
    run("umount", "-l", m.path, ok=None)


def test_kill_under_load(m):
    """[D2] kill -9 under load loses nothing acknowledged; fsck finds the pool consistent (tmpfs pool)"""
    total = sum(crash_round(m, random.uniform(0.05, 0.6)) for _ in range(5))
    check(total > 0, "the writer wrote something")


@options(mount={"where": "/var/tmp"})
def test_kill_under_load_posix(m):
    """[D2] the same on a regular file in posix mode"""
    total = sum(crash_round(m, random.uniform(0.05, 0.6)) for _ in range(5))
    check(total > 0, "the writer wrote something")


def test_kill_with_clients_attached(m):
    """[R23] kill -9 of the daemon while a client maps a file: the client's blocks are given to nobody"""
    m.file("f", 4 * MiB, fill=6)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 4 * MiB)
    m.kill_daemon()
    for command in (("fsck", m.pool, "--repair"), ("mkfs", m.pool, "--force")):
        refused = run(PINDAX, *command, ok=(4,), timeout=40)
        check("map" in refused.stderr, refused.stderr)
    m.mount()
    os.unlink(m.path / "f")
    new = m.file("new", 16 * MiB, fill=7)
    c.send("fill", 0, 1 * MiB, 0xEE)  # a stale store: it may fault, it must not reach another file
    c.answer()
    check_equal(new.read_bytes(), b"\x07" * (16 * MiB), "another file after a stale store")
    c.kill()
    m.umount()
    m.fsck()


def test_orphans_are_freed_after_a_crash(m):
    """an unlinked open file is freed by the mount after a crash"""
    before = os.statvfs(m.path).f_bfree
    f = open(m.file("gone", 8 * MiB), "rb")
    os.unlink(m.path / "gone")
    m.kill_daemon()
    f.close()
    m.mount()
    wait_until(lambda: os.statvfs(m.path).f_bfree >= before - 16, "the orphan's space comes back")
    m.umount()
    m.fsck()


def test_fsync_survives_a_clean_kill(m):
    """fsync, then kill -9: the file is there"""
    with open(m.path / "f", "wb") as f:
        f.write(b"durable" * 1000)
        f.flush()
        os.fsync(f.fileno())
    m.kill_daemon()
    m.mount()
    check_equal((m.path / "f").read_bytes(), b"durable" * 1000)


if __name__ == "__main__":
    sys.exit(main(globals()))
