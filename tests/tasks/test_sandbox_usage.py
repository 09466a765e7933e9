"""What a program uses is counted whatever it does, and what it leaves is removed, whatever it is."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandbox_walls import WALLS, walls_by

from scrpo_cli.tasks.code import execute, usage
from scrpo_cli.tasks.code.execute import Isolation, Judgement, Limits, Tests, check
from scrpo_cli.tasks.code.inside import kernel
from scrpo_cli.tasks.code.usage import Excess, check_files, cpu_seconds, family, memory_bytes, remove
from scrpo_cli.types import Verdict

LIMITS = Limits(disk_mib=1, file_mib=1, files=50, depth=8)
names = st.sampled_from(["a", "b", "c\n", "\udcff", "-rf", " ", "x" * 250, ".hidden", "ü"])
trees: st.SearchStrategy = st.recursive(
    st.sampled_from(["file", "link", "pipe", "socket"]),
    lambda inner: st.tuples(
        st.sampled_from([0o700, 0o500, 0o300, 0o100, 0]), st.dictionaries(names, inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.fixture(params=WALLS)
def walls(request: pytest.FixtureRequest) -> Isolation:
    return walls_by(request.param)


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(os.path.realpath(tempfile.mkdtemp(prefix="scrpo-usage-")))
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


def build(path: Path, tree: object, outside: Path) -> None:
    """A tree of the kinds above; rights last, as some take away the right to go on."""
    if tree == "file":
        path.write_text("x")
    elif tree == "link":
        path.symlink_to(outside)
    elif tree == "pipe":
        os.mkfifo(path)
    elif tree == "socket":
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as listener:  # OSError: too long a name
            listener.bind(str(path).encode(errors="surrogateescape"))
    else:
        mode, inner = tree  # type: ignore[misc]
        path.mkdir()
        for name, below in inner.items():
            build(path / name, below, outside)
        path.chmod(mode)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(inner=st.dictionaries(names, trees, max_size=4))
def test_every_tree_is_removed_and_nothing_behind_its_links(inner: dict, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "kept").write_text("kept")
    top = Path(tempfile.mkdtemp(dir=tmp_path))
    for name, tree in inner.items():
        build(top / name, tree, outside)
    remove(top)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("depth", "name"), [(3000, "d"), (300, "d" * 250)])
def test_removal_needs_neither_depth_nor_paths(depth: int, name: str, directory: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    here = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        here, above = os.open(name, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    remove(directory / "not there")
    remove(directory)
    assert not directory.exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_removed_changes_no_verdict(walls: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError("no")

    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        monkeypatch.setattr(tempfile, "tempdir", place)
        with monkeypatch.context() as patch:
            for name in ("rmdir", "unlink", "rename"):
                patch.setattr(usage, "os", SimpleNamespace(**vars(usage.os) | {name: failing}))
            program = "import os\ndef f(x):\n    os.mkdir('d')\n    return x"
            assert check(program, Tests("assert f(3) == 3", "f"), Limits(), walls).verdict is Verdict.CORRECT


def test_the_files_of_a_directory_are_counted(directory: Path) -> None:
    (directory / "a").write_bytes(bytes(1 << 19))
    check_files(directory, [], LIMITS)
    (inner := directory / "b").mkdir(mode=0o300)
    (inner / "c").write_bytes(bytes(1 << 20))
    with pytest.raises(Excess, match="wrote more than 1 MiB"):
        check_files(directory, [], LIMITS)


def test_the_number_and_depth_of_directories_are_limits(directory: Path) -> None:
    for i in range(50):
        (directory / str(i)).mkdir()
    check_files(directory, [], LIMITS)
    (directory / "51").mkdir()
    with pytest.raises(Excess, match="made more than 50 files"):
        check_files(directory, [], LIMITS)
    remove(directory)
    (directory / "1/2/3/4/5/6/7").mkdir(parents=True)
    check_files(directory, [], LIMITS)
    (directory / "1/2/3/4/5/6/7/8").mkdir()
    with pytest.raises(Excess, match="more than 8 deep"):
        check_files(directory, [], LIMITS)


@pytest.mark.parametrize("way", ["unlinked", "replaced", "never named", "mapped", "mapped alone"])
def test_files_without_a_name_are_counted(way: str, directory: Path) -> None:
    """Also once nothing but a page of the memory holds them."""
    with contextlib.ExitStack() as stack:
        for i in range(4):
            nameless(directory / str(i), way, stack)
        with pytest.raises(Excess, match="wrote more than 1 MiB"):
            check_files(directory, [os.getpid()], LIMITS)
    check_files(directory, [os.getpid()], LIMITS)


def nameless(path: Path, way: str, stack: contextlib.ExitStack) -> None:
    """A file of 512 KiB that no directory shows while the stack lives."""
    flags = os.O_TMPFILE if way == "never named" else os.O_CREAT
    descriptor = os.open(path.parent if way == "never named" else path, flags | os.O_RDWR)
    os.write(descriptor, bytes(1 << 19))
    if way == "mapped alone":
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        address = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(4096), 1, 2, descriptor, ctypes.c_long(0)))
        stack.callback(libc.munmap, address, ctypes.c_size_t(4096))
    elif way == "mapped":
        stack.callback(mmap.mmap(descriptor, 4096).close)
    if way.startswith("mapped"):
        os.close(descriptor)
    else:
        stack.callback(os.close, descriptor)
    if way == "replaced":
        (path.parent / "new").write_bytes(b"")
        (path.parent / "new").rename(path)
    elif way != "never named":
        path.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be without this capability and look at others")
def test_root_without_capabilities_sees_the_files_of_the_programs_user(directory: Path) -> None:
    """As in a container: no CAP_SYS_PTRACE, and a program that runs as another user."""
    directory.chmod(0o777)
    code = "import os; open('a', 'wb').write(bytes(2 << 20)); f = open('a'); os.remove('a'); print(flush=True); input()"
    channels = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    with subprocess.Popen([python, "-c", code], cwd=directory, user=4242, group=4242, **channels) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        found: list[str] = []

        def look() -> None:
            """In a thread, which alone loses the capability."""
            header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
            assert kernel.LIBC.capget(header, sets) == 0
            sets[0] &= ~(1 << 19)
            assert kernel.LIBC.capset(header, sets) == 0
            with pytest.raises(PermissionError):
                os.stat(f"/proc/{process.pid}/fd/0")
            try:
                check_files(directory, [process.pid], LIMITS)
            except Excess as excess:
                found.append(str(excess))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        process.kill()
    assert found == ["the program wrote more than 1 MiB"]


def test_open_files_with_a_name_count_once(directory: Path) -> None:
    with (directory / "a").open("wb") as file:
        file.write(bytes(3 << 18))
        file.flush()
        check_files(directory, [os.getpid()], LIMITS)


def test_the_time_of_ended_children_moves_to_their_parent() -> None:
    before = cpu_seconds([os.getpid()])
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    assert 0.45 <= cpu_seconds([os.getpid()]) - before <= 2


def test_a_family_lists_parents_first_and_each_once() -> None:
    code = "import os, time\nfor _ in range(3): os.fork()\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        for _ in range(8):
            process.stdout.readline()
        found = family(process.pid)
        assert len(found) == len(set(found)) == 8
        parents = {pid: psutil.Process(pid).ppid() for pid in found[1:]}
        assert all(found.index(parent) < found.index(pid) for pid, parent in parents.items())
        os.killpg(process.pid, 9)


def test_a_process_whose_first_thread_has_ended_still_has_memory() -> None:
    code = (
        "import ctypes, os, threading, time\n"
        "kept = b'x' * (100 << 20)\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print(flush=True)\n"
        "ctypes.CDLL(None).syscall(93 if os.uname().machine == 'aarch64' else 60, 0)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 5
        while "zombie" not in Path(f"/proc/{process.pid}/status").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert memory_bytes([process.pid]) > 100 << 20
        process.kill()


REFUSALS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
column = 1 if os.uname().machine == 'aarch64' else 0
def failed(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *[ctypes.c_ulong(argument) for argument in arguments])
    return ctypes.get_errno()
def f(denied):
    return [name for name, numbers in denied.items() if numbers[column] >= 0 and failed(numbers[column], *[0] * 6) != 1]
def g(calls):
    return [failed(numbers[column], *arguments) for numbers, arguments in calls]
"""


