"""Reads the tags that a person names to train on a part of the lessons."""

from __future__ import annotations

from collections.abc import Iterable

from academy.errors import InputError


def read_tags(texts: Iterable[str]) -> tuple[str, ...]:
    """Tags as people type them, separated by commas. Raises InputError where only commas and spaces are given."""
    texts = list(texts)
    tags = tuple(dict.fromkeys(tag.strip() for text in texts for tag in text.split(",") if tag.strip()))
    if texts and not tags:
        raise InputError("The option for tags names no tag.", "Write for instance --tags deploy,rollback.")
    return tags
