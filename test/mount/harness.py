# SPDX-License-Identifier: BSD-3-Clause
"""End-to-end tests: a real daemon, a real mount, real processes.

A test is a function `test_…(m)` with a sentence as docstring (race numbers in it: "[R1] …"); `m` is a fresh Mount. It fails by exception.
`raise Skip(reason)` skips by name. Everything a test starts is registered with its Mount and ended by pid afterwards; a mount that hangs is
freed through its connection's abort file and counts as a failure.
"""
import ctypes
import errno
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

BUILD = pathlib.Path(os.environ.get("PINDAX_BUILD", "build")).resolve()
PINDAX = str(BUILD / "tools/pindax")
DRIVER = str(BUILD / "test/mount/client_driver")
# vfork blocks the caller's signals for a moment. A SIGCHLD that comes just then, as of a client that was continued, is not ignored
# but goes to another thread, whose truncate ends with EINTR.
subprocess._USE_VFORK = False
TIMEOUT = 60  # seconds that any single command may take

MiB = 1 << 20
KiB = 1 << 10


class Skip(Exception):
    pass


class Failed(AssertionError):
    pass


def check(condition, message=""):
    if not condition:
        raise Failed(message or "check failed")


def check_equal(got, want, what="value"):
    if got != want:
        raise Failed(f"{what}: got {got!r}, want {want!r}")


def wait_until(condition, what, seconds=10.0):
    """Polls; returns the seconds it took."""
    start = time.monotonic()
    while True:
        value = condition()
        if value:
            return time.monotonic() - start
        if time.monotonic() - start > seconds:
            raise Failed(f"did not happen within {seconds} s: {what}")
        time.sleep(0.002)


