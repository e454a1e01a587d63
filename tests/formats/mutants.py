"""Files with a few things wrong: what fuzzing tries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import milepost
from milepost.errors import DamagedError, FormatError, NotFoundError

LARGEST = 1 << 24
"""Bytes of the tensors that are read."""

_EDGES = [0, 1, 0x7F, 0x80, 0xFF]
_EDIT = st.one_of(
    st.tuples(st.just("set"), st.integers(0), st.one_of(st.sampled_from(_EDGES), st.integers(0, 255))),
    st.tuples(st.just("flip"), st.integers(0), st.integers(0, 7)),
    st.tuples(
        st.just("number"),
        st.integers(0),
        st.sampled_from([(1 << n) + d for n in (0, 8, 31, 32, 62, 63) for d in (-1, 0)]),
    ),
    st.tuples(st.just("cut"), st.integers(0), st.integers(1, 64)),
    st.tuples(st.just("insert"), st.integers(0), st.binary(min_size=1, max_size=16)),
    st.tuples(st.just("repeat"), st.integers(0), st.integers(1, 64)),
    st.tuples(st.just("end"), st.integers(0), st.none()),
)


def mutated(data: bytes, edits: list[tuple[str, int, object]]) -> bytes:
    """`data` after `edits`, each at a place that is taken modulo what is left."""
    out = bytearray(data)
    for kind, place, value in edits:
        if not out:
            break
        at = place % len(out)
        if kind == "set":
            out[at] = value
        elif kind == "flip":
            out[at] ^= 1 << value
        elif kind == "number":
            out[at : at + 8] = value.to_bytes(8, "little")
        elif kind == "cut":
            del out[at : at + value]
        elif kind == "insert":
            out[at:at] = value
        elif kind == "repeat":
            out[at:at] = out[at : at + value]
        else:
            del out[at:]
    return bytes(out)


def survive(place: Path, target: Path, examples: int, mend: Callable[[bytes], bytes] = lambda data: data) -> None:
    """Open `place`, and read all that is in it, with `target` (it, or a file in it) mutated `examples` times.

    Every mutant is read or refused; nothing else comes out. `mend` puts right what would be found first, as checksums.
    """
    golden = target.read_bytes()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(_EDIT, min_size=1, max_size=4))
    def attempt(edits: list[tuple[str, int, object]]) -> None:
        target.write_bytes(mend(mutated(golden, edits)))
        try:
            source = milepost.open(place)
            for path, spec in source.specs.items():
                if spec.nbytes <= LARGEST:
                    try:
                        assert source[path].nbytes == spec.nbytes
                    except (FormatError, DamagedError, NotFoundError):
                        continue
        except (FormatError, DamagedError, NotFoundError):
            pass

    try:
        attempt()
    finally:
        target.write_bytes(golden)
