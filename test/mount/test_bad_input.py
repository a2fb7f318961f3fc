# SPDX-License-Identifier: BSD-3-Clause
"""Bad input: each a clear one-line error, a documented exit code, no hang, nothing lost."""
import errno
import os
import shutil
import signal
import socket
import subprocess
import struct
import sys
import time

from harness import *


def refused(*args, says, code=4):
    """The command fails with `code`, one line on standard error that contains every word of `says`."""
    done = run(*args, ok=None, timeout=30)
    check_equal(done.returncode, code, f"{' '.join(map(str, args))}: exit code ({done.stderr.strip()})")
    lines = [line for line in done.stderr.strip().splitlines() if line]
    check(len(lines) == 1 or code == 2, f"more than one line: {done.stderr!r}")
    for word in says:
        check(word.lower() in done.stderr.lower(), f"{word!r} is not in {done.stderr!r}")


@options(mounted=False)
def test_no_such_pool(m):
    """mount of a pool that does not exist, is empty, is no pool, or is cut short"""
    refused(PINDAX, "mount", m.dir / "none", m.path, says=["none", "no such pool"])
    (m.dir / "empty").touch()
    refused(PINDAX, "mount", m.dir / "empty", m.path, says=["empty", "too small"])
    (m.dir / "text").write_bytes(b"hello" * 4000000)
    refused(PINDAX, "mount", m.dir / "text", m.path, says=["text", "superblock"])
    shutil.copy(m.pool, m.dir / "short")
    os.truncate(m.dir / "short", 64 * MiB)
    refused(PINDAX, "mount", m.dir / "short", m.path, says=["short"])


@options(mounted=False)
def test_corrupt_superblock(m):
    """one damaged superblock is survived, both are refused with advice; a foreign version or feature is refused"""
    def poke(offset, data):
        with open(m.pool, "r+b") as f:
            f.seek(offset)
            f.write(data)
    with open(m.pool, "rb") as f:
        good = f.read(4096)
        f.seek(65536)
        second = f.read(4096)
    poke(0, os.urandom(4096))
    m.mount()
    m.umount()
    poke(0, os.urandom(4096))
    poke(65536, os.urandom(4096))
    refused(PINDAX, "mount", m.pool, m.path, says=["superblock"])
    refused(PINDAX, "info", m.pool, says=["superblock"])
    poke(0, good)
    poke(65536, second)
    m.mount()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@options(mounted=False)
def test_foreign_version_and_features(m):
    """another format version or an unknown incompat feature refuses the mount, an unknown ro_compat feature the writing"""
    with open(m.pool, "r+b") as f:
        for at, width, value, says in ((8, 4, 99, "version"), (48, 8, 1 << 40, "feature"), (40, 8, 1 << 40, None)):
            saved = []
            for offset in (0, 65536):
                f.seek(offset)
                block = bytearray(f.read(4096))
                saved.append(bytes(block))
                block[at:at + width] = value.to_bytes(width, "little")
                block[4092:] = struct.pack("<I", crc32c(block[:4092]))
                f.seek(offset)
                f.write(block)
            f.flush()
            if says:
                refused(PINDAX, "mount", m.pool, m.path, says=[says])
            else:
                refused(PINDAX, "mount", m.pool, m.path, says=["read-only"])
                m.mount(options="ro")
                try:
                    (m.path / "x").touch()
                    raise Failed("a pool with an unknown ro_compat feature was written")
                except OSError as error:
                    check_equal(error.errno, errno.EROFS)
                m.umount()
            for offset, block in zip((0, 65536), saved):
                f.seek(offset)
                f.write(block)
            f.flush()
    m.mount()


@options(mounted=False)
def test_no_permission(m):
    """a user who may not open the pool gets told so"""
    os.chmod(m.pool, 0o600)
    for command in ("info", "fsck", "mount"):
        args = [PINDAX, command, m.pool] + ([m.path] if command == "mount" else [])
        refused("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", *args, says=["ermission denied"])