def run(*args, ok=(0,), timeout=TIMEOUT, **kwargs):
    """Runs a command; checks its exit code; returns CompletedProcess with text output."""
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=timeout, **kwargs)
    if ok is not None and done.returncode not in ok:
        raise Failed(f"{' '.join(map(str, args))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def have_fuse():
    return os.path.exists("/dev/fuse") and os.access("/dev/fuse", os.R_OK | os.W_OK)


class Mount:
    """A pool in a scratch directory and its mount."""

    def __init__(self, size="256M", where=None, options="", label="", sparse=False):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pindax-test-", dir=where or os.environ.get("PINDAX_SCRATCH", "/dev/shm")))
        os.chmod(self.dir, 0o755)
        self.pool = self.dir / "pool"
        self.path = self.dir / "mnt"
        self.path.mkdir()
        self.options = options
        self.children = []
        self.stops = []
        self.mounted = False
        run(PINDAX, "mkfs", self.pool, "--size", size, "--quiet", *(["--label", label] if label else []), *(["--sparse"] if sparse else []))

    def mount(self, options=None, env=None):
        opts = (self.options if options is None else options).format(dir=self.dir)
        run(PINDAX, "mount", self.pool, self.path, *(["-o", opts] if opts else []), env=env)
        self.mounted = True
        return self

    def stop_at(self, step, nth=1):
        """Mounts with a daemon whose nth arrival at the step point stops there until release()."""
        stop = StepPoint(self.dir / f"at-{step}", step)
        self.stops.append(stop)
        self.mount(env={**os.environ, "PINDAX_STEPS": f"{step}@{nth}=wait:{stop.path}"})
        return stop

    def umount(self):
        run(PINDAX, "umount", self.path)
        self.mounted = False

    def daemon_pid(self):
        return json.loads(run(PINDAX, "info", self.path, "--json").stdout)["daemon_pid"]

    def daemon_pid_or_none(self):
        """None if the daemon is gone already."""
        done = run(PINDAX, "info", self.path, "--json", ok=None)
        return json.loads(done.stdout)["daemon_pid"] if done.returncode == 0 else None

    def kill_daemon(self):
        """kill -9 and removal of the dead mount point."""
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not process_alive(pid), f"daemon {pid} dies")
        run("umount", "-l", self.path, ok=None)
        self.mounted = False

    def fsck(self, *extra, ok=(0,)):
        return run(PINDAX, "fsck", self.pool, *extra, ok=ok, timeout=300)

    def spawn(self, *args, **kwargs):
        child = subprocess.Popen([str(a) for a in args], **kwargs)
        self.children.append(child)
        return child

    def pin(self, name, offset, length, hold="60s", extra=()):
        """A `pindax pin` process; returns once the pin is there."""
        child = self.spawn(PINDAX, "pin", self.path / name, "--offset", offset, "--length", length, "--hold", hold, *extra,
                           stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        line = child.stdout.readline()
        check(line.startswith("pinned"), f"pindax pin said {line!r}")
        return child

    def client(self, *how, env=None, limits=()):
        return Client(self, *how, env=env, limits=limits)

    def pins(self, *extra):
        return json.loads(run(PINDAX, "pins", self.path, "--json", *extra).stdout)

    def waiters(self):
        return json.loads(run(PINDAX, "waiters", self.path, "--json").stdout)

    def info(self):
        return json.loads(run(PINDAX, "info", self.path, "--json").stdout)

    def clients(self):
        return json.loads(run(PINDAX, "clients", self.path, "--json").stdout)

    def wait_for_waiter(self, count=1):
        wait_until(lambda: len(self.waiters()) >= count, f"{count} waiting operations")

    def stays_waiting(self, work):
        """The operation sleeps on."""
        time.sleep(0.1)
        check(not work.done() and len(self.waiters()) > 0, "it still waits")

    def file(self, name, size=0, fill=None):
        path = self.path / name
        with open(path, "wb") as f:
            if fill is not None:
                f.write(bytes([fill]) * size)
            elif size:
                f.write(random.Random(name).randbytes(size))
        return path

    def close(self):
        for stop in self.stops:
            stop.release()
        for child in self.children:
            if child.poll() is None:
                child.kill()
        for child in self.children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                pass
        problem = ""
        if os.path.ismount(self.path):
            try:
                run(PINDAX, "umount", self.path, timeout=20)
            except Exception as error:  # free it whatever happens, and say so
                problem = f"umount: {error}"
                abort_connection(self.path)
                run("umount", "-l", self.path, ok=None)
        for child in self.children:
            if child.poll() is None:
                child.wait(10)
        shutil.rmtree(self.dir, ignore_errors=True)
        if problem:
            raise Failed(problem)


def process_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def abort_connection(mount_point):
    with open("/proc/self/mountinfo") as f:
        for line in f:
            fields = line.split()
            if fields[4] == str(mount_point):
                minor = fields[2].split(":")[1]
                try:
                    with open(f"/sys/fs/fuse/connections/{minor}/abort", "w") as abort:
                        abort.write("1")
                except OSError:
                    pass


class StepPoint:
    """Where a daemon stops (PINDAX_STEPS, base/steps.h)."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def reached(self):
        wait_until(lambda: os.path.exists(f"{self.path}.reached"), f"the daemon comes to {self.step}")

    def release(self):
        self.path.touch()


class Client:
    """A process that uses the library, driven line by line (client_driver.cc). Each call returns the driver's answer."""

    def __init__(self, mount, *how, env=None, limits=()):
        """env: added to the environment; limits: a command to run the client under."""
        self.process = mount.spawn(*limits, DRIVER, mount.path, *how, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                   env={**os.environ, **(env or {})})
        line = self.process.stdout.readline().strip()
        if line != "ready":
            raise Failed(f"client driver: {line or self.process.wait(10)}")

    @property
    def pid(self):
        return self.process.pid

    def send(self, *words):
        self.process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"the client process ended ({self.process.wait(5)})")
        return line.strip()

    def ask(self, *words):
        """Sends a command, returns the words after 'ok'; any other answer fails the test."""
        self.send(*words)
        answer = self.answer()
        if not answer.startswith("ok"):
            raise Failed(f"client: {' '.join(map(str, words))}: {answer}")
        return answer[2:].split()

    def refuse(self, *words):
        """Sends a command that must fail; returns the errno name it failed with."""
        self.send(*words)
        answer = self.answer()
        check(answer.startswith("error"), f"client: {words}: {answer}")
        return answer.split()[1]

    def kill(self):
        self.process.kill()
        self.process.wait(10)


