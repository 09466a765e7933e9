"""Starts the program's process in its sandbox and ends all that it leaves behind.

`namespaces`: a root file system of its own with what Python needs, read-only, and one bounded tmpfs; no network, no
other processes. `process`: an unprivileged process whose orphans come here, so that none outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

from scrpo_cli.tasks.code.inside.kernel import (
    LIBC,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    checked,
    descendants,
    knows_children,
    prctl,
)
from scrpo_cli.tasks.code.inside.wire import send

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NET = 1 << 17, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
KEPT = {
    2: 2,
    4: 4,
    8: 8,
    1024: 1024,
    2048: 2048,
    4096: 1 << 21,
}  # statvfs flag: mount flag; a remount must not clear it
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
DETACH = 2
NOBODY = 65534


def main() -> None:
    cfg = json.loads(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited; no child's CPU time may be lost (see kernel.RULES)
    try:
        status = in_namespaces(cfg) if cfg["level"] == "namespaces" else as_process(cfg)
    except OSError as error:  # before the program's first line: the checker believes the first message
        send(1, {"failed": str(error)})
        status = 1
    os._exit(status)


def in_namespaces(cfg: dict[str, Any]) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    privileged = enter_namespaces(cfg["uid"])
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    child = os.fork()
    if child:
        _close_channels()
        return _code(os.waitpid(child, 0)[1])
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the first process of the new namespace: all others end with it
    build_root(cfg["read"], cfg["devices"], cfg["disk_mib"], cfg["files"])
    program = os.fork()
    if not program:
        start(cfg["command"], "/tmp", cfg["uid"] if privileged else None)
    _close_channels()
    drop_capabilities()
    while True:
        ended, status = os.wait()
        if ended == program:
            return _code(status)


def enter_namespaces(uid: int | None) -> bool:
    """Whether we did as root, who can choose the program's user later. Otherwise by a user namespace of our own: there
    we are `nobody`, outside of it who we were; a root without CAP_SYS_ADMIN first becomes someone whom limits bind.
    """
    flags = NEW_MOUNTS | NEW_UTS | NEW_IPC | NEW_PIDS | NEW_NET
    if uid is not None:
        if LIBC.unshare(flags) == 0:
            return True
        become(uid)
        prctl(PR_SET_DUMPABLE, 1)  # else the maps below belong to root
    user, group = os.geteuid(), os.getegid()
    checked(LIBC.unshare(flags | NEW_USER), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {user} 1"), ("gid_map", f"{NOBODY} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return False


def as_process(cfg: dict[str, Any]) -> int:
    if not knows_children():
        raise OSError("the kernel does not list a process's children")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(end_children()))
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    program = os.fork()
    if not program:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        start(cfg["command"], cfg["directory"], cfg["uid"])
    _close_channels()
    while True:
        ended, status = os.wait()
        if ended == program:
            end_children()
            return _code(status)


def start(command: list[str], directory: str, uid: int | None) -> None:
    """Becomes the program's process: another user where we are root; a new image leaves all capabilities behind."""
    try:
        os.setsid()
        if uid is not None:
            become(uid)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # changing the user clears it
        os.chdir(directory)
        os.execve(command[0], command, dict(os.environ))
    except OSError as error:
        send(1, {"failed": str(error)})
    finally:
        os._exit(1)


def become(uid: int) -> None:
    """A user that owns nothing and that nobody else is; `nobody` where the container maps few users."""
    os.setgroups([])
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def end_children() -> int:
    """Kills all descendants until there are none; those of killed ones become ours, wherever they hid. They are stopped
    first: a fork bomb refills the places of those that die, but not of those that stand still.
    """
    while True:
        stopped: set[int] = set()
        while new := set(descendants(os.getpid())) - stopped:
            signal_all(new, signal.SIGSTOP)
            stopped |= new
        signal_all(stopped, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return 0
        time.sleep(0.002)


def signal_all(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def build_root(read: list[str], devices: list[str], disk_mib: int, files: int) -> None:
    """The new root: empty, but for `read` at its own places, devices and /tmp. There is no /proc."""
    mount("none", "/", flags=RECURSIVE | PRIVATE)
    sources = {path: os.open(path, os.O_PATH) for path in read if os.path.exists(path)}  # they may lie below /tmp
    opened = {name: os.open(f"/dev/{name}", os.O_PATH) for name in devices}
    mount("tmpfs", "/tmp", "tmpfs", NO_SUID | NO_DEVICES, "size=1m,mode=755")
    for path, source in sources.items():
        if os.path.islink(path):  # /lib is a link to usr/lib
            os.symlink(os.readlink(path), _place(path))
        else:
            bind(source, _place(path), os.path.isdir(path))
    for name, source in opened.items():
        bind(source, _place(f"/dev/{name}"), directory=False, device=True)
    os.mkdir("/tmp/tmp")
    mount("tmpfs", "/tmp/tmp", "tmpfs", NO_SUID | NO_DEVICES, f"size={disk_mib}m,nr_inodes={files},mode=1777")
    os.chdir("/tmp")
    checked(LIBC.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    checked(LIBC.umount2(b".", DETACH), "umount")
    mount("none", "/", flags=REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEVICES)
    for descriptor in (*sources.values(), *opened.values()):
        os.close(descriptor)


def bind(source: int, target: str, directory: bool, device: bool = False) -> None:
    """An open directory or file at another place, read-only."""
    if directory:
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    origin = f"/proc/self/fd/{source}"
    kept = sum(flag for had, flag in KEPT.items() if os.statvfs(origin).f_flag & had)
    mount(origin, target, flags=BIND | RECURSIVE)
    if not device:
        mount("none", target, flags=kept | REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEVICES)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    encoded = [text.encode() or None for text in (source, target, kind, options)]
    source_, target_, kind_, options_ = encoded
    checked(LIBC.mount(source_, target_, kind_, ctypes.c_ulong(flags), options_), f"mount {target}")


def drop_capabilities() -> None:
    header = ctypes.create_string_buffer(b"\x22\x05\x08\x20" + bytes(4))  # version 3, this process
    checked(LIBC.capset(header, ctypes.create_string_buffer(24)), "capset")


def _place(path: str) -> str:
    os.makedirs("/tmp" + os.path.dirname(path), exist_ok=True)
    return "/tmp" + path


def _close_channels() -> None:
    """An end of the channel that stays open here would hide from the checker that the program has ended."""
    os.dup2(2, 0)
    os.dup2(2, 1)


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
