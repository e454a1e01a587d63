"""Pickles that would do harm, of every kind that got past a scanner: nothing runs, and each is refused for what it is.

The kinds are those of the advisories on picklescan, fickling and modelscan: functions that lists forgot, names that lead through
modules, opcodes that hide a name from a scanner, streams that end or break in the middle, archives that a scanner reads otherwise.
"""

# ruff: noqa: E501

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import milepost
from milepost.core.foreign import Foreign
from milepost.errors import FormatError, MilepostError, UnsafeContentError


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(module: str, name: str, *args: str) -> bytes:
    """A pickle that calls ``module.name`` with texts, named as protocol 4 does it."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93(" + b"".join(map(text, args)) + b"tR."


def call_old(module: str, name: str, *args: str) -> bytes:
    return f"c{module}\n{name}\n(".encode() + b"".join(map(text, args)) + b"tR."


CALLED = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("os", "popen"), ("os", "execv"), ("os", "remove"), ("subprocess", "Popen"),
    ("subprocess", "check_output"), ("subprocess", "run"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "compile"),
    ("builtins", "open"), ("builtins", "__import__"), ("builtins", "breakpoint"), ("__builtin__", "eval"), ("__builtin__", "execfile"),
    ("__builtin__", "file"), ("commands", "getoutput"), ("sys", "exit"), ("runpy", "run_path"), ("runpy", "_run_code"), ("pty", "spawn"),
    ("code", "InteractiveInterpreter"), ("code", "interact"), ("timeit", "timeit"), ("timeit", "main"), ("cProfile", "run"),
    ("cProfile", "runctx"), ("profile", "run"), ("profile", "Profile.run"), ("trace", "Trace.run"), ("bdb", "Bdb.run"), ("pdb", "run"),
    ("doctest", "debug_script"), ("pydoc", "pipepager"), ("pydoc", "locate"), ("webbrowser", "open"), ("importlib", "import_module"),
    ("imp", "load_source"), ("pkgutil", "resolve_name"), ("shutil", "rmtree"), ("shutil", "move"), ("socket", "create_connection"),
    ("urllib.request", "urlopen"), ("urllib.request", "urlretrieve"), ("http.client", "HTTPSConnection"), ("requests.api", "get"),
    ("aiohttp.client", "ClientSession"), ("smtplib", "SMTP"), ("ftplib", "FTP"), ("ssl", "get_server_certificate"), ("ctypes", "CDLL"),
    ("ctypes.util", "find_library"), ("multiprocessing.util", "spawnv_passfds"), ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    ("distutils.file_util", "write_file"), ("distutils.spawn", "spawn"), ("lib2to3.pgen2.grammar", "Grammar.loadGrammar"),
    ("lib2to3.pgen2.pgen", "ParserGenerator.make_label"), ("idlelib.pyshell", "ModifiedInterpreter.runcode"),
    ("idlelib.autocomplete", "AutoComplete.get_entity"), ("idlelib.calltip", "get_entity"), ("idlelib.debugobj", "ObjectTreeItem.SetText"),
    ("idlelib.run", "Executive.runcode"), ("ensurepip._uninstall", "_main"), ("pip", "main"), ("pip._internal.cli.main", "main"),
    ("venv", "main"), ("site", "execsitecustomize"), ("sysconfig", "_init_posix"), ("tempfile", "mkdtemp"), ("zipimport", "zipimporter"),
    ("marshal", "loads"), ("pickle", "loads"), ("_pickle", "loads"), ("pickle", "Unpickler"), ("uuid", "_get_command_stdout"),
    ("_osx_support", "_read_output"), ("_osx_support", "_find_build_tool"), ("_aix_support", "_read_cmd_output"), ("_pyrepl.pager", "pipe_pager"),
    ("imaplib", "IMAP4_stream"), ("logging.config", "_resolve"), ("logging.config", "dictConfig"), ("logging", "FileHandler"),
    ("linecache", "getlines"), ("operator", "methodcaller"), ("functools", "reduce"), ("functools", "partialmethod"), ("types", "CodeType"),
    ("types", "FunctionType"), ("types", "ModuleType"), ("types", "MethodType"), ("typing", "get_type_hints"), ("inspect", "getsource"),
    ("io", "open"), ("io", "FileIO"), ("_io", "FileIO"), ("io", "open_code"), ("codecs", "open"), ("fileinput", "input"), ("glob", "glob"), ("sqlite3", "connect"),
    ("dbm", "open"), ("shelve", "open"), ("zipfile", "ZipFile"), ("tarfile", "open"), ("gzip", "open"), ("pathlib", "Path.write_text"),
    ("pathlib", "Path.unlink"), ("signal", "raise_signal"), ("threading", "Thread"), ("concurrent.futures", "ProcessPoolExecutor"),
    ("builtins", "print"), ("builtins", "input"), ("builtins", "map"), ("builtins", "filter"), ("builtins", "getattr"), ("builtins", "setattr"),
    ("builtins", "globals"), ("builtins", "vars"), ("builtins", "type"), ("ast", "literal_eval"), ("unittest.mock", "_importer"),
    ("xmlrpc.server", "resolve_dotted_attribute"), ("nturl2path", "url2pathname"), ("collections", "namedtuple"), ("dataclasses", "make_dataclass"), ("enum", "_make_class_unpicklable"),
    ("torch", "load"), ("torch.serialization", "load"), ("torch.hub", "load"), ("torch.hub", "load_state_dict_from_url"), ("torch", "save"),
    ("torch.jit", "load"), ("torch.jit.unsupported_tensor_ops", "execWrapper"), ("torch.utils.collect_env", "run"),
    ("torch.utils._config_module", "ConfigModule.load_config"), ("torch.utils.bottleneck.__main__", "run_autograd_prof"),
    ("torch.utils.bottleneck.__main__", "run_cprofile"), ("torch.utils.data.datapipes.utils.decoder", "basichandlers"),
    ("torch._dynamo.guards", "GuardBuilder.get"), ("torch._inductor.codecache", "compile_file"), ("torch.utils.cpp_extension", "load_inline"),
    ("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression"), ("torch.fx.graph_module", "reduce_graph_module"),
    ("torch.fx.graph", "_exec_with_source"), ("torch.distributed.run", "main"), ("torch.storage", "_legacy_load"), ("torch._C", "_load_for_lite_interpreter"),
    ("torch.distributed.rpc.internal", "_run_function"), ("torch.ops", "load_library"), ("torch", "_utils_internal.justknobs_check"),
    ("numpy", "load"), ("numpy", "fromfile"), ("numpy", "savetxt"), ("numpy", "memmap"), ("numpy.testing._private.utils", "runstring"),
    ("numpy.f2py.crackfortran", "getlincoef"), ("numpy.f2py.crackfortran", "param_eval"), ("numpy.f2py.crackfortran", "myeval"),
    ("numpy.ctypeslib", "load_library"), ("pandas", "read_pickle"), ("pandas", "eval"), ("joblib", "load"), ("dill", "loads"),
    ("cloudpickle", "loads"), ("cloudpickle.cloudpickle", "_make_function"), ("cloudpickle.cloudpickle", "_builtin_type"), ("tensorflow", "io.write_file"),
    ("keras.utils", "get_file"), ("transformers", "pipeline"), ("huggingface_hub", "hf_hub_download"), ("sklearn.utils", "_exec"),
    ("setuptools.command.easy_install", "main"), ("pkg_resources", "load_entry_point"), ("IPython.utils.process", "system"),
    ("collections", "abc.sys.modules.get"), ("posixpath", "os.system"), ("random", "_os.system"), ("collections", "OrderedDict.__init__.__globals__"),
    ("mypackage", "helper.os.system"), ("mypackage", "builtins.eval"), ("mypackage", "thing.__class__.__base__.__subclasses__"),
]  # fmt: skip


@pytest.fixture
def nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The folder stays as it is, and no function that a pickle could reach is run."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def never(*args: Any, **named: Any) -> Any:
        raise AssertionError(f"it was run, with {args}")

    with monkeypatch.context() as patched:
        for holder, name in (
            (os, "system"), (os, "popen"), (subprocess, "Popen"), (builtins, "eval"), (builtins, "exec"), (builtins, "__import__"),
            (pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load"),
        ):  # fmt: skip
            if name == "__import__":
                real = builtins.__import__

                def guarded(module: str, *args: Any, real: Any = real, **named: Any) -> Any:
                    assert module.split(".")[0] not in ("mypackage", "runpy", "pty", "antigravity", "torch.hub"), module
                    return real(module, *args, **named)

                patched.setattr(holder, name, guarded)
            elif name not in ("eval", "exec"):  # namedtuple and dataclasses need these themselves
                patched.setattr(holder, name, never)
        yield
    assert os.listdir() == []


def as_plain(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def as_zip(data: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")


def as_legacy(data: bytes, path: Path) -> None:
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    path.write_bytes(head + pickle.dumps({"little_endian": True}, 2) + data + pickle.dumps([], 2))


def as_legacy_first(data: bytes, path: Path) -> None:
    """In what the machine tells, which torch unpickles as it does the rest."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    path.write_bytes(head + data + pickle.dumps({}, 2) + pickle.dumps([], 2))


