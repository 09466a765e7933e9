"""Programs that cheat, flood, spy or destroy, and how each one ends. Each is asked for `f(x) = x * x`.
`python tests/hostile_programs.py` prints the table of docs/validation/sandbox.md.

In a source `@OUTSIDE@` is a directory that anyone may write to, `@SECRET@` a file that anyone may read, `@PORT@`,
`@SOCKET@`, `@DATAGRAMS@` and `@SERVICE@` are listening sockets (TCP on the loopback, abstract Unix of streams and of
datagrams, a path for datagrams), `@SEGMENT@` is shared memory.
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
    """`timeout`, or a part of the reason; alternatives by ` or `."""
    tests: str = "assert f(3) == 9\nassert f(4) == 16"
    uncovered: str = ""
    """The level where it is possible, and documented so: `user` does not bound which files a process reads and writes,
    `bubblewrap` not how many it makes.
    """
    cpu_s: float = 10
    """The CPU time that it may use."""


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
ONCE = "assert f(3) == 9"
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
        "OSError or made more than or timeout",
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
                if n not in (9, 17, 19): signal.signal(n, signal.SIG_IGN)
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

BURN = """
import contextlib, ctypes, os, signal, threading, time
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == 'aarch64'
def burn(seconds=0.4):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
def children(number=8, start=os.fork):
    reader, writer = os.pipe()
    for _ in range(number):
        if not start():
            os.close(reader)
            burn()
            os._exit(0)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)
    os.close(writer)
    os.read(reader, 1)
"""


def clock(name: str, does: str, body: str) -> Hostile:
    """Uses several times the CPU time that it may, out of sight, and gives the right answer."""
    return Hostile(name, does, BURN + inside(body.strip() + "\nreturn x * x"), "s of CPU time", ONCE, cpu_s=0.5)


CLOCKS = [
    clock("unwatched children", "has children that it waits for use its CPU time", "children()"),
    clock(
        "ignored children",
        "ignores SIGCHLD first, so that nobody is told what they used",
        """
with contextlib.suppress(OSError): signal.signal(signal.SIGCHLD, signal.SIG_IGN)
children()
""",
    ),
    clock(
        "children that leave nothing",
        "asks for the same by the flag SA_NOCLDWAIT",
        """
action = (ctypes.c_ulong * 20)()
libc.sigaction(17, None, action)
action[17] = 2
libc.sigaction(17, action, None)
children()
""",
    ),
    clock(
        "ignored by a system call",
        "asks for it past the C library, with every flag",
        """
for flags in (0, 2, 0x04000002, 0x10000002):
    libc.syscall(134 if ARM else 13, 17, (ctypes.c_ulong * 4)(1, flags, 0, 0), None, 8)
children()
""",
    ),
    clock(
        "orphans",
        "starts them by a child that ends, so that they are not its own",
        """
def start():
    if os.fork(): return 1
    if os.fork(): os._exit(0)
    return 0
children(start=start)
""",
    ),
    clock(
        "its own reaper",
        "takes the orphans in, and ignores their end",
        """
libc.prctl(36, 1, 0, 0, 0)
with contextlib.suppress(OSError): signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def start():
    if os.fork(): return 1
    if os.fork(): os._exit(0)
    return 0
children(start=start)
""",
    ),
    clock(
        "a reaper between",
        "has a child that ignores SIGCHLD start the others, and waits for that one",
        """
pid = os.fork()
if not pid:
    with contextlib.suppress(OSError): signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    children()
    os._exit(0)
os.waitpid(pid, 0)
""",
    ),
    clock(
        "undead children",
        "never waits for them",
        """
reader, writer = os.pipe()
for _ in range(8):
    if not os.fork():
        burn()
        os._exit(0)
os.close(writer)
os.read(reader, 1)
""",
    ),
    clock(
        "short children",
        "has a thousand children of 5 ms each",
        """
for _ in range(1000):
    if not os.fork():
        burn(0.005)
        os._exit(0)
    os.wait()
