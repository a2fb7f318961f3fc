# SPDX-License-Identifier: BSD-3-Clause
"""The table of docs/coherence.md, cell by cell: what each way of writing stored, each way of reading sees, although it had the page
before. A test is a row; a cell that fails is named. Pages with blocks and holes, three rounds each."""
import mmap
import os
import sys

from harness import *

PAGE = 4096
LENGTH = 64
PAGES = 64


class Ways:
    """One file, open in every way at once."""

    def __init__(self, m):
        self.m = m
        self.path = m.file("f")
        with open(self.path, "r+b") as f:
            f.truncate(PAGES * PAGE)
            for page in range(0, PAGES, 2):  # the odd ones are holes
                os.pwrite(f.fileno(), b"\1" * PAGE, page * PAGE)
        self.other = m.file("other", PAGES * PAGE, 0)
        self.fd = os.open(self.path, os.O_RDWR)
        self.direct = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, PAGE)  # aligned
        self.shared = mmap.mmap(self.fd, PAGES * PAGE)
        self.readonly = mmap.mmap(self.fd, PAGES * PAGE, prot=mmap.PROT_READ)
        self.hidden = mmap.mmap(self.fd, PAGES * PAGE, flags=mmap.MAP_PRIVATE)
        self.a, self.b = m.client(), m.client()
        for client in (self.a, self.b):
            client.ask("open", "f", "rw")
            client.ask("map", 0, PAGES * PAGE, "lazy")
            client.ask("mopen", "f")
        self.pipe = os.pipe()
        self.sink = self.m.dir / "sink"

    # ---- writers: LENGTH bytes at the start of a page ----
    def w_write(self, page, data):
        os.pwrite(self.fd, data, page * PAGE)

    def w_o_direct(self, page, data):
        os.preadv(self.direct, [self.buffer], page * PAGE)
        self.buffer[0:LENGTH] = data
        os.pwritev(self.direct, [self.buffer], page * PAGE)

    def w_mmap(self, page, data):
        self.shared[page * PAGE:page * PAGE + LENGTH] = data

    def w_library(self, page, data):
        self.a.ask("store", page * PAGE, data.hex())

    def w_library_call(self, page, data):
        self.a.ask("pwrite", page * PAGE, data.hex())

    def w_message(self, page, data):
        self.a.ask("mwrite", page * PAGE, data.hex())

    def w_copy(self, page, data):
        other = os.open(self.other, os.O_RDWR)
        os.pwrite(other, data, 0)
        check_equal(os.copy_file_range(other, self.fd, LENGTH, 0, page * PAGE), LENGTH, "copy_file_range")
        os.close(other)

    # ---- readers ----
    def r_read(self, page):
        return os.pread(self.fd, LENGTH, page * PAGE)

    def r_o_direct(self, page):
        os.preadv(self.direct, [self.buffer], page * PAGE)
        return self.buffer[0:LENGTH]

    def r_mmap(self, page):
        return self.shared[page * PAGE:page * PAGE + LENGTH]

    def r_mmap_read_only(self, page):
        return self.readonly[page * PAGE:page * PAGE + LENGTH]

    def r_mmap_private(self, page):
        return self.hidden[page * PAGE:page * PAGE + LENGTH]

    def r_sendfile(self, page):
        with open(self.sink, "w+b") as sink:
            check_equal(os.sendfile(sink.fileno(), self.fd, page * PAGE, LENGTH), LENGTH, "sendfile")
            return os.pread(sink.fileno(), LENGTH, 0)

    def r_splice(self, page):
        check_equal(os.splice(self.fd, self.pipe[1], LENGTH, offset_src=page * PAGE), LENGTH, "splice")
        return os.read(self.pipe[0], LENGTH)

    def r_copy(self, page):
        other = os.open(self.other, os.O_RDWR)
        check_equal(os.copy_file_range(self.fd, other, LENGTH, page * PAGE, PAGE), LENGTH, "copy_file_range")
        data = os.pread(other, LENGTH, PAGE)
        os.close(other)
        return data

    def r_library(self, page):
        return bytes.fromhex(self.a.ask("load", page * PAGE, LENGTH)[0])

    def r_library_elsewhere(self, page):
        return bytes.fromhex(self.b.ask("load", page * PAGE, LENGTH)[0])

    def r_library_call(self, page):
        return bytes.fromhex(self.b.ask("pread", page * PAGE, LENGTH)[0])

    def r_message(self, page):
        return bytes.fromhex(self.b.ask("mread", page * PAGE, LENGTH)[0])

    def close(self):
        for fd in (self.fd, self.direct, *self.pipe):
            os.close(fd)


