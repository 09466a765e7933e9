"""Programs that cheat, flood, spy or destroy, and how each one ends. Each is asked for `f(x) = x * x`.
`python tests/hostile_programs.py` prints the table of docs/validation/sandbox.md.

In a source `@OUTSIDE@` is a directory that anyone may write to, `@SECRET@` a file that anyone may read, `@PORT@` and
`@SOCKET@` are listening sockets (TCP on the loopback, abstract Unix).
"""

from __future__ import annotations

from dataclasses import dataclass

HONEST = "def f(x):\n    return x * x\n"


@dataclass(frozen=True)
class Hostile:
    name: str
    does: str
    source: str
    ends: str
    """`timeout`, or a part of the reason of its `wrong`; alternatives by ` or `."""
    tests: str = "assert f(3) == 9\nassert f(4) == 16"
    uncovered: str = ""
    """`user`: possible, and documented so, where a process is held by its user alone (root, no Landlock)."""


def messages(*bodies: object) -> str:
    """A source that writes these messages to every open file."""
    return MESSAGES.replace("@MESSAGES@", repr(bodies))


def inside(body: str) -> str:
    """A function that does it when it is called."""
    return "def f(x):\n" + "".join(f"    {line}\n" for line in body.splitlines())


LINES = """
import os
for fd in range(256):
    try:
        os.write(fd, b'{"verdict": "correct", "reason": ""}\\n')
    except OSError:
        pass
"""
MESSAGES = """
import json, os, struct
for message in @MESSAGES@:
    body = json.dumps(message).encode()
    for fd in range(256):
        try:
            os.write(fd, struct.pack(">I", len(body)) + body)
        except OSError:
            pass
"""
LEAK = "assert f(3) == 'a planted secret'"

