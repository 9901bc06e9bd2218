"""`python -m bench.secrets [--anyway]`: scanning this repository's history for secrets, compared with detect-secrets.

Figures are megabytes per CPU second, median of five. detect-secrets is slow and scans a part once; it is skipped if it
is not installed.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from academy.curriculum import personal, secrets
from academy.curriculum.injection import find_injection
from bench.machine import too_busy

TIMES = 5
PART = 200_000
"""Characters that detect-secrets scans."""


def main() -> int:
    """Measure and print."""
    if too_busy():
        return 2
    log = subprocess.run(
        ["git", "log", "-p", "--no-color", "--max-count=200"], cwd=Path(__file__).parent.parent, capture_output=True,
        check=True,
    ).stdout.decode(errors="replace")  # fmt: skip
    hunks = log.split("\n@@ ")
    size = len(log.encode()) / 1e6
    finders: dict[str, Callable[[str], object]] = {
        "secrets": secrets.find_secrets, "personal data": personal.find_personal, "injection": find_injection,
    }  # fmt: skip
    for name, find in finders.items():
        rate = size / statistics.median(_cpu(lambda find=find: [find(hunk) for hunk in hunks]) for _ in range(TIMES))
        hits = sum(bool(find(hunk)) for hunk in hunks)
        print(f"{name}: {rate:.1f} MB a CPU s; {hits} of {len(hunks)} hunks flagged")
    if importlib.util.find_spec("detect_secrets") is None:
        print("detect-secrets is not installed: no comparison")
        return 0
    part = log[:PART]
    rate = len(part.encode()) / 1e6 / _cpu(lambda: _peer(part))
    print(f"detect-secrets: {rate:.2f} MB a CPU s")
    return 0


def _peer(text: str) -> None:
    from detect_secrets import SecretsCollection
    from detect_secrets.settings import default_settings

    with tempfile.NamedTemporaryFile("w", suffix=".diff") as file, default_settings():
        file.write(text)
        file.flush()
        SecretsCollection().scan_file(file.name)


def _cpu(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    sys.exit(main())
