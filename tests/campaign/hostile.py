"""Hostile programs, each run in the sandbox while everything outside is observed.

`python -m tests.campaign.hostile [SECONDS]` prints a line for each program and a summary; it is also a part of
`python -m tests.campaign`. Nothing hostile runs outside a sandbox, not even as a control. As root it starts only in a
disposable container (/.dockerenv, /run/.containerenv, or ACADEMY_THROWAWAY=1). There it runs twice: as root, where each
program has its own user id, and unprivileged, with user namespaces. `--docker` runs the programs in containers, if an
engine answers; that is a separate part of the campaign.

Observed: a secret in a file and in the environment; listeners on the loopback by TCP and UDP, on unix sockets by path
and by abstract name; files with a known name in writable folders; remaining processes in namespaces or with user ids of
the sandbox; remaining cgroups; memory of the machine and of this process; signals to this process; the time. The
results are compared outside: no program computes the answer, so none may be correct.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from academy.arena.sandbox import Call, Limits, RunResult, Sandbox, Unavailable, engine, find_sandbox
from academy.arena.sandbox.image import make_image
from academy.arena.sandbox.memory import PREFIX
from academy.arena.sandbox.users import FIRST_UID, UIDS
from academy.errors import ExaminationError
from academy.records import canonical
from tests.campaign.hostile_programs import TABLE, Hostile
from tests.campaign.kills import Line

LIMITS = Limits(seconds=2.0, cpu_seconds=2)
NOBODY = 65534
LATE_SECONDS = 8.0
"""Allowed beyond the limit on a busy machine; a working sandbox takes 0.05 s."""
EATEN, GROWN = 2 * 2**30, 200 * 2**20
"""The maximum memory of the machine and of this process in bytes; other processes use the machine too."""
MARKS = ("/tmp", "/var/tmp", "/dev/shm", "/root", "/work", "/etc", "/home", "/", "/usr/lib")  # noqa: S108
ANSWERS = 2
WHOLE_SECONDS = 150.0
"""For the complete table in Docker on two cores."""


@dataclass
class Outcome:
    """The outcome of one program."""

    name: str
    ended: str
    breach: str = ""
    forged: str = ""
    seconds: float = 0.0


@dataclass
class Outside:
    """Resources that no program may reach, and what has reached them."""

    folder: Path
    secret: str
    place: dict[str, Any]
    listeners: list[socket.socket]
    signals: list[int] = field(default_factory=list)

    def contacts(self) -> list[str]:
        """A sentence for each listener that was contacted since the last call."""
        messages = []
        for listener in self.listeners:
            try:
                if listener.type == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    listener.recv(100)
            except BlockingIOError:
                continue
            messages.append(f"{listener.getsockname()!r} was contacted")
        return messages


def run(seconds: float, seed: int = 7, _rounds: int = 1) -> list[Line]:
    """The part of the campaign: one line for each user that runs the sandbox."""
    if refusal := _refusal():
        print(f"  skipped: {refusal}", flush=True)
        return [Line("hostile programs")]
    until = time.monotonic() + seconds
    lines = [_line("hostile programs, as root" if os.geteuid() == 0 else "hostile programs", here(seconds, seed))]
    if os.geteuid() == 0:
        lines.append(_line("hostile programs, unprivileged", _unprivileged(until - time.monotonic(), seed)))
    return lines


def run_in_docker(seconds: float, seed: int = 7, _rounds: int = 1) -> list[Line]:
    """The same in containers of a Docker engine, or the reason why not. Remaining containers count too."""
    stage = "hostile programs, in Docker"
    if refusal := _refusal():
        print(f"  skipped: {refusal}", flush=True)
        return [Line(stage)]
    try:
        client = engine.connect()
    except ExaminationError as problem:
        print(f"  skipped: {problem} As root, .ci/engine FOLDER runs one in the foreground.", flush=True)
        return [Line(stage)]
    with closing(client):
        print(f"  image {make_image(client).digest}", flush=True)
        outcomes = here(seconds, seed, "docker")
        if left := client.api.containers(all=True, filters={"label": f"{engine.OWNER}={engine.owner()}"}):
            outcomes.append(Outcome("after the last", "failed", breach=f"{len(left)} containers stay"))
    if not outcomes:
        outcomes.append(Outcome("the first", "failed", breach="an engine is available, but no program ran"))
    return [_line(stage, outcomes)]


def here(seconds: float, seed: int = 7, prefer: str = "") -> list[Outcome]:
    """Run the table as this user; programs beyond the time are skipped and reported."""
    if refusal := _refusal():
        raise SystemExit(refusal)
    sandbox = find_sandbox(prefer, LIMITS)
    if isinstance(sandbox, Unavailable):
        print(f"  skipped: {sandbox.because}", flush=True)
        return []
    print(f"  {sandbox.name}, uid {os.geteuid()}: {', '.join(sandbox.active_limits)}", flush=True)
    outcomes: list[Outcome] = []
    until, chance = time.monotonic() + seconds, random.Random(seed)
    with _outside() as outside:
        outside.place["seccomp"] = any("seccomp" in word for word in sandbox.active_limits)
        outside.place["proc"] = sandbox.name == "docker"
        for hostile in _order(seconds, sandbox, chance):
            if time.monotonic() > until:
                print(f"  {len(TABLE) - len(outcomes)} programs skipped: the time is over", flush=True)
                break
            outcome = _one(sandbox, hostile, outside, chance)
            if "memory of the machine" in outcome.breach:  # other processes use memory too: a breach must occur twice
                outcome = _one(sandbox, hostile, outside, chance)
            outcomes.append(outcome)
            words = " ".join(f"{kind}: {what}" for kind, what in (("BREACH", outcome.breach),
                             ("FORGED", outcome.forged)) if what)  # fmt: skip
            print(f"  {outcome.name:<44} {outcome.ended:<8} {outcome.seconds:5.1f} s  {words}".rstrip(), flush=True)
    print(f"  {summary(outcomes)}", flush=True)
    return outcomes


def _order(seconds: float, sandbox: Sandbox, chance: random.Random) -> list[Hostile]:
    """The table, in random order where a slow sandbox has no time for all of it."""
    return chance.sample(TABLE, len(TABLE)) if sandbox.name == "docker" and seconds < WHOLE_SECONDS else TABLE


def summary(outcomes: list[Outcome]) -> str:
    """One sentence."""
    breaches, forged = (sum(bool(getattr(one, kind)) for one in outcomes) for kind in ("breach", "forged"))
    return f"{len(outcomes)} programs, {breaches} breaches, {forged} forged"


def _refusal() -> str:
    thrown_away = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    if os.geteuid() == 0 and not thrown_away and os.environ.get("ACADEMY_THROWAWAY") != "1":
        return "as root the hostile programs run in a disposable container only (set ACADEMY_THROWAWAY=1 in one)"
    return ""


def _one(sandbox: Sandbox, hostile: Hostile, outside: Outside, chance: random.Random) -> Outcome:
    asked = [chance.randrange(10**6, 10**7) for _ in range(ANSWERS)]
    calls = [Call(function="attack", args=(outside.place,)), *(Call(function="answer", args=(n,)) for n in asked)]
    outside.contacts()
    outside.signals.clear()
    before, strangers = _files(outside), _strangers()
    free, grown, started = _available(), _peak(), time.monotonic()
    with _least_available() as least:
        try:
            result = sandbox.run(hostile.source, calls)
        except ExaminationError as problem:
            return Outcome(hostile.name, "failed", breach=f"the sandbox itself failed: {problem}")
    outcome = Outcome(hostile.name, result.ended, seconds=time.monotonic() - started)
    breaches = outside.contacts() + [f"signal {number} came out" for number in outside.signals]
    text = result.model_dump_json()
    if outside.secret in text or outside.secret[::-1] in text:
        breaches.append("the secret came out")
    breaches += _words(result)
    if after := _files(outside) ^ before:
        breaches.append(f"files changed outside: {sorted(after)[:3]}")
    if processes := _stays(strangers):
        breaches.append(f"processes stay: {processes[:5]}")
    if cgroups := [path.name for path in Path("/sys/fs/cgroup").glob(f"*/**/{PREFIX}{os.getpid()}-*")]:
        breaches.append(f"cgroups stay: {cgroups[:3]}")
    if free - min(least) > EATEN:
        breaches.append(f"{(free - min(least)) / 2**20:.0f} MiB of the memory of the machine was used")
    if _peak() - grown > GROWN:
        breaches.append(f"this process grew by {(_peak() - grown) / 2**20:.0f} MiB")
    if outcome.seconds > LIMITS.seconds + LATE_SECONDS:
        breaches.append(f"it took {outcome.seconds:.0f} s")
    outcome.breach = "; ".join(breaches)
    outcome.forged = _graded(result, asked)
    return outcome


FAULTS = ("NameError", "TypeError", "AttributeError", "KeyError", "IndexError", "error", "SyntaxError", "ArgumentError")
"""Exceptions of an attack that is itself faulty."""


def _words(ran: RunResult) -> list[str]:
    """What the program reports of its own success. A faulty program and a control character count too."""
    words = [line for line in ran.stderr.splitlines() if line.startswith(("BREACH", "WRONG"))]
    if ran.values and isinstance(ran.values[0].value, list):
        words += [word for word in ran.values[0].value if isinstance(word, str) and word.startswith("BREACH")]
    if ran.values and ran.values[0].kind == "raised" and ran.values[0].value in FAULTS:
        words.append(f"WRONG {ran.stderr[:100]}")
    if any(not (letter.isprintable() or letter in "\n\t") for letter in ran.stderr):
        words.append("a control character came out")
    return list(dict.fromkeys(words))


def _expected(n: int) -> int:
    """The answer that a program would have to compute: no program of the table does."""
    return sum(int(digit) ** 3 for digit in str(n**5))


def _graded(ran: RunResult, asked: list[int]) -> str:
    """Compare the answers here: which ones are correct although no program computes them."""
    values = ran.values[1:] if ran.ended == "done" else ()
    right = [
        n for n, value in zip(asked, values, strict=False)
        if value.kind == "value" and canonical(value.value) == canonical(_expected(n))
    ]  # fmt: skip
    return f"{len(right)} right answers of {len(asked)}" if right else ""


@contextmanager
def _outside() -> Iterator[Outside]:
    token, secret = secrets.token_hex(6), secrets.token_hex(16)
    folder = Path(tempfile.mkdtemp(prefix="academy-hostile-"))
    folder.chmod(0o777)
    (folder / "secret").write_text(secret)
    (folder / "secret").chmod(0o644)
    os.environ["ACADEMY_HOSTILE_SECRET"] = secret
    with ExitStack() as held:
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        held.callback(os.environ.pop, "ACADEMY_HOSTILE_SECRET", None)
        kinds: list[tuple[int, int, Any]] = [
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"\0academy-hostile-{token}"),
            (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0academy-hostile-{token}-datagrams"),
        ]
        listeners = []
        for family, kind, where in kinds:
            listener = held.enter_context(socket.socket(family, kind))
            listener.bind(where)
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            listeners.append(listener)
        (folder / "socket").chmod(0o777)
        place = {
            "port": listeners[0].getsockname()[1],
            "udp": listeners[1].getsockname()[1],
            "socket": str(folder / "socket"),
            "abstract": f"academy-hostile-{token}",
            "secret": str(folder / "secret"),
            "pid": os.getpid(),
            "marks": [*MARKS, str(folder)],
            "mark": f"academy-mark-{token}",
            "seccomp": True,
            "proc": False,
        }
        outside = Outside(folder, secret, place, listeners)
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGIO):
            old = signal.signal(number, lambda got, _: outside.signals.append(got))
            held.callback(signal.signal, number, old)
        yield outside


def _files(outside: Outside) -> set[tuple[str, int]]:
    """Marked files in the folders outside, and the files of the secret's folder with their sizes."""
    found = {(str(path), path.lstat().st_size) for path in outside.folder.rglob("*")}
    for folder in MARKS:
        with suppress(OSError):
            found |= {(f"{folder}/{n}", 0) for n in os.listdir(folder) if outside.place["mark"] in n}  # noqa: PTH208
    return found


