"""Kinds of values that the adapter of a framework registers."""

import sys
import types

import pytest

from milepost.core import codecs
from milepost.core.values import Foreign, decode, encode, refuse, register
from milepost.errors import FormatError, NotStorableError


class Device:
    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return type(other) is Device and self.name == other.name

    __hash__ = None


def test_a_kind_is_known_while_its_framework_is_loaded(monkeypatch):
    def read(name):
        if name not in ("cpu", "gpu"):
            raise LookupError(f"no {name} here")
        return Device(name)

    framework = types.ModuleType("test_framework")
    framework.Device = Device
    monkeypatch.setattr(Device, "__module__", "test_framework")
    monkeypatch.setitem(sys.modules, "test_framework", framework)
    with pytest.raises(NotStorableError):
        encode(Device("cpu"))
    register("test_framework.device", ["test_framework:Device"], lambda device: device.name, read, shape=str)

    stored = encode({"on": Device("gpu")})
    assert stored == {"on": {"$test_framework.device": "gpu"}}
    assert decode(stored)["on"] == Device("gpu")
    assert decode({"$test_framework.device": "tpu"}) == Foreign("test_framework.device", "tpu")
    with pytest.raises(FormatError):
        decode({"$test_framework.device": 5})
    with pytest.raises(FormatError):
        decode({"$dict": [[{"$test_framework.device": "cpu"}, 1]]})  # which cannot be hashed

    monkeypatch.delitem(sys.modules, "test_framework")
    foreign = decode(stored)["on"]
    assert foreign == Foreign("test_framework.device", "gpu")
    assert encode({"on": foreign}) == stored


def test_the_adapter_is_loaded_with_the_framework_and_not_before(monkeypatch):
    adapter = types.ModuleType("test_adapter_values")
    loaded = []

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "test_adapter_values":
                loaded.append(name)
                register("test_lazy.kind", [Device], lambda device: device.name, Device, shape=str)
                return types.SimpleNamespace(
                    loader=types.SimpleNamespace(create_module=lambda spec: adapter, exec_module=lambda module: None),
                    name=name, submodule_search_locations=None, origin=None, has_location=False, parent="", cached=None,
                    _initializing=False,
                )  # fmt: skip
            return None

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.setitem(codecs.ADAPTERS, "test_lazy", "test_adapter_values")
    stored = {"$test_lazy.kind": "gpu"}
    assert isinstance(decode(stored), Foreign)
    assert not loaded
    monkeypatch.setitem(sys.modules, "test_lazy", types.ModuleType("test_lazy"))
    assert decode(stored) == Device("gpu")
    assert loaded == ["test_adapter_values"]


def test_a_class_that_borrows_a_name_is_not_taken_for_it():
    Fake = type("Decimal", (), {"__module__": "decimal"})
    with pytest.raises(NotStorableError):
        encode(Fake())


def test_kinds_may_refuse_a_value():
    class Never:
        pass

    refuse([Never], "do this instead")
    with pytest.raises(NotStorableError) as caught:
        encode([Never()])
    assert caught.value.hint == "do this instead"
    with pytest.raises(ValueError, match="not a tag"):
        register("$x", [], str, str)
