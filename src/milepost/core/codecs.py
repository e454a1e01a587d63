"""The kinds of scalar values that are stored under a tag: how each becomes plain, and comes back.

``register`` adds one. The kinds of a framework are registered by its adapter, which is loaded when the framework is: a
process that never imported torch reads ``{"$torch.dtype": "float32"}`` as a `Foreign` and does not import torch for it.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from milepost.core import classes

ADAPTERS = {"torch": "milepost.torch.values"}
"""Top-level module of a framework -> milepost's own module that registers its kinds, loaded once the framework is."""


class Codec(NamedTuple):
    """One kind. `shape` is what `decode` is given, as a type that ``msgspec.convert`` checks."""

    tag: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    shape: Any


_by_tag: dict[str, Codec] = {}
_by_name: dict[str, Codec | str] = {}
_by_type: dict[type, Codec | str] = {}
_TAG = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def register(
    tag: str,
    types: Iterable[type | str],
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any],
    shape: Any = Any,
) -> None:
    """Store values of exactly these types as ``{"$tag": <encode(value)>}``.

    Args:
        tag: ``kind``, or ``module.kind`` for a kind that is only rebuilt while the top-level ``module`` is loaded.
        types: classes, or their names ``"module:QualName"`` where importing them has to wait.
        encode: value -> a plain value (any that can be stored, of other types), without tensors. ``ValueError`` refuses
            this value, saying what to do instead.
        decode: that plain value -> value; it can be anything that fits `shape`, since files may be hostile.
            ``LookupError`` says that this version of the framework has no such value: a `Foreign` takes its place.
            ``ValueError`` and ``TypeError``: damaged.
        shape: the type of what `decode` takes, checked before, as ``msgspec.convert`` understands it.

    Example:
        >>> register("torch.device", ["torch:device"], str, torch.device, shape=str)
    """
    if not _TAG.fullmatch(tag):
        raise ValueError(f"not a tag: {tag!r}")
    codec = Codec(tag, encode, decode, shape)
    _by_tag[tag] = codec
    _enter(types, codec)


def refuse(types: Iterable[type | str], hint: str) -> None:
    """Never store values of these types; `hint` tells what to do instead."""
    _enter(types, hint)


def _enter(types: Iterable[type | str], entry: Codec | str) -> None:
    for kind in types:
        if isinstance(kind, str):
            _by_name[kind] = entry
        else:
            _by_type[kind] = entry


def for_type(kind: type) -> Codec | str | None:
    """How values of exactly this type are stored, a hint if they are refused, or None if nothing is known."""
    if kind not in _by_type:
        name = classes.name_of(kind)
        if name not in _by_name:
            _load_adapter(str(kind.__module__).partition(".")[0])
        if name in _by_name and classes.find(name) is kind:  # any class can claim any name
            _by_type.setdefault(kind, _by_name[name])
    return _by_type.get(kind)


def for_tag(tag: str) -> Codec | None:
    """How what stands under `tag` comes back; None for an unknown tag or one whose framework is not loaded."""
    home, dot, _ = tag.partition(".")
    if dot and home not in sys.modules:
        return None
    if tag not in _by_tag:
        _load_adapter(home)
    return _by_tag.get(tag)


def _load_adapter(home: str) -> None:
    if home in ADAPTERS and home in sys.modules:
        importlib.import_module(ADAPTERS[home])