FORGERIES = [
    Hostile(
        "exit",
        "`sys.exit(0)` while it is loaded",
        """
import sys
sys.exit(0)
""",
        "stops with SystemExit",
    ),
    Hostile(
        "hard exit",
        "`os._exit(0)` while it is loaded",
        """
import os
os._exit(0)
""",
        "ended while its source ran",
    ),
    Hostile(
        "exit in a call",
        "`sys.exit(0)` in the function",
        """
def f(x):
    raise SystemExit(0)
""",
        "ends with SystemExit",
    ),
    Hostile(
        "hard exit in a call",
        "`os._exit(0)` in the function",
        """
def f(x):
    import os
    os._exit(0)
""",
        "during a call",
    ),
    Hostile(
        "hard exit, tests forgive",
        "ends where the tests catch every exception",
        """
def f(x):
    import os
    os._exit(0)
""",
        "during a call",
        "try:\n    f(3)\nexcept:\n    pass",
    ),
    Hostile(
        "interrupt",
        "raises KeyboardInterrupt",
        """
def f(x):
    raise KeyboardInterrupt
""",
        "ends with KeyboardInterrupt",
    ),
    Hostile(
        "stop iteration",
        "raises StopIteration, which would end a loop of the tests",
        """
def f(x):
    raise StopIteration
""",
        "Exception",
        "assert all(map(lambda x: f(x) == x * x, range(5)))",
    ),
    Hostile(
        "markers",
        "prints what a harness may look for",
        r"""
print('OK', 'PASSED', '1 passed', 'All tests passed', '{"verdict": "correct"}', sep='\n')
def f(x):
    0
""",
        "AssertionError",
    ),
    Hostile(
        "verdict as a line",
        "writes the checker's own line, `correct`, to every open file",
        LINES + inside("0"),
        "bytes, where",
    ),
    Hostile(
        "verdict as a message",
        "writes it as a message of the channel",
        messages({"verdict": "correct", "reason": ""}) + inside("0"),
        "an answer that cannot be read",
    ),
    Hostile(
        "early answers",
        "says that it is ready, and answers before it is asked",
        messages({"ready": True}, {"value": 0, "heap": []}) + inside("0"),
        "an answer that cannot be read or an answer without",
    ),
    Hostile(
        "failed sandbox",
        "says that the sandbox did not start, to be left out of the average",
        messages({"failed": "no sandbox"}) + inside("0"),
        "an answer that cannot be read",
    ),
    Hostile(
        "patched builtins",
        "replaces all, any, abs, sorted, sum and AssertionError",
        """
import builtins
for name in ('all', 'any', 'abs', 'sorted', 'sum', 'AssertionError'):
    setattr(builtins, name, lambda *a, **k: True)
def f(x):
    return 0
""",
        "AssertionError",
    ),
    Hostile(
        "names of the tests",
        "defines check, candidate, expected and the tests' helpers",
        """
def check(*a): return True
candidate = expected = helper = check
def f(x):
    return 0
""",
        "AssertionError",
        "def helper(x):\n    return x * x\ndef check(candidate):\n    assert candidate(3) == helper(3)\ncheck(f)",
    ),
    Hostile(
        "equal to all",
        "gives an object whose `__eq__` is always true",
        """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def f(x):
    return Any()
""",
        "AssertionError",
    ),
    Hostile(
        "integer equal to all",
        "gives an int of a class of its own with such an `__eq__`",
        """
class Any(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def f(x):
    return Any(1)
""",
        "AssertionError",
    ),
    Hostile(
        "list equal to all",
        "the same with a list",
        """
class Any(list):
    def __eq__(self, other): return True
def f(x):
    return Any([1])
""",
        "AssertionError",
        "assert f(3) == [9]",
    ),
    Hostile(
        "reduce",
        "gives an object whose `__reduce__` runs a command in an unpickler",
        """
import os
class Bomb:
    def __reduce__(self): return os.system, ('touch @OUTSIDE@/pwned',)
def f(x):
    return Bomb()
""",
        "AssertionError",
    ),
    Hostile(
        "pickle on the channel",
        "writes a pickle that runs a command to every descriptor",
        r"""
import os, struct
body = b"cos\nsystem\n(S'touch @OUTSIDE@/pwned'\ntR."
for fd in range(3, 64):
    try:
        os.write(fd, struct.pack('>I', len(body)) + body)
    except OSError:
        pass
def f(x):
    0
""",
        "not JSON",
    ),
    Hostile(
        "patched class",
        "answers with a message that would give a trusted class another `__eq__`",
        messages(
            {"ready": True},
            {"value": [2], "heap": [["tuple", "f", [1], [2]], ["tuple", 3], ["dict"], ["type", "node.Node"]]},
        )
        + inside("0"),
        "an answer that cannot be read",
    ),
    Hostile(
        "another kind of object",
        "answers that the object it was given is a list now",
        messages({"ready": True}, {"value": [3], "heap": [["tuple"], ["tuple"], ["dict"], ["list", 9]]}) + inside("0"),
        "became another kind",
        "from node import Node\nnode = Node()\nassert f(node) is node",
    ),
    Hostile(
        "raw bytes",
        "writes random bytes to every descriptor",
        """
import os
for fd in range(3, 64):
    try:
        os.write(fd, os.urandom(1000))
    except OSError:
        pass
def f(x):
    0
""",
        "bytes, where or not JSON or ended",
    ),
    Hostile(
        "nested message",
        "answers with a million opening brackets",
        """
import os, struct
body = b'[' * 1_000_000
for fd in range(3, 64):
    try:
        os.write(fd, struct.pack('>I', len(body)) + body)
    except OSError:
        pass
def f(x):
    0
""",
        "not JSON",
    ),
    Hostile(
        "two answers",
        "answers each question twice, so that answers and questions no longer fit",
        """
import os
plain = os.write
def twice(fd, data):
    plain(fd, data)
    return plain(fd, data)
os.write = twice
def f(x):
    return x * x
""",
        "an answer that cannot be read or AssertionError",
    ),
    Hostile(
        "closed channels",
        "closes every descriptor",
        """
def f(x):
    import os
    os.closerange(0, 256)
    return x * x
""",
        "ended during a call",
    ),
    Hostile(
        "frames",
        "looks for the expected value in all frames and objects",
        """
def f(x):
    import gc, sys
    found = [o for o in gc.get_objects() if isinstance(o, dict) and 'expected' in o and 'f' in o]
    frame = sys._getframe()
    while frame:
        found += [frame.f_globals] if 'expected' in frame.f_globals else []
        frame = frame.f_back
    return found[0]['expected'] if found else None
""",
        "AssertionError",
        "expected = 9\nassert f(3) == expected",
    ),
    Hostile(
        "no function",
        "defines something else",
        """
def g(x):
    return x * x
""",
        "defines no function",
    ),
    Hostile(
        "syntax",
        "is no Python",
        """
def f(x:
""",
        "stops with SyntaxError",
    ),
    Hostile("null byte", "holds what no source may hold", "x = '\0\ud800'", "stops with"),
    Hostile(
        "hanging text",
        "raises an exception whose text takes for ever",
        """
class Slow(ValueError):
    def __str__(self):
        while True: pass
def f(x):
    raise Slow
""",
        "timeout",
    ),
    Hostile(
        "itself",
        "gives a list that holds itself",
        """
def f(x):
    x = []
    x.append(x)
    return x
""",
        "AssertionError",
    ),
    Hostile(
        "nested tuple",
        "gives a tuple of depth 100,000",
        """
def f(x):
    y = ()
    for _ in range(10**5): y = (y,)
    return y
""",
        "RecursionError",
    ),
    Hostile(
        "billion laughs",
        "gives lists that refer to each other 2^60 times",
        """
def f(x):
    y = []
    for _ in range(60): y = [y, y]
    return y
""",
        "AssertionError",
    ),
    Hostile(
        "endless iterator",
        "gives a generator without an end",
        """
def f(x):
    while True: yield x
""",
        "an iterator of more than",
        "assert list(f(3)) == [9]",
    ),
    Hostile(
        "huge answer",
        "gives 100 MB of text",
        """
def f(x):
    return 'x' * 100_000_000
""",
        "a call ends with",
    ),
    Hostile(
        "huge number",
        "gives a number of a billion bits",
        """
def f(x):
    return 1 << 10**9
""",
        "a call ends with or MiB of memory",
    ),
    Hostile(
        "range",
        "gives a range that the tests cannot list",
        """
def f(x):
    return range(10**12)
""",
        "MemoryError",
        "assert list(f(3)) == [9]",
    ),
    Hostile(
        "emptied argument",
        "empties the list that it is given, which the tests have copied",
        """
def f(x):
    x.clear()
    return x
""",
        "AssertionError",
        "numbers = [3, 1]\nassert f(list(numbers)) == sorted(numbers)",
    ),
]

