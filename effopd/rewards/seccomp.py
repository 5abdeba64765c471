"""The system calls that a sandboxed program is refused, as a seccomp filter for `bwrap --seccomp`.

Namespaces and resource limits leave three holes, which this closes: one process reading another's memory (the judge's,
which holds the tests), memory that no limit counts (System V segments, memory files), and new namespaces, in which a
program would be root again and could mount what it likes.
"""

import errno
import platform
import struct

from effopd.errors import ConfigError

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000  # x86-64's second numbering of the same calls

# Numbers on x86_64 and aarch64, from the kernel's tables (asm/unistd_64.h, asm-generic/unistd.h).
_REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "socket": (41, 198),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "personality": (135, 92),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together

# Classic BPF instructions, and where struct seccomp_data keeps its fields (bytes).
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000


def filter_program(machine: str | None = None) -> bytes:
    """Return the filter for `machine` (default: this one), an array of struct sock_filter.

    A refused call fails with EPERM; clone3, whose flags a filter cannot see, with ENOSYS, upon which C libraries fall
    back to clone. Calls of another architecture kill the process. Raises ConfigError on an unknown machine.
    """
    machine = platform.machine() if machine is None else machine
    if machine not in _AUDIT_ARCH:
        raise ConfigError(f"the code sandbox knows {' and '.join(_AUDIT_ARCH)}, not {machine}")
    column = list(_AUDIT_ARCH).index(machine)
    refuse = _instruction(_RETURN, _ERRNO | errno.EPERM)
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCH[machine], if_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        _instruction(_JUMP_AT_LEAST, _X32_BIT, if_false=1),
        refuse,
    ]
    for numbers in _REFUSED.values():
        program += [_instruction(_JUMP_EQUAL, numbers[column], if_false=1), refuse]
    program += [
        _instruction(_JUMP_EQUAL, _CLONE3[column], if_false=1),
        _instruction(_RETURN, _ERRNO | errno.ENOSYS),
        _instruction(_JUMP_EQUAL, _CLONE[column], if_false=3),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_JUMP_ANY_BIT, _NEW_NAMESPACES, if_false=1),
        refuse,
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(program)


def _instruction(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one struct sock_filter; the jumps skip that many instructions."""
    return struct.pack("=HBBI", code, if_true, if_false, operand)
