"""What arrays of JAX are made of: typed keys, weak types, shards; and making them anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Sharding, SingleDeviceSharding

from milepost.errors import FormatError, MismatchError

WEAK = "weak"
ALIGNED = 64
"""Bytes: XLA takes over host memory that begins at a multiple of it, and copies other."""


def is_key(value: Any) -> bool:
    """Whether `value` (an array, or the description of one) holds typed keys of `jax.random`."""
    return bool(jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key))


def variant(value: Any) -> str | None:
    """What a tensor's record says beside dtype and shape: ``weak``, or ``key<IMPLEMENTATION>``."""
    if is_key(value):
        return f"key<{_implementation(value)}>"
    return WEAK if value.weak_type else None


def _implementation(value: Any) -> str:
    # A description has no data to ask; its dtype knows all the same, and so does an array of that dtype.
    return str(getattr(value.dtype, "_impl").name)  # noqa: B009 - private: `jax.random.key_impl` wants an array


def raw(value: jax.Array) -> jax.Array:
    """The numbers of keys; any other array is itself."""
    return jax.random.key_data(value) if is_key(value) else value


def raw_aval(value: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of what `raw` gives, also for the description of an array."""
    if not is_key(value):
        return jax.ShapeDtypeStruct(value.shape, value.dtype)
    abstract: jax.ShapeDtypeStruct = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(value.shape, value.dtype))
    return abstract


def on_one_device(value: jax.Array) -> bool:
    """Whether all of `value` is on a single device."""
    return isinstance(value.sharding, SingleDeviceSharding)


def owned(value: jax.Array) -> Iterator[tuple[tuple[slice, ...], jax.Array]]:
    """The shards of `value` that this process is the one to save, each element once: where they belong, and they themselves."""
    if on_one_device(value):
        yield (), value
        return
    for shard in value.addressable_shards:
        if shard.replica_id == 0:
            yield shard.index, shard.data


def sharding_of(like: Any) -> Sharding | None:
    """Where an array that takes the place of `like` belongs: None for wherever JAX puts one that was not put anywhere."""
    if isinstance(like, jax.ShapeDtypeStruct):
        sharding: Sharding | None = like.sharding
        return sharding
    return like.sharding if isinstance(like, jax.Array) and like.committed else None


def make(data: npt.NDArray[Any], kind: str | None = None, sharding: Sharding | None = None) -> jax.Array:
    """A new array with memory of its own.

    Args:
        data: the elements; those of keys are their numbers.
        kind: see `variant`.
        sharding: where it is to be; of keys that of the keys, not of their numbers.

    Raises:
        MismatchError: elements of 64 bits, which JAX would cut in half.
    """
    refuse_halving(data.dtype)
    if kind is not None and kind.startswith("key<"):
        implementation = kind.removeprefix("key<").removesuffix(">")
        try:
            keys: jax.Array = jax.random.wrap_key_data(_put(data, None), impl=implementation)
        except (ValueError, TypeError) as error:
            raise FormatError(f"JAX {jax.__version__} cannot make keys of {implementation}", found=error) from error
        return keys if sharding is None else jax.device_put(keys, sharding)
    array = _put(data, sharding)
    return _weakened(array) if kind == WEAK else array


def halved(dtype: Any) -> bool:
    """Whether JAX, as it is configured, would make 32 bits of 64."""
    return bool(jax.dtypes.canonicalize_dtype(dtype) != dtype)


def refuse_halving(dtype: Any) -> None:
    """Raises `MismatchError` where JAX would lose half of the bits."""
    if halved(dtype):
        raise MismatchError(
            f"{dtype} was saved, and JAX makes {jax.dtypes.canonicalize_dtype(dtype)} of it here",
            hint="switch 64 bits on, as when it was saved: jax.config.update('jax_enable_x64', True)",
        )


def _put(data: npt.NDArray[Any], sharding: Sharding | None) -> jax.Array:
    if sharding is None or isinstance(sharding, SingleDeviceSharding):
        return jax.device_put(_own(data), sharding)
    return jax.make_array_from_callback(data.shape, sharding, lambda index: _own(data[index]))


def _own(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that XLA can take over as it is. Without it, an array could come to lie in memory that is written to later."""
    room = np.empty(data.nbytes + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    own = room[start : start + data.nbytes].view(data.dtype).reshape(data.shape)
    own[...] = data
    return own


def _weakened(array: jax.Array) -> jax.Array:
    from jax._src.lax import lax  # the public convert_element_type makes weak types of the default widths alone

    weak: jax.Array = lax._convert_element_type(array, array.dtype, weak_type=True)
    return weak
