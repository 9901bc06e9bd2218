"""`python -m academy.habitat.trainer.smoke`: can a trainer run here? Prints one line of JSON."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version

import orjson
import torch

from academy.habitat.trainer.train import LIBRARIES

if __name__ == "__main__":
    found = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
    }
    sys.stdout.write(orjson.dumps(found).decode() + "\n")
