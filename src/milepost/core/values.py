r"""Typed plain values in JSON: all come back as they were, and other languages can read them.

JSON's own values stand for themselves. Everything else is an object with one key, which begins with ``$`` (no other
object that is written has a key that begins so)::

    {"$int": "9007199254740993"}                    beyond ±2**53; hexadecimal, "0x…", where it has more than 2048 bits
    {"$float": "nan"}                               or "inf", "-inf"
    {"$str": "caf\\udce9"}                          with lone surrogates: those as \udxxx, and backslashes doubled
    {"$bytes": "aGk="}  {"$bytearray": "aGk="}      base64
    {"$complex": [0.0, 1.0]}
    {"$tuple": […]}  {"$set": […]}                  sets in an order that does not depend on hashes; also $frozenset
    {"$dict": [[key, value], …]}                    where a key is no string, or begins with $
    {"$ordered": {"items": {…}}}                    an OrderedDict; with "attributes" if it was given any (by torch)
    {"$defaultdict": {"items": {…}, "factory": "list"}}
    {"$counter": {…}}  {"$deque": {"items": […], "maxlen": 5}}
    {"$range": [0, 10, 1]}  {"$slice": [0, null, 2]}  {"$ellipsis": true}
    {"$enum": {"class": "__main__:Phase", "name": "WARM", "value": 1}}
    {"$namedtuple": {"class": "__main__:Point", "fields": {"x": 1, "y": 2}}}
    {"$dataclass": {"class": "__main__:Config", "fields": {"lr": 0.1}}}
    {"$datetime": "2026-01-02T03:04:05"}            or {"local": …, "zone": {"$zoneinfo": "Europe/Berlin"}, "fold": 1}
    {"$date": …}  {"$time": …}  {"$timedelta": [days, seconds, microseconds]}
    {"$timezone": "+02:00"}                         or {"offset": "+02:00", "name": "CEST"}
    {"$decimal": "1.50"}  {"$fraction": [1, 3]}  {"$uuid": …}  {"$posixpath": "a/b"}
    {"$numpy.float32": 0.5}  {"$ml_dtypes.bfloat16": 0.5}  {"$numpy.datetime64": [12, "25s"]}
    {"$numpy.dtype": "float32"}
    {"$torch.dtype": "float32"}                     with a dot: what the adapter of a framework registered
    {"$tensor": "model/weight"}                     a tensor, by its path (see `milepost.core.tree`)
    {"$tensors": {"under": "model", "names": […]}}  a dict of tensors: name -> the tensor at under/name

When a value of a class comes back, the class is looked for among the loaded ones; where it is missing, or has changed,
the value is a `Foreign`. Nothing is imported or executed because a file names it. Everything else is refused, by path:
functions, classes, other objects, and subclasses of ``int``, ``dict`` ... that would come back as less than they were.
Sharing is not kept: a list that is at two places comes back as two.
"""

from __future__ import annotations

from typing import Any

from milepost.core import numpy_scalars, scalars  # noqa: F401 - they register what they store
from milepost.core.codecs import refuse, register
from milepost.core.decoder import Decoder
from milepost.core.encoder import Encoder, no_leaf
from milepost.core.foreign import Foreign
from milepost.errors import FormatError, NotStorableError

__all__ = ["Foreign", "decode", "encode", "refuse", "register"]


def encode(value: object, where: str = "") -> Any:
    """`value` as JSON types. `where` is its path, for errors.

    Raises:
        NotStorableError: something in it cannot be stored; the error names its path.

    Example:
        >>> encode({"betas": (0.9, 0.999), "best": float("inf")})
        {'betas': {'$tuple': [0.9, 0.999]}, 'best': {'$float': 'inf'}}
    """
    try:
        return Encoder(no_leaf).value(value, where)
    except RecursionError:
        raise too_deep(where) from None


def decode(node: object, where: str = "") -> Any:
    """The value that `encode` was given. `where` is its path, for errors.

    Raises:
        FormatError: `node` is nothing that `encode` returns, or what a newer milepost writes.
    """
    try:
        return Decoder(None).value(node, where)
    except RecursionError as error:
        raise FormatError("values are nested too deep", where=where) from error


def too_deep(where: str) -> NotStorableError:
    """The error where Python's own limit was met before milepost's."""
    return NotStorableError("values are nested too deep to be stored from here", where=where)