""",
    ),
    clock(
        "silent children",
        "clones them without a signal at their end",
        "children(start=lambda: libc.syscall(220 if ARM else 56, 0, 0, 0, 0, 0))",
    ),
    clock(
        "brothers",
        "clones them as children of its parent",
        "children(start=lambda: libc.syscall(220 if ARM else 56, 0x8011, 0, 0, 0, 0))",
    ),
    clock(
        "threads that end",
        "has threads use its CPU time",
        """
for _ in range(8):
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
""",
    ),
    clock(
        "children of a thread",
        "has them started by threads that have ended",
        """
def start():
    if not os.fork():
        burn()
        os._exit(0)
for _ in range(8):
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
with contextlib.suppress(ChildProcessError):
    while True: os.wait()
""",
    ),
    clock(
        "headless",
        "ends its first thread, by which /proc shows a process, and goes on in another",
        """
threading.Thread(target=burn, args=(60,)).start()
libc.syscall(93 if ARM else 60, 0)
""",
    ),
]

STAYS = "made more than or nested directories or No space left or timeout"


def litter(name: str, does: str, body: str, ends: str = STAYS) -> Hostile:
    """Leaves it to others to clean up, and gives the wrong answer, should it come to that."""
    endless = "bubblewrap" if ends.startswith(STAYS) and "AssertionError" not in ends else ""
    return Hostile(name, does, "import os, time\n" + inside(body.strip() + "\nreturn 0"), ends, ONCE, endless)


LITTER = [
    litter(
        "nested directories",
        "leaves 1,200 directories inside of each other",
        """
for _ in range(1200):
    os.mkdir('d')
    os.chdir('d')
""",
        STAYS + " or AssertionError",
    ),
    litter(
        "nested long names",
        "the same with names of 250 characters, so that no path reaches them",
        """
for _ in range(900):
    os.mkdir('d' * 250)
    os.chdir('d' * 250)
""",
        STAYS + " or AssertionError",
    ),
    litter(
        "nested by descriptor",
        "makes them below open directories, the files before the directories",
        """
