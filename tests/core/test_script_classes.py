"""Enums, named tuples and dataclasses of the training script: found again, never run, stood in for where missing."""

import dataclasses
import enum
import subprocess
import sys
import types
from typing import NamedTuple

import msgspec
import pytest

from milepost.core.values import Foreign, decode, encode

HERE = __name__


class Color(enum.Enum):
    RED = 1
    GREEN = (1, 2)
    CRIMSON = 1  # noqa: PIE796 - an alias of RED


class Permission(enum.Flag):
    NONE = 0
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    LOW = 1


class Point(NamedTuple):
    x: float
    y: float


@dataclasses.dataclass
class Config:
    lr: float
    layers: list = dataclasses.field(default_factory=list)
    ran: dataclasses.InitVar[int] = 0

    def __post_init__(self, ran):
        self.lr += ran


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    size: int = dataclasses.field(init=False)


@dataclasses.dataclass
class Clean:
    lr: float

    def __del__(self):
        pass


def test_combinations_of_flags():
    both = Permission.READ | Permission.WRITE
    assert decode(encode(both)) is both
    assert decode(encode(Bits(12))) is Bits(12)
    assert isinstance(decode({"$enum": {"class": f"{HERE}:Permission", "name": None, "value": 64}}), Foreign)


def test_what_is_set_on_a_dataclass_is_kept():
    config = Config(0.1)
    config.best = (1, 2)
    encoded = encode(config)
    assert encoded["$dataclass"]["attributes"] == {"best": {"$tuple": [1, 2]}}
    assert vars(decode(encoded)) == {"lr": 0.1, "layers": [], "best": (1, 2)}


def ask(*_, **__):
    if not asking:
        raise AssertionError("code of the class was run")


asking = True


@dataclasses.dataclass
class Asked:
    x: int

    def __new__(cls, *arguments):
        ask()
        return object.__new__(cls)

    def __setattr__(self, name, value):
        ask()
        object.__setattr__(self, name, value)

    def __post_init__(self):
        ask()

    def __init_subclass__(cls):
        ask()

    __setstate__ = __getattr__ = ask


class AskedPoint(NamedTuple("AskedPoint", [("x", int)])):
    __slots__ = ()

    def __new__(cls, *arguments):
        ask()
        return tuple.__new__(cls, arguments)

    _make = ask


class AskedFlag(enum.Flag):
    READ = 1
    WRITE = 2

    _missing_ = ask


def test_the_class_is_not_asked_when_its_objects_come_back(monkeypatch):
    values = [Asked(1), AskedPoint(2), AskedFlag.READ]
    stored = [encode(value) for value in values]
    stored.append({"$enum": {"class": f"{HERE}:AskedFlag", "name": None, "value": 3}})
    monkeypatch.setattr(sys.modules[HERE], "asking", False)
    back = [decode(node) for node in stored]
    assert back[:3] == values
    assert back[3]._value_ == 3
    assert [type(value) for value in back] == [Asked, AskedPoint, AskedFlag, AskedFlag]


def test_a_property_in_place_of_a_field_is_not_called(monkeypatch):
    stored = encode(Config(0.5))
    monkeypatch.setattr(Config, "lr", property(None, None), raising=False)
    assert vars(decode(stored))["lr"] == 0.5


@pytest.mark.parametrize(
    "name",
    ["no.such.module:X", f"{HERE}:Missing", f"{HERE}:Config.Missing", f"{HERE}:HERE", "os:system", "builtins:dict",
     "subprocess:Popen", "", ":", HERE, f"{HERE}:", f"{HERE}:Config.lr.x", f"{HERE}:NotStorableError"],
)  # fmt: skip
def test_a_class_that_is_not_there_gives_a_stand_in(name):
    for node in (
        {"$dataclass": {"class": name, "fields": {"lr": 0.1, "layers": []}}},
        {"$namedtuple": {"class": name, "fields": {"x": 1, "y": 2}}},
        {"$enum": {"class": name, "name": "RED", "value": 1}},
    ):
        value = decode(node)
        assert isinstance(value, Foreign)
        assert encode(value) == node


