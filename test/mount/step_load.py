# SPDX-License-Identifier: BSD-3-Clause
"""Daemons and clients that die at a step point under load: the load, what it acknowledged, and the check afterwards."""
import hashlib
import os
import pathlib
import re
import signal
import threading
import time

from harness import *

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "src"


def step_points(client):
    """Every PINDAX_STEP of the daemon's rooms, or of the client library, read from the source."""
    points = set()
    for path in SOURCE.rglob("*.cc"):
        if (path.parent.name == "client") == client:
            points.update(re.findall(r'PINDAX_STEP\("([^"]+)"\)', path.read_text()))
    points.discard("mkfs.before_superblocks")  # before there is a daemon
    return sorted(points)


class Load:
    """Threads that change the tree through the mount, and a client that maps, pins and stores. `files` and `gone` hold what was
    acknowledged; what was in flight when the daemon died is in neither."""

    def __init__(self, m, seed):
        self.m = m
        self.stop = threading.Event()
        self.files = {}
        self.gone = set()
        self.mapper = None  # a process of its own: a mapping of the mount is a SIGBUS when the daemon dies
        self.threads = [threading.Thread(target=self.guard, args=(work, random.Random(seed + i)), daemon=True)
                        for i, work in enumerate((self.names, self.data, self.layout, self.client))]
        for thread in self.threads:
            thread.start()

    def guard(self, work, rng):
        try:
            while not self.stop.is_set():
                work(rng)
        except (OSError, Failed, ValueError, BrokenPipeError):
            pass  # the daemon is gone

    def write(self, name, data, sync=False):
        self.files.pop(name, None)
        with open(self.m.path / name, "wb", buffering=0) as f:
            f.write(data)
            if sync:
                os.fsync(f.fileno())
        self.files[name] = hashlib.sha256(data).hexdigest()

    def remove(self, name):
        self.files.pop(name, None)
        os.unlink(self.m.path / name)
        self.gone.add(name)

    def names(self, rng):
        serial = rng.randrange(1 << 40)
        folder = self.m.path / f"d{serial}"
        os.mkdir(folder)
        self.write(f"d{serial}/n", rng.randbytes(rng.randrange(1, 9000)))
        os.link(folder / "n", self.m.path / f"l{serial}")
        os.setxattr(folder / "n", "user.x", b"v" * rng.randrange(1, 5000))
        os.chmod(folder / "n", 0o640)
        digest = self.files.pop(f"d{serial}/n")
        os.rename(folder / "n", self.m.path / f"r{serial}")
        self.files[f"r{serial}"] = digest
        os.rmdir(folder)
        os.unlink(self.m.path / f"l{serial}")
        os.listdir(self.m.path)
        with open(self.m.path / f"o{serial}", "wb") as f:  # an orphan with a lot to free
            f.write(b"o" * 400000)
            os.unlink(f.name)

    def data(self, rng):
        name = f"f{rng.randrange(4)}"
        self.write(name, rng.randbytes(rng.randrange(1, 300000)), sync=rng.random() < 0.5)
        (self.m.path / name).read_bytes()
        if rng.random() < 0.3:
            self.remove(name)

    def layout(self, rng):
        path = self.m.path / "shared"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            os.posix_fallocate(fd, 0, 512 * KiB)
            if self.mapper is None:
                self.mapper = self.m.client()
                self.mapper.ask("open", "shared", "rw")
                self.mapper.ask("mmap", 512 * KiB)
            self.mapper.send("mstore", rng.randrange(512) * KiB, "01"), self.mapper.answer()
            self.mapper.send("mload", 100 * KiB, 16), self.mapper.answer()
            os.pwrite(fd, b"p" * 5000, rng.randrange(400000))
            fallocate_fd(fd, FALLOC_PUNCH | FALLOC_KEEP_SIZE, rng.randrange(64) * 4096, 8 * 4096)
            os.ftruncate(fd, rng.randrange(1, 512 * KiB))
            os.fsync(fd)
        finally:
            os.close(fd)

    def client(self, rng):
        (self.m.path / "mapped").touch()
        os.truncate(self.m.path / "mapped", 1 * MiB)
        c = self.m.client()
        try:
            c.ask("open", "mapped", "rw")
            c.ask("map", 0, 1 * MiB, "lazy")
            while not self.stop.is_set():
                at = rng.randrange(200) * 4096
                c.send("load", at, 4), c.answer()
                c.send("store", at, "abcdef"), c.answer()
                c.ask("persist", at, 4096)
                c.send("pin", 1, at, 4096), c.answer()
                c.send("pin", 2, at, 8192, "write"), c.answer()
                shrinker = Background(lambda: os.truncate(self.m.path / "mapped", at))  # waits for the pins
                time.sleep(0.02)
                c.send("unpin", 1), c.answer()
                c.send("unpin", 2), c.answer()
                shrinker.result()
                os.truncate(self.m.path / "mapped", 1 * MiB)
        finally:
            if c.process.poll() is None:
                c.process.kill()

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
            check(not thread.is_alive(), "a thread of the load hangs after the daemon's end")


def fallocate_fd(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def daemon_round(m, point, nth, seed, seconds=0.7):
    """Mounts with the point armed, runs the load until the daemon dies or the time is over, and checks. True: it was reached."""
    env = {**os.environ, "PINDAX_STEPS": f"{point}@{nth}=kill"}
    started = subprocess.run([PINDAX, "mount", str(m.pool), str(m.path)], env=env, capture_output=True, text=True, timeout=TIMEOUT)
    files, gone = {}, set()
    reached = started.returncode != 0
    if not reached:
        m.mounted = True
        pid = m.daemon_pid_or_none()
        load = Load(m, seed)
        end = time.monotonic() + seconds
        while pid and time.monotonic() < end and process_alive(pid):
            time.sleep(0.01)
        reached = pid is None or not process_alive(pid)
        load.stop.set()
        if not reached and seed % 3 != 0:  # the points of an unmount
            run(PINDAX, "umount", m.path, ok=None)
            m.mounted = os.path.ismount(m.path)
            reached = m.mounted
        if pid and process_alive(pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            wait_until(lambda: not process_alive(pid), "the daemon dies")
        load.end()
        files, gone = load.files, load.gone
    run("umount", "-l", m.path, ok=None)
    m.mount()
    for name, digest in files.items():
        check((m.path / name).exists(), f"{point}@{nth}: {name} is gone")
        check_equal(hashlib.sha256((m.path / name).read_bytes()).hexdigest(), digest, f"{point}@{nth}: contents of {name}")
    for name in gone - set(files):
        check(name in {"f0", "f1", "f2", "f3"} or not (m.path / name).exists(), f"{point}@{nth}: {name} is there again")
    for entry in list(os.scandir(m.path)):
        if entry.name[0] in "dlr" and not entry.is_dir() and entry.name not in files:
            os.unlink(entry.path)
    for child in m.children:
        if child.poll() is None:
            child.kill()
            child.wait(10)
    m.umount()
    m.fsck()
    return reached