def as_script(data: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/constants.pkl", data)
        archive.writestr("x/version", "3\n")


FILES = [as_plain, as_zip, as_legacy, as_legacy_first, as_script]


def refused(
    data: bytes, tmp_path: Path, words: str = ".", file: Callable[[bytes, Path], None] = as_zip
) -> MilepostError:
    file(data, tmp_path / "evil.pt")
    with pytest.raises(UnsafeContentError, match=words) as caught:
        milepost.open(tmp_path / "evil.pt")
    assert "evil.pt" in str(caught.value.where)
    assert "at byte" in str(caught.value.where)
    return caught.value


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize(("module", "name"), CALLED, ids=".".join)
def test_functions_that_no_checkpoint_calls(tmp_path: Path, module: str, name: str) -> None:
    told = refused(call(module, name, "touch ran", "x"), tmp_path)
    assert name.rpartition(".")[2] in told.message or "getattr" in told.message
    refused(call_old(module, name, "touch ran", "x"), tmp_path)


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("file", FILES)
def test_in_every_place_where_a_file_has_a_pickle(tmp_path: Path, file: Callable[[bytes, Path], None]) -> None:
    refused(b"\x80\x02" + call_old("os", "system", "touch ran"), tmp_path, "os.system", file)


class Reduced:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


WAYS: dict[str, bytes] = {
    "INST": b"(" + text("touch ran") + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + text("touch ran") + b"o.",
    "NEWOBJ": b"csubprocess\nPopen\n(" + text("touch ran") + b"t\x81.",
    "NEWOBJ_EX": b"csubprocess\nPopen\n(" + text("touch ran") + b"t}\x92.",
    "a name that is not called": b"cos\nsystem\n.",
    "STACK_GLOBAL from the memo": text("os") + b"\x94" + text("system") + b"\x940" + b"0h\x00h\x01\x93(" + text("touch ran") + b"tR.",
    "STACK_GLOBAL of old strings": b"U\x02osU\x06system\x93(" + text("touch ran") + b"tR.",
    "STACK_GLOBAL with texts in two forms": b"Vos\n" + b"\x8c\x06system\x93(" + text("touch ran") + b"tR.",
    "popped and built again": text("os") + b"2" + text("x") + b"0" + text("system") + b"\x93)R.",
    "after a value": b"N0" + call_old("os", "system", "touch ran"),
    "within a call": b"ccollections\nOrderedDict\n(((" + text("a") + call_old("os", "system", "touch ran")[:-1] + b"tttR.",
    "as an element of a list": b"](" + call_old("os", "system", "touch ran")[:-1] + b"e.",
    "as a key": b"}" + call_old("os", "system", "touch ran")[:-1] + b"Ns.",
    "as a state": b"c__main__\nA\n)\x81}" + text("a") + call_old("os", "system", "touch ran")[:-1] + b"sb.",
    "as a persistent id": call_old("os", "system", "touch ran")[:-1] + b"Q.",
    "and then broken off": call_old("os", "system", "touch ran")[:-1],
    "and then an unknown opcode": call_old("os", "system", "touch ran")[:-1] + b"\xff",
    "frames that lie": b"\x80\x04\x95\x02\0\0\0\0\0\0\0" + call_old("os", "system", "touch ran"),
    "a protocol told twice": b"\x80\x02\x80\x04" + call_old("os", "system", "touch ran"),
    "a partial of it": b"cfunctools\npartial\n(cos\nsystem\n" + text("touch ran") + b"tR.",
    "a call of what a call returned": b"coperator\nitemgetter\n(I0\ntR((lcmy\nf\natR.",
    "getattr": call_old("builtins", "getattr", "a", "__class__"),
    "getattr of a module's part": b"cbuiltins\ngetattr\n(cmy\nthing\n" + text("__globals__") + b"tR.",
    "getattr of an object": b"cbuiltins\ngetattr\n(cmy\nthing\n)R" + text("f") + b"tR.",
    "a class that is changed": b"cmy\nThing\n}" + text("__reduce__") + b"cmy\nf\nsb.",
    "a code of the registry": b"\x82\x01(" + text("touch ran") + b"tR.",
    "another code of the registry": b"\x84\x01\x01\0\0" + b")R.",
    "a function given to _rebuild_from_type_v2": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n(" + text("touch ran") + b"tNtR.",
    "a function of torch given to it": b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch.hub\nload\nctorch\nTensor\n(" + text("x") + b"tNtR.",
    "a pickle within _load_from_bytes": b"",
}  # fmt: skip


def inner_file(tmp_path: Path) -> bytes:
    as_legacy(b"\x80\x02" + call_old("os", "system", "touch ran"), tmp_path / "inner")
    data = (tmp_path / "inner").read_bytes()
    return b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(data)) + data + b"tR."


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", [as_plain, as_zip])
def test_ways_to_get_there(tmp_path: Path, way: str, file: Callable[[bytes, Path], None]) -> None:
    data = inner_file(tmp_path) if "within _load_from_bytes" in way else WAYS[way]
    if file is as_plain:
        data = b"\x80\x02" + data + b"" if data.endswith(b".") else b"\x80\x02" + data
        if not data.endswith(b"."):
            return  # it is not taken for a pickle at all
    refused(data, tmp_path, file=file)


@pytest.mark.usefixtures("nothing_happens")
def test_a_second_pickle_behind_the_first_is_not_passed_over(tmp_path: Path) -> None:
    for file in (as_plain, as_zip):
        file(b"\x80\x02}." + call_old("os", "system", "touch ran"), tmp_path / "evil.pt")
        with pytest.raises(UnsafeContentError, match="something follows the pickle"):
            milepost.open(tmp_path / "evil.pt")


@pytest.mark.usefixtures("nothing_happens")
def test_what_scanners_call_safe_and_names_of_packages_that_are_not_there_are_shown(tmp_path: Path) -> None:
    data = pickle.dumps({"good": 1}, 2)[:-1] + text("a") + b"cmypackage\nThing\n(" + text("b") + b"tRs."
    as_zip(data, tmp_path / "file.pt")
    source = milepost.open(tmp_path / "file.pt")
    assert source.plain["a"] == Foreign("python.object", {"class": "mypackage:Thing", "args": ["b"]})
    assert "mypackage" not in sys.modules


# -- archives that a scanner reads otherwise ---------------------------------------------------------------------------


def archive(pickled: bytes = b"\x80\x02}.") -> bytearray:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("archive/data.pkl", pickled)
        made.writestr("archive/other.pkl", call_old("os", "system", "touch ran"))
    return bytearray(out.getvalue())


ARCHIVES: dict[str, Callable[[bytearray], Any]] = {
    "an encryption bit in the directory": lambda data: struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 8, 1),
    "an encryption bit in the member": lambda data: struct.pack_into("<H", data, 6, 1),
    "another name in the member": lambda data: data.__setitem__(slice(30, 46), b"archive/dota.pkl"),
    "another checksum in the member": lambda data: struct.pack_into("<I", data, 14, 1),
    "another method in the member": lambda data: struct.pack_into("<H", data, 8, 8),
    "two members of one name": lambda data: data.__setitem__(slice(None), _twice()),
    "members that overlap": lambda data: struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 42, 0),
    "something behind the end": lambda data: data.extend(b"more"),
    "a second archive behind the first": lambda data: data.extend(archive(call_old("os", "system", "touch ran"))),
    "a count that is too small": lambda data: struct.pack_into("<2H", data, data.rindex(b"PK\x05\x06") + 8, 1, 1),
    "a name with NUL": lambda data: data.__setitem__(slice(None), data.replace(b"archive/other.pkl", b"archive/other\0pkl")),
    "a name that leads out": lambda data: data.__setitem__(slice(None), data.replace(b"archive/other.pkl", b"../../../othe.pkl")),
    "names that differ by case": lambda data: data.__setitem__(slice(None), _cased()),
}  # fmt: skip


