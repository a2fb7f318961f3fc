# SPDX-License-Identifier: BSD-3-Clause
"""Direct mappers, read(2) and write(2), and mmap(2) of the mount see one another (DESIGN's coherence rules; C1–C7)."""
import mmap
import os
import signal
import sys
import time

from harness import *

PAGE = 4096


def pattern(round_, page):
    return bytes([(round_ * 31 + page * 7 + 1) % 255 + 1]) * 64


def test_mmap_and_direct_mapper(m):
    """[R39] stores through mmap of the mount and through a direct mapping are seen by the other side, page by page"""
    path = m.file("f", 64 * KiB, 0)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, 64 * KiB)
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 64 * KiB) as shared:
        for round_ in range(40):
            for page in (0, 3, 15):
                data = pattern(round_, page)
                if (round_ + page) % 2 == 0:
                    shared[page * PAGE:page * PAGE + 64] = data
                    check_equal(client.ask("load", page * PAGE, 64), [data.hex()], "direct load")
                else:
                    client.ask("store", page * PAGE, data.hex())
                    check_equal(shared[page * PAGE:page * PAGE + 64], data, "load through the mount")
                check_equal(os.pread(f.fileno(), 64, page * PAGE), data, "read(2)")


def test_no_lost_update_in_a_page(m):
    """[R39] two processes that store to different words of one page, one direct, one through the mount, lose no store"""
    path = m.file("f", PAGE, 0)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, PAGE)
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), PAGE) as shared:
        for i in range(60):
            client.send("store", 8 * i, (1000 + i).to_bytes(8, "little").hex())
            shared[2048 + 8 * i:2056 + 8 * i] = (2000 + i).to_bytes(8, "little")
            check_equal(client.answer(), "ok", "store")
        whole = os.pread(f.fileno(), PAGE, 0)
    for i in range(60):
        check_equal(int.from_bytes(whole[8 * i:8 * i + 8], "little"), 1000 + i, f"direct word {i}")
        check_equal(int.from_bytes(whole[2048 + 8 * i:2056 + 8 * i], "little"), 2000 + i, f"word {i} of the mount")


def test_sizes_changed_by_a_client(m):
    """a size that a client changes is the size of stat, append, mmap and splice on the mount when the call returns"""
    path = m.file("f", PAGE, 1)
    client = m.client()
    client.ask("open", "f", "rw")
    with open(path, "r+b") as f:
        for size in (9 * PAGE, 100, 3 * PAGE + 5, 0, 2 * PAGE):
            os.fstat(f.fileno())
            client.ask("truncate", size)
            check_equal(os.fstat(f.fileno()).st_size, size, "fstat")
            append = os.open(path, os.O_WRONLY | os.O_APPEND)
            client.ask("truncate", size + PAGE)
            check_equal(os.write(append, b"tail"), 4)
            os.close(append)
            check_equal(os.stat(path).st_size, size + PAGE + 4, "size after an append")
            check_equal(os.pread(f.fileno(), 100, size + PAGE), b"tail", "appended bytes")
        client.ask("truncate", 0)
        client.ask("fallocate", 0, 0, 4 * PAGE)
        check_equal(os.fstat(f.fileno()).st_size, 4 * PAGE, "fstat after fallocate")
        with mmap.mmap(f.fileno(), 4 * PAGE) as shared:  # beyond the size that the kernel had: SIGBUS if it is stale
            check_equal(shared[3 * PAGE:3 * PAGE + 4], b"\0\0\0\0", "the new end")


@options(mount={"options": "attr_timeout=60"})
def test_names_that_were_not_there(m):
    """a name that was looked up in vain is not asked for again, and is there at once when a client makes it"""
    names = ("made", "directory", "link")
    for name in names:
        check(not (m.path / name).exists(), name)
    os.kill(pid := m.daemon_pid(), signal.SIGSTOP)
    try:
        looked = Background(lambda: [(m.path / name).exists() for name in names])
        check_equal(looked.result(5), [False] * 3, "names, while the daemon sleeps")
    finally:
        os.kill(pid, signal.SIGCONT)
    tree = m.dir / "tree"
    (tree / "directory").mkdir(parents=True)
    (tree / "made").write_bytes(b"of a client")
    for name in names[:2]:
        run(PINDAX, "import", "--socket", m.path, tree / name, "/" + name)
    check((m.path / "made").exists() and (m.path / "directory").exists(), "names that clients made")
    check(not (m.path / "link").exists(), "the third")
    os.symlink("made", m.path / "link")
    check((m.path / "link").exists(), "what the kernel made")


def test_mixed_appends(m):
    """[R45] appends of several processes, while a client extends the file, overwrite nothing"""
    path = m.file("log", 0)
    client = m.client()
    client.ask("open", "log", "rw")
    writers = []
    for writer in range(3):
        code = (f"import os\nfd = os.open({str(path)!r}, os.O_WRONLY | os.O_APPEND)\n"
                f"for i in range(300): os.write(fd, b'%d:%05d\\n' % ({writer}, i))")
        writers.append(m.spawn(sys.executable, "-c", code))
    for w in writers:
        check_equal(w.wait(60), 0, "writer")
    lines = path.read_bytes().split(b"\n")
    for writer in range(3):
        got = [l for l in lines if l.startswith(b"%d:" % writer)]
        check_equal(got, [b"%d:%05d" % (writer, i) for i in range(300)], f"lines of writer {writer}")


def test_bytes_beyond_the_end(m):
    """[R46] what a direct mapper stores behind the end of file in the last block is zeros after an extension"""
    path = m.file("f", 100, 7)
    client = m.client()
    client.ask("open", "f", "rw")
    client.ask("map", 0, PAGE)
    client.ask("store", 200, "ff" * 50)
    os.truncate(path, 1000)
    check_equal(path.read_bytes(), b"\7" * 100 + bytes(900), "contents")


def test_bystanders_of_a_waiting_truncate(m):
    """[R42] read, stat, open, fsync of another file, and a bystander's death go on while a truncate waits"""
    path = m.file("f", 64 * KiB, 5)
    other = m.file("other", 4 * KiB, 6)
    m.pin("f", 32 * KiB, PAGE)
    bystander = m.spawn(sys.executable, "-c",
                        f"import mmap, time\nf = open({str(path)!r}, 'rb')\ns = mmap.mmap(f.fileno(), 4096, prot=mmap.PROT_READ)\n"
                        "s[0]\nprint('mapped', flush=True)\ntime.sleep(600)", stdout=-1, text=True)
    check_equal(bystander.stdout.readline().strip(), "mapped")
    waiter = m.spawn("truncate", "-s", "0", path)
    m.wait_for_waiter()
    def look():
        with open(path, "rb") as f:
            check_equal(f.read(10), b"\5" * 10, "read")
        os.stat(path)
        with open(other, "r+b") as f:
            f.write(b"x")
            os.fsync(f.fileno())
        os.listdir(m.path)
        bystander.send_signal(signal.SIGKILL)
        bystander.wait(5)
    Background(look).result(10)
    check(waiter.poll() is None, "the truncate did not wait")
    waiter.send_signal(signal.SIGINT)
    waiter.wait(5)


if __name__ == "__main__":
    sys.exit(main(globals()))
