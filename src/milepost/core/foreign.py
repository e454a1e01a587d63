"""`Foreign`: what stands in for a value whose class is not at hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, repr=False)
class Foreign:
    """A stored value whose class is not loaded here, or is not what it was: a checkpoint is read without the script.

    It can be compared, used as a key, looked into, and stored again, which gives the JSON it came from.

    `tag` is its kind (``enum``, ``namedtuple``, ``dataclass``, ``torch.dtype`` ...), `content` what was stored under
    it: for a class of the script a dict with ``class`` (``"module:Name"``) and ``fields``, or ``name`` and ``value``
    for an enum. `why` says what was missing here.

    Example:
        >>> milepost.open("runs/mnist").plain["config"]
        <foreign __main__:Config(lr=0.1, layers=[784, 32, 10])>
    """

    tag: str
    content: Any
    why: str = field(default="", compare=False)

    def __hash__(self) -> int:
        return hash((self.tag, _hashable(self.content)))

    def __repr__(self) -> str:
        content = self.content
        if self.tag in ("namedtuple", "dataclass"):
            fields = {**content["fields"], **content.get("attributes", {})}
            return f"<foreign {content['class']}({', '.join(f'{name}={value!r}' for name, value in fields.items())})>"
        if self.tag == "enum":
            return f"<foreign {content['class']}.{content['name']}: {content.get('value')!r}>"
        return f"<foreign {self.tag} {content!r}>"


def _hashable(value: Any) -> Any:
    """Something hashable that is equal for equal `value`: what cannot be hashed does not take part."""
    if type(value) in (list, tuple):
        return tuple(map(_hashable, value))
    if type(value) is dict:
        return frozenset((_hashable(key), _hashable(item)) for key, item in value.items())
    try:
        hash(value)
    except TypeError:
        return None
    return value
