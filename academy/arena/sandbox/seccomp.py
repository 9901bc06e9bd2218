"""System calls that no examined program needs, rejected by the kernel (libseccomp through pyseccomp).

This is a deny list: all other calls are allowed. No socket can be created except a connected pair, which asyncio needs.
`clone` cannot create a namespace. `clone3` does not exist, because a filter cannot read its flags; the C library then
falls back to `clone`.
"""

from __future__ import annotations

import errno
import json
import tempfile
from functools import cache

DENIED = """
    socket connect bind listen accept accept4
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd
    mount umount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick pivot_root chroot
    unshare setns
    keyctl add_key request_key
    bpf perf_event_open userfaultfd
    io_uring_setup io_uring_enter io_uring_register
    kexec_load kexec_file_load reboot swapon swapoff
    init_module finit_module delete_module
    open_by_handle_at name_to_handle_at
    personality modify_ldt vm86 vm86old iopl ioperm
    acct quotactl quotactl_fd syslog settimeofday clock_settime clock_adjtime adjtimex stime
    sethostname setdomainname vhangup nfsservctl lookup_dcookie uselib ustat sysfs
    memfd_create memfd_secret
    mknod mknodat
    shmget shmat shmctl msgget msgsnd msgrcv msgctl semget semop semtimedop semctl
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    fanotify_init fanotify_mark inotify_init inotify_init1
    mbind set_mempolicy migrate_pages move_pages set_mempolicy_home_node
    landlock_create_ruleset seccomp vmsplice
""".split()  # noqa: SIM905 - a line for each kind
NAMESPACES = 0x7E020080
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME} together."""
TIOCSTI, TIOCLINUX = 0x5412, 0x541C


@cache
def seccomp_filter() -> bytes | None:
    """The filter in the kernel's format, or None without pyseccomp or libseccomp."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError):  # RuntimeError: the package is installed, its library is not
        return None
    denial = pyseccomp.ERRNO(errno.EPERM)
    filters = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in DENIED:
        number = pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)
        if number >= 0:  # negative: the machine or the library does not have this call
            filters.add_rule(denial, number)
    for flag in (1 << bit for bit in range(32) if NAMESPACES >> bit & 1):
        filters.add_rule(denial, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    filters.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for request in (TIOCSTI, TIOCLINUX):
        filters.add_rule(denial, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    with tempfile.TemporaryFile() as stream:
        filters.export_bpf(stream)
        stream.seek(0)
        return stream.read()


def docker_profile() -> str:
    """The same deny list in Docker's format (JSON). Calls of another architecture end the program."""
    rules: list[dict[str, object]] = [
        {"names": DENIED, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
    arguments = [("clone", 0, flag, flag) for flag in (1 << bit for bit in range(32) if NAMESPACES >> bit & 1)]
    arguments += [("ioctl", 1, 0xFFFFFFFF, request) for request in (TIOCSTI, TIOCLINUX)]
    for name, index, mask, value in arguments:
        conditions = [{"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}]
        rules.append({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM, "args": conditions})
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})
