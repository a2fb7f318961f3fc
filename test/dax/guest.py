# SPDX-License-Identifier: BSD-3-Clause
"""Runs as root in the emulated machine. `guest.py first PLACE…` makes pools there, runs the tests, then
stores without end and says what was acknowledged, until the machine is stopped. `guest.py again PLACE=STORES,FILES…` finds the pools after that
and looks for everything that was acknowledged.
"""
import faulthandler
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "mount"))
from harness import (BUILD, MiB, PINDAX, Background, Failed, Mount, check, check_equal, punch, run, wait_until)  # noqa: E402

BLOCK = 4096
HANG = 90  # seconds that no test takes


def namespace_at(address):
    """The kernel's name of the persistent region that begins there (None: the only one), "0.0" or the like."""
    for path in pathlib.Path("/sys/bus/nd/devices").glob("namespace*"):
        if address in (None, int((path / "resource").read_text(), 0)):
            return path.name.removeprefix("namespace")
    raise Failed(f"no persistent memory at {address}")


def write(path, text):
    pathlib.Path(path).write_text(text)


def claim(kind, number, align=None):
    """What ndctl create-namespace does: puts the region into the mode "pfn" (fsdax) or "dax" (devdax). After a crash the kernel may have
    found the mode on the media and done so already."""
    if not pathlib.Path(f"/sys/bus/nd/devices/namespace{number}/driver").exists():
        return
    seed = f"/sys/bus/nd/devices/{kind}{number}"
    write("/sys/bus/nd/drivers/nd_pmem/unbind", f"namespace{number}")
    write(f"{seed}/mode", "ram")
    if align is not None:
        write(f"{seed}/align", str(align))
    write(f"{seed}/uuid", "5ca1ab1e-0000-4000-8000-%012d" % int(number.split(".")[0]))
    write(f"{seed}/namespace", f"namespace{number}")
    write(f"/sys/bus/nd/drivers/{'dax_pmem' if kind == 'dax' else 'nd_pmem'}/bind", f"{kind}{number}")


class Place:
    """Where a pool can lie."""

    def __init__(self, name, address, filesystem, kind, granularity, size=None):
        self.name, self.address, self.filesystem = name, address, filesystem
        self.kind, self.granularity, self.size = kind, granularity, size
        self.directory = pathlib.Path("/mnt") / name
        self.client = None

    def prepare(self, again):
        number = namespace_at(self.address)
        minor = number.split(".")[0]
        if self.kind == "devdax":
            claim("dax", number, BLOCK)
            devices = lambda: list(pathlib.Path("/dev").glob(f"dax{minor}.*"))
            wait_until(devices, f"/dev/dax{minor}.* appears")
            self.pool = devices()[0]
            return
        if self.granularity == "byte":
            claim("pfn", number)
        devices = lambda: [p.name for p in pathlib.Path("/sys/bus/nd/devices").glob(f"*{minor}.*/block/*")]
        wait_until(devices, f"a block device of region {minor} appears")
        device = devices()[0]
        check(minor.isdigit() and device.startswith("pmem"), f"{number} is {device}")
        wait_until(pathlib.Path("/dev", device).exists, f"/dev/{device} appears")
        self.directory.mkdir(parents=True, exist_ok=True)
        if not again:
            quiet = {"ext4": ("-q", "-F", "-b", "4096"), "xfs": ("-q", "-f")}
            run(f"mkfs.{self.filesystem}", *quiet[self.filesystem], f"/dev/{device}")
        run("mount", "-t", self.filesystem, "-o", "dax=always", f"/dev/{device}", self.directory)
        # A mount that was quietly made without DAX would pass everything.
        mine = [line.split() for line in open("/proc/mounts") if line.split()[1] == str(self.directory)]
        check(len(mine) == 1 and "dax=always" in mine[0][3].split(","), f"{self.directory} is not a DAX mount: {mine}")
        self.pool = self.directory / "pool"

    def open(self, again):
        m = Mount.__new__(Mount)
        m.dir = pathlib.Path("/run") / self.name
        m.path = m.dir / "mnt"
        m.path.mkdir(parents=True)
        m.pool, m.options, m.children, m.mounted = self.pool, "", [], False
        if not again:
            run(PINDAX, "mkfs", self.pool, *(["--size", self.size] if self.size else []), "--quiet")
        self.m = m
        return m