@options(mounted=False)
def test_mkfs_refusals(m):
    """mkfs refuses a pool in the file without --force, a size that is too small, a directory, a missing folder"""
    refused(PINDAX, "mkfs", m.pool, "--size", "64M", says=["--force"])
    refused(PINDAX, "mkfs", m.dir / "tiny", "--size", "1M", says=["8 MiB"])
    refused(PINDAX, "mkfs", m.dir, "--size", "64M", says=["directory"])
    refused(PINDAX, "mkfs", m.dir / "no/where", "--size", "64M", says=["no such directory"])
    refused(PINDAX, "mkfs", m.dir / "x", "--size", "banana", says=["size"], code=2)
    run(PINDAX, "mkfs", m.pool, "--size", "64M", "--force")


def test_pool_in_use(m):
    """a second mount, mkfs and fsck --repair of a mounted pool are refused and name the daemon's pid"""
    pid = str(m.daemon_pid())
    other = m.dir / "other"
    other.mkdir()
    refused(PINDAX, "mount", m.pool, other, says=["mounted already", str(m.path)])
    refused(PINDAX, "mkfs", m.pool, "--size", "64M", "--force", says=["in use", pid])
    refused(PINDAX, "fsck", m.pool, "--repair", says=["in use", pid])
    m.file("still", 100)


@options(mounted=False)
def test_mount_point(m):
    """a mount point that is missing, a file, or a wrong option"""
    refused(PINDAX, "mount", m.pool, m.dir / "nowhere", says=["nowhere"])
    (m.dir / "file").touch()
    refused(PINDAX, "mount", m.pool, m.dir / "file", says=["directory"])
    refused(PINDAX, "mount", m.pool, m.path, "-o", "colour=blue", says=["colour"], code=2)
    refused(PINDAX, "umount", m.dir, says=["no pindax pool is mounted"])


def test_wrong_arguments(m):
    """every command refuses unknown options with exit code 2 and answers --help with 0"""
    for command in "mkfs mount umount fsck info dump pins clients waiters layout pin map ls stat import export".split():
        check_equal(run(PINDAX, command, "--nonsense", ok=None).returncode, 2, command)
        check("Usage" in run(PINDAX, command, "--help").stdout, command)
    refused(PINDAX, "pins", "/", says=["not on a pindax mount"])
    refused(PINDAX, "pin", m.path / "none", says=["none"])
    m.file("f", 8192)
    refused(PINDAX, "pin", m.path / "f", "--offset", "1M", says=["beyond"])
    refused(PINDAX, "pin", m.path / "f", "--kind", "eternal", says=["kind"], code=2)


def socket_path(m):
    import json
    return json.loads(run(PINDAX, "info", m.path, "--json").stdout)["socket"]


def test_hostile_messages(m):
    """[R33] garbage, truncated and forged messages end that session only"""
    path = socket_path(m)
    bystander = m.client()
    m.file("f", 1 * MiB, fill=1)
    bystander.ask("open", "f", "rw")
    bystander.ask("map", 0, 1 * MiB)
    for trial in range(300):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(path)
        s.settimeout(5)
        try:
            if trial % 3 == 0:
                s.send(random.randbytes(random.randrange(1, 2000)))
            elif trial % 3 == 1:
                size = random.randrange(16, 300)
                s.send(struct.pack("<IIQ", random.randrange(0, 30), size, trial) + random.randbytes(size - 16))
            else:  # a good hello, then random bodies
                s.send(struct.pack("<IIQ", 1, 16 + 24, 1) + struct.pack("<II", 1, 0) + bytes(16))
                for kind in random.choices(range(1, 22), k=5):
                    size = random.randrange(16, 400)
                    s.send(struct.pack("<IIQ", kind, size, kind) + random.randbytes(size - 16))
        except (BrokenPipeError, ConnectionResetError):
            pass
        s.close()
    check_equal(bystander.ask("load", 0, 2), ["0101"])
    check_equal((m.path / "f").read_bytes(), b"\x01" * MiB)


