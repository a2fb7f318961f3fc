# SPDX-License-Identifier: BSD-3-Clause
"""What the emulated machine is made of: QEMU, a kernel with DAX, virtiofsd. Distribution packages, unpacked into a cache directory; nothing
is installed. When the directory is complete, the network is not asked for anything.

The packages are of Debian's backports. Where the host's apt does not know that suite, the host's own source of its base suite is asked for it:
a private list and a private state directory, so that the host's stay as they are.
"""
import json
import lzma
import os
import pathlib
import re
import shutil
import struct
import subprocess

KERNEL = re.compile(r"^linux-image-6\.12\.\S*-cloud-amd64$")
# What the guest loads, with what these need.
MODULES = ["nfit", "nd_e820", "nd_pmem", "dax_pmem", "device_dax", "xfs", "overlay", "libcrc32c", "crc32c-intel"]


class Unavailable(Exception):
    """Why there is no machine."""


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(os.environ.get("PINDAX_DAXVM_CACHE") or os.path.join(base, "pindax/daxvm"))


def run(*args, **kwargs):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, **kwargs)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Unavailable(f"{args[0]} {args[1] if len(args) > 1 else ''}: {last}")
    return done.stdout


class Apt:
    """apt with lists of its own: the base suite and the backports of the host's mirror."""

    def __init__(self, directory):
        self.directory = directory
        for name in ("lists/partial", "archives/partial"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self.suite, lines = self.sources()
        (directory / "sources.list").write_text("\n".join(lines) + "\n")
        self.options = ["-o", f"Dir::Etc::sourcelist={directory}/sources.list", "-o", "Dir::Etc::sourceparts=-",
                        "-o", f"Dir::State::lists={directory}/lists", "-o", f"Dir::Cache={directory}",
                        "-o", f"Dir::Cache::archives={directory}/archives", "-o", "APT::Sandbox::User=",
                        "-o", "Debug::NoLocking=1", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=2"]

    @staticmethod
    def sources():
        with open("/etc/os-release") as f:
            release = dict(line.strip().split("=", 1) for line in f if "=" in line)
        suite = release.get("VERSION_CODENAME", "").strip('"')
        if release.get("ID", "").strip('"') != "debian" or not suite:
            raise Unavailable("not a Debian system: there is no recipe for its packages")
        targets = run("apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)|$(CREATED_BY)")
        for line in targets.splitlines():
            uri, of, component, key, kind = line.split("|")
            if of == suite and component == "main" and kind == "Packages":
                signed = f" [signed-by={key}]" if key.startswith("/") else ""  # else apt's own trusted keys
                return suite, [f"deb{signed} {uri} {s} main" for s in (suite, suite + "-backports")]
        raise Unavailable(f"apt knows no source of the suite {suite}")

    def call(self, program, *args, **kwargs):
        return run(program, *self.options, *args, **kwargs)

    def get(self, *args, **kwargs):
        return self.call("apt-get", *args, **kwargs)

    def missing(self, package, suite):
        """name=version of the package and of whatever it needs that the host does not have."""
        out = self.get("install", "-s", "--no-install-recommends", "-t", suite, package)
        return [f"{m[1]}={m[2]}" for m in re.finditer(r"^Inst (\S+) (?:\[\S+\] )?\((\S+)", out, re.M)]

    def kernel(self):
        names = [n for n in self.call("apt-cache", "pkgnames", "linux-image-6.12.").split() if KERNEL.match(n)]
        if not names:
            raise Unavailable("no package linux-image-6.12…-cloud-amd64")
        return max(names, key=lambda n: [int(d) for d in re.findall(r"\d+", n)])

    def unpack(self, packages, into):
        debs = self.directory / "debs"
        shutil.rmtree(debs, ignore_errors=True)
        debs.mkdir()
        self.get("download", *packages, cwd=debs)
        for deb in debs.iterdir():
            run("dpkg-deb", "-x", deb, into)
        shutil.rmtree(debs)


def module_needs(path):
    """Names a module depends on: the field depends= of its section .modinfo."""
    data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    table, = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    for name, _, _, _, offset, length in sections:
        at = sections[names][4] + name
        if data[at:data.index(b"\0", at)] == b".modinfo":
            fields = dict(f.split(b"=", 1) for f in data[offset:offset + length].split(b"\0") if b"=" in f)
            return [n for n in fields.get(b"depends", b"").decode().split(",") if n]
    return []


def module_order(root):
    """Files of the modules in the order in which to load them. What the kernel has built in has no file."""
    def plain(name):
        return name.replace("-", "_")
    files = {plain(p.name.split(".ko")[0]): p for p in sorted(root.rglob("*.ko*"))}
    order = []

    def visit(name):
        path = files.get(plain(name))
        if path is None or path in order:
            return
        for other in module_needs(path):
            visit(other)
        order.append(path)
    for module in MODULES:
        visit(module)
    return order


def fetch(directory, say):
    say("getting the packages of the emulated machine (60 MB)")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    apt = Apt(directory / "apt")
    apt.get("update", "-o", "APT::Update::Error-Mode=any")
    backports = apt.suite + "-backports"
    apt.unpack(apt.missing("qemu-system-x86", backports), directory / "qemu")
    # The C virtiofsd left QEMU after 7.2, which this release's base suite still has.
    if "virtiofsd" in apt.call("apt-cache", "pkgnames", "virtiofsd").split():
        apt.unpack([p for p in apt.missing("virtiofsd", backports)], directory / "virtiofsd")
    else:
        apt.unpack([f"qemu-system-common/{apt.suite}"], directory / "virtiofsd")
    apt.unpack([apt.kernel()], directory / "kernel")
    qemu = directory / "qemu/usr"
    found = {
        "qemu": next(qemu.rglob("qemu-system-x86_64"), None),
        "virtiofsd": next((p for p in (directory / "virtiofsd").rglob("virtiofsd") if p.is_file()), None),
        "kernel": next(directory.glob("kernel/boot/vmlinuz-*"), None),
    }
    for what, path in found.items():
        if path is None:
            raise Unavailable(f"the packages hold no {what}")
    machine = {what: str(path) for what, path in found.items()}
    machine["firmware"] = [str(p) for p in (qemu / "share/qemu", qemu / "share/seabios", qemu / "lib/ipxe/qemu") if p.is_dir()]
    machine["libraries"] = [str(p) for p in sorted(directory.glob("*/usr/lib/*-linux-gnu"))]
    machine["modules"] = [str(p) for p in module_order(directory / "kernel")]
    shutil.rmtree(apt.directory)
    (directory / "machine.json").write_text(json.dumps(machine, indent=1))
    return machine


def machine(say):
    """Paths of everything: qemu, virtiofsd, kernel, firmware, libraries, modules. Unavailable says why not."""
    if os.geteuid() != 0:
        raise Unavailable("needs root: virtiofsd gives the host's files to the machine")
    directory = cache_directory()
    try:
        return json.loads((directory / "machine.json").read_text())
    except (OSError, ValueError):
        pass
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable("no apt: there is no recipe for its packages")
    return fetch(directory, say)


if __name__ == "__main__":
    print(json.dumps(machine(print), indent=1))
