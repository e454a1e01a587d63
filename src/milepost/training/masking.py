"""Secrets in command lines and environment variables, masked before they are written beside a model that may be shared.

A value is masked for its name (``--password X``, ``HF_TOKEN=X``), for its form where the name hints at a key
(``--wandb-key 40-hex-digits``), or for a form that says enough by itself (credentials in a URL, ``hf_...``). Words that
mean something else in machine learning stay readable: ``--key-frames 3``, ``--max-tokens 512``, ``--pad-token <pad>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"
LONGEST = 4096
"""A longer text is left out whole: nobody reads it, and searching it takes time that grows with its square."""

_ALWAYS = re.compile(
    r".*(passwords?|passwd|passphrase|secrets?|credentials?|jwt|apikey|secretkey|privatekey|accesskey|authtoken|accesstoken)"
)
"""Words that make a name a secret's."""
_PASSWORDS = re.compile(r".*pass(words?|wd|phrase)")
_HINTS = {
    "key",
    "keys",
    "token",
    "tokens",
    "auth",
    "authorization",
    "pat",
    "pwd",
    "sig",
    "signature",
    "cookie",
    "session",
}
"""Words that make a value a secret if it looks like one."""
_OF_KEYS = {
    "access", "account", "api", "app", "auth", "deploy", "encryption", "license", "private", "secret", "service",
    "shared", "signing", "ssh", "storage",
}  # fmt: skip
"""Words before "key" that make it a secret."""
_OF_TOKENS = {
    "begin", "blank", "bos", "class", "cls", "control", "draft", "end", "eos", "eot", "first", "image", "last", "mask",
    "max", "min", "n", "next", "num", "pad", "per", "placeholder", "prefix", "register", "sep", "sot", "special",
    "start", "stop", "suffix", "target", "text", "think", "trigger", "unk", "video", "word",
}  # fmt: skip
"""Words before "token" that make it one of a text."""
_ABOUT = {"count", "dim", "dir", "env", "file", "id", "ids", "len", "length", "name", "path", "size", "type"}
"""Last words of names whose value tells something about a secret, and is none."""
_HARMLESS = {"", "true", "false", "yes", "no", "on", "off", "none", "null", "auto"}

_NUMBER = re.compile(r"[+-]?[\d.]{1,7}(e[+-]?\d+)?", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"([-+~]*[A-Za-z_][\w.@/-]*)=(.*)", re.DOTALL)
_FLAG = re.compile(r"--?[A-Za-z][\w.-]*")

_TOKEN = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|AKIA[0-9A-Z]{16}"
    r"|sk-[\w-]{20,}|nvapi-[\w-]{20,}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}(\.[\w-]*)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
"""Forms that services give their keys so that they can be found where they should not be."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/\s\"']+)@")
_HEADER = re.compile(r"\b(authorization[\"']?\s*[:=]\s*[\"']?)[^\"'\n]+|\b(bearer\s+)[^\s\"']+", re.IGNORECASE)
_PAIR = re.compile(
    r"(?P<name>[A-Za-z_][\w.-]*)(?P<sign>[\"']?\s*(?:=|:(?!//))\s*)"
    r"(?:(?P<quote>[\"'])(?P<quoted>.*?)(?P=quote)|(?P<bare>[^\s\"'&,;{}]+))",
    re.DOTALL,
)


def masked_arguments(arguments: Iterable[str]) -> list[str]:
    """A command line with its secrets masked.

    Example:
        >>> masked_arguments(["train.py", "--hf-token", "abc", "--lr=0.1", "db.password=x", "https://me:pw@host/data"])
        ['train.py', '--hf-token', '***', '--lr=0.1', 'db.password=***', 'https://***@host/data']
    """
    shown = []
    flag = ""
    for argument in arguments:
        assignment = _ASSIGNMENT.fullmatch(argument)
        if _FLAG.fullmatch(argument):
            flag = argument
            shown.append(argument)
            continue
        if assignment:
            shown.append(f"{assignment[1]}={masked_value(assignment[1], assignment[2])}")
        else:
            shown.append(masked_value(flag, argument))
        flag = ""
    return shown


def masked_value(name: str, value: str) -> str:
    """The value of an option or variable called `name`, or what may be shown of it."""
    return MASK if is_secret(name, value) else masked_text(value)


def masked_text(text: str) -> str:
    """`text` without what is a secret by its form, or is given a secret's name in it (JSON, queries, headers)."""
    if len(text) > LONGEST:
        return f"({len(text)} characters)"
    text = _TOKEN.sub(MASK, text)
    text = _URL.sub(lambda found: f"{found[1]}{MASK if _opens(found[2]) else found[2]}@", text)
    text = _HEADER.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    return _PAIR.sub(_masked_pair, text)


def _masked_pair(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    if not is_secret(found["name"], found["quoted"] if quote else found["bare"]):
        return found[0]
    return f"{found['name']}{found['sign']}{quote}{MASK}{quote}"


def is_secret(name: str, value: str) -> bool:
    """Whether a value called `name` has to be masked."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or value.lower() in _HARMLESS:
        return False
    before, last = words[-2] if len(words) > 1 else "", words[-1]
    known = any(_ALWAYS.fullmatch(word) for word in [*words, before + last])
    if _looks_random(value) and (known or _HINTS.intersection(words)):
        return True
    if last in _ABOUT or (_NUMBER.fullmatch(value) and not any(_PASSWORDS.fullmatch(word) for word in words)):
        return False
    match last:
        case "token":
            return before not in _OF_TOKENS
        case "key":
            return before in _OF_KEYS or (name.isupper() and bool(before))
        case "auth" | "authorization":
            return True
        case "pwd":
            return bool(before)
    return known


def _opens(user: str) -> bool:
    """Whether the user part of a URL opens a door: it has a password, or is a token itself (``git@`` is neither)."""
    return ":" in user or _looks_random(user)


def _looks_random(value: str) -> bool:
    """Whether `value` is such as keys are: many letters and digits in a row, or a UUID."""
    longest = max(re.findall(r"[A-Za-z0-9]+", value), key=len, default="")
    mixed = not longest.isalpha() and not longest.isdigit()
    return (len(longest) >= 16 and mixed) or _UUID.fullmatch(value) is not None
