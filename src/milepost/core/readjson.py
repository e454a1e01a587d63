"""JSON out of files that nobody vouches for: whatever is wrong with it is one error."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


class Unreadable(ValueError):  # noqa: N818 - never shown: the caller words it
    """Not JSON, or not of the form that was expected."""


def read_json(data: bytes | memoryview, form: type[T]) -> T:
    """Decode `data` as a `form`; fields that it does not know are ignored.

    Raises:
        Unreadable: malformed, of other types, not UTF-8, or nested too deep.
    """
    try:
        return msgspec.json.decode(data, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from error