def _strangers() -> set[str]:
    """Processes with a user id of the sandbox, or in another process namespace.

    Zombies (Z) do not count: they hold no resources.
    """
    own, found = _namespace("self"), set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if "State:\tZ" in (folder / "status").read_text(encoding="utf-8", errors="replace"):
                    continue
                if FIRST_UID <= folder.stat().st_uid < FIRST_UID + UIDS or _namespace(folder.name) not in ("", own):
                    found.add(folder.name)
    return found


def _stays(before: set[str], patience: float = 3.0) -> list[str]:
    """New processes that do not end. Another user of the sandbox has some that come and go."""
    until = time.monotonic() + patience
    left = _strangers() - before
    while left and time.monotonic() < until:
        time.sleep(0.05)
        left &= _strangers()
    return sorted(left)


def _namespace(process: str) -> str:
    try:
        return os.readlink(f"/proc/{process}/ns/pid")  # noqa: PTH115
    except OSError:
        return ""


def _field(path: str, name: str) -> int:
    text = Path(path).read_text(encoding="ascii", errors="replace")
    return 1024 * int(text.partition(f"{name}:")[2].split()[0])


def _available() -> int:
    return _field("/proc/meminfo", "MemAvailable")


def _peak() -> int:
    return _field("/proc/self/status", "VmHWM")


