"""Writes requirements*.lock: the packages that `make` and .ci/run install, with the hashes of their files.

    python tools/lock.py [--check]

uv resolves pyproject.toml within constraints.txt. torch is left to the Makefile: its build depends on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADING = "# Written by `python tools/lock.py`: {}, with the hashes of the files on the package index.\n"
LOCKS = {
    "requirements.lock": (
        "every package that `make` installs except torch",
        ["pyproject.toml", "tools/lock.in", "--extra", "dev", "--extra", "llamacpp", "--no-emit-package", "torch"],
    ),
    "requirements-four-bit.lock": ("4-bit weights", ["tools/four-bit.in", "--no-deps"]),
}


def lock(title: str, arguments: list[str]) -> str:
    """The content of a file. Raises SystemExit with uv's words where it cannot be resolved."""
    with tempfile.TemporaryDirectory() as folder:
        without_torch = Path(folder) / "overrides.txt"
        without_torch.write_text("torch ; sys_platform == 'never'\n", encoding="utf-8")
        command = [
            sys.executable, "-m", "uv", "pip", "compile", *arguments, "--quiet", "--constraint", "constraints.txt",
            "--override", str(without_torch), "--generate-hashes", "--universal", "--python-version", "3.11",
            "--no-header", "--no-annotate",
        ]  # fmt: skip
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr.strip())
    return HEADING.format(title) + result.stdout


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a file is out of date")
    arguments = parser.parse_args()
    outdated = []
    for name, (title, options) in LOCKS.items():
        path, text = ROOT / name, lock(title, options)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        outdated.append(name)
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    print(f"{'out of date' if arguments.check else 'written'}: {', '.join(outdated)}" if outdated else "up to date")
    return 1 if outdated and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
