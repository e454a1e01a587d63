"""Which names a pickle of a checkpoint may use: nothing is ever run, but a file that asks for what none needs is not shown as if
it were harmless.

A name is refused where it is *named* if it leads to what runs code, starts processes or opens files and connections, and where it
is *called* if it is a function of Python or of a framework that is not known to be one that builds values. Classes, and functions
of other packages, are noted by their name.
"""

from __future__ import annotations

import re
import sys

from milepost.formats.pickle_values import Global

ALIASES = {
    "__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins", "commands": "subprocess",
    "cPickle": "pickle", "_io": "io", "pathlib._local": "pathlib",
}  # fmt: skip
"""Names that modules had in Python 2, or have elsewhere."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEVER = _words(
    "_aix_support _bootsubprocess _osx_support _posixshmem _posixsubprocess _pyrepl _socket _thread aiohttp asyncio bdb code "
    "codeop cProfile ctypes distutils doctest ensurepip fcntl ftplib http httplib idlelib imaplib imp importlib IPython "
    "lib2to3 marshal mmap multiprocessing nntplib nt os paramiko pdb pickle _pickle pip pkg_resources pkgutil platform poplib "
    "posix profile pty pydoc requests resource runpy setuptools shutil signal site smtplib socket socketserver ssl subprocess sys "
    "sysconfig telnetlib tempfile timeit trace urllib urllib2 urllib3 venv webbrowser winreg xmlrpc zipapp zipimport"
)
"""Packages of which nothing is ever in a checkpoint."""

_NEVER_WITHIN = _words("builtins ctypes importlib marshal os pickle posix runpy shutil socket subprocess sys")
"""Modules that a dotted name may not lead through: what stands before it has only imported them."""

_NEVER_BUILTIN = _words(
    "__build_class__ __import__ apply breakpoint compile delattr dir eval exec execfile exit file getattr globals help input "
    "locals memoryview open quit raw_input reload setattr vars"
)

_HARMLESS = _words(
    "abc:ABC argparse:Namespace array:array array:_array_reconstructor builtins:object builtins:range builtins:slice "
    "dataclasses:_MISSING_TYPE enum:Enum functools:partial inspect:Parameter inspect:Signature inspect:_ParameterKind "
    "io:BytesIO io:StringIO ipaddress:IPv4Address ipaddress:IPv6Address itertools:count itertools:cycle itertools:repeat "
    "logging:Logger logging:getLogger logging:_StderrHandler operator:attrgetter operator:getitem operator:itemgetter "
    "queue:Queue queue:SimpleQueue random:Random re:_compile string:Template types:GenericAlias types:SimpleNamespace "
    "typing:ForwardRef typing:TypeVar weakref:WeakKeyDictionary weakref:WeakValueDictionary zoneinfo:ZoneInfo._unpickle"
)
"""Of Python's own, what objects are made of that are in checkpoints by the way: noted by name, as those of other packages."""

_FRAMEWORKS = _words(
    "accelerate cloudpickle dill flax huggingface_hub jax joblib keras lightning numpy onnx pandas pytorch_lightning scipy sklearn "
    "tensorflow tokenizers torch torchvision transformers"
)
"""Packages that are on every machine that trains, so that a pickle can count on their functions."""

_REBUILDS = re.compile(r"_\w+|\w*(un_?pickle|rebuild|reconstruct)\w*")
"""What functions are called that put objects together."""
_REBUILDS_NOT = re.compile(r"\w*(load|run|exec|eval|import|open|call|read|write|save|compile|make_function|builtin)\w*")


def fault_of_name(named: Global) -> str | None:
    """Why no checkpoint names this; None if one may."""
    root = named.module.partition(".")[0]
    first, *others = named.name.split(".")
    if root in _NEVER or (others and not _NEVER_WITHIN.isdisjoint((first, *others))):
        return "runs code, or reaches files, processes or the network"
    if root == "builtins" and first in _NEVER_BUILTIN:
        return "runs code, or reaches files"
    if any(re.fullmatch(r"__\w+__", part) for part in others) or first in ("__dict__", "__globals__", "__builtins__"):
        return "reaches into what Python keeps for itself"
    return None


def fault_of_call(named: Global) -> str | None:
    """Why no checkpoint calls this; None if one may. Names that are known by their meaning are not asked for."""
    root = named.module.partition(".")[0]
    last = named.name.rpartition(".")[2]
    if root in sys.stdlib_module_names:
        return None if str(named) in _HARMLESS or _is_class_of_python(named) else "is a function of Python"
    if root in _FRAMEWORKS and not last.lstrip("_")[:1].isupper():
        if _REBUILDS.fullmatch(last) and not _REBUILDS_NOT.fullmatch(last):
            return None
        return f"is a function of {root}"
    return None


def _is_class_of_python(named: Global) -> bool:
    """Exceptions, which do nothing and are kept by some trainers."""
    return (
        named.module == "builtins"
        and re.fullmatch(r"\w+(Error|Exception|Warning|Exit|Iteration)", named.name) is not None
    )