here = os.open('.', os.O_RDONLY)
for _ in range(450):
    os.close(os.open('a', os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.mkdir('d', dir_fd=here)
    here, above = os.open('d', os.O_RDONLY, dir_fd=here), here
    os.close(above)
""",
        STAYS + " or AssertionError",
    ),
    litter(
        "shallow enough",
        "stays below the limits, so that all of it is left for the cleaning",
        """
for i in range(30):
    os.mkdir('d' * 200)
    os.chdir('d' * 200)
    for j in range(25): os.mkdir(f'{j}')
""",
        "AssertionError",
    ),
    litter(
        "locked nest",
        "leaves directories inside of each other that cannot be read, listed or entered",
        r"""
import contextlib
for mode in (0, 0o100, 0o200, 0o300, 0o400, 0o500):
    os.umask(0)
    os.mkdir(f'a{mode}')
    here = os.open(f'a{mode}', os.O_RDONLY)
    for name in ('b', 'c\n', '\udcff', '-rf', ' '):
        os.mkdir(name, 0o700, dir_fd=here)
        os.mkdir(name + '/inner', mode, dir_fd=here)
        with contextlib.suppress(OSError): open(f'a{mode}/{name}/inner/file', 'w').close()
        os.mkdir(name + '/empty', 0, dir_fd=here)
""",
        "AssertionError",
    ),
    litter(
        "locked nest by umask",
        "the same, each inside of the one before",
        """
os.umask(0o477)
for _ in range(20):
    os.mkdir('d')
    os.chdir('d')
    open('file', 'w').close()
""",
        "AssertionError",
    ),
    litter(
        "empty directories",
        "makes 200,000 directories",
        """
for i in range(200_000): os.mkdir(str(i))
""",
    ),
    litter(
        "empty directories far down",
        "makes them where no path reaches",
        """
for _ in range(20):
    os.mkdir('d' * 250)
    os.chdir('d' * 250)
for i in range(200_000): os.mkdir(str(i))
""",
    ),
    litter(
        "empty directories behind a lock",
        "makes them where they cannot be listed",
        """
os.mkdir('d', 0o300)
os.chdir('d')
for i in range(200_000): os.mkdir(str(i))
""",
    ),
    litter(
        "tree of directories",
        "makes ten in each, and ten in each of these",
        """
places = ['.']
for place in places:
    for i in range(10):
        os.mkdir(f'{place}/{i}')
        places.append(f'{place}/{i}')
""",
    ),
    litter(
        "directories by all",
        "makes them with 16 processes",
        """
for _ in range(4): os.fork()
for i in range(200_000): os.mkdir(f'{os.getpid()}-{i}')
""",
        STAYS + " or an answer",
    ),
    litter(
        "links",
        "makes links to one file without an end",
        """
open('a', 'w').close()
for i in range(10**9): os.link('a', str(i))
""",
        STAYS + " or OSError",
    ),
    litter(
        "symbolic links",
        "makes links to nothing without an end",
        """
for i in range(10**9): os.symlink('nothing', str(i))
""",
    ),
    litter(
        "pipes with names",
        "leaves pipes that nobody writes to",
        """
for i in range(100): os.mkfifo(str(i))
""",
        "AssertionError",
    ),
    litter(
        "moving directories",
        "has children that move its directories about while they are counted and removed",
        """
for i in range(8): os.makedirs(f'{i}/a/b/c')
for i in range(4):
    if not os.fork():
        while True:
            for j in range(8):
                try: os.rename(f'{j}/a', f'{j}/a/b/c') if i == 0 else os.rename(f'{j}/a/b', f'{(j + i) % 8}/x')
                except OSError: pass
time.sleep(0.3)
""",
        "AssertionError",
    ),
    litter(
        "links for directories",
        "has a child that puts a link to one outside in the place of a directory, and takes it away",
        """
os.mkdir('d')
os.symlink('@OUTSIDE@', 'link')
if not os.fork():
    while True:
        for a, b in (('d', 'e'), ('link', 'd'), ('d', 'link'), ('e', 'd')): os.rename(a, b)
time.sleep(0.3)
""",
        "AssertionError",
    ),
    litter(
        "builders that stay",
        "leaves children that go on to make files",
        """
for i in range(4):
    if not os.fork():
        for j in range(10**9):
            open(f'{i}-{j % 50}', 'w').close()
            os.remove(f'{i}-{j % 50}')
""",
        "AssertionError",
    ),
]

FULL = "wrote more than or No space left"


def hoard(name: str, does: str, body: str, ends: str = FULL, before: str = "") -> Hostile:
    """Fills the disk out of sight and gives the right answer."""
    source = "import contextlib, ctypes, mmap, os, socket, threading, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    return Hostile(name, does, source + before + inside(body.strip() + "\nreturn x * x"), ends, ONCE)


NAMELESS = """
kept = []
def fill(number=12):
    for i in range(number):
        name = f'{os.getpid()}-{threading.get_ident()}-{i}'
        fd = os.open(name, os.O_CREAT | os.O_RDWR)
        os.write(fd, bytes(2 << 20))
        os.remove(name)
        kept.append(fd)
"""
HOARDS = [
    hoard("nameless files", "writes 24 MB to files that it has deleted", "fill()", before=NAMELESS),
    hoard(
        "nameless files of children",
        "has four children hold 8 MB each",
        """
reader, writer = os.pipe()
for _ in range(4):
    if not os.fork():
        fill(4)
        os.write(writer, b'x')
        time.sleep(60)
for _ in range(4): os.read(reader, 1)
""",
        FULL + " or timeout",
        NAMELESS,
    ),
    hoard(
        "files without a name",
        "makes 24 MB of files that never had one",
        """
global kept
kept = [os.open('.', os.O_TMPFILE | os.O_RDWR) for _ in range(12)]
for fd in kept: os.write(fd, bytes(2 << 20))
""",
        FULL + " or not supported",
    ),
    hoard(
        "replaced files",
        "renames new files over those that it holds open",
        """
global kept
kept = []
for _ in range(12):
    kept.append(os.open('new', os.O_CREAT | os.O_RDWR))
    os.write(kept[-1], bytes(2 << 20))
    os.rename('new', 'old')
""",
    ),
    hoard(
        "mapped files",
        "keeps nothing of them but a page in its memory",
        """
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
fill()
for fd in kept:
    libc.mmap(None, 4096, 1, 2, fd, 0)
    os.close(fd)
""",
        before=NAMELESS,
    ),
    hoard(
        "files in flight",
        "sends them to itself and holds none",
        """
ends = socket.socketpair()
for _ in range(12):
    fill(1)
    socket.send_fds(ends[0], [b'x'], [kept[-1]])
    os.close(kept.pop())
""",
        FULL + " or PermissionError",
        NAMELESS,
    ),
    hoard(
        "files of a headless process",
        "has its first thread end, so that /proc shows none",
        """
threading.Thread(target=lambda: (fill(), time.sleep(60))).start()
libc.syscall(93 if os.uname().machine == 'aarch64' else 60, 0)
""",
        FULL + " or ended during a call",
        NAMELESS,
    ),
    hoard(
        "files of one thread",
        "has a thread with descriptors of its own hold them",
        """
done = threading.Event()
def alone():
    libc.syscall(436, 500, 600, 2)
    with contextlib.suppress(OSError): fill()
    done.set()
    time.sleep(60)
threading.Thread(target=alone, daemon=True).start()
done.wait()
if len(kept) < 12: raise OSError('No space left')
""",
        FULL + " or timeout",
        NAMELESS,
    ),
    hoard(
        "hidden descriptors",
        "closes its /proc to others of its user first",
        """
if libc.prctl(4, 0, 0, 0, 0): raise OSError('not hidden')
fill()
""",
        FULL + " or not hidden",
        NAMELESS,
    ),
    hoard(
        "files far down",
        "writes 24 MB where no path reaches",
        """
for _ in range(20):
    os.mkdir('d' * 250)
    os.chdir('d' * 250)
for i in range(12): open(str(i), 'wb').write(bytes(2 << 20))
""",
    ),
    hoard(
        "files behind a lock",
        "writes them where they cannot be listed",
        """
os.mkdir('d', 0o300)
for i in range(12): open(f'd/{i}', 'wb').write(bytes(2 << 20))
""",
    ),
    hoard(
        "files on the move",
        "has a child that renames their directory all the time",
        """
os.mkdir('a')
if not os.fork():
    while True:
        os.rename('a', 'b')
        os.rename('b', 'a')
here = os.open('a' if os.path.exists('a') else 'b', os.O_RDONLY)
for i in range(12): os.write(os.open(str(i), os.O_CREAT | os.O_WRONLY, dir_fd=here), bytes(2 << 20))
time.sleep(1)
""",
    ),
    hoard(
        "reserved space",
        "asks for blocks without writing, faster than one can look",
        """
for i in range(12): os.posix_fallocate(os.open(str(i), os.O_CREAT | os.O_WRONLY), 0, 2 << 20)
""",
        FULL + " or PermissionError",
    ),
]

UNSEEN = [
    Hostile(
        "shared memory without a file",
        "fills it and gives the pages back, so that no process has them",
        """
import mmap
kept = []
def f(x):
    for _ in range(10**9):
        kept.append(mmap.mmap(-1, 32 << 20))
        for i in range(0, 32 << 20, 1 << 20): kept[-1][i:i + (1 << 20)] = b'x' * (1 << 20)
        kept[-1].madvise(mmap.MADV_DONTNEED)
""",
        "PermissionError",
    ),
    Hostile(
        "shared memory of a device",
        "does so by mapping /dev/zero",
        """
import mmap, os
def f(x):
    fd = os.open('/dev/zero', os.O_RDWR)
    mmap.mmap(fd, 32 << 20)
    return x * x
""",
        "FileNotFoundError or PermissionError",
        uncovered="user",
    ),
    Hostile(
        "memory in pipes",
        "lends its pages to pipes and gives them back",
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    page = ctypes.create_string_buffer(1 << 16)
    if libc.vmsplice(os.pipe()[1], (ctypes.c_size_t * 2)(ctypes.addressof(page), 1 << 16), 1, 0) < 0: raise OSError
    return x * x
""",
        "OSError",
    ),
    Hostile(
        "tables of pages",
        "maps single pages far from each other, for which the kernel needs tables",
        """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
def f(x):
    for _ in range(4):
        if not os.fork():
            for i in range(30_000): ctypes.string_at(libc.mmap((i + 1) << 30, 4096, 1, 0x22, -1, 0), 1)
            time.sleep(60)
    time.sleep(60)
""",
        "MiB of memory or pieces of memory",
    ),
    Hostile(
        "memory of headless children",
        "has children whose first thread has ended fill 200 MB each",
        """
import ctypes, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def fill():
    kept = b'x' * (200 << 20)
    time.sleep(60)
def f(x):
    for _ in range(4):
        if not os.fork():
            threading.Thread(target=fill).start()
            libc.syscall(93 if os.uname().machine == 'aarch64' else 60, 0)
    time.sleep(60)
""",
        "MiB of memory",
    ),
]