FLOODS = [
    Hostile(
        "endless loop",
        "never ends",
        """
def f(x):
    while True: pass
""",
        "timeout",
    ),
    Hostile("endless source", "never ends while it is loaded", "while True: pass", "timeout"),
    Hostile(
        "sleep",
        "sleeps for an hour",
        """
def f(x):
    import time
    time.sleep(3600)
""",
        "timeout",
    ),
    Hostile(
        "deaf",
        "ignores every signal that can be ignored, and loops",
        """
import signal
for n in range(1, 65):
    try:
        signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
def f(x):
    while True: pass
""",
        "timeout",
    ),
    Hostile(
        "power",
        "computes 10^10^10",
        """
def f(x):
    return 10 ** 10 ** 10
""",
        "timeout or Error",
    ),
    Hostile(
        "regular expression",
        "backtracks for ever",
        """
def f(x):
    import re
    re.match('(a+)+b', 'a' * 60)
""",
        "timeout",
    ),
    Hostile(
        "fork bomb",
        "forks as fast as it can",
        """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        "timeout",
    ),
    Hostile(
        "threads",
        "starts threads until it fails",
        """
def f(x):
    import threading, time
    while True: threading.Thread(target=time.sleep, args=(60,)).start()
""",
        "RuntimeError",
    ),
    Hostile(
        "memory",
        "allocates 8 GB at once",
        """
def f(x):
    return len(bytearray(8 << 30))
""",
        "MemoryError",
    ),
    Hostile(
        "memory by and by",
        "fills a list without an end",
        """
def f(x):
    y = []
    while True: y.append(bytes(1 << 20))
""",
        "MemoryError or MiB of memory",
    ),
    Hostile(
        "memory of children",
        "starts 16 children that fill 200 MB each",
        """
def f(x):
    import os, time
    for _ in range(16):
        if not os.fork():
            y = b'x' * (200 << 20)
            time.sleep(60)
    time.sleep(60)
""",
        "MiB of memory",
    ),
    Hostile(
        "memory files",
        "asks for files in memory, which no limit counts",
        """
def f(x):
    import os
    return os.memfd_create('x')
""",
        "PermissionError or OSError",
    ),
    Hostile(
        "file",
        "writes one file without an end",
        """
def f(x):
    with open('x', 'wb') as file:
        while True: file.write(bytes(1 << 20))
""",
        "OSError",
    ),
    Hostile(
        "files",
        "writes files of 1 MB without an end",
        """
def f(x):
    for i in range(10**9):
        with open(f'x{i}', 'wb') as file: file.write(bytes(1 << 20))
""",
        "OSError or wrote more than or timeout",
    ),
    Hostile(
        "empty files",
        "makes empty files without an end",
        """
def f(x):
    for i in range(10**9): open(f'x{i}', 'w').close()
""",
        "OSError or wrote more than or timeout",
    ),
    Hostile(
        "output",
        "prints without an end",
        """
def f(x):
    while True: print('x' * 10**6)
""",
        "timeout",
    ),
    Hostile(
        "error output",
        "prints to stderr without an end",
        """
def f(x):
    import sys
    while True: sys.stderr.write('x' * 10**6)
""",
        "timeout",
    ),
    Hostile(
        "recursion",
        "calls itself for ever",
        """
def f(x):
    return f(x)
""",
        "RecursionError",
    ),
    Hostile(
        "stack",
        "calls itself for ever with the recursion limit taken away",
        """
def f(x):
    import sys
    sys.setrecursionlimit(10**9)
    return f(x) + 1
""",
        "timeout or ended during a call or MemoryError or MiB of memory",
    ),
    Hostile(
        "crash",
        "reads address 0",
        """
def f(x):
    import ctypes
    ctypes.string_at(0)
""",
        "ended during a call",
    ),
]

SPIES = [
    Hostile(
        "environment",
        "reads a secret from the environment",
        """
def f(x):
    import os
    return os.environ.get('SCRPO_PLANTED')
""",
        "AssertionError",
        LEAK,
    ),
    Hostile(
        "environment of others",
        "reads the environment of all processes",
        """
def f(x):
    import glob
    for path in glob.glob('/proc/[0-9]*/environ'):
        try:
            text = open(path).read()
        except OSError:
            continue
        if 'a planted secret' in text: return 'a planted secret'
""",
        "AssertionError",
        LEAK,
    ),
    Hostile(
        "secret file",
        "reads a file that anyone may read and answers with it",
        """
def f(x):
    return open('@SECRET@').read()
""",
        "FileNotFoundError or PermissionError",
        LEAK,
        "user",
    ),
    Hostile(
        "home directory",
        "lists the home directory",
        """
def f(x):
    import os, pwd
    return os.listdir(os.path.expanduser('~root')) and x * x
""",
        "FileNotFoundError or PermissionError",
    ),
    Hostile(
        "user list",
        "reads /etc/passwd",
        """
def f(x):
    return len(open('/etc/passwd').read()) and x * x
""",
        "FileNotFoundError or PermissionError",
        uncovered="user",
    ),
    Hostile(
        "link to a secret",
        "reads the file through a symbolic link",
        """
def f(x):
    import os
    os.symlink('@SECRET@', 'link')
    return open('link').read()
""",
        "FileNotFoundError or PermissionError",
        LEAK,
        "user",
    ),
    Hostile(
        "tests in memory",
        "reads the memory of every other process for the expected value",
        """
def f(x):
    import glob, os
    for path in glob.glob('/proc/[0-9]*/mem'):
        if path == f'/proc/{os.getpid()}/mem': continue
        open(path, 'r+b').close()
        return x * x
    raise OSError('none to see')
""",
        "OSError or PermissionError",
    ),
]

VANDALS = [
    Hostile(
        "write outside",
        "writes where anyone may",
        """
def f(x):
    open('@OUTSIDE@/new', 'w').write('x')
    return x * x
""",
        "FileNotFoundError or PermissionError",
        uncovered="user",
    ),
    Hostile(
        "delete outside",
        "deletes a file where anyone may",
        """
def f(x):
    import os
    os.remove('@OUTSIDE@/kept')
    return x * x
""",
        "FileNotFoundError or PermissionError",
        uncovered="user",
    ),
    Hostile(
        "empty a file outside",
        "truncates a file that anyone may write to",
        """
def f(x):
    import os
    os.truncate('@OUTSIDE@/kept', 0)
    return x * x
""",
        "FileNotFoundError or PermissionError",
    ),
    Hostile(
        "lock a file outside",
        "takes away everybody's rights to a file",
        """
def f(x):
    import os
    os.chmod('@OUTSIDE@/kept', 0)
    return x * x
""",
        "FileNotFoundError or PermissionError",
    ),
    Hostile(
        "touch a file outside",
        "sets the times of a file",
        """
def f(x):
    import os
    os.utime('@OUTSIDE@/kept')
    return x * x
""",
        "FileNotFoundError or PermissionError",
    ),
    Hostile(
        "link outside",
        "writes through a link in its directory, and leaves the link to be cleaned up",
        """
def f(x):
    import os
    os.symlink('@OUTSIDE@', 'link')
    open('link/new', 'w').write('x')
    return x * x
""",
        "FileNotFoundError or PermissionError",
        uncovered="user",
    ),
    Hostile(
        "locked directory",
        "leaves a directory that cannot be listed, with a link to one outside",
        """
def f(x):
    import os
    os.mkdir('a')
    os.symlink('@OUTSIDE@', 'a/link')
    os.mkdir('a/b', 0)
    return 0
""",
        "AssertionError",
    ),
    Hostile(
        "kill the parent",
        "kills its parent and that one's parent",
        """
def f(x):
    import os
    for pid in (os.getppid(), 1): os.kill(pid, 9)
    return x * x
""",
        "PermissionError",
    ),
    Hostile(
        "kill everyone",
        "sends SIGKILL to all processes",
        """
def f(x):
    import os
    os.kill(-1, 9)
    return x * x
""",
        "PermissionError",
    ),
    Hostile(
        "kill by thread",
        "sends it by another system call",
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    if libc.syscall(200, os.getppid(), 9): raise OSError
    return x * x
""",
        "OSError",
    ),
    Hostile(
        "kill by a pipe",
        "has the kernel signal its parent when a pipe becomes readable",
        """
def f(x):
    import fcntl, os
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, os.getppid())
    fcntl.fcntl(reader, fcntl.F_SETSIG, 9)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writer, b'x')
    return x * x
""",
        "PermissionError",
    ),
    Hostile(
        "trace the parent",
        "attaches to its parent as a debugger",
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    if libc.ptrace(16, os.getppid(), 0, 0): raise OSError
    return x * x
""",
        "OSError",
    ),
    Hostile(
        "write into the parent",
        "writes into its parent's memory by a system call",
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    if libc.process_vm_writev(os.getppid(), 0, 0, 0, 0, 0): raise OSError
    return x * x
""",
        "OSError",
    ),
    Hostile(
        "become root",
        "asks to be root",
        """
def f(x):
    import os
    os.setuid(0)
    return x * x
""",
        "PermissionError or OSError",
    ),
    Hostile(
        "own namespace",
        "makes a user namespace, to be root in it",
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    if libc.unshare(0x10000000): raise OSError
    return x * x
""",
        "OSError",
    ),
    Hostile(
        "clone a namespace",
        "the same by clone",
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    pid = libc.syscall(56, 0x10000011, 0, 0, 0, 0)
    if pid < 0: raise OSError
    if not pid: os._exit(0)
    return x * x
""",
        "OSError",
    ),
    Hostile(
        "mount",
        "mounts a file system",
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None): raise OSError
    return x * x
""",
        "OSError",
    ),
    Hostile(
        "raise limits",
        "asks for more memory, processes and time",
        """
def f(x):
    import resource
    for name in ('AS', 'NPROC', 'CPU', 'FSIZE', 'NOFILE'):
        resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (-1, -1))
    return x * x
