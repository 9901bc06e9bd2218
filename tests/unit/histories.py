"""Large git histories, made in seconds by one `git fast-import`, the same every time."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

WORDS = [
    "deploy",
    "harbour",
    "żółw",
    "service",
    "naïve",
    "queue",
    "rollback",
    "ferry",
    "日本",
    "cache",
    "index",
    "Größe",
]
DROPPED = ("bot", "binary", "gitlink", "revert", "large", "merge", "empty")


def history(path: Path, commits: int, dropped: float = 0.2, seed: int = 1) -> Path:
    """A repository whose commits teach nothing with the chance `dropped`; the others change one to three files."""
    subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True)
    stream = b"".join(_stream(commits, dropped, random.Random(seed)))
    subprocess.run(["git", "fast-import", "--quiet", "--force"], cwd=path, input=stream, check=True)
    return path


def _stream(commits: int, dropped: float, chance: random.Random) -> Iterator[bytes]:
    files: dict[str, list[str]] = {}
    for n in range(1, commits + 1):
        kind = chance.choice(DROPPED) if n > 3 and chance.random() < dropped else "text"
        author = "renovate[bot]" if kind == "bot" else chance.choice(["Ana Nowak", "Bożena Łęcka", "Jürgen Weiß"])
        subject = f"Change {' '.join(chance.sample(WORDS, 3))} {n}"
        if kind == "revert":
            subject = f'Revert "{subject}"'
        yield f"commit refs/heads/main\nmark :{n}\n".encode()
        yield f"committer {author} <a{n % 7}@example.org> {1700000000 + 60 * n} +0000\n".encode()
        yield _data(subject.encode())
        if n > 1:
            yield f"from :{n - 1}\n".encode()
        if kind == "merge":
            yield f"merge :{n - 2}\n".encode()
        elif kind == "gitlink":
            yield f"M 160000 {chance.randbytes(20).hex()} module\n".encode()
        elif kind == "binary":
            yield f"M 100644 inline picture-{n % 9}.png\n".encode() + _data(chance.randbytes(20_000))
        elif kind == "large":
            lines = "".join(f"{chance.random()} {chance.choice(WORDS)}\n" for _ in range(9000))
            yield f"M 100644 inline large-{n}.txt\n".encode() + _data(lines.encode())
        elif kind != "empty":
            yield from _changes(n, files, chance)


def _changes(n: int, files: dict[str, list[str]], chance: random.Random) -> Iterator[bytes]:
    for _ in range(chance.randint(1, 3)):
        name = f"src/{chance.choice(WORDS)}/{chance.randint(1, 40)}.py"
        lines = files.setdefault(name, [f"line {k} of {name}" for k in range(60)])
        for _ in range(chance.randint(1, 6)):
            lines[chance.randrange(len(lines))] = f"{n} {' '.join(chance.choices(WORDS, k=6))}"
        yield f'M 100644 inline "{name}"\n'.encode() + _data("".join(f"{line}\n" for line in lines).encode())
    if n % 50 == 0 and files:
        old = chance.choice(sorted(files))
        new = old.replace(".py", f"-{n}.py")
        files[new] = files.pop(old)
        yield f'R "{old}" "{new}"\n'.encode()


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)
