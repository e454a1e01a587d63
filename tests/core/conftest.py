import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import is_dataclass
from datetime import datetime, time, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from milepost.core.values import Foreign


@pytest.fixture(scope="session")
def identical() -> Callable[[Any, Any], bool]:
    """Whether two values are the same in every respect that can be seen, types, order and signs of zero included."""
    return _identical


def _identical(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Foreign):
        return a.tag == b.tag and _identical(a.content, b.content)
    if isinstance(a, Enum):
        return a is b
    if isinstance(a, float):
        return a.hex() == b.hex() or (math.isnan(a) and math.isnan(b))
    if isinstance(a, complex):
        return _identical(a.real, b.real) and _identical(a.imag, b.imag)
    if isinstance(a, dict):
        same = len(a) == len(b) and all(map(_identical, a, b)) and all(map(_identical, a.values(), b.values()))
        if isinstance(a, defaultdict):
            return same and a.default_factory is b.default_factory
        return same and (not isinstance(a, OrderedDict | Counter) or _identical(vars(a), vars(b)))
    if isinstance(a, list | tuple | deque):
        return (
            len(a) == len(b) and all(map(_identical, a, b)) and getattr(a, "maxlen", None) == getattr(b, "maxlen", None)
        )
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(_identical(x, y) for y in b) for x in a)
    if isinstance(a, slice):
        return _identical([a.start, a.stop, a.step], [b.start, b.stop, b.step])
    if isinstance(a, datetime | time):
        return (a.replace(tzinfo=None), a.fold) == (b.replace(tzinfo=None), b.fold) and _identical(a.tzinfo, b.tzinfo)
    if isinstance(a, timezone):
        return a == b and a.tzname(None) == b.tzname(None)
    if isinstance(a, ZoneInfo):
        return a.key == b.key
    if isinstance(a, Decimal):
        return str(a) == str(b)
    if isinstance(a, np.dtype):
        return a == b and a.char == b.char and a.byteorder == b.byteorder
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and (a.tobytes() == b.tobytes() or repr(a.item()) == repr(b.item()))
    if is_dataclass(a):
        return _identical(_state(a), _state(b))
    return bool(a == b)


def _state(value: Any) -> dict[str, Any]:
    state: Any = object.__getstate__(value)
    parts = state if isinstance(state, tuple) else (state,)
    return dict(sorted(item for part in parts if part for item in part.items()))
