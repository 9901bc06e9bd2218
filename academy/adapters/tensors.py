"""The weights of an adapter: a safetensors file in memory, checked before any tensor is created.

Nothing here runs code from a file or allocates memory because a file asks for it: the header has a size limit, the
tensors fill the file without gaps and overlaps, and each tensor is a view of the checked bytes. Raises AdapterError.
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
"""The unsigned integer type of the same size, and the bits that are all set in a NaN or an infinity."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,512}")
CHUNK = 1 << 18
"""How many numbers are checked at once: they fit into the CPU's cache."""


class TensorSpan(NamedTuple):
    """A tensor's type and shape, and its first and last byte in the file."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def strict_json(content: bytes | memoryview, what: str) -> Any:
    """JSON without duplicate names in an object: parsers differ in which duplicate they use."""
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            _refuse(f"{what} has a duplicate name.")
        return members

    try:
        value = orjson.loads(content)  # first: it rejects NaN, lone surrogates and endless nesting
        json.loads(bytes(content), object_pairs_hook=unique)
    except (ValueError, RecursionError) as problem:
        raise AdapterError(f"{what} is not valid JSON.", "The adapter is refused. Train again.") from problem
    return value


def read_layout(content: memoryview) -> dict[str, TensorSpan]:
    """The position of each tensor in a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(HEADER_BYTES, len(content) - 8):
        _refuse(f"the header claims {length:,} bytes of a file of {len(content):,} bytes.")
    start = 8 + length
    if start % 8:  # all writers pad the header; otherwise tensors are not aligned in memory
        _refuse("the tensors do not start at a multiple of eight bytes.")
    header = strict_json(content[8:start], "The header of the weights")
    if not isinstance(header, dict):
        _refuse("the header is not a JSON object.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        _refuse("the metadata are not texts.")
    if not 0 < len(header) <= TENSORS:
        _refuse(f"it has {len(header):,} tensors; 1 to {TENSORS:,} are allowed.")
    layout = {name: _span(name, entry, start) for name, entry in header.items()}
    end = start
    for span in sorted(layout.values(), key=lambda span: span.begin):
        if span.begin != end:
            _refuse("the tensors overlap or leave a gap.")
        end = span.end
    if end != len(content):
        _refuse(f"the tensors end at byte {end:,}, the file at {len(content):,}.")
    return dict(sorted(layout.items()))


def check_finite(content: memoryview, layout: Mapping[str, TensorSpan]) -> None:
    """Refuse a NaN or an infinity. The bits are compared without arithmetic, at the same speed for all types."""
    import numpy as np

    buffer = np.empty(CHUNK, dtype=np.uint32)
    for kind, begin, end in _runs(layout):
        form, bits = KINDS[kind]
        numbers = np.frombuffer(content[begin:end], dtype=form)
        for first in range(0, len(numbers), CHUNK):
            part = numbers[first : first + CHUNK]
            exponents = np.bitwise_and(part, bits, out=buffer.view(form)[: len(part)])
            if exponents.max() == bits:
                at = begin + (first + int(exponents.argmax())) * part.itemsize
                name = next(name for name, span in layout.items() if span.begin <= at < span.end)
                raise AdapterError(
                    f"{name} contains NaN or an infinite number.", "The adapter is refused. Train again."
                )


def _runs(layout: Mapping[str, TensorSpan]) -> list[tuple[str, int, int]]:
    """Type, begin and end of adjacent tensors with the same type: usually one run for the whole file."""
    runs: list[tuple[str, int, int]] = []
    for span in sorted(layout.values(), key=lambda span: span.begin):
        if runs and runs[-1][0] == span.kind and runs[-1][2] == span.begin:
            runs[-1] = (span.kind, runs[-1][1], span.end)
        else:
            runs.append((span.kind, span.begin, span.end))
    return runs


def as_torch(content: memoryview, layout: Mapping[str, TensorSpan]) -> dict[str, torch.Tensor]:
    """The tensors as views of these bytes."""
    import torch

    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return {
        name: torch.frombuffer(
            content, dtype=kinds[span.kind], count=math.prod(span.shape), offset=span.begin
        ).reshape(span.shape)
        for name, span in layout.items()
    }  # fmt: skip


def _span(name: str, entry: Any, start: int) -> TensorSpan:
    if not NAME.fullmatch(name):
        _refuse("a tensor's name has other characters than letters, digits, '.', '_' and '-'.")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(f"the header entry of {name} is not type, shape and offsets.")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in KINDS:
        _refuse(f"{name} has a type other than {', '.join(KINDS)}.")
    if not _whole_numbers(shape, 1) or not 1 <= len(shape) <= 2:
        _refuse(f"the shape of {name} is not one or two numbers.")
    if not _whole_numbers(offsets, 0) or len(offsets) != 2:
        _refuse(f"the offsets of {name} are not two numbers.")
    begin, end = offsets
    if end - begin != math.prod(shape) * int(KINDS[kind][0][-1]):
        _refuse(f"the offsets of {name} do not match its shape.")
    if begin % int(KINDS[kind][0][-1]):
        _refuse(f"{name} does not start at a multiple of its number size.")
    return TensorSpan(kind, tuple(shape), start + begin, start + end)


def _whole_numbers(value: Any, least: int) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= least for number in value)


def _refuse(because: str) -> NoReturn:
    sentence = because if because[0].isupper() else f"The weights cannot be read: {because}"
    raise AdapterError(sentence, "The adapter is refused. Train again.")
