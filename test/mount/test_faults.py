# SPDX-License-Identifier: BSD-3-Clause
"""What the machine may do to a daemon and its clients: a host without space, a disk that fails, a pool file that goes away, clocks
that jump, signals, no descriptors, death and standstill at step points."""
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time

from harness import *
from step_load import daemon_round, step_points

PINDAXD = str(BUILD / "src/daemon/pindaxd")
SKEWED_CLOCK = str(BUILD / "test/mount/skewed_clock.so")


def foreground(m):
    """The daemon as a child: its log on stderr, its exit code."""
    daemon = m.spawn(PINDAXD, m.pool, m.path, "--foreground", stderr=subprocess.PIPE, text=True)
    wait_until(lambda: os.path.ismount(m.path), "the mount is there")
    m.mounted = True
    return daemon


def ended(daemon, code):
    """Waits for the daemon's end; returns its log."""
    _, log = daemon.communicate(timeout=30)
    check_equal(daemon.returncode, code, "exit code of the daemon")
    return log


# ---- The pool file ----

@options(mounted=False)
def test_truncated(m):
    """a pool file that is truncated under the daemon: it says so, unmounts and ends with code 5"""
    daemon = foreground(m)
    m.file("f", 1 * MiB)
    os.truncate(m.pool, 64 * MiB)
    log = ended(daemon, 5)
    check("truncated from 268435456 to 67108864 bytes" in log, log)
    check(not os.path.ismount(m.path), "the mount is gone")


@options(mounted=False)
def test_truncated_in_use(m):
    """the same while its bytes are needed: no garbage is read, and the daemon does not crash"""
    daemon = foreground(m)
    f = m.file("f", 8 * MiB, fill=7)
    os.truncate(m.pool, 64 * KiB)
    for attempt in range(200):
        try:
            data = f.read_bytes()
            check(set(data) <= {7}, "garbage was read")
            os.listdir(m.path)
            time.sleep(0.01)
        except OSError:
            break
    log = ended(daemon, 5)
    check("The daemon ends now" in log, log)
    run("umount", "-l", m.path, ok=None)


@options(mounted=False)
def test_removed(m):
    """a pool file that is removed or replaced under the daemon: nothing can be changed any more, all can be read"""
    for how in ("removed", "replaced"):
        daemon = foreground(m)
        f = m.file("f", 1 * MiB, fill=5)
        keep = m.dir / "keep"
        os.link(m.pool, keep)
        if how == "removed":
            os.unlink(keep)
            os.rename(m.pool, m.dir / "gone")
            os.unlink(m.dir / "gone")
        else:
            shutil.copy(m.pool, m.dir / "copy")
            os.rename(m.dir / "copy", m.pool)

        def refused():
            try:
                (m.path / "new").touch()
                os.unlink(m.path / "new")
                return False
            except OSError as error:
                check_equal(error.errno, errno.EIO)
                return True
        wait_until(refused, "changes are refused")
        check_equal(f.read_bytes(), b"\x05" * MiB, "contents")
        run(PINDAX, "umount", m.path, ok=None)
        log = ended(daemon, 4)
        check(f"was {how}" in log, log)
        run("umount", "-l", m.path, ok=None)
        for path in (m.pool, keep):
            if path.exists():
                path.unlink()
        run(PINDAX, "mkfs", m.pool, "--size", "64M", "--quiet")


@options(mount={"sparse": True})
def test_fstrim(m):
    """fstrim gives the host what free blocks of a sparse pool hold; a pool whose space is reserved says that it cannot"""
    if shutil.which("fstrim") is None:
        raise Skip("needs fstrim of util-linux")
    before = m.pool.stat().st_blocks * 512
    kept = m.file("kept", 2 * MiB, fill=3)
    m.file("gone", 20 * MiB, fill=4)
    os.sync()
    os.unlink(m.path / "gone")
    held = m.pool.stat().st_blocks * 512 - before
    check(held >= 20 * MiB, f"free blocks keep the host's space: {held}")
    said = run("fstrim", "-v", m.path).stdout
    check("trimmed" in said, said)
    held = m.pool.stat().st_blocks * 512 - before
    check(held < 4 * MiB, f"{held} bytes are still held")
    check_equal(kept.read_bytes(), b"\x03" * (2 * MiB), "contents")
    m.umount()
    m.fsck()
    for options in ("ro", None):
        m.mount(options)
        said = run("fstrim", m.path, ok=(1,)).stderr
        check("Read-only" in said if options else "not supported" in said, said)
        m.umount()
        run(PINDAX, "mkfs", m.pool, "--force", "--quiet")