def _twice() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("archive/data.pkl", b"\x80\x02}.")
        made.writestr("archive/dat2.pkl", call_old("os", "system", "touch ran"))
    return out.getvalue().replace(b"dat2", b"data")


def _cased() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("archive/data.pkl", b"\x80\x02}.")
        made.writestr("archive/DATA.pkl", call_old("os", "system", "touch ran"))
    return out.getvalue()


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_that_say_two_things(tmp_path: Path, kind: str) -> None:
    data = archive()
    ARCHIVES[kind](data)
    (tmp_path / "evil.pt").write_bytes(data)
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "evil.pt")


# -- too much of everything --------------------------------------------------------------------------------------------


def _laughs() -> bytes:
    """Sixty tuples, each twice the one before."""
    return b"(K\x01K\x02t" + b"2\x86" * 60 + b"."


BOMBS: dict[str, Callable[[], bytes]] = {
    "lists in lists": lambda: b"]" * 500_000 + b"a" * 499_999 + b".",
    "tuples in tuples": lambda: b"N" + b"\x85" * 500_000 + b".",
    "dicts in dicts": lambda: b"}" + b"U\x01a}" * 100_000 + b"s" * 100_000 + b".",
    "a key of tuples in tuples": lambda: b"}N" + b"\x85" * 300_000 + b"Ns.",
    "a billion laughs": _laughs,
    "200,000 keys": lambda: b"}(" + b"".join(text(f"k{index}") + b"N" for index in range(200_000)) + b"u.",
    "200,000 keys that fall together": lambda: b"}(" + b"".join(_colliding(index) + b"N" for index in range(200_000)) + b"u.",
    "a set that falls together": lambda: b"\x8f(" + b"".join(_colliding(index) for index in range(200_000)) + b"\x90.",
    "a text of two gigabytes": lambda: b"X\xff\xff\xff\x7fabc.",
    "bytes of eight exabytes": lambda: b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a number of a megabyte": lambda: b"\x8b\x00\x00\x10\x00" + bytes(2**20) + b".",
    "digits without end": lambda: b"L" + b"9" * 2_000_000 + b"\n.",
    "a place of the memo far away": lambda: b"Nr\xff\xff\xff\xff.",
    "marks": lambda: b"(" * 2_000_000 + b".",
    "empty dicts": lambda: b"}" * 2_000_000 + b".",
    "pushed and popped": lambda: b"N0" * 3_000_000 + b"N.",
    "a shape of 2**60": lambda: _numpy((2**60, 2**60)),
    "a shape with zero and 2**60": lambda: _numpy((0, 2**60, 2**60)),
    "a shape below zero": lambda: _numpy((-1,)),
    "a shape of 65 dimensions": lambda: _numpy((1,) * 65),
    "a shape that is no shape": lambda: _numpy(("a",)),
    "text of 2**40 characters": lambda: _numpy((2**40,), "U8"),
    "a dtype that is none": lambda: _numpy((1,), "zz"),
}  # fmt: skip