def row(m, writer):
    ways = Ways(m)
    write = getattr(ways, "w_" + writer)
    readers = sorted(n for n in dir(ways) if n.startswith("r_"))
    wrong = []
    for number, name in enumerate(readers):
        read = getattr(ways, name)
        for page in (2 * number, 2 * number + 1):
            before = read(page)
            check_equal(before, (b"\0" if page % 2 else b"\1") * LENGTH, f"{name} before")
            for round_ in range(3):
                data = bytes([(page * 7 + round_ * 31) % 250 + 2]) * LENGTH
                write(page, data)
                if read(page) != data and f"{writer} x {name[2:]}" not in wrong:
                    wrong.append(f"{writer} x {name[2:]}")
    ways.close()
    check(not wrong, "stale: " + ", ".join(wrong))


def test_row_write(m):
    """[R19] [R39] what write(2) stored is seen by every reader"""
    row(m, "write")


def test_row_o_direct(m):
    """[R39] what an O_DIRECT write stored is seen by every reader"""
    row(m, "o_direct")


def test_row_mmap(m):
    """[R39] what a store through a shared mmap of the mount stored is seen by every reader"""
    row(m, "mmap")


def test_row_library(m):
    """[R18] [R39] what a store through a library mapping stored is seen by every reader"""
    row(m, "library")


def test_row_library_call(m):
    """[R39] what pindax_pwrite stored is seen by every reader"""
    row(m, "library_call")


def test_row_message(m):
    """[R39] what a write by message to the daemon stored is seen by every reader"""
    row(m, "message")


def test_row_copy(m):
    """[R39] what copy_file_range stored is seen by every reader"""
    row(m, "copy")


def test_private_copy(m):
    """[R39] a page of a private mapping that was stored into belongs to its process: nobody sees it, and it sees nobody"""
    path = m.file("f", 2 * PAGE, 3)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, 2 * PAGE)
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 2 * PAGE, flags=mmap.MAP_PRIVATE) as hidden:
        hidden[0:4] = b"mine"
        check_equal(client.ask("load", 0, 4), ["03030303"], "the library")
        check_equal(os.pread(f.fileno(), 4, 0), b"\3" * 4, "read")
        client.ask("store", 0, b"file".hex())
        client.ask("store", PAGE, b"file".hex())
        check_equal(hidden[0:4], b"mine", "its own page")
        check_equal(hidden[PAGE:PAGE + 4], b"file", "its other page")
        check_equal(os.pread(f.fileno(), 4, 0), b"file", "read")


def test_no_update_is_lost(m):
    """[R39] [R45] processes that count in words of their own in the same pages, by library mappings, mmap of the mount and system
    calls at once, never find a word other than they left it"""
    pages = 6
    path = m.file("f", pages * PAGE, 0)
    kinds = ["direct", "direct", "mount", "mount", "calls"]
    clients = []
    for _ in kinds:
        client = m.client()
        client.ask("open", "f", "rw")
        client.ask("map", 0, pages * PAGE, "lazy")
        client.ask("mmap", pages * PAGE)
        clients.append(client)
    for word, (kind, client) in enumerate(zip(kinds, clients)):
        client.send("count", kind, word, pages, 4000, random.randrange(1 << 30))
    answers = [client.answer() for client in clients]
    for kind, answer in zip(kinds, answers):
        check(answer.startswith("ok"), f"{kind}: {answer}")
    whole = path.read_bytes()
    for word, answer in enumerate(answers):
        rounds, *last = (int(w) for w in answer.split()[1:])
        check(rounds > 5, f"{kinds[word]} made {rounds} rounds only")
        got = [int.from_bytes(whole[p * PAGE + 8 * word:p * PAGE + 8 * word + 8], "little") for p in range(pages)]
        check_equal(got, last, f"the words of {kinds[word]} (client {word})")


if __name__ == "__main__":
    sys.exit(main(globals()))
