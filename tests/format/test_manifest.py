"""``manifest.json``: what it holds, what it refuses, and that nothing in it can change unnoticed."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.digest import digest
from milepost.core.manifest import (
    FORMAT,
    SUMMARY_BYTES,
    File,
    Manifest,
    Shard,
    Summary,
    Tensor,
    decode,
    decode_summary,
    encode,
    plain_metrics,
)
from milepost.errors import DamagedError, FormatError

BYTES = "xxh3-128:" + "0" * 32


def manifest(**changes: Any) -> Manifest:
    summary = Summary(
        FORMAT, "run0", 2, 469, epoch=1, batch=3, metrics={"loss": 0.5}, tensors=2, bytes=4120, new_bytes=8
    )
    whole = Manifest(
        summary,
        {"model": {"w": {"$tensor": "model/w"}}, "vars": {"note": "naïve ✓", "deep": [[1, [2.5, None]]]}},
        {
            "model/w": Tensor(
                "float32", (2, 3), (Shard("model.safetensors", "w", BYTES, True),), trained=True, type="torch"
            ),
            "model/t": Tensor("float32", (2, 3), same_as="model/w", strides=(1, 2)),
        },
        {"model.safetensors": File(4120, BYTES, True)},
        {"milepost": "0.1.0"},
    )
    return msgspec.structs.replace(whole, **changes)


def signed(fields: dict[str, Any]) -> bytes:
    """Any fields as a manifest with a right digest: what somebody who knows the format can write."""
    summary = json.dumps(fields.pop("summary"), ensure_ascii=False)
    rest = "".join(f'"{name}": {json.dumps(value, ensure_ascii=False)},\n' for name, value in fields.items())
    body = f'{{"summary": {summary},\n{rest}'.encode()
    return body + b'"digest": "' + digest(body).encode() + b'"}\n'


def as_fields(whole: Manifest) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(encode(whole))
    del fields["digest"]
    return fields


def test_what_is_written_comes_back() -> None:
    whole = manifest()
    assert decode(encode(whole), "here") == whole
    assert decode_summary(encode(whole)[:SUMMARY_BYTES], "here") == whole.summary


def test_it_is_plain_json_that_begins_with_its_summary() -> None:
    data = encode(manifest())
    assert list(json.loads(data)) == ["summary", "items", "tensors", "files", "written_by", "digest"]
    assert data.startswith(b'{"summary": {"format":"1.1"')
    assert data.endswith(b'"}\n')
    assert b'\n  "model/w": {' in data, "one line for each tensor"


def test_an_empty_one_comes_back() -> None:
    whole = Manifest(Summary(FORMAT, "r", 1, 0), {}, {}, {})
    assert decode(encode(whole), "here") == whole


def test_unknown_fields_are_ignored_at_every_level() -> None:
    fields = as_fields(manifest())
    fields["summary"]["mood"] = "fine"
    fields["tensors"]["model/w"]["colour"] = "red"
    fields["tensors"]["model/w"]["shards"][0]["weather"] = [1]
    fields["files"]["model.safetensors"]["owner"] = {}
    fields["added_in_1.7"] = {"x": 1}
    assert decode(signed(fields), "here") == manifest()


def test_a_newer_minor_version_is_read() -> None:
    newer = msgspec.structs.replace(manifest().summary, format="1.9")
    assert decode(encode(manifest(summary=newer)), "here").summary.format == "1.9"


@pytest.mark.parametrize("version", ["2.0", "9", "10.3", "0.9", "", "x"])
def test_another_major_version_is_refused_by_name(version: str) -> None:
    other = msgspec.structs.replace(manifest().summary, format=version)
    for read in (decode, decode_summary):
        with pytest.raises(FormatError, match="another version of the format") as caught:
            read(encode(manifest(summary=other)), "runs/x/step-1/manifest.json")
        assert caught.value.where == "runs/x/step-1/manifest.json"
        assert caught.value.expected == "format 1.x"
        assert caught.value.found == f"format {version}"


def test_a_newer_version_is_told_from_damage_even_if_all_else_is_different() -> None:
    with pytest.raises(FormatError, match="another version"):
        decode(b'{"summary": {"format":"2.0","anything":"else"},\nwhatever comes then', "here")


def test_no_bit_can_flip_unnoticed() -> None:
    data = encode(manifest())
    version = data.index(b"1.")
    for index in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[index] ^= 1 << bit
            with pytest.raises((DamagedError, FormatError)) as caught:
                decode(bytes(changed), "here")
            assert isinstance(caught.value, DamagedError) or index in (version, version + 1), (index, bit)


def test_no_length_but_the_whole_is_read() -> None:
    data = encode(manifest())
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            decode(data[:length], "here")
    for more in (b"\n", b" ", data, b"{}"):
        with pytest.raises(DamagedError):
            decode(data + more, "here")


# -- the summary ----------------------------------------------------------------------------------------------------------


def first_block(summary: Summary) -> Summary:
    """The summary as a listing reads it."""
    data = encode(manifest(summary=summary))
    assert len(data.partition(b"\n")[0]) < SUMMARY_BYTES
    assert decode(data, "here").summary == decode_summary(data[:SUMMARY_BYTES], "here")
    return decode_summary(data[:SUMMARY_BYTES], "here")


def test_900_metrics_fit_into_one_block_and_the_rest_is_counted() -> None:
    metrics = {f"metric_number_{number}": number / 7 for number in range(900)}
    found = first_block(Summary(FORMAT, "r", 1, 5, metrics=plain_metrics(metrics)))
    assert 20 < len(found.metrics) < 900
    assert found.metrics_left_out == 900 - len(found.metrics)
    assert dict(found.metrics) == dict(list(metrics.items())[: len(found.metrics)]), "the first ones are kept"


def test_a_few_metrics_are_all_kept() -> None:
    metrics = {f"m{number}": float(number) for number in range(40)}
    found = first_block(Summary(FORMAT, "r", 1, 5, metrics=plain_metrics(metrics)))
    assert found.metrics == metrics
    assert found.metrics_left_out == 0


@given(
    st.dictionaries(st.text(max_size=3000), st.floats(), max_size=20),
    st.one_of(st.none(), st.text(max_size=200).map(lambda text: text * 50)),
)
def test_a_summary_fits_whatever_is_in_it(metrics: dict[str, float], why: str | None) -> None:
    found = first_block(Summary(FORMAT, "r", 1, 5, metrics=plain_metrics(metrics), good=why is None, why_not_good=why))
    assert found.good == (why is None)
    assert len(found.metrics) + found.metrics_left_out == len(metrics)
    assert (found.why_not_good or "")[:300] == (why or "")[:300]


def test_metrics_that_are_no_finite_numbers_come_back() -> None:
    metrics = {"nan": math.nan, "up": math.inf, "down": -math.inf, "tiny": 5e-324, "zero": -0.0}
    found = first_block(Summary(FORMAT, "r", 1, 5, metrics=plain_metrics(metrics)))
    assert math.isnan(found.metric("nan") or 0.0)
    assert found.metric("up") == math.inf
    assert found.metric("down") == -math.inf
    assert found.metric("tiny") == 5e-324
    assert math.copysign(1, found.metric("zero") or 0.0) in (1, -1)
    assert found.metric("none") is None


@pytest.mark.parametrize(
    "summary",
    [
        b"",
        b"nonsense\n",
        b'{"items": {}}\n',
        b'{"summary": \n',
        b'{"summary": [1],\n',
        b'{"summary": {},\n',
        b'{"summary": {"format":1,"run":"r","attempt":1,"step":1},\n',
        b'{"summary": {"format":"1.0","run":"r","attempt":"1","step":1},\n',
        b'{"summary": {"format":"1.0","run":"r","attempt":1},\n',
        b'{"summary": {"format":"1.0","run":"r","attempt":1,"step":-1},\n',
        b'{"summary": {"format":"1.0","run":"r","attempt":-1,"step":1},\n',
        b'{"summary": {"format":"1.0","run":"r","attempt":1,"step":1.5},\n',
        b'{"summary": {"format":"1.0","run":"\xff","attempt":1,"step":1},\n',
        b'{"summary": {"format":"1.0","run":"r","attempt":1,"step":1,"metrics":{"loss":"much"}},\n',
        b'{"summary": {"format":"1.0","run":"r","attempt":1,"step":1,"metrics":{"loss":null}},\n',
        b'{"summary": {"format":"1.0","run":"r","attempt":1,"step":1,"metrics":[]},\n',
        b'{"summary": {"format":"1.0","x":' + b"[" * 3000 + b"]" * 3000 + b',"run":"r","attempt":1,"step":1},\n',
    ],
)
def test_a_summary_that_cannot_be_read_is_damage(summary: bytes) -> None:
    with pytest.raises(DamagedError) as caught:
        decode_summary(summary, "runs/x/step-1/manifest.json")
    assert caught.value.where == "runs/x/step-1/manifest.json"


@given(st.binary(max_size=300))
def test_noise_is_damage(noise: bytes) -> None:
    for data in (noise, b'{"summary": ' + noise, b'{"summary": {"format":"1.0",' + noise):
        with pytest.raises((DamagedError, FormatError)):
            decode(data, "here")


# -- contradictions, rightly signed -------------------------------------------------------------------------------------------


def whole(**tensor: Any) -> dict[str, Any]:
    return {
        "dtype": "float32",
        "shape": [2, 3],
        "shards": [{"file": "model.safetensors", "key": "w", "digest": BYTES}],
        **tensor,
    }


def box(offset: list[int], shape: list[int], file: str = "model.safetensors") -> dict[str, Any]:
    return {"file": file, "key": "w", "digest": BYTES, "offset": offset, "shape": shape}


LISTED = {"model.safetensors": {"size": 4120, "digest": BYTES}}
CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "a file above the folder": {"files": {"../../etc/passwd": {"size": 1, "digest": BYTES}}},
    "an absolute file": {"files": {"/etc/passwd": {"size": 1, "digest": BYTES}}},
    "a file in a folder": {"files": {"a/b.safetensors": {"size": 1, "digest": BYTES}}},
    "the folder": {"files": {".": {"size": 1, "digest": BYTES}}},
    "the folder above": {"files": {"..": {"size": 1, "digest": BYTES}}},
    "no name": {"files": {"": {"size": 1, "digest": BYTES}}},
    "a NUL": {"files": {"a\0b": {"size": 1, "digest": BYTES}}},
    "a negative size": {"files": {"a.safetensors": {"size": -1, "digest": BYTES}}},
    "an absurd size": {"files": {"a.safetensors": {"size": 2**63, "digest": BYTES}}},
    "a shard in a file above": {
        "tensors": {"w": whole(shards=[{"file": "../x", "key": "w", "digest": BYTES}])}, "files": LISTED,
    },
    "a shard in no file": {"tensors": {"w": whole()}},
    "a negative dimension": {"tensors": {"w": whole(shape=[-2, -3])}, "files": LISTED},
    "an absurd shape": {"tensors": {"w": whole(shape=[2**40, 2**40])}, "files": LISTED},
    "an absurd empty shape": {"tensors": {"w": whole(shape=[0, 2**62, 2**62])}, "files": LISTED},
    "65 dimensions": {"tensors": {"w": whole(shape=[1] * 65)}, "files": LISTED},
    "strides of another rank": {"tensors": {"w": whole(strides=[1])}, "files": LISTED},
    "absurd strides": {"tensors": {"w": whole(strides=[2**63, 1])}, "files": LISTED},
    "no bytes": {"tensors": {"w": whole(shards=[])}, "files": LISTED},
    "two whole shards": {"tensors": {"w": whole(shards=whole()["shards"] * 2)}, "files": LISTED},
    "a box beyond": {"tensors": {"w": whole(shards=[box([0, 0], [2, 2]), box([0, 2], [2, 2])])}, "files": LISTED},
    "a box before": {"tensors": {"w": whole(shards=[box([-1, 0], [2, 3])])}, "files": LISTED},
    "a negative box": {"tensors": {"w": whole(shards=[box([0, 0], [-2, -3])])}, "files": LISTED},
    "a box of another rank": {"tensors": {"w": whole(shards=[box([0], [2])])}, "files": LISTED},
    "half of a box": {"tensors": {"w": whole(shards=[{**box([0, 0], [2, 3]), "shape": None}])}, "files": LISTED},
    "a gap": {"tensors": {"w": whole(shards=[box([0, 0], [2, 2])])}, "files": LISTED},
    "tied to nothing": {"tensors": {"w": whole(shards=[], same_as="x")}, "files": LISTED},
    "tied to itself": {"tensors": {"w": whole(shards=[], same_as="w")}, "files": LISTED},
    "tied in a circle": {"tensors": {"a": whole(shards=[], same_as="b"), "b": whole(shards=[], same_as="a")}, "files": LISTED},
    "tied to a tied one": {
        "tensors": {"a": whole(), "b": whole(shards=[], same_as="a"), "c": whole(shards=[], same_as="b")}, "files": LISTED,
    },
    "tied to another shape": {"tensors": {"a": whole(), "b": whole(shards=[], same_as="a", shape=[3, 2])}, "files": LISTED},
    "tied to another dtype": {"tensors": {"a": whole(), "b": whole(shards=[], same_as="a", dtype="int32")}, "files": LISTED},
    "tied, with bytes": {"tensors": {"a": whole(), "b": whole(same_as="a")}, "files": LISTED},
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_damage(what: str) -> None:
    fields = {
        "summary": {"format": FORMAT, "run": "r", "attempt": 1, "step": 1},
        "items": {},
        "tensors": {},
        "files": {},
    }
    with pytest.raises(DamagedError, match="contradicts itself") as caught:
        decode(signed(fields | CONTRADICTIONS[what]), "runs/x/step-1/manifest.json")
    assert caught.value.where == "runs/x/step-1/manifest.json"


def test_boxes_that_make_up_a_tensor_are_no_contradiction() -> None:
    boxes = [box([0, 0], [2, 1]), box([0, 1], [1, 2]), box([1, 1], [1, 2])]
    fields = as_fields(manifest()) | {"tensors": {"model/w": whole(shards=boxes)}}
    assert len(decode(signed(fields), "here").tensors["model/w"].shards) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"tensors": []},
        {"tensors": {"w": 1}},
        {"tensors": {"w": whole(shape="2,3")}},
        {"tensors": {"w": whole(shape=[2.5])}},
        {"tensors": {"w": whole(dtype=4)}},
        {"tensors": {"w": whole(shards={})}},
        {"tensors": {"w": whole(shards=[{"file": "a"}])}},
        {"files": {"model.safetensors": {"size": "much", "digest": BYTES}}},
        {"files": {"model.safetensors": 3}},
        {"items": None},
        {"written_by": []},
    ],
)
def test_fields_of_other_types_are_not_understood(wrong: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="cannot be understood"):
        decode(signed(as_fields(manifest()) | wrong), "here")


def test_values_nested_too_deep_are_not_understood() -> None:
    deep = (
        b'{"summary": {"format":"1.0","run":"r","attempt":1,"step":1},\n"items": {"x": '
        + b"[" * 9000
        + b"]" * 9000
        + b"},\n"
    )
    body = deep + b'"tensors": {},\n"files": {},\n'
    with pytest.raises(FormatError, match="cannot be understood"):
        decode(body + b'"digest": "' + digest(body).encode() + b'"}\n', "here")