PLACES = [Place("ext4", 4 << 30, "ext4", "fsdax", "cache-line", "512M"),
          Place("xfs", 5 << 30, "xfs", "fsdax", "cache-line", "512M"),
          Place("devdax", 6 << 30, None, "devdax", "cache-line"),
          Place("persistent-caches", None, "ext4", "fsdax", "byte", "128M")]


def vm_flags(pid, path):
    """VmFlags of each mapping that a process has of a file."""
    flags, mine = [], False
    for line in open(f"/proc/{pid}/smaps"):
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            mine = len(words) > 5 and words[5] == str(path)
        elif mine and words[0] == "VmFlags:":
            flags.append(words[1:])
    return flags


# Tests: each gets a Place whose pool is mounted.

def test_info(place):
    """the pool says what it lies on, and that everything acknowledged survives a power loss"""
    info = json.loads(run(PINDAX, "info", place.m.path, "--json").stdout)
    check_equal((info["pool_kind"], info["granularity"]), (place.kind, place.granularity), "kind and granularity")
    check("power" in info["promise"], info["promise"])


def test_stores(place):
    """stores through the library, made durable, are what the mount reads; the mappings are synchronous"""
    path = place.m.file("direct", 16 * BLOCK)
    c = place.m.client()
    check_equal(c.ask("direct"), ["1"], "direct")
    c.ask("open", "direct", "rw")
    c.ask("map", 0, 32 * BLOCK)
    for block, byte in ((0, 0x11), (7, 0x22), (15, 0x33)):
        c.ask("fill", block * BLOCK, BLOCK, byte)
        c.ask("persist", block * BLOCK, BLOCK)
        check_equal(path.read_bytes()[block * BLOCK:(block + 1) * BLOCK], bytes([byte]) * BLOCK, f"block {block}")
    c.refuse("load", 20 * BLOCK, 1)
    os.truncate(path, 32 * BLOCK)
    c.ask("fill", 20 * BLOCK, BLOCK, 0x44)  # a hole
    c.ask("persist", 20 * BLOCK, BLOCK)
    check_equal(path.read_bytes()[19 * BLOCK:21 * BLOCK], bytes(BLOCK) + b"\x44" * BLOCK, "the hole")
    with open(path, "r+b") as f:
        f.write(b"tool")
    check_equal(c.ask("load", 0, 4), [b"tool".hex()], "what the tool wrote")
    daemon = place.m.daemon_pid()
    for pid in (c.pid, daemon):
        flags = vm_flags(pid, place.pool)
        check(flags, f"process {pid} has no mapping of the pool")
        if place.kind == "fsdax":
            check(all("sf" in f for f in flags), f"process {pid} maps the pool without MAP_SYNC: {flags}")
    c.kill()


def test_break(place):
    """truncate and punch wait for a pin and finish when it ends; the file's other bytes stay"""
    path = place.m.file("broken", 64 * BLOCK, fill=0x61)
    c = place.m.client()
    c.ask("open", "broken", "rw")
    c.ask("map", 0, 64 * BLOCK)
    # Processes of their own: a child of this one would inherit the descriptor, and close it behind the waiting change.
    for what, change in (("punch", ("fallocate", "-p", "-o", 8 * BLOCK, "-l", BLOCK, path)),
                         ("truncate", ("truncate", "-s", 4 * BLOCK, path))):
        c.ask("pin", 1, 8 * BLOCK, BLOCK, "write")
        waiting = place.m.spawn(*change)
        place.m.wait_for_waiter()
        check(waiting.poll() is None, f"{what} did not wait for the pin")
        c.ask("unpin", 1)
        check_equal(waiting.wait(30), 0, what)
        if what == "punch":
            data = path.read_bytes()
            check_equal(data[8 * BLOCK:9 * BLOCK], bytes(BLOCK), "the hole")
            check_equal(data[9 * BLOCK:], b"\x61" * 55 * BLOCK, "behind the hole")
            check_equal(c.ask("load", 8 * BLOCK, 2), ["0000"], "the hole, direct")
        check_equal(c.ask("load", 3 * BLOCK, 2), ["6161"], "before it")
    c.refuse("load", 8 * BLOCK, 1)
    check_equal(path.stat().st_size, 4 * BLOCK, "size")
    c.kill()