def grab(name: str, does: str, body: str, ends: str = "OSError or PermissionError") -> Hostile:
    """Asks for what all share; gives the right answer if it gets it. `call` raises where the C library fails."""
    source = """
import contextlib, ctypes, fcntl, os, select, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == 'aarch64'
def call(name, *arguments):
    if (result := getattr(libc, name)(*arguments)) == -1: raise OSError(ctypes.get_errno(), name)
    return result
"""
    return Hostile(name, does, source + inside(body.strip() + "\nreturn x * x"), ends, ONCE)


GRABS = [
    grab(
        "slots of aio",
        "takes what the machine has for asynchronous reading and writing",
        "call('syscall', 0 if ARM else 206, 20_000, (ctypes.c_ulong * 1)())",
    ),
    grab("rings", "asks for an io_uring", "call('syscall', 425, 8, (ctypes.c_ulong * 30)())"),
    grab("shared segment", "makes shared memory that stays when it ends", "call('shmget', 0, 1 << 20, 0o1666)"),
    grab(
        "shared segment of others",
        "writes to shared memory that anyone may write to",
        """
libc.shmat.restype = ctypes.c_void_p
address = libc.shmat(@SEGMENT@, None, 0)
if address == ctypes.c_void_p(-1).value: raise OSError
ctypes.memset(address, 1, 1)
""",
    ),
    grab("removed segment", "removes shared memory of its user", "call('shmctl', @SEGMENT@, 0, None)"),
    grab("semaphores", "makes semaphores that stay", "call('semget', 0, 100, 0o1666)"),
    grab("message queue", "makes a queue that stays", "call('msgget', 0, 0o1666)"),
    grab("named queue", "makes a queue with a name", "call('mq_open', b'/scrpo-queue', 0o102, 0o666, None)"),
    grab("removed queue", "removes a queue by its name", "call('mq_unlink', b'/scrpo-queue')"),
    grab(
        "keys",
        "stores a key with its user",
        "call('syscall', 217 if ARM else 248, b'user', b'name', b'x', 1, -4)",
    ),
    grab("watched directory", "has the kernel tell it of changes", "fcntl.fcntl(os.open('.', 0), 1026, 2)"),
    grab("watches", "watches files, of which a user has few", "call('inotify_init1', 0)"),
    grab(
        "counters", "opens a counter of the processor", "call('syscall', 241 if ARM else 298, bytes(128), 0, -1, -1, 0)"
    ),
    grab("faults", "handles faults of its memory", "call('syscall', 282 if ARM else 323, 1)"),
    grab(
        "timers",
        "makes timers, which count for its user, without an end",
        "for _ in range(1000): call('timer_create', 1, None, (ctypes.c_ulong * 1)())",
        "BlockingIOError",
    ),
    grab("long pipes", "makes pipes longer, at the cost of its user", "fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)"),
    grab("many pipes", "opens pipes without an end", "global kept\nkept = [os.pipe() for _ in range(1000)]"),
    grab(
        "many polls", "opens event queues without an end", "global kept\nkept = [select.epoll() for _ in range(1000)]"
    ),
    grab("large buffers", "makes the buffers of a socket larger", "socket.socketpair()[0].setsockopt(1, 7, 1 << 30)"),
    grab(
        "lease",
        "takes a lease on a file, for which all who open it wait",
        "fcntl.fcntl(os.open(os.__file__, 0), 1024, 0)",
    ),
    grab(
        "flags of a file",
        "changes what only its owner may",
        "fcntl.ioctl(os.open('a', os.O_CREAT | os.O_RDWR), 0x40086602, struct.pack('l', 0x40))",
    ),
    grab("other processors", "chooses the processors that it runs on", "os.sched_setaffinity(0, {0})"),
    grab("a core of its own", "asks that nothing else runs on its core", "call('prctl', 62, 1, 0, 0, 0)"),
    grab(
        "calls of 32 bits",
        "asks for a socket by the system calls of 32-bit programs",
        r"""
libc.mmap.restype = ctypes.c_void_p
code = libc.mmap(None, 4096, 7, 0x22, -1, 0)
ctypes.memmove(code, b'\xb8\x66\x00\x00\x00\xcd\x80\xc3', 8)
ctypes.CFUNCTYPE(ctypes.c_int)(code)()
""",
        "ended during a call",
    ),
    grab(
        "calls of x32",
        "asks for one by the other table of this processor",
        "call('syscall', 0x40000029, 1, 2, 0)",
        "ended during a call or OSError",
    ),
]


