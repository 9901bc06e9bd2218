"""The system calls that an examined program may use, enforced by the kernel (libseccomp through pyseccomp).

This is an allow list: a call that a newer kernel adds does not exist inside. Calls that do not exist return ENOSYS, for
which libraries have fallbacks; those of DENIED, which exist everywhere, return EPERM. No socket can be created except a
connected pair, which asyncio needs. `clone` cannot create a namespace. `clone3` does not exist, because a filter cannot
read its flags; the C library then falls back to `clone`.
"""

from __future__ import annotations

import errno
import json
import tempfile
from functools import cache

ALLOWED = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 sendfile splice tee copy_file_range
    open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 flock lseek _llseek
    stat fstat lstat stat64 fstat64 lstat64 newfstatat fstatat64 statx access faccessat faccessat2
    statfs fstatfs statfs64 fstatfs64 fsync fdatasync sync_file_range syncfs sync
    truncate ftruncate truncate64 ftruncate64 fallocate fadvise64 fadvise64_64 readahead
    rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat mkdir mkdirat rmdir
    readlink readlinkat chdir fchdir getcwd getdents getdents64 umask
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat
    utime utimes utimensat futimesat getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
    setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
    mmap mmap2 munmap mremap mprotect madvise msync mincore brk mlock mlock2 munlock mlockall munlockall membarrier
    pkey_alloc pkey_free pkey_mprotect get_mempolicy
    fork vfork execve execveat exit exit_group wait4 waitpid waitid
    kill tkill tgkill pidfd_open pidfd_send_signal rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending
    rt_sigqueueinfo rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigreturn
    pause restart_syscall
    alarm setitimer getitimer nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
    timer_create timer_settime timer_gettime timer_getoverrun timer_delete timerfd_create timerfd_settime
    timerfd_gettime futex futex_waitv futex_wait futex_wake futex_requeue set_robust_list get_robust_list
    rseq set_tid_address
    poll ppoll select _newselect pselect6 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old
    epoll_pwait epoll_pwait2 eventfd eventfd2 pipe pipe2
    socketpair sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown getsockopt setsockopt
    getsockname getpeername
    getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgid getpgrp getsid
    setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid setpgid setsid capget capset prctl
    arch_prctl set_thread_area get_thread_area
    getrlimit setrlimit prlimit64 getrusage ugetrlimit getpriority setpriority ioprio_get ioprio_set nice
    sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sched_get_priority_max
    sched_get_priority_min sched_rr_get_interval sched_setparam sched_setscheduler sched_getattr sched_setattr
    uname sysinfo getrandom getcpu
    io_setup io_submit io_getevents io_pgetevents io_cancel io_destroy
    arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls
""".split()  # noqa: SIM905 - a line for each kind
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
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS and TIOCGWINSZ (is this a terminal?), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
CONDITIONS = [("clone", 0, NAMESPACES, 0), *(("ioctl", 1, 0xFFFFFFFF, request) for request in IOCTLS)]
"""Calls that are allowed where an argument, masked, has a value. The kernel reads 32 bits of an ioctl's request."""


@cache
def seccomp_filter() -> bytes | None:
    """The filter in the kernel's format, or None without pyseccomp or libseccomp."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError):  # RuntimeError: the package is installed, its library is not
        return None
    filters = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    for action, names in ((pyseccomp.ALLOW, ALLOWED), (pyseccomp.ERRNO(errno.EPERM), DENIED)):
        for name in names:
            number = pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)
            if number >= 0:  # negative: the machine or the library does not have this call
                filters.add_rule(action, number)
    for name, index, mask, value in CONDITIONS:
        filters.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(index, pyseccomp.MASKED_EQ, mask, value))
    with tempfile.TemporaryFile() as stream:
        filters.export_bpf(stream)
        stream.seek(0)
        return stream.read()


def docker_profile() -> str:
    """The same allow list in Docker's format (JSON). Calls of another architecture end the program."""
    rules: list[dict[str, object]] = [
        {"names": ALLOWED, "action": "SCMP_ACT_ALLOW"},
        {"names": DENIED, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
        # engines that do not know the default's error answer EPERM, for which the C library has no fallback
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
    for name, index, mask, value in CONDITIONS:
        condition = {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition]})
    return json.dumps(
        {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno.ENOSYS, "syscalls": rules},
    )
