"""Pytrees of every kind, and whether two are the same to the bit."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import freeze
from hypothesis import strategies as st

import milepost


class Moments(NamedTuple):
    count: Any
    mu: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: Any
    scale: Any
    name: str = dataclasses.field(metadata={"static": True}, default="layer")


@jax.tree_util.register_pytree_node_class
class Pair:
    """A class that registers itself and gives its children no names."""

    def __init__(self, first: Any, second: Any, note: str = "") -> None:
        self.first, self.second, self.note = first, second, note

    def tree_flatten(self) -> tuple[tuple[Any, Any], str]:
        return (self.first, self.second), self.note

    @classmethod
    def tree_unflatten(cls, note: str, children: tuple[Any, Any]) -> Pair:
        return cls(*children, note)


class Module(eqx.Module):
    weight: Any
    inner: Any
    activation: Any = jax.nn.relu
    width: int = eqx.field(static=True, default=3)


class State(struct.PyTreeNode):
    params: Any
    step: Any
    apply: Any = struct.field(pytree_node=False, default=None)


DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "bfloat16", "float32", "complex64",
    "int4", "uint4", "int2", "uint2", "float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float8_e3m4", "float8_e8m0fnu",
    "float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn",
)  # fmt: skip
WIDE = ("int64", "uint64", "float64", "complex128")
KEYS = ("threefry2x32", "rbg", "unsafe_rbg")
SHAPES = ((), (1,), (3,), (0,), (2, 3), (2, 0, 3), (1, 1, 4))


def filled(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Any bits that the type allows."""
    random = np.random.default_rng(seed)
    kind = jnp.dtype(dtype)
    if kind.name in ("bool", "int4", "uint4", "int2", "uint2", "float4_e2m1fn"):
        # 0 and 1 are values of all of them, and arithmetic on them goes through JAX, which knows their range.
        return np.asarray(random.integers(0, 2, shape)).astype(kind)
    count = int(np.prod(shape, dtype=int))
    return np.frombuffer(random.bytes(count * kind.itemsize), kind).reshape(shape)


arrays = st.builds(
    lambda dtype, shape, seed: jnp.asarray(filled(dtype, shape, seed)),
    st.sampled_from(DTYPES), st.sampled_from(SHAPES), st.integers(0, 99),
)  # fmt: skip
keys = st.builds(
    lambda impl, seed, shape: jax.random.split(jax.random.key(seed, impl=impl), shape),
    st.sampled_from(KEYS), st.integers(0, 99), st.sampled_from([(), (1,), (2, 2)]),
)  # fmt: skip
weak = st.sampled_from([1.5, -2, 1j, True]).map(jnp.asarray)
numpy_arrays = st.builds(filled, st.sampled_from(DTYPES[:11]), st.sampled_from(SHAPES), st.integers(0, 99))
plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.complex_numbers(), st.sampled_from([np.float32(1.5), np.int64(-3), jnp.float32, jax.nn.gelu, len]),
)  # fmt: skip
leaves = st.one_of(arrays, keys, weak, numpy_arrays, plain)
names = st.text("abkernl/~ 0", min_size=0, max_size=6)
trees = st.recursive(
    leaves,
    lambda inside: st.one_of(
        st.dictionaries(names, inside, max_size=4),
        st.dictionaries(st.integers(-3, 12), inside, max_size=3),
        st.lists(inside, max_size=3),
        st.lists(inside, max_size=3).map(tuple),
        st.builds(Moments, inside, inside),
        st.builds(Layer, inside, inside, st.sampled_from(["layer", "head"])),
        st.builds(Pair, inside, inside, st.text(max_size=3)),
        st.builds(Module, inside, inside),
        st.builds(State, inside, inside, st.just(len)),
        st.dictionaries(names, inside, max_size=3).map(freeze),
        st.dictionaries(names, inside, max_size=3).map(collections.OrderedDict),
        st.dictionaries(names, inside, max_size=3).map(lambda one: collections.defaultdict(list, one)),
    ),
    max_leaves=12,
)


def blank(leaf: Any) -> Any:
    """Another value in its place."""
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.zeros_like(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding if leaf.committed else None)
    if isinstance(leaf, np.ndarray):
        return np.zeros_like(leaf)
    return leaf if callable(leaf) and not isinstance(leaf, np.generic) else type(leaf)()


def described(tree: Any, sharding: Any = None) -> Any:
    """`tree` with descriptions in place of arrays of JAX."""
    return jax.tree.map(
        lambda leaf: (
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding) if isinstance(leaf, jax.Array) else leaf
        ),
        tree,
    )


def again(folder: Path, value: Any, target: Any) -> Any:
    """`value`, saved in a run in `folder` and restored by a second attempt that begins with `target`."""
    with milepost.Checkpointer(folder, value=value, progress=False) as run:
        run.step(value=value)
    # By its step, since NaN are not good and would be passed over.
    with milepost.Checkpointer(folder, value=target, resume="step=1", progress=False) as run:
        return run["value"]


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(np.asarray(array)).tobytes()


def assert_same(one: Any, other: Any, *, lie: bool = True) -> None:
    """The same structure, classes, dtypes, weak types, kinds of keys and bits; if they `lie` alike, the same shardings."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        where = jax.tree_util.keystr(path)
        assert type(a) is type(b), where
        if isinstance(a, jax.Array):
            assert (a.dtype, a.shape, a.aval) == (b.dtype, b.shape, b.aval), where
            if lie:
                assert (a.sharding, a.committed) == (b.sharding, b.committed), where
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                assert jax.random.key_impl(a) == jax.random.key_impl(b), where
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            assert bits(a) == bits(b), where
        elif isinstance(a, np.ndarray | np.generic):
            assert (a.dtype, a.shape, bits(a)) == (b.dtype, b.shape, bits(b)), where
        else:
            assert a is b or repr(a) == repr(b), where