@options(mounted=False)
def test_full_host(m):
    """a sparse pool on a host without space: ENOSPC, the daemon lives, nothing acknowledged is lost, freed space can be used again"""
    if os.geteuid() != 0:
        raise Skip("needs root to mount a small tmpfs")
    host = m.dir / "host"
    host.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", host)
    try:
        m.pool = host / "pool"
        run(PINDAX, "mkfs", m.pool, "--size", "1G", "--sparse", "--quiet")
        m.mount()
        pid = m.daemon_pid()
        kept = {}
        for i in range(200):
            data = random.randbytes(random.randrange(1, 1 * MiB))
            try:
                with open(m.path / f"f{i}", "wb", buffering=0) as f:
                    done = 0
                    while done < len(data):
                        done += f.write(data[done:])
                        kept[f"f{i}"] = data[:done]
                    os.fsync(f.fileno())
            except OSError as error:
                check_equal(error.errno, errno.ENOSPC)
                break
        else:
            raise Failed("the host never became full")
        c = m.client()
        c.ask("open", "f0", "rw")
        c.ask("truncate", 64 * MiB)
        kept["f0"] = kept["f0"] + bytes(64 * MiB - len(kept["f0"]))
        c.ask("map", 0, 64 * MiB, "lazy")
        c.refuse("fill", 32 * MiB, 32 * MiB, 1)  # SIGBUS where there is no block to be had
        c.kill()
        # Blocks that nobody mapped, freed while the host is full: they serve again, whichever they are.
        for name in sorted(kept)[1:6]:
            os.unlink(m.path / name)
            del kept[name]
        m.file("again", 256 * KiB, fill=9)
        os.truncate(m.path / "f0", 4096)
        kept["f0"] = kept["f0"][:4096]
        for name, data in kept.items():
            check((m.path / name).read_bytes() == data, f"contents of {name}")
        check_equal(m.daemon_pid(), pid, "the daemon is the same")
        m.umount()
        m.fsck()
        m.mount()
        for name, data in kept.items():
            check((m.path / name).read_bytes() == data, f"contents of {name} after a mount")
        m.umount()
    finally:
        if m.mounted:
            m.umount()
        run("umount", "-l", host, ok=None)


@options(mounted=False, mount={"where": "/var/tmp"})
def test_failing_disk(m):
    """a disk that fails to write: fsync says EIO and goes on saying it, reads go on; the next mount is whole"""
    broken = m.dir / "broken"
    m.mount(env={**os.environ, "PINDAX_FAILS": f"pmem.sync={broken}"})
    m.file("safe", 100 * KiB, fill=1)
    fd = os.open(m.path / "safe", os.O_RDWR)
    os.fsync(fd)
    os.pwrite(fd, b"unsafe", 200 * KiB)
    broken.touch()

    def fsync_error():
        try:
            os.fsync(fd)
        except OSError as error:
            return error.errno
        return 0
    check_equal(fsync_error(), errno.EIO, "fsync on a failing disk")
    broken.unlink()
    check_equal(fsync_error(), errno.EIO, "fsync after the disk has recovered")
    check_equal((m.path / "safe").read_bytes()[:100 * KiB], b"\x01" * 100 * KiB, "contents")
    try:
        (m.path / "new").touch()
        raise Failed("a change was accepted")
    except OSError as error:
        check_equal(error.errno, errno.EIO)
    os.close(fd)
    m.kill_daemon()
    m.mount()
    check_equal((m.path / "safe").read_bytes()[:100 * KiB], b"\x01" * 100 * KiB, "contents after a mount")
    m.file("new", 4096)
    m.umount()
    m.fsck()


# ---- Clocks and signals ----