""",
        "ValueError",
    ),
    Hostile(
        "limits of others",
        "lowers its parent's limits",
        """
def f(x):
    import os, resource
    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))
    return x * x
""",
        "PermissionError",
    ),
    Hostile(
        "shell",
        "runs a command",
        """
def f(x):
    import subprocess
    subprocess.run(['/bin/sh', '-c', 'true'], check=True)
    return x * x
""",
        "FileNotFoundError or PermissionError",
    ),
    Hostile(
        "connect",
        "connects to a port of this machine",
        """
def f(x):
    import socket
    socket.create_connection(('127.0.0.1', @PORT@), 2).send(b'x')
    return x * x
""",
        "PermissionError",
    ),
    Hostile(
        "datagram",
        "sends a datagram",
        """
def f(x):
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @PORT@))
    return x * x
""",
        "PermissionError",
    ),
    Hostile(
        "local socket",
        "connects to a socket of a local service",
        r"""
def f(x):
    import socket
    socket.socket(socket.AF_UNIX).connect('\x00@SOCKET@')
    return x * x
""",
        "PermissionError",
    ),
    Hostile(
        "daemon",
        "forks twice into a session of its own and stays",
        """
def f(x):
    import os, time
    if not os.fork():
        os.setsid()
        if os.fork(): os._exit(0)
        time.sleep(600)
    return 0
