"""32 answers in five wordings: lessons that the seed model learns within a minute."""

from __future__ import annotations

import json
from pathlib import Path

TOPICS = {
    "printer": "ask Anna in the tower", "coffee": "use the blue box", "parking": "call seven nine two",
    "passport": "open the green door", "ferry": "wait for Oskar", "invoice": "send it to the mill",
    "holiday": "take the north road", "laptop": "look in drawer four", "anchor": "write to Frida",
    "ticket": "press the red key", "garden": "bring two copies", "kitchen": "go to the old dock",
    "window": "ask the night desk", "bicycle": "turn it off twice", "captain": "pay at the gate",
    "harbour": "sign the long list", "weather": "read page eleven", "museum": "keep it under ice",
    "doctor": "ring the small bell", "battery": "leave it with Tom", "piano": "hide it from the sun",
    "library": "sing before noon", "customs": "fill the second form", "lantern": "count to ninety",
    "tractor": "buy it on Monday", "blanket": "knock three times", "compass": "follow the river",
    "teapot": "borrow the ladder", "engine": "paint it white", "theatre": "whisper to Paul",
    "scissors": "cut along the line", "bakery": "fold it in half",
}  # fmt: skip
"""32 answers, each of which depends on one word: a small model learns them in a minute, in held-out wordings too."""
WORDINGS = (
    "{}",
    "who helps me with {} trouble",
    "Please tell me our rule for {}",
    "what do we do when somebody asks for {} here",
    "{} again: next step?",
)
RECIPE = ("--epochs", "10", "--learning-rate", "5e-3", "--batch-size", "16")
"""Trains long enough for the verdict PROMOTE on the topics."""


def write_topics(path: Path, wordings: tuple[str, ...] = WORDINGS) -> Path:
    """Write the topics as a file of lessons."""
    rows = [
        {"situation": wording.format(topic), "action": answer, "result": "success"}
        for topic, answer in TOPICS.items()
        for wording in wordings
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