@contextmanager
def _least_available() -> Iterator[list[int]]:
    """Record the machine's free memory repeatedly."""
    seen, over = [_available()], threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            seen.append(_available())

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        yield seen
    finally:
        over.set()
        looker.join()


def _unprivileged(seconds: float, seed: int) -> list[Outcome]:
    """The same as an unprivileged user, in another process, with an interpreter that this user can read."""
    mine = Path(sys.executable).resolve()
    python = str(mine) if _readable(mine) else "/usr/bin/python3"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    output = subprocess.run([python, "-V"], capture_output=True, text=True, check=False).stdout
    if version not in output:
        print(f"  skipped: the unprivileged user cannot read a Python {version} here", flush=True)
        return []
    paths = [str(Path(__file__).parents[2]), *(path for path in sys.path if path)]
    command = [python, "-m", "tests.campaign.hostile", "--here", str(seconds), str(seed)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    outcomes: list[Outcome] = []
    with subprocess.Popen(
        command, cwd="/", env=environment, stdout=subprocess.PIPE, text=True, user=NOBODY, group=NOBODY, extra_groups=[]
    ) as child:
        for line in child.stdout or ():
            if line.startswith("@"):
                outcomes = [Outcome(**one) for one in json.loads(line[1:])]
            else:
                print(line, end="", flush=True)
    if child.returncode:
        outcomes.append(Outcome("the unprivileged programs", "failed", breach=f"it ended with code {child.returncode}"))
    return outcomes


def _readable(path: Path) -> bool:
    """Whether other users may reach a file."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


def _line(stage: str, outcomes: list[Outcome]) -> Line:
    bad = [one for one in outcomes if one.breach or one.forged]
    violations = [f"{one.name}: {one.breach} {one.forged}".strip() for one in bad]
    return Line(stage, checked=len(outcomes), failed=len(bad), violations=violations)


def main() -> int:
    """`[SECONDS [SEED]]`, `--docker`; with `--here` as this user only, with the outcomes as JSON in the last line."""
    given = [word for word in sys.argv[1:] if not word.startswith("-")]
    seconds, seed = float(given[0]) if given else 900.0, int(given[1]) if len(given) > 1 else 7
    if refusal := _refusal():
        print(refusal)
        return 2
    if "--here" in sys.argv:
        print("@" + json.dumps([asdict(one) for one in here(seconds, seed)]))
        return 0
    lines = (run_in_docker if "--docker" in sys.argv else run)(seconds, seed)
    for line in lines:
        print(f"{line.stage}: {line.checked} programs, {line.failed} with a breach or a forged verdict")
        for violation in line.violations:
            print(f"  violated: {violation}")
    return 1 if any(line.failed for line in lines) or not any(line.checked for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