def test_reuse(place):
    """blocks that clients mapped come back as somebody else's, and no former mapping sees them"""
    m = place.m
    c = m.client()
    for turn in range(3):
        path = m.file("mapped", 256 * BLOCK, fill=0x70 + turn)
        c.ask("open", "mapped", "rw")
        c.ask("map", 0, 256 * BLOCK)
        c.ask("fill", 0, 256 * BLOCK, 0x50 + turn)
        path.unlink()
        c.ask("unmap")
        c.ask("close")
        other = m.file("other", 256 * BLOCK, fill=turn)
        check_equal(set(other.read_bytes()), {turn}, "the other file")
        other.unlink()
    c.kill()
    wait_until(lambda: not m.clients(), "the client is gone")


def test_kernel_references(place):
    """a page that a pipe holds without a pin delays nothing but its own block; the mount stays alive and can be unmounted"""
    m = place.m
    path = m.file("spliced", 8 * BLOCK, fill=0x55)
    c = m.client()
    c.ask("open", "spliced", "rw")
    c.ask("map", 0, 8 * BLOCK)
    c.ask("hold", 2 * BLOCK, BLOCK)
    Background(lambda: punch(path, 0, 8 * BLOCK)).result(30)
    check_equal(path.read_bytes(), bytes(8 * BLOCK), "the punched file")
    for turn in range(3):
        other = m.file(f"alive.{turn}", 64 * BLOCK, fill=turn + 1)
        punch(other, 0, 32 * BLOCK)
        with open(other, "r+b") as f:
            os.fsync(f.fileno())
        check_equal(other.read_bytes(), bytes(32 * BLOCK) + bytes([turn + 1]) * 32 * BLOCK, "another file")
    os.statvfs(m.path)
    if place.kind != "devdax":
        check_equal(c.ask("held"), ["55" * 16], "what the pipe holds")
    c.ask("hold", 5 * BLOCK, BLOCK)
    Background(lambda: punch(path, 0, 8 * BLOCK)).result(30)
    c.ask("unmap")
    c.ask("close")
    Background(m.umount).result(30)
    c.kill()
    m.mount()


def test_daemon_killed(place):
    """kill -9 of the daemon loses nothing; clients of the next one see the same bytes"""
    m = place.m
    path = m.file("kept", 16 * BLOCK)
    want = path.read_bytes()
    c = m.client()
    c.ask("open", "kept", "rw")
    c.ask("map", 0, 16 * BLOCK)
    c.ask("store", BLOCK, b"direct".hex())
    m.kill_daemon()
    c.kill()
    m.mount()
    check_equal(path.read_bytes(), want[:BLOCK] + b"direct" + want[BLOCK + 6:], "the file")
    path.unlink()


def test_check(place):
    """the pool is whole"""
    place.m.umount()
    place.m.fsck()
    place.m.mount()


TESTS = [test_info, test_stores, test_break, test_reuse, test_kernel_references, test_daemon_killed, test_check]


def test_unprivileged(place):
    """a user without rights maps directly, with a userfaultfd of the daemon or by signals, and is told which and why"""
    m = place.m
    os.chmod(place.pool, 0o666)
    os.chmod(place.directory, 0o755)
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    for options, faults in (("allow_other", "signals"), ("allow_other,share_userfaultfd", "userfaultfd")):
        m.umount()
        m.mount(options=options)
        os.chmod(m.path, 0o777)
        path = m.file("everybodys", 4 * BLOCK, fill=0x31)
        os.chmod(path, 0o666)
        done = run(*user, PINDAX, "map", path)
        check("direct" in done.stdout, done.stdout)
        check_equal("faults come as signals" in done.stdout, faults == "signals", f"with {options}: {done.stdout!r}")
        check_equal(json.loads(run(*user, PINDAX, "map", path, "--json").stdout)["faults"], faults, options)
    m.umount()
    m.mount()


