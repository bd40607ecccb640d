"""What is counted, against processes whose memory is known."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skl_mmap._linux import proc
from skl_mmap.monitor import _process, _tree, read_committed
from skl_mmap.monitor._tree import ProcessTree

from .conftest import MIB, TOLERANCE_BYTES, Child, needs_proc

pytestmark = needs_proc

MakeChild = Callable[..., Child]


def close_to(n_bytes: int) -> object:
    return pytest.approx(n_bytes, abs=TOLERANCE_BYTES)


def almost(n_bytes: int) -> object:
    """For this process, which may share a few pages with the pools of other tests."""
    return pytest.approx(n_bytes, abs=MIB // 8)


@pytest.fixture
def child(make_child: MakeChild) -> Child:
    return make_child()


@pytest.fixture
def tree(child: Child) -> Iterator[ProcessTree]:
    """The tree under `child`, read once."""
    tree = ProcessTree(child.pid, ["/dev/shm"])
    tree.read()
    yield tree
    tree.close()


class TestPrivate:
    def test_private_memory_is_counted(self, child: Child) -> None:
        before = read_committed(child.pid)
        child.run(f"data = bytearray({64 * MIB})")
        after = read_committed(child.pid)
        assert after.committed_bytes - before.committed_bytes == close_to(64 * MIB)
        assert after.anonymous_bytes - before.anonymous_bytes == close_to(64 * MIB)
        assert after.shared_bytes == before.shared_bytes == 0

    def test_reserved_but_untouched_memory_is_not(self, child: Child) -> None:
        before = read_committed(child.pid)
        child.run(f"import mmap; data = mmap.mmap(-1, {64 * MIB}, mmap.MAP_PRIVATE)")
        after = read_committed(child.pid)
        assert after.committed_bytes - before.committed_bytes == close_to(0)

    def test_descendants_are_counted(self, make_child: MakeChild) -> None:
        before = read_committed()
        children = [make_child() for _ in range(2)]
        for child in children:
            child.run(f"data = bytearray({32 * MIB})")
        after = read_committed()
        assert after.n_processes == before.n_processes + 2
        total = sum(process.anonymous_bytes for process in after.processes)
        assert total == after.anonymous_bytes
        for child in children:
            (process,) = (p for p in after.processes if p.pid == child.pid)
            assert 32 * MIB < process.anonymous_bytes < 40 * MIB

    def test_grandchildren_are_counted(self, child: Child) -> None:
        code = f"data = bytearray({32 * MIB}); print(1, flush=True); input()"
        child.run(
            "import subprocess, sys\n"
            f"grandchild = subprocess.Popen([sys.executable, '-c', {code!r}],"
            "stdin=-1, stdout=-1); grandchild.stdout.readline()"
        )
        reading = read_committed(child.pid)
        child.run("grandchild.communicate()")
        assert reading.n_processes == 2
        assert reading.anonymous_bytes > 32 * MIB

    def test_copy_on_write_pages_are_private(
        self, child: Child, tmp_path: Path
    ) -> None:
        path = tmp_path / "data"
        path.write_bytes(bytes(32 * MIB))
        child.run(
            f"import mmap; file = open({str(path)!r}, 'rb')\n"
            "data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)"
        )
        before = read_committed(child.pid)
        child.run(f"data[:{16 * MIB}] = b'1' * {16 * MIB}")
        after = read_committed(child.pid)
        assert after.committed_bytes - before.committed_bytes == close_to(16 * MIB)

    def test_swapped_memory_stays_private(
        self, child: Child, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = b"Name:\tR\nRssAnon:\t 8 kB\nRssFile:\t 4 kB\nRssShmem:\t 2 kB\n"
        process = _process.Process(child.pid)
        monkeypatch.setattr(proc, "read_file", lambda *_, **__: text)
        without_swap = process.read_memory()
        text += b"VmSwap:\t 16 kB\n"
        with_swap = process.read_memory()
        process.close()
        assert without_swap == (child.pid, "R", 8 * 1024, 2 * 1024, 4 * 1024)
        assert with_swap == (child.pid, "R", 24 * 1024, 2 * 1024, 4 * 1024)


class TestShared:
    def test_unmapped_memfd_is_counted_once(
        self, make_child: MakeChild, memory_file: int
    ) -> None:
        before = read_committed()
        os.write(memory_file, bytes(16 * MIB))
        for _ in range(2):
            make_child((memory_file,))
        after = read_committed()
        assert after.shared_bytes - before.shared_bytes == almost(16 * MIB)

    def test_memfd_mapped_by_several_is_counted_once(
        self, make_child: MakeChild, memory_file: int
    ) -> None:
        before = read_committed()
        for _ in range(2):
            make_child((memory_file,)).run(
                f"import mmap; data = mmap.mmap({memory_file}, 0)\n"
                f"data[:] = bytes({16 * MIB})"
            )
        after = read_committed()
        assert after.shared_bytes - before.shared_bytes == almost(16 * MIB)
        assert sum(process.shared_bytes for process in after.processes) >= 32 * MIB

    def test_holes_of_a_memfd_are_not_counted(self, memory_file: int) -> None:
        before = read_committed()
        os.pwrite(memory_file, bytes(MIB), 8 * MIB)
        after = read_committed()
        assert after.shared_bytes - before.shared_bytes == almost(MIB)

    @pytest.mark.parametrize("is_unlinked", [True, False])
    def test_file_in_shared_memory_is_counted_while_open(
        self, child: Child, shared_memory_folder: Path, is_unlinked: bool
    ) -> None:
        path = shared_memory_folder / "data"
        child.run(
            f"file = open({str(path)!r}, 'wb')\n"
            f"file.write(bytes({16 * MIB})); file.flush()"
        )
        if is_unlinked:
            path.unlink()
        assert read_committed(child.pid).shared_bytes == 16 * MIB
        child.run("file.close()")
        assert read_committed(child.pid).shared_bytes == 0

    def test_files_of_processes_outside_the_tree_are_not(
        self, make_child: MakeChild, shared_memory_folder: Path
    ) -> None:
        neighbour, child = make_child(), make_child()
        neighbour.run(
            f"file = open({str(shared_memory_folder / 'data')!r}, 'wb')\n"
            f"file.write(bytes({16 * MIB})); file.flush()"
        )
        assert read_committed(neighbour.pid).shared_bytes == 16 * MIB
        assert read_committed(child.pid).shared_bytes == 0

    def test_shared_memory_without_a_file_is_counted(self, child: Child) -> None:
        child.run(
            f"import mmap; data = mmap.mmap(-1, {16 * MIB})\n"
            f"data[:] = bytes({16 * MIB})"
        )
        assert read_committed(child.pid).shared_bytes == 16 * MIB

    def test_mapped_file_on_disk_is_not_committed(
        self, child: Child, tmp_path: Path
    ) -> None:
        path = tmp_path / "data"
        path.write_bytes(bytes(32 * MIB))
        if os.stat(path).st_dev in proc.memory_devices():
            pytest.skip("the temporary folder is in memory")
        before = read_committed(child.pid)
        child.run(
            f"import mmap; file = open({str(path)!r}, 'r+b')\n"
            "data = mmap.mmap(file.fileno(), 0); data.find(b'1')"
        )
        after = read_committed(child.pid)
        assert after.committed_bytes - before.committed_bytes == close_to(0)
        assert after.file_bytes - before.file_bytes == close_to(32 * MIB)

    def test_a_file_in_place_of_another_is_seen_at_once(
        self, child: Child, tree: ProcessTree
    ) -> None:
        make = "import os; file = os.memfd_create('a'); os.write(file, bytes({}))"
        child.run(make.format(4 * MIB))
        assert tree.read()[2] == 4 * MIB
        tree._next_full_scan = float("inf")
        child.run("os.close(file);" + make.format(8 * MIB))
        assert tree.read()[2] == 8 * MIB
        child.run(f"os.close(file); file = os.open({__file__!r}, os.O_RDONLY)")
        assert tree.read()[2] == 0

    def test_one_more_file_is_seen_at_once(
        self, child: Child, tree: ProcessTree
    ) -> None:
        tree._next_full_scan = float("inf")
        child.run(f"import os; os.write(os.memfd_create('a'), bytes({8 * MIB}))")
        assert tree.read()[2] == 8 * MIB

    def test_hidden_files_are_noted(
        self, tree: ProcessTree, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError

        assert tree.notes == set()
        monkeypatch.setattr(os, "stat", refuse)
        tree.read()
        monkeypatch.undo()
        assert tree.notes == {"The open files of some processes may not be read."}


class TestJoblibFolders:
    @pytest.fixture
    def make_folder(self) -> Iterator[Callable[[int], Path]]:
        folders = []

        def make(pid: int) -> Path:
            folder = Path(f"/dev/shm/joblib_memmapping_folder_{pid}_skl_mmap_test")
            folder.mkdir()
            folders.append(folder)
            (folder / "array.pkl").write_bytes(bytes(16 * MIB))
            return folder

        yield make
        for folder in folders:
            shutil.rmtree(folder)

    def test_files_that_nobody_has_open_are_counted(
        self, child: Child, make_folder: Callable[[int], Path]
    ) -> None:
        make_folder(child.pid)
        assert read_committed(child.pid).shared_bytes == 16 * MIB

    def test_open_files_are_counted_once(
        self, child: Child, make_folder: Callable[[int], Path]
    ) -> None:
        folder = make_folder(child.pid)
        child.run(f"file = open({str(folder / 'array.pkl')!r}, 'rb')")
        assert read_committed(child.pid).shared_bytes == 16 * MIB

    def test_folders_of_other_trees_are_left_alone(
        self, make_child: MakeChild, make_folder: Callable[[int], Path]
    ) -> None:
        neighbour, child = make_child(), make_child()
        make_folder(neighbour.pid)
        assert read_committed(child.pid).shared_bytes == 0

    def test_folders_older_than_their_process_are_left_alone(
        self, child: Child, make_folder: Callable[[int], Path]
    ) -> None:
        folder = make_folder(child.pid)
        long_ago = time.time() - 3600
        os.utime(folder, (long_ago, long_ago))
        assert read_committed(child.pid).shared_bytes == 0

    def test_a_new_folder_and_a_new_file_are_seen_at_once(
        self,
        child: Child,
        tree: ProcessTree,
        make_folder: Callable[[int], Path],
    ) -> None:
        tree._next_full_scan = float("inf")
        time.sleep(0.02)  # the clock of the file system ticks every 4 to 10 ms
        folder = make_folder(child.pid)
        assert tree.read()[2] == 16 * MIB
        (folder / "other.pkl").write_bytes(bytes(MIB))
        assert tree.read()[2] == 17 * MIB

    def test_folders_on_disk_are_not_looked_at(
        self, child: Child, tmp_path: Path
    ) -> None:
        folder = tmp_path / f"joblib_memmapping_folder_{child.pid}_test"
        folder.mkdir()
        (folder / "array.pkl").write_bytes(bytes(MIB))
        tree = ProcessTree(child.pid, [str(tmp_path), "/no/such/folder"])
        if os.stat(tmp_path).st_dev in proc.memory_devices():
            pytest.skip("the temporary folder is in memory")
        assert tree.read()[2] == 0
        tree.close()


class TestProcesses:
    def test_reading_has_the_numbers_of_each_process(self, child: Child) -> None:
        reading = read_committed(child.pid)
        (process,) = reading.processes
        assert process.pid == child.pid
        assert process.name.startswith("python")
        assert process.anonymous_bytes == reading.anonymous_bytes
        assert process.file_bytes == reading.file_bytes > MIB

    def test_children_of_all_threads_are_found(self, child: Child) -> None:
        child.run(
            "import subprocess, sys, threading\n"
            "def start():\n"
            "    global started\n"
            "    command = [sys.executable, '-c', 'input()']\n"
            "    started = subprocess.Popen(command, stdin=-1)\n"
            "    is_started.set()\n"
            "    end.wait()\n"
            "end, is_started = threading.Event(), threading.Event()\n"
            "thread = threading.Thread(target=start)\n"
            "thread.start(); is_started.wait()"
        )
        n_processes = read_committed(child.pid).n_processes
        child.run("end.set(); thread.join(); started.communicate(b'1')")
        assert n_processes == 2

    def test_scan_of_all_processes_finds_the_same(self, child: Child) -> None:
        child.run(
            "import subprocess, sys\n"
            "command = [sys.executable, '-c', 'input()']\n"
            "started = [subprocess.Popen(command, stdin=-1) for _ in range(3)]"
        )
        trees = [ProcessTree(child.pid, []) for _ in range(2)]
        trees[1]._has_lists = False
        pids = []
        for tree in trees:
            tree.read()
            pids.append(sorted(process[0] for process in tree.processes))
            tree.close()
        child.run("for process in started: process.communicate(b'1')")
        assert len(pids[0]) == 4
        assert pids[0] == pids[1]

    def test_orphans_stay_in_the_tree(self, child: Child, tree: ProcessTree) -> None:
        orphan = child.run(
            "import subprocess, sys\n"
            'code = \'import subprocess, sys; command = [sys.executable, "-c",'
            ' "input()"]; print(subprocess.Popen(command).pid, flush=True); input()\'\n'
            "command = [sys.executable, '-c', code]\n"
            "middle = subprocess.Popen(command, stdin=-1, stdout=-1)\n"
            "answer = int(middle.stdout.readline())"
        )
        tree.read()
        child.run("middle.kill(); middle.wait()")
        assert tree.read()[4] == 2
        assert {process[0] for process in tree.processes} == {child.pid, orphan}
        child.run("middle.communicate()")

    def test_no_search_while_nothing_starts(
        self, child: Child, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree = ProcessTree(child.pid, [], has_last_pid=True)
        last_pid = 1000
        monkeypatch.setattr(_tree, "read_last_pid", lambda: last_pid)
        searched = []
        monkeypatch.setattr(
            _process.Process,
            "find_children",
            lambda process: searched.append(process.pid) or [],
        )
        tree._next_full_scan = float("inf")
        tree.read()
        tree.read()
        assert len(searched) == 1
        last_pid += 1
        tree.read()
        assert len(searched) == 2
        tree._next_full_scan = 0.0
        tree.read()
        assert len(searched) == 3
        tree.close()

    def test_processes_may_come_and_go_during_a_reading(self, child: Child) -> None:
        child.send(
            "import subprocess, time\n"
            "end = time.monotonic() + 1.5\n"
            "while time.monotonic() < end:\n"
            "    started = [subprocess.Popen(['true']) for _ in range(4)]\n"
            "    for process in started: process.wait()"
        )
        tree = ProcessTree(child.pid, ["/dev/shm"])
        n_descriptors = len(os.listdir("/proc/self/fd"))
        largest = 0
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            private, n_processes = tree.read()[1], len(tree.processes)
            assert 1 <= n_processes <= 5
            largest = max(largest, private)
        child.wait_for_answer()
        tree.read()
        assert len(tree.processes) == 1
        assert len(os.listdir("/proc/self/fd")) == n_descriptors
        tree.close()
        # Five interpreters would be 15 MiB; none of the children is one for long.
        assert largest < 12 * MIB

    def test_a_process_in_its_death_does_not_count(self, child: Child) -> None:
        child.run(
            "import os\n"
            "forked = os.fork()\n"
            "if not forked: os._exit(0)\n"
            "os.waitid(os.P_PID, forked, os.WEXITED | os.WNOWAIT)"
        )
        assert read_committed(child.pid).n_processes == 1

    def test_readings_leave_nothing_open(self, child: Child) -> None:
        n_descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            read_committed(child.pid)
        assert len(os.listdir("/proc/self/fd")) == n_descriptors
