"""What a process takes from itself before it runs a line of the program: resources, privileges, system calls, files.

All of it is inherited by every child and none can be taken back. Needs Linux on x86-64 or ARM64; OSError where a part
cannot be had, so that nothing starts half confined.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
from collections.abc import Mapping, Sequence
from typing import Any

MIB = 1 << 20
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
LIBC = ctypes.CDLL(None, use_errno=True)

DENIED: dict[str, tuple[int, int]] = {  # name: number on x86-64, on ARM64 (-1: it has none)
    # other processes: no signal, no look into memory, no change of limits or priority
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_mrelease": (448, 448),
    # owner, rights, times and length of files by name, all of which Landlock lets pass
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
    "truncate": (76, 45),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    # other programs, the network (RULES has socketpair), open files on their way to others, which nobody can count
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "setsockopt": (54, 208),
    # what all processes of the machine or of a user share, and what stays after its maker
    "io_setup": (206, 0),
    "io_destroy": (207, 1),
    "io_getevents": (208, 4),
    "io_submit": (209, 2),
    "io_cancel": (210, 3),
    "io_pgetevents": (333, 292),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    # memory and disk that no limit counts, or faster than we can count
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "splice": (275, 76),
    "tee": (276, 77),
    "vmsplice": (278, 75),
    "fallocate": (285, 47),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    # namespaces, mounts and other doors into the kernel
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "personality": (135, 92),
    "syslog": (103, 116),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "modify_ldt": (154, -1),
    # names and changes of files that cannot be opened
    "inotify_init": (253, -1),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of DENIED, the kernel's AUDIT_ARCH
X32 = 0x40000000  # numbers of x86-64's second table start here
UNKNOWN = 467  # calls that came after this list was made (Linux 6.15 and later)

Step = tuple[int, int, int, int]
"""An instruction of classic BPF: what it does, how many to skip if true and if false, its operand."""
LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
ALLOW, KILL, UNKNOWN_CALL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.ENOSYS, 0x00050000 | errno.EPERM
REFUSED: Step = (RETURN, 0, 0, REFUSE)


def any_of(*values: int) -> list[Step]:
    """Refuses a call whose argument is one of these."""
    return [step for value in values for step in ((EQUAL, 0, 1, value), REFUSED)]


def all_bits(flags: int) -> list[Step]:
    """Refuses a call whose argument has all of these flags."""
    return [(AND, 0, 0, flags), *any_of(flags)]


def none_but(*values: int, of: int = 0xFFFFFFFF) -> list[Step]:
    """Refuses a call whose argument, of which the bits `of` count, is none of these."""
    tests = [(EQUAL, len(values) - n, 0, value) for n, value in enumerate(values)]
    return [(AND, 0, 0, of), *tests, REFUSED]


NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW* flags
RULES: list[tuple[tuple[int, int], int, list[Step]]] = [  # numbers of a call, index of its argument, what is refused
    ((56, 220), 0, [(ANY_BIT, 0, 1, NEW_NAMESPACES), REFUSED]),  # clone
    ((302, 261), 0, none_but(0)),  # prlimit64 of another process: 0 is oneself, and getrlimit too is this call
    # a child of a process that ignores SIGCHLD vanishes, and with it the CPU time that it has used
    ((13, 134), 0, any_of(17)),  # rt_sigaction: SIGCHLD
    # a datagram socket can be sent to any address; those that are only connected to each other cannot
    ((53, 199), 0, none_but(1)),  # socketpair: AF_UNIX
    ((53, 199), 1, none_but(1, 5, of=0xF)),  # SOCK_STREAM, SOCK_SEQPACKET, whatever flags go with them
    # signals to others by way of the kernel, leases and watches, longer pipes at the cost of the user's other processes
    ((72, 25), 1, any_of(8, 10, 15)),  # fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX
    ((72, 25), 1, any_of(1024, 1026, 1031)),  # fcntl: F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ
    # ioctl: FIOSETOWN, SIOCSPGRP, TIOCSPGRP, TIOCSTI; flags of a file: FS_IOC_SETFLAGS (also of 32 bits), FSSETXATTR
    ((16, 29), 1, any_of(0x8901, 0x8902, 0x5410, 0x5412, 0x40086602, 0x40046602, 0x401C5820)),
    ((157, 167), 0, any_of(4, 62)),  # prctl: PR_SET_DUMPABLE would hide its open files, PR_SCHED_CORE take cores
    # shared memory without a file stays, out of sight, when a process gives back the pages that it sees
    ((9, 222), 3, all_bits(0x21)),  # mmap: MAP_SHARED | MAP_ANONYMOUS
]
CLONE3 = (435, 435)

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ = 1 << 0 | 1 << 2 | 1 << 3  # execute (what a dynamic loader maps), read a file, list a directory
WRITE = 1 << 1 | 0b11111111 << 4 | 1 << 13 | 1 << 14  # write, remove, make of every kind, refer, truncate
DEVICE_CONTROL = 1 << 15
CONNECT_AND_BIND, ABSTRACT_SOCKETS_AND_SIGNALS = 0b11, 0b11


def confine(limits: Mapping[str, int], files: Mapping[str, Sequence[str]] | None = None) -> None:
    """`limits`: cpu_s, memory_mib, file_mib, processes. `files`: what may be opened (`read`, `write`: directories), by
    Landlock; None where a root file system of its own bounds it.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    limit("CORE", 0)
    limit("CPU", limits["cpu_s"])
    limit("AS", limits["memory_mib"] * MIB)
    limit("FSIZE", limits["file_mib"] * MIB)
    limit("NPROC", limits["processes"])
    limit("NOFILE", 64)  # also bounds what pipes and sockets hold in the kernel, which counts as nobody's memory
    limit("MEMLOCK", 0)
    limit("MSGQUEUE", 0)
    limit("SIGPENDING", 64)  # also the timers of a user
    if files is not None:
        restrict_files(files["read"], files["write"])
    filter_system_calls()


