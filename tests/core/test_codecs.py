"""Kinds of values that the adapter of a framework registers."""

import importlib
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


FRAMEWORK = """
class Kind(str):
    pass
"""
ADAPTER = """
import {framework}
from milepost.core.values import register

register("{framework}.kind", [{types}], str, {framework}.Kind, shape=str)
"""


@pytest.mark.parametrize("first", ["encode", "decode"])
@pytest.mark.parametrize("by", ["type", "name"])
def test_the_adapter_is_loaded_with_the_framework_and_not_before(first, by, tmp_path, monkeypatch):
    framework, adapter = f"framework_{first}_{by}", f"adapter_{first}_{by}"
    names = f"{framework}.Kind" if by == "type" else f"'{framework}:Kind'"
    (tmp_path / f"{framework}.py").write_text(FRAMEWORK)
    (tmp_path / f"{adapter}.py").write_text(ADAPTER.format(framework=framework, types=names))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(codecs.ADAPTERS, framework, adapter)
    stored = {f"${framework}.kind": "gpu"}

    assert isinstance(decode(stored), Foreign)
    assert not {framework, adapter} & set(sys.modules)
    kind = importlib.import_module(framework).Kind
    for call in (encode, decode) if first == "encode" else (decode, encode):
        if call is encode:
            assert encode(kind("gpu")) == stored
        else:
            assert type(decode(stored)) is kind


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
