# SPDX-License-Identifier: BSD-3-Clause
"""One emulated machine: boots, runs a job, ends or is ended. Its persistent memory lies in a file of the host, so that it survives the
machine's sudden death, and the next boot finds it. Two kinds:

    regions   ordinary memory that the kernel is told to take for persistent, without a word about caches: cache-line granularity.
              4 GiB: 1 GiB, 5 GiB: 1 GiB, 6 GiB: 512 MiB
    caches    an NVDIMM of 256 MiB whose platform also saves the caches: byte granularity. libpmem2 believes that only of
              machines all of whose persistent memory is like this.
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

MiB = 1 << 20
LOW = 2048  # MiB of ordinary memory
HIGH = 2560
REGIONS = ["memmap=1G!4G", "memmap=1G!5G", "memmap=512M!6G"]
NVDIMM = 256
DEADLINE = 420  # seconds that a machine may run


class Failed(Exception):
    pass


def newc(entries):
    """An initrd: a cpio archive, of (name, mode, bytes)."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        out += b"070701" + b"".join(b"%08x" % f for f in fields) + encoded
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def build_initrd(parts, directory):
    source = pathlib.Path(__file__).parent / "init.c"
    init = directory / "init"
    compiler = os.environ.get("CC", "cc")
    done = subprocess.run([compiler, "-static", "-O1", "-Wall", "-o", init, source], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{compiler}: {done.stderr}")
    names = [f"modules/{pathlib.Path(m).name}" for m in parts["modules"]]
    entries = [("dev", 0o040755, b""), ("proc", 0o040755, b""), ("modules", 0o040755, b""),
               ("dev/console", 0o020600, b""), ("init", 0o100755, init.read_bytes()),
               ("modules/order", 0o100644, "".join(f"/{n}\n" for n in names).encode())]
    entries += [(n, 0o100644, pathlib.Path(m).read_bytes()) for n, m in zip(names, parts["modules"])]
    initrd = directory / "initrd"
    initrd.write_bytes(newc(entries))
    return initrd


def without_firmware(line):
    """The firmware clears the screen more than once; what it prints between is not the guest's."""
    text = re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|c)", "", re.sub(r".*\x1b\[2J", "", line))
    return None if re.match(r"SeaBIOS |Booting from ROM|$", text) else text


class Machine:
    """Scratch memory and what is running. `count`: instructions are the clock (one processor, slower, repeatable)."""

    def __init__(self, parts, kind="regions", count=False):
        self.parts = parts
        self.kind = kind
        self.count = count
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pindax-daxvm-", dir=os.environ.get("PINDAX_SCRATCH", "/dev/shm")))
        self.initrd = build_initrd(parts, self.dir)
        self.environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(parts["libraries"])}
        self.children = []
        self.runs = 0

    def arguments(self, socket, job):
        count = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
        several = ["-accel", "tcg,thread=multi", "-smp", "2"]
        firmware = [word for d in self.parts["firmware"] for word in ("-L", d)]
        memory = LOW
        nvdimm, regions = [], ""
        if self.kind == "regions":
            memory += HIGH
            regions = " ".join(REGIONS)
        else:
            nvdimm = ["-object", f"memory-backend-file,id=nvdimm,size={NVDIMM}M,mem-path={self.dir}/nvdimm,share=on",
                      "-device", "nvdimm,id=nvdimm0,memdev=nvdimm"]
        return [self.parts["qemu"], *(count if self.count else several), *firmware, "-cpu", "max,erms=off,fsrm=off",
                "-machine", f"pc,memory-backend=ram,max-ram-below-4g={LOW}M,nvdimm=on,nvdimm-persistence=cpu",
                "-m", f"{memory}M,slots=2,maxmem=8G",
                "-object", f"memory-backend-file,id=ram,size={memory}M,mem-path={self.dir}/ram,share=on", *nvdimm, "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
                "-kernel", self.parts["kernel"], "-initrd", str(self.initrd), "-serial", "stdio", "-monitor", "none",
                "-append", f"console=ttyS0 loglevel=3 clocksource=hpet tsc=unstable panic=-1 mitigations=off nokaslr edd=off {regions} job={job}",
                "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
                "-chardev", f"socket,id=files,path={socket}", "-device", "vhost-user-fs-pci,chardev=files,tag=root"]

    def start(self, command, **kwargs):
        # The outer timeout ends it even if this program dies.
        child = subprocess.Popen(["timeout", "-s", "KILL", str(DEADLINE), *command], start_new_session=True, env=self.environment, **kwargs)
        self.children.append(child)
        return child

    def run(self, job, on_line):
        """Boots and runs a shell command; returns its exit code, or None if `on_line(text)`, called with each line of the console, answered
        "crash": then the machine was stopped without warning."""
        self.runs += 1
        socket = self.dir / f"files{self.runs}.sock"  # its name is also that of a lock, which what was killed may hold for a moment
        log = open(self.dir / "virtiofsd.log", "a")
        files = self.start([self.parts["virtiofsd"], f"--socket-path={socket}", "-o", "source=/,cache=always,sandbox=chroot,xattr",
                            "--thread-pool-size=2"], stdout=log, stderr=log)
        for _ in range(200):
            if socket.exists() or files.poll() is not None:
                break
            time.sleep(0.05)
        if not socket.exists():
            raise Failed("virtiofsd does not start: " + (self.dir / "virtiofsd.log").read_text()[-300:])
        qemu = self.start(self.arguments(socket, job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        crashed = False
        for raw in qemu.stdout:
            text = without_firmware(raw.decode(errors="replace").rstrip())
            if not crashed and text is not None and on_line(text) == "crash":
                crashed = True
                os.killpg(qemu.pid, signal.SIGKILL)
        code = qemu.wait()
        self.stop(files)
        if crashed:
            return None
        if code == 0 or code % 2 == 0 or code < 0:
            raise Failed(f"the machine ended by itself (exit {code}, -9 or 137: after {DEADLINE} s)")
        return (code - 1) // 2

    def stop(self, child):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def close(self):
        for child in self.children:
            self.stop(child)
        shutil.rmtree(self.dir, ignore_errors=True)