@options(mounted=False)
def test_clock_jumps(m):
    """a wall clock that jumps by months at every look moves no deadline"""
    env = {**os.environ, "LD_PRELOAD": SKEWED_CLOCK}
    m.mount("on_busy=refuse,busy_deadline=0.5", env=env)
    m.file("f", 1 * MiB, fill=3)
    c = m.client(env=env)
    c.ask("open", "f", "rw")
    c.ask("map", 0, 1 * MiB)  # with a token of ten seconds
    c.ask("pin", 1, 0, 4096)
    for _ in range(3):
        start = time.monotonic()
        try:
            os.truncate(m.path / "f", 0)
            raise Failed("the pinned page went")
        except OSError as error:
            check_equal(error.errno, errno.ETXTBSY)
        check(time.monotonic() - start > 0.45, "refused before the deadline")
    c.ask("unpin", 1)
    os.truncate(m.path / "f", 0)
    check_equal(c.refuse("load", 0, 4), "SIGBUS")
    c.kill()
    m.umount()
    m.fsck()


def test_signal_storm(m):
    """a client that gets a signal every 100 microseconds loads, stores, pins and persists as ever"""
    m.file("f", 4 * MiB, fill=2)
    c = m.client()
    c.ask("open", "f", "rw")
    c.ask("map", 0, 4 * MiB, "lazy")
    c.ask("storm", 100)
    for i in range(40):
        at = i * 64 * KiB
        check_equal(c.ask("load", at, 2), ["0202"])
        c.ask("store", at, "aabb")
        c.ask("pin", 1, at, 4096)
        c.ask("pin", 2, at + 8192, 4096, "write")
        blocked = Background(lambda: punch(m.path / "f", at, 4096)) if i % 10 == 0 else None
        if blocked:
            m.wait_for_waiter()
        c.ask("unpin", 1)
        c.ask("unpin", 2)
        if blocked:
            blocked.result()
            check_equal(c.ask("load", at, 2), ["0000"])
        else:
            check_equal(c.ask("load", at, 2), ["aabb"])
        c.ask("persist", at, 4096)
    c.ask("churn", 0, 4096, 300)
    c.ask("truncate", 1 * MiB)
    check(int(c.ask("signals")[0]) > 100, "signals came")
    c.ask("storm", 0)


def test_daemon_signals(m):
    """signals that a daemon has no use for change nothing"""
    pid = m.daemon_pid()
    stop = threading.Event()
    count = [0]

    def shower():
        while not stop.is_set():
            for s in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM, signal.SIGCHLD, signal.SIGWINCH,
                      signal.SIGCONT, signal.SIGURG, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO):
                os.kill(pid, s)
            count[0] += 1
            time.sleep(0.0005)
    sender = Background(shower)
    try:
        c = m.client()
        for i in range(20):
            path = m.file(f"f{i}", 300 * KiB)
            data = path.read_bytes()
            c.ask("open", f"f{i}", "rw")
            c.ask("map", 0, 300 * KiB)
            check_equal(c.ask("load", 4096, 4), [data[4096:4100].hex()])
            os.truncate(path, 5000)
    finally:
        stop.set()
        sender.result()
    check(count[0] > 10, "signals were sent")
    check_equal(m.daemon_pid(), pid, "the daemon is the same")
    run(PINDAX, "info", m.path)


# ---- Limits ----

@options(mounted=False)
def test_daemon_without_descriptors(m):
    """a daemon that has no descriptors left refuses clients, serves those it has, and takes new ones when some have gone"""
    start = ["prlimit", "--nofile=64:64", PINDAX, "mount", str(m.pool), str(m.path)]
    run(*start)
    m.mounted = True
    m.file("f", 1 * MiB, fill=4)
    clients = []
    for _ in range(40):
        try:
            clients.append(m.client())
        except Failed:
            break
    check(2 <= len(clients) < 40, f"{len(clients)} clients fit")
    # Nor may it use what is left over from the one that was refused.
    daemon = m.daemon_pid()
    taken = {int(fd) for fd in os.listdir(f"/proc/{daemon}/fd")}
    limit = min(set(range(64)) - taken, default=64)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (limit, limit))
    first = clients[0]
    first.ask("open", "f", "rw")
    first.ask("map", 0, 1 * MiB)
    check_equal(first.ask("load", 0, 1), ["04"])
    check_equal((m.path / "f").read_bytes()[:1], b"\x04")
    for c in clients[1:]:
        c.kill()

    def attaches():
        try:
            m.client()
            return True
        except Failed:
            return False
    wait_until(attaches, "a new client is taken", 20)


