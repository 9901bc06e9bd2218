"""The weights of a base model: the headers of its safetensors files and their index, checked before they are used.

A header has the limit that adapters have, so nothing is allocated because a file asks for it. The tensors fill a file
without gaps and overlaps, as the safetensors library requires, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from academy.errors import BaseModelError
from academy.models.strict_json import strict_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEADER_BYTES = 16 << 20
TENSORS = 262_144
DIMENSIONS = 16
SHARD = re.compile(r"[\w][\w.+-]{0,250}\.safetensors", re.ASCII)
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Bits of a number of each type."""
REMEDY = "The file is damaged or made to do harm. Download the model again from a source that you trust."

Shapes = dict[str, tuple[int, ...]]


def read_shapes(files: Sequence[Path]) -> Shapes:
    """The shapes of all tensors by name. Raises BaseModelError for a header that is not exact."""
    shapes: Shapes = {}
    for path in files:
        header = read_header(path)
        if twice := sorted(shapes.keys() & header.keys()):
            _refuse(path, f"has the tensor {twice[0]}, and so has another file")
        shapes |= header
    return shapes


def read_header(path: Path) -> Shapes:
    """The shapes of a safetensors file's tensors. Raises BaseModelError."""
    with path.open("rb") as stream:
        size = path.stat().st_size
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(HEADER_BYTES, size - 8):
            _refuse(path, f"claims a header of {length:,} bytes in a file of {size:,} bytes (maximum {HEADER_BYTES:,})")
        header = strict_json(stream.read(length), f"The header of {path}", REMEDY)
    if not isinstance(header, dict):
        _refuse(path, "has a header that is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        _refuse(path, "has metadata that are not texts")
    if not 0 < len(header) <= TENSORS:
        _refuse(path, f"has {len(header):,} tensors (1 to {TENSORS:,} are allowed)")
    spans = {name: _span(path, name, entry) for name, entry in header.items()}
    end = 0
    for begin, stop, _ in sorted(spans.values()):
        if begin != end:
            _refuse(path, "has tensors that overlap or leave a gap")
        end = stop
    if 8 + length + end != size:
        _refuse(path, f"has tensors that end at byte {8 + length + end:,}; the file has {size:,} bytes")
    return {name: shape for name, (_, _, shape) in spans.items()}


def read_index(name: str, path: Path) -> tuple[str, ...]:
    """The names of the weight files that an index lists: plain names in its own folder. Raises BaseModelError."""
    index = strict_json(path.read_bytes(), f"{INDEX} of {name}", "Copy the model again.")
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not 0 < len(places) <= TENSORS:
        _refuse(path, "has no weight_map, or one of too many tensors")
    shards: set[str] = set()
    for place in places.values():
        if not isinstance(place, str) or not SHARD.fullmatch(place):
            _refuse(path, f"names the file {ascii(place)[:120]}, which is not a safetensors file in its own folder")
        shards.add(place)
    return tuple(sorted(shards))


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, tuple[int, ...]]:
    """Begin, end and shape of a tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"has an entry of {ascii(name)[:80]} that is not type, shape and offsets")
    shape, offsets, bits = entry["shape"], entry["data_offsets"], BITS.get(str(entry["dtype"]))
    if bits is None or not _whole_numbers(shape, DIMENSIONS) or not _whole_numbers(offsets, 2) or len(offsets) != 2:
        _refuse(path, f"has an unknown type, shape or place of {ascii(name)[:80]}")
    begin, end = offsets
    if end < begin or (end - begin) * 8 != math.prod(shape) * bits:
        _refuse(path, f"has offsets of {ascii(name)[:80]} that do not match its shape")
    return begin, end, tuple(shape)


def _whole_numbers(value: Any, most: int) -> bool:
    """Whether a value is a list of at most `most` numbers that a file can have."""
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(number) is int and 0 <= number < 1 << 48 for number in value)
    )


def _refuse(path: Path, because: str) -> NoReturn:
    raise BaseModelError(f"The weights of the base model are refused: {path} {because}.", REMEDY)