def datagram(name: str, does: str, kind: str, send: str) -> Hostile:
    body = f"a, b = socket.socketpair(socket.AF_UNIX, {kind})\n{send}"
    return grab(name, does, body)


TO = "'@SERVICE@'"
DATAGRAMS = [
    datagram(
        "datagram pair",
        "sends a datagram to a local service, by a socket of a pair",
        "socket.SOCK_DGRAM",
        f"a.sendto(b'x', {TO})",
    ),
    datagram(
        "datagram pair, abstract",
        "the same to a service whose name is no path",
        "socket.SOCK_DGRAM",
        r"a.sendto(b'x', '\x00@DATAGRAMS@')",
    ),
    datagram("raw pair", "takes a pair of the kind `raw`, which is the same", "3", f"a.sendto(b'x', {TO})"),
    datagram(
        "datagram pair with flags",
        "hides the kind of the pair behind flags",
        "socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK",
        f"a.sendto(b'x', {TO})",
    ),
    datagram("datagram message", "sends it as a message", "socket.SOCK_DGRAM", f"a.sendmsg([b'x'], [], 0, {TO})"),
    datagram(
        "connected datagram pair",
        "connects the pair to the service first",
        "socket.SOCK_DGRAM",
        f"a.connect({TO})\na.send(b'x')",
    ),
    datagram(
        "connected pair", "connects a pair of streams to a service", "socket.SOCK_STREAM", r"a.connect('\x00@SOCKET@')"
    ),
    datagram(
        "listening pair", "makes a socket of a pair wait for others", "socket.SOCK_STREAM", "a.bind('x')\na.listen()"
    ),
]

CLASSES = {
    "forgeries": FORGERIES,
    "floods": FLOODS,
    "spies": SPIES,
    "vandals": VANDALS,
    "hidden CPU time": CLOCKS,
    "litter": LITTER,
    "hidden files": HOARDS,
    "hidden memory": UNSEEN,
    "what all share": GRABS,
    "datagrams": DATAGRAMS,
}
HOSTILE = [hostile for programs in CLASSES.values() for hostile in programs]


def table() -> list[str]:
    """The rows of the document."""
    endings = [" or ".join(f"`{ending}`" for ending in h.ends.split(" or ")) for h in HOSTILE]
    rows = [f"| {h.name} | {h.does} | {ends} |" for h, ends in zip(HOSTILE, endings)]
    return ["| program | what it does | `timeout`, or this in the reason |", "| --- | --- | --- |", *rows]


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201