def opened(m, name="f", length=1 << 20, lazy=False, client=None):
    """A client, a new one if need be, that has opened a file for reading and writing and mapped its first bytes."""
    c = client or m.client()
    c.ask("open", name, "rw")
    c.ask("map", 0, length, *(["lazy"] if lazy else []))
    return c


def holder(m, name="f", size=1 * MiB, words=()):
    """A file of sevens, and a client with a pin on its first page."""
    path = m.file(name, size, fill=7)
    c = opened(m, name, size)
    c.ask("pin", 0, 0, 4096, *words)
    return path, c


def free(m):
    """Blocks."""
    return os.statvfs(m.path).f_bfree


def content(path):
    with open(path, "rb") as f:
        return f.read()


def layout(path):
    return json.loads(run(PINDAX, "layout", path, "--json").stdout)


def pool_blocks(path):
    """Pool block of each file block that has one."""
    return {e["offset_bytes"] // 4096 + i: e["block"] + i for e in layout(path)["extents"] for i in range(e["length_blocks"])}


class Background:
    """Runs a callable in a thread; .result(timeout) gives its value or raises what it raised."""

    def __init__(self, work):
        self.value = None
        self.error = None
        self.took = None
        def body():
            start = time.monotonic()
            try:
                self.value = work()
            except BaseException as error:
                self.error = error
            self.took = time.monotonic() - start
        self.thread = threading.Thread(target=body, daemon=True)
        self.thread.start()

    def done(self):
        return not self.thread.is_alive()

    def result(self, timeout=10):
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise Failed(f"still running after {timeout} s")
        if self.error is not None:
            raise self.error
        return self.value


# System calls that Python has no name for.
LIBC = ctypes.CDLL(None, use_errno=True)
FALLOC_KEEP_SIZE, FALLOC_PUNCH, FALLOC_COLLAPSE, FALLOC_ZERO, FALLOC_INSERT = 1, 2, 8, 16, 32


def fallocate(path, mode, offset, length):
    fd = os.open(path, os.O_RDWR)
    try:
        if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
            err = ctypes.get_errno()
            raise OSError(err, os.strerror(err), str(path))
    finally:
        os.close(fd)


def punch(path, offset, length):
    fallocate(path, FALLOC_PUNCH | FALLOC_KEEP_SIZE, offset, length)


def main(module_globals):
    """Runs every test_… function of a file, or those named on the command line."""
    names = [n for n in module_globals if n.startswith("test_")]
    if len(sys.argv) > 1:
        names = [n for n in names if any(word in n for word in sys.argv[1:])]
    seed = int(os.environ.get("PINDAX_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}", flush=True)
    passed = failed = skipped = 0
    for name in names:
        test = module_globals[name]
        random.seed(seed)
        mount = None
        start = time.monotonic()
        title = (test.__doc__ or name).strip().split("\n")[0]
        try:
            if not have_fuse() and not getattr(test, "without_fuse", False):
                raise Skip("no /dev/fuse")
            mount = Mount(**getattr(test, "mount", {}))
            if getattr(test, "mounted", True):
                mount.mount()
            try:
                test(mount)
            finally:
                mount.close()
            passed += 1
            print(f"ok      {title} ({time.monotonic() - start:.1f} s)", flush=True)
        except Skip as reason:
            skipped += 1
            print(f"skipped: {title}: {reason}", flush=True)
        except BaseException as error:
            failed += 1
            print(f"FAILED  {title}\n        {name}: {error}", flush=True)
            traceback.print_exc(file=sys.stdout)
            if isinstance(error, KeyboardInterrupt):
                break
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or passed + skipped == 0 else 0


def options(**values):
    """Decorator: test attributes (mounted=False, mount={...}, without_fuse=True)."""
    def mark(test):
        for key, value in values.items():
            setattr(test, key, value)
        return test
    return mark