def limit(name: str, value: int) -> None:
    """Lowers a resource limit, both the soft and the hard one; what is lower already stays."""
    which = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    checked(LIBC.prctl(option, *padded), f"prctl {option}")


def checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def knows_children() -> bool:
    """Whether /proc lists the children of a process (CONFIG_PROC_CHILDREN)."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def descendants(pid: int) -> list[int]:
    """All processes below one, parents before their children; each thread has children of its own."""
    found: dict[int, None] = {}
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        for thread in threads(process):
            with contextlib.suppress(OSError), open(f"/proc/{process}/task/{thread}/children") as file:
                children = [child for child in map(int, file.read().split()) if child not in found]
                found |= dict.fromkeys(children)
                waiting += children
    return list(found)


def threads(pid: int) -> list[str]:
    """Of a process; none when it has ended."""
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def filter_system_calls() -> None:
    """A seccomp filter: what is in DENIED or RULES fails with EPERM. It looks at numbers and flags, never at memory."""
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no system call filter for {machine}")
    column, architecture = MACHINES[machine]
    denied = [numbers[column] for numbers in DENIED.values() if numbers[column] >= 0]
    number, first_argument = 0, 16  # offsets in struct seccomp_data
    rules: list[Step] = []
    for calls, index, refused in RULES:
        look = [(LOAD, 0, 0, first_argument + 8 * index), *refused, (LOAD, 0, 0, number)]
        rules += [(EQUAL, 0, len(look), calls[column]), *look]
    code: list[Step] = [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),  # a call by the table of another architecture would pass under a wrong number
        (LOAD, 0, 0, number),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL),
        (AT_LEAST, 0, 1, UNKNOWN),
        (RETURN, 0, 0, UNKNOWN_CALL),
        (EQUAL, 0, 1, CLONE3[column]),  # hides its flags in memory; libc falls back to clone
        (RETURN, 0, 0, UNKNOWN_CALL),
        *(step for n in denied for step in any_of(n)),
        *rules,
        (RETURN, 0, 0, ALLOW),
    ]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(filters)))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))


def landlock_version() -> int:
    """Of the kernel's Landlock; 0 where there is none."""
    return max(0, LIBC.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def restrict_files(read: Sequence[str], write: Sequence[str]) -> None:
    """From here on only these directories can be read or written; also no connection and no signal to outside."""
    version = landlock_version()
    if not version:
        raise OSError(errno.ENOSYS, "the kernel has no Landlock")
    known = READ | WRITE & ((1 << 13) - 1 if version < 2 else (1 << 14) - 1 if version < 3 else (1 << 15) - 1)
    handled = known | (DEVICE_CONTROL if version >= 5 else 0)
    attributes = struct.pack(
        "QQQ", handled, CONNECT_AND_BIND if version >= 4 else 0, ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    )[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = checked(LIBC.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock")
    for path, access in [*((path, READ) for path in read), *((path, known) for path in write)]:
        if os.path.exists(path):
            _allow(ruleset, path, access)
    checked(LIBC.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock")
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not os.path.isdir(path):
        access &= 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14  # what there is to allow for a file
    rule: Any = struct.pack("=Qi", access, directory)
    checked(LIBC.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock for {path}")
    os.close(directory)