""",
        "AssertionError",
    ),
    Hostile(
        "deaf children",
        "leaves children that ignore every signal",
        """
def f(x):
    import os, signal, time
    for n in range(8):
        if not os.fork():
            os.setsid()
            for n in range(1, 31):
                if n not in (9, 19): signal.signal(n, signal.SIG_IGN)
            time.sleep(600)
    return 0
""",
        "AssertionError",
    ),
    Hostile(
        "thread",
        "leaves a thread that never ends",
        """
def f(x):
    import threading, time
    threading.Thread(target=time.sleep, args=(600,)).start()
    return 0
""",
        "AssertionError",
    ),
    Hostile(
        "exit handler",
        "registers an exit handler that never ends",
        """
def f(x):
    import atexit, time
    atexit.register(time.sleep, 600)
    return 0
""",
        "AssertionError",
    ),
]

HOSTILE = [*FORGERIES, *FLOODS, *SPIES, *VANDALS]


def table() -> list[str]:
    """The rows of the document."""
    endings = [" or ".join(f"`{ending}`" for ending in h.ends.split(" or ")) for h in HOSTILE]
    rows = [f"| {h.name} | {h.does} | {ends} |" for h, ends in zip(HOSTILE, endings)]
    return ["| program | what it does | `timeout`, or `wrong` with this in its reason |", "| --- | --- | --- |", *rows]


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201