def _colliding(index: int) -> bytes:
    return b"\x8a\x10" + (index * (2**61 - 1)).to_bytes(16, "little")


def _numpy(shape: tuple[Any, ...], code: str = "f4") -> bytes:
    out = io.BytesIO()
    pickler = pickle._Pickler(out, 2)  # type: ignore[attr-defined]
    pickler.save(shape)
    state = out.getvalue()
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    kind = b"cnumpy\ndtype\n(" + text(code) + b"K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return head + b"(K\x01" + state + kind + b"\x89" + b"C\x04abcd" + b"tb."


@pytest.mark.parametrize("name", BOMBS)
def test_too_much_of_everything(tmp_path: Path, name: str) -> None:
    as_zip(BOMBS[name](), tmp_path / "file.pt")
    shown = {"200,000 keys"}
    if name in shown:
        assert len(milepost.open(tmp_path / "file.pt").plain) == 200_000
        return
    try:
        source = milepost.open(tmp_path / "file.pt")
    except FormatError:
        return
    assert name in (
        "200,000 keys that fall together",
        "a set that falls together",
        "a dtype that is none",
        "a place of the memo far away",
    )
    assert len(source.plain) in (1, 200_000)


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "a\0b", "a\nb", "x" * 10_000, "", "\ud800", "/", "~", "\x1b[2J", "‮"]
)
def test_keys_of_every_kind(tmp_path: Path, key: str) -> None:
    torch.save({key: torch.arange(3), "outer": {key: 1}}, tmp_path / "file.pt") if key != "\ud800" else as_zip(
        pickle.dumps({key: 2, "outer": {key: 1}}), tmp_path / "file.pt"
    )
    source = milepost.open(tmp_path / "file.pt")
    assert len(source) + len(source.plain) == 2
    for path in source:
        np.testing.assert_array_equal(source[path], np.arange(3))


def test_links_and_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(FormatError, match="not a regular file"):
        milepost.open(tmp_path / "pipe.pt")
    torch.save({"a": torch.arange(3)}, tmp_path / "file.pt")
    os.symlink("file.pt", tmp_path / "link.pt")
    assert list(milepost.open(tmp_path / "link.pt")) == ["a"]
    os.symlink("link2.pt", tmp_path / "link2.pt")
    with pytest.raises(MilepostError):
        milepost.open(tmp_path / "link2.pt")