def test_a_class_that_changed_gives_a_stand_in():
    changed = [
        {"$enum": {"class": f"{HERE}:Color", "name": "RED", "value": 2}},
        {"$enum": {"class": f"{HERE}:Color", "name": "BLUE", "value": 1}},
        {"$enum": {"class": f"{HERE}:Point", "name": "RED", "value": 1}},
        {"$namedtuple": {"class": f"{HERE}:Point", "fields": {"y": 1, "x": 2}}},
        {"$namedtuple": {"class": f"{HERE}:Config", "fields": {"lr": 0.1, "layers": []}}},
        {"$dataclass": {"class": f"{HERE}:Config", "fields": {"lr": 0.1}}},
        {"$dataclass": {"class": f"{HERE}:Config", "fields": {"lr": 0.1, "layers": [], "new": 1}}},
        {"$dataclass": {"class": f"{HERE}:Frozen", "fields": {"name": "a", "size": 1}, "attributes": {"more": 1}}},
        {"$dataclass": {"class": f"{HERE}:Clean", "fields": {"lr": 0.1}}},
    ]
    for node in changed:
        value = decode(node)
        assert isinstance(value, Foreign), node
        assert value.why
        assert encode(value) == node


def test_nothing_is_imported_because_a_file_names_it():
    before = set(sys.modules)
    for module in ("antigravity", "this", "lib2to3.pygram", "milepost.nothing"):
        assert module not in sys.modules
        decode({"$enum": {"class": f"{module}:X", "name": "A", "value": 1}})
        decode({f"${module.replace('.', '_')}.kind": 1})
    assert set(sys.modules) == before


def test_looking_for_a_class_runs_no_code(monkeypatch):
    class Trap(types.ModuleType):
        def __getattribute__(self, name):
            raise AssertionError("the module was asked")

    class Meta(type):
        def __getattribute__(cls, name):
            raise AssertionError("the class was asked")

    module = Trap("trap")
    ModuleDict = types.ModuleType.__getattribute__(module, "__dict__")
    ModuleDict["Lazy"] = Meta("Lazy", (), {})
    ModuleDict["__getattr__"] = lambda name: pytest.fail("the module was asked")
    monkeypatch.setitem(sys.modules, "trap", module)
    for name in ("trap:Lazy", "trap:Absent", "trap:Lazy.Inner"):
        for tag, rest in (("dataclass", {"fields": {}}), ("namedtuple", {"fields": {}}), ("enum", {"name": "A"})):
            assert isinstance(decode({"$" + tag: {"class": name, **rest}}), Foreign)


def test_a_stand_in_shows_what_it_stands_for():
    config = decode({"$dataclass": {"class": "train:Config", "fields": {"lr": 0.1, "name": "x"}}})
    assert repr(config) == "<foreign train:Config(lr=0.1, name='x')>"
    assert config.content["fields"]["lr"] == 0.1
    member = decode({"$enum": {"class": "train:Color", "name": "RED", "value": 1}})
    assert repr(member) == "<foreign train:Color.RED: 1>"
    assert repr(decode({"$jax.dtype": "float32"})) == "<foreign jax.dtype 'float32'>"
    assert (
        repr(decode({"$jax.dtype": {"class": "a:b", "fields": [1]}}))
        == "<foreign jax.dtype {'class': 'a:b', 'fields': [1]}>"
    )
    assert "not loaded" in decode({"$jax.dtype": "float32"}).why


def test_stand_ins_can_be_compared_and_be_keys():
    def member(name):
        return {"$enum": {"class": "train:Color", "name": name, "value": [1, {"a": 2}]}}

    assert decode(member("RED")) == decode(member("RED"))
    assert decode(member("RED")) != decode(member("BLUE"))
    assert hash(decode(member("RED"))) == hash(decode(member("RED")))
    node = {"$dict": [[member("RED"), 1], [member("BLUE"), {"$set": [member("RED")]}]]}
    assert encode(decode(node)) == node
    with pytest.raises(dataclasses.FrozenInstanceError):
        decode(member("RED")).tag = "x"


SCRIPT = """
import dataclasses, enum, sys, typing
import msgspec
from milepost.core.values import Foreign, decode, encode

class Phase(enum.Enum):
    WARM = 1

class Point(typing.NamedTuple):
    x: int

@dataclasses.dataclass
class Config:
    phase: Phase
    where: Point
    names: set

value = Config(Phase.WARM, Point(3), {"a", "b", "c", (1, 2), 7, None, frozenset({"x", "y", "z"})})
if len(sys.argv) > 1:
    back = decode(msgspec.json.decode(sys.argv[1]))
    assert back == value and back.phase is Phase.WARM and type(back.where) is Point, back
print(msgspec.json.encode(encode(value)).decode())
"""


def test_classes_of_a_script_come_back_when_it_runs_again(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def run(*arguments, seed):
        command = [sys.executable, str(script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONHASHSEED": seed})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    first = run(seed="1")
    assert '"__main__:Config"' in first
    assert run(first, seed="2") == first  # also byte for byte: nothing depends on hashes
    # Without the script it is a stand-in, which is stored as it came.
    value = decode(msgspec.json.decode(first))
    assert isinstance(value, Foreign)
    assert msgspec.json.encode(encode(value)).decode() == first