def test_client_that_never_answers(m):
    """[R12] a stopped client with mappings does not hang a truncate for ever: the recall deadline passes, then it goes on or says ETXTBSY"""
    path = m.file("f", 1 * MiB)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)
    os.kill(c.pid, signal.SIGSTOP)
    start = time.monotonic()
    done = run("truncate", "-s", "0", path, ok=None, timeout=30)
    check(time.monotonic() - start < 10, "the truncate ended")
    check(done.returncode == 0 or "busy" in done.stderr.lower(), done.stderr)
    other = m.file("other", 8 * MiB, fill=2)
    os.kill(c.pid, signal.SIGCONT)
    c.send("fill", 0, 4096, 0xEE)
    c.answer()
    check_equal(other.read_bytes(), b"\x02" * (8 * MiB), "another file")


test_client_that_never_answers.mount = {"options": "recall_deadline=1"}


def test_names_are_escaped(m):
    """a file name with escape sequences does not reach the terminal raw"""
    name = "evil\x1b[31m\nname"
    m.file(name, 8192)
    p = m.spawn(PINDAX, "pin", m.path / name, "--hold", "30s", stdout=subprocess.PIPE, text=True)
    p.stdout.readline()
    text = run(PINDAX, "pins", m.path).stdout
    check("\x1b" not in text, repr(text))
    check("\\x1b" in text, repr(text))


def test_other_users_see_counts_only(m):
    """an unprivileged user sees how many pins there are, not whose"""
    m.file("secret", 8192)
    m.pin("secret", "0", "4K")
    done = run("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", PINDAX, "pins", m.path, "--json")
    check("secret" not in done.stdout, done.stdout)
    check("hidden_rows" in done.stdout, done.stdout)


test_other_users_see_counts_only.mount = {"options": "allow_other"}


@options(without_fuse=True, mounted=False)
def test_without_a_mount(m):
    """pindaxd --no-mount serves import, ls, stat, export, map and pin over its socket"""
    where = m.dir / "socket"
    daemon = m.spawn(BUILD / "src/daemon/pindaxd", "--no-mount", "--socket", where, "--foreground", m.pool, stderr=subprocess.DEVNULL)
    wait_until(where.exists, "the socket appears")
    source = m.dir / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/a").write_bytes(os.urandom(300000))
    (source / "link").symlink_to("sub/a")
    run(PINDAX, "import", "--socket", where, source, "/tree")
    check("sub" in run(PINDAX, "ls", "--socket", where, "/tree").stdout)
    check("300000" in run(PINDAX, "stat", "--socket", where, "/tree/sub/a").stdout)
    run(PINDAX, "export", "--socket", where, "/tree", m.dir / "back")
    run("diff", "-r", source, m.dir / "back")
    dumped = subprocess.run([PINDAX, "map", "--socket", str(where), "/tree/sub/a", "--dump"], capture_output=True, timeout=30)
    check_equal(dumped.stdout, (source / "sub/a").read_bytes(), "bytes through a direct mapping")
    pin = m.spawn(PINDAX, "pin", "--socket", where, "/tree/sub/a", "--hold", "30s", stdout=subprocess.PIPE, text=True)
    pin.stdout.readline()
    check("/tree/sub/a" in run(PINDAX, "pins", where).stdout)
    pin.kill()
    daemon.terminate()
    check_equal(daemon.wait(10), 0, "exit code of the daemon")
    m.fsck()


def test_host_pool_truncated(m):
    """the pool file truncated under the daemon: errors, no garbage, no crash of the caller"""
    m.file("f", 8 * MiB, fill=1)
    os.truncate(m.pool, 1 * MiB)
    try:
        data = (m.path / "f").read_bytes()
        check(set(data) <= {1}, "garbage was read")
    except OSError:
        pass
    try:
        m.file("g", 1 * MiB)
    except OSError:
        pass
    run("ls", m.path, ok=None, timeout=10)


if __name__ == "__main__":
    sys.exit(main(globals()))