# The crash.

def pattern(number):
    return number.to_bytes(4, "little") * 1024


def store_forever(place):
    """Numbers go to the console once they are acknowledged. Stores: into a hole, persisted. Files: written under one name, given another."""
    m = place.m
    (m.path / "stores").write_bytes(b"")
    os.truncate(m.path / "stores", 64 * MiB)
    c = m.client()
    c.ask("open", "stores", "rw")
    c.ask("map", 0, 64 * MiB)

    def stores():
        for number in range(64 * MiB // BLOCK):
            c.ask("pattern", number * BLOCK, BLOCK, number)
            c.ask("persist", number * BLOCK, BLOCK)
            print(f"ack {place.name} stores {number + 1}", flush=True)

    def files():
        for number in range(1 << 20):
            with open(m.path / "new", "wb", buffering=0) as f:
                f.write(pattern(number))
            os.rename(m.path / "new", m.path / f"file.{number}")
            print(f"ack {place.name} files {number + 1}", flush=True)
    for body in (stores, files):
        threading.Thread(target=body, daemon=True).start()


def look_after_crash(place, stores, files):
    m = place.m
    with open(m.path / "stores", "rb") as f:
        for number in range(stores):
            check_equal(f.read(BLOCK), pattern(number), f"store {number} of {stores}")
    for number in range(files):
        check_equal((m.path / f"file.{number}").read_bytes(), pattern(number), f"file {number} of {files}")
    m.umount()
    m.fsck()


def report(title, work):
    start = time.monotonic()
    try:
        work()
    except BaseException as error:
        print(f"FAILED  {title}: {error}", flush=True)
        traceback.print_exc(file=sys.stdout)
        return False
    print(f"ok      {title} ({time.monotonic() - start:.1f} s)", flush=True)
    return True


def show_stacks():
    """Where everybody hangs, in the kernel and in here."""
    faulthandler.dump_traceback(sys.stdout)
    for task in sorted(pathlib.Path("/proc").glob("[0-9]*/task/*")):
        try:
            if os.readlink(task.parent.parent / "exe"):
                state = (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
                print(f"{task} {(task / 'comm').read_text().strip()} {state}\n{(task / 'stack').read_text()}", flush=True)
        except OSError:
            pass


def run_test(test, place):
    def hangs():
        print(f"FAILED  {place.name}: {test.__doc__}: hangs", flush=True)
        show_stacks()
        os._exit(1)
    watch = threading.Timer(HANG, hangs)
    watch.start()
    try:
        test(place)
    finally:
        watch.cancel()
        for child in place.m.children:
            child.kill()
            child.wait(10)
        place.m.children.clear()


def first(names):
    places = [p for p in PLACES if p.name in names]
    good = True
    usable = []
    for place in places:
        if not report(f"{place.name}: a pool is made and mounted", lambda: (place.prepare(False), place.open(False).mount())):
            good = False
            continue
        usable.append(place)
        tests = TESTS + ([test_unprivileged] if place.name == "ext4" else [])
        good = all([report(f"{place.name}: {t.__doc__}", lambda: run_test(t, place)) for t in tests]) and good
    if not good:
        return 1
    for place in usable:
        store_forever(place)
    time.sleep(600)
    return 1


def again(words):
    good = True
    for word in words:
        name, counts = word.split("=")
        place = next(p for p in PLACES if p.name == name)
        stores, files = map(int, counts.split(","))
        title = f"{name}: after the crash {stores} persisted blocks and {files} files are there, and the pool is whole"
        good = report(title, lambda: (place.prepare(True), place.open(True).mount(), look_after_crash(place, stores, files))) and good
    return 0 if good else 1


def bench(names):
    """Ratios of instructions: the library and the mount against the host file system."""
    place = next(p for p in PLACES if p.name == names[0])
    place.prepare(False)
    place.open(False).mount()
    done = subprocess.run([str(BUILD / "test/bench/dax_bench"), place.m.path, place.directory])
    place.m.umount()
    return done.returncode


if __name__ == "__main__":
    sys.exit({"first": first, "again": again, "bench": bench}[sys.argv[1]](sys.argv[2:]))
