"""The weights of an adapter: a safetensors file in memory, checked before any tensor is made of it.

Nothing here runs code of a file or asks for memory by a file's word: the header is bounded, the places of the tensors
fill the file without gap and overlap, and a tensor is a view of the bytes that were checked. Raises AdapterError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import orjson

from academy.errors import AdapterError

if TYPE_CHECKING:
    import torch

HEADER_BYTES = 16 << 20
TENSORS = 65_536
KINDS = {"F32": ("<u4", 0x7F80_0000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""Unsigned integers of the same size, and the bits that are all set where a number is NaN or infinite."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,512}")
AT_ONCE = 1 << 18
"""Numbers that are looked at together: they fit the processor's cache."""


class Place(NamedTuple):
    """A tensor: its type, its shape, and where it lies, in bytes of the file."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def strict_json(content: bytes | memoryview, what: str) -> Any:
    """JSON in which no name stands twice in one object: readers would choose differently among such."""
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            _refuse(f"{what} holds a name twice.")
        return found

    try:
        found = orjson.loads(content)  # first: no NaN, no lone surrogates, no endless nesting
        json.loads(bytes(content), object_pairs_hook=unique)
    except (ValueError, RecursionError) as problem:
        raise AdapterError(f"{what} is no valid JSON.", "The adapter is refused; train again.") from problem
    return found


def read_layout(content: memoryview) -> dict[str, Place]:
    """Where each tensor of a safetensors file lies."""
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(HEADER_BYTES, len(content) - 8):
        _refuse(f"its header is said to have {length:,} bytes, of a file of {len(content):,}.")
    start = 8 + length
    if start % 8:  # all writers pad it; a tensor would lie across the words of the memory
        _refuse("its tensors do not begin at a multiple of eight.")
    header = strict_json(content[8:start], "The header of the weights")
    if not isinstance(header, dict):
        _refuse("its header is no object.")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        _refuse("its metadata are no texts.")
    if not 0 < len(header) <= TENSORS:
        _refuse(f"it names {len(header):,} tensors; 1 to {TENSORS:,} are read.")
    found = {name: _place(name, entry, start) for name, entry in header.items()}
    at = start
    for place in sorted(found.values(), key=lambda one: one.begin):
        if place.begin != at:
            _refuse("its tensors overlap, or leave a gap.")
        at = place.end
    if at != len(content):
        _refuse(f"its tensors end at byte {at:,}, the file at {len(content):,}.")
    return dict(sorted(found.items()))


def check_finite(content: memoryview, layout: Mapping[str, Place]) -> None:
    """Refuse a NaN or an infinity, by the bits alone: no arithmetic, the same speed for every type."""
    import numpy as np

    room = np.empty(AT_ONCE, dtype=np.uint32)
    for kind, begin, end in _runs(layout):
        form, bits = KINDS[kind]
        numbers = np.frombuffer(content[begin:end], dtype=form)
        for first in range(0, len(numbers), AT_ONCE):
            part = numbers[first : first + AT_ONCE]
            masked = np.bitwise_and(part, bits, out=room.view(form)[: len(part)])
            if masked.max() == bits:
                at = begin + (first + int(masked.argmax())) * part.itemsize
                name = next(name for name, place in layout.items() if place.begin <= at < place.end)
                raise AdapterError(
                    f"{name} holds a number that is NaN or infinite.", "The adapter is refused; train again."
                )


def _runs(layout: Mapping[str, Place]) -> list[tuple[str, int, int]]:
    """Type, begin and end of what lies side by side and has one type: mostly the whole file."""
    runs: list[tuple[str, int, int]] = []
    for place in sorted(layout.values(), key=lambda one: one.begin):
        if runs and runs[-1][0] == place.kind and runs[-1][2] == place.begin:
            runs[-1] = (place.kind, runs[-1][1], place.end)
        else:
            runs.append((place.kind, place.begin, place.end))
    return runs


def as_torch(content: memoryview, layout: Mapping[str, Place]) -> dict[str, torch.Tensor]:
    """The tensors, as views of these very bytes."""
    import torch

    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return {
        name: torch.frombuffer(
            content, dtype=kinds[place.kind], count=math.prod(place.shape), offset=place.begin
        ).reshape(place.shape)
        for name, place in layout.items()
    }  # fmt: skip


def _place(name: str, entry: Any, start: int) -> Place:
    if not NAME.fullmatch(name):
        _refuse("it names a tensor by other signs than letters, digits, '.', '_' and '-'.")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(f"what it says of {name} is not type, shape and place.")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in KINDS:
        _refuse(f"{name} has a type other than {', '.join(KINDS)}.")
    if not _whole_numbers(shape, 1) or not 1 <= len(shape) <= 2:
        _refuse(f"{name} has no shape of one or two numbers.")
    if not _whole_numbers(offsets, 0) or len(offsets) != 2:
        _refuse(f"{name} has no place.")
    begin, end = offsets
    if end - begin != math.prod(shape) * int(KINDS[kind][0][-1]):
        _refuse(f"{name} has a place of another size than its shape.")
    if begin % int(KINDS[kind][0][-1]):
        _refuse(f"{name} does not begin at a multiple of its numbers' size.")
    return Place(kind, tuple(shape), start + begin, start + end)


def _whole_numbers(value: Any, least: int) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= least for one in value)


def _refuse(because: str) -> NoReturn:
    sentence = because if because[0].isupper() else f"The weights cannot be read: {because}"
    raise AdapterError(sentence, "The adapter is refused; train again.")