def test_client_without_descriptors(m):
    """a client that has no descriptors left gets an error from attach, whichever it is that is missing"""
    m.file("f", 64 * KiB, fill=6)
    ready = 0
    for limit in range(4, 24):
        child = m.spawn("prlimit", f"--nofile={limit}:{limit}", DRIVER, m.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = child.stdout.readline().strip()
        if line == "ready":
            ready += 1
        else:
            # Before main() it is the loader that finds no descriptor.
            check(line == "" or line.startswith(("error EMFILE", "error ENOTCONN")), f"limit {limit}: {line!r}")
        child.stdin.close()
        check(child.wait(10) >= 0, f"limit {limit}: ended by a signal")
    check(ready >= 1, "no limit was enough")


# ---- Memory ----

def starved(where, name):
    done = run(BUILD / "test/mount/starved_client", where, name, ok=None)
    check(done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}")


def test_client_without_memory(m):
    """a client without memory: every call says ENOMEM at each allocation in turn, leaves nothing behind, and works again afterwards"""
    m.file("f", 64 * KiB, fill=ord("x"))
    starved(m.path, "/f")
    check_equal((m.path / "f").read_bytes(), b"x" * 64 * KiB, "contents")


# ---- Step points ----

@options(mounted=False)
def test_daemon_dies_at_steps(m):
    """[D2] killed at step points under load, with clients attached, the daemon loses nothing acknowledged (a sample; test_steps: all)"""
    seed = random.randrange(1 << 30)
    points = random.sample(step_points(client=False), 6)
    for number, point in enumerate(points):
        daemon_round(m, point, random.choice((1, 2, 7)), seed + number)


def client_round(m, point, action):
    """A client that dies or stops at the point; others go on, and what waits for it ends. True: the point was reached."""
    for name in ("f", "other"):
        m.file(name, 1 * MiB, fill=8)
    os.truncate(m.path / "f", 2 * MiB)
    c = m.spawn(DRIVER, m.path, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                env={**os.environ, "PINDAX_STEPS": f"{point}={action}"})
    script = ["open f rw", "map 0 2097152 lazy", "load 0 4", "store 1500000 aabb", "persist 1500000 4096", "pin 1 0 4096",
              "pin 2 1600000 4096 write", "unpin 1", "unpin 2", "pin 3 4096 4096"]
    def say(*commands):
        try:
            c.stdin.write("\n".join(commands) + "\n")
            c.stdin.flush()
        except BrokenPipeError:
            pass

    def state():
        if c.poll() is not None:
            return "Z"
        with open(f"/proc/{c.pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]

    stops = 0

    def run_on_until(condition, what):
        """A client that stops goes on, as often as it takes."""
        nonlocal stops

        def look():
            nonlocal stops
            if condition():
                return True
            if state() == "T":
                stops += 1
                os.kill(c.pid, signal.SIGCONT)
            return False
        wait_until(look, f"{point}={action}: {what}", 30)

    def changes():
        punch(m.path / "f", 0, 1 * MiB)  # waits for the pin, and revokes what the client has
        run(PINDAX, "fallocate", "-c", "-o", 1 * MiB, "-l", 4096, m.path / "f")  # recalls it
    say(*script)
    time.sleep(0.25)
    change = Background(changes)
    time.sleep(0.1)
    # Whatever became of the client: other files work.
    os.truncate(m.path / "other", 5)
    check_equal((m.path / "other").read_bytes(), b"\x08" * 5)
    say("unpin 3")
    run_on_until(change.done, "the changes end")
    change.result()
    say("unmap", "exit")
    run_on_until(lambda: state() == "Z", "the client ends")
    check_equal((m.path / "f").read_bytes()[:1 * MiB], bytes(1 * MiB), "the punched range")
    c.wait(10)
    return stops > 0 or c.returncode == -signal.SIGKILL


def test_client_dies_at_steps(m):
    """[R10] a client killed at any step point of the library: what waits for it ends, others go on"""
    missed = [p for p in step_points(client=True) if not client_round(m, p, "kill")]
    check(len(missed) <= 3, f"points not reached: {missed}")
    wait_until(lambda: not m.clients(), "the dead are forgotten", 20)
    m.umount()
    m.fsck()


def test_client_stops_at_steps(m):
    """a client stopped at any step point of the library: others go on, and what waits for it ends once it runs again"""
    missed = [p for p in step_points(client=True) if not client_round(m, p, "stop")]
    check(len(missed) <= 3, f"points not reached: {missed}")
    m.umount()
    m.fsck()


if __name__ == "__main__":
    sys.exit(main(globals()))