def test_every_denied_call_is_refused(walls: Isolation) -> None:
    tests = f"assert f({dict(kernel.DENIED)}) == []"
    assert check(REFUSALS, Tests(tests, "f"), Limits(), walls).reason is None


SOCKETPAIR, ACTION, MAP, PRCTL, FCNTL = (53, 199), (13, 134), (9, 222), (157, 167), (72, 25)
CLOEXEC, NONBLOCK, HIGH = 0o2000000, 0o4000, 1 << 32
CALLS = {
    "datagram pair": (SOCKETPAIR, (1, 2, 0, 0), 1),
    "raw pair": (SOCKETPAIR, (1, 3, 0, 0), 1),
    "datagram pair with flags": (SOCKETPAIR, (1, 2 | CLOEXEC | NONBLOCK, 0, 0), 1),
    "datagram pair with bits that the kernel drops": (SOCKETPAIR, (1, 2 | HIGH, 0, 0), 1),
    "pair of another family": (SOCKETPAIR, (30, 1, 0, 0), 1),
    "pair of another family, high bits": (SOCKETPAIR, (30 | HIGH, 1, 0, 0), 1),
    "stream pair": (SOCKETPAIR, (1, 1 | CLOEXEC | NONBLOCK, 0, 0), 14),  # EFAULT: allowed, and no place for the answer
    "seqpacket pair": (SOCKETPAIR, (1, 5, 0, 0), 14),
    "SIGCHLD": (ACTION, (17, 0, 0, 8), 1),
    "SIGCHLD, high bits": (ACTION, (17 | HIGH, 0, 0, 8), 1),
    "SIGTERM": (ACTION, (15, 0, 0, 8), 0),
    "shared memory without a file": (MAP, (0, 4096, 3, 0x21, 2**64 - 1, 0), 1),
    "the same, validated": (MAP, (0, 4096, 3, 0x23, 2**64 - 1, 0), 1),
    "private memory": (MAP, (0, 4096, 3, 0x22, 2**64 - 1, 0), 0),
    "not dumpable": (PRCTL, (4, 0, 0, 0, 0), 1),
    "dumpable?": (PRCTL, (3, 0, 0, 0, 0), 0),
    "longer pipe": (FCNTL, (0, 1031, 1 << 20), 1),
    "flags of a descriptor": (FCNTL, (0, 1, 0), 0),
}


def test_calls_are_refused_by_their_arguments(walls: Isolation) -> None:
    calls = [(numbers, arguments) for numbers, arguments, _ in CALLS.values()]
    tests = Tests(f"answers = g({calls})\nassert answers == {[answer for *_, answer in CALLS.values()]}, answers", "g")
    assert check(REFUSALS, tests, Limits(), walls).reason is None


def test_a_checker_that_ends_while_the_program_loads_is_no_error(
    walls: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the program is ready its checker does nothing but read what it sends."""

    class Killing(execute._Check):
        def _reports(self) -> Iterator[dict[str, str]]:
            for report in super()._reports():
                yield report
                if self.state == "started":
                    self.checker.kill()

    monkeypatch.setattr(execute, "_Check", Killing)
    judgement = check("import time\ntime.sleep(60)", Tests("assert f(3) == 9", "f"), Limits(wall_s=30), walls)
    assert judgement == Judgement(Verdict.WRONG, "the tests' process ended on the program's answer")
