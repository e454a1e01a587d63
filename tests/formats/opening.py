"""Open files one by one, each in a process of its own, and say what came of it and what it cost: ``opening.py PLACES.json``.

The places are a list; so are the answers, on standard output.
"""

import json
import os
import resource
import sys
import traceback
from pathlib import Path

import milepost
from milepost.core import paths
from milepost.errors import MilepostError
from milepost.formats import detect

LARGEST = 1 << 20
MOST = 50


def opened(place: str) -> dict[str, object]:
    source = milepost.open(place)
    told: dict[str, object] = {"tensors": len(source), "plain": len(source.plain)}
    some = [*list(source)[:MOST], *list(source.plain)[:MOST]]
    told["paths"] = all(paths.join(paths.split(path)) == path for path in some)
    refused = 0
    for path in list(source)[:MOST]:
        try:
            if source.specs[path].nbytes <= LARGEST:
                assert source[path].nbytes == source.specs[path].nbytes
            elif source.specs[path].nbytes > 1 << 40:
                source[path]
        except MilepostError as error:
            refused += 1
            told["error"] = type(error).__name__
            told["words"] = str(error)
    return told | {"refused": refused}


def answer(place: str) -> dict[str, object]:
    """What comes of `place`; the process ends with it, so that its memory and time are those of this one."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak of the memory is that of now
    before = peak()
    try:
        told = opened(place)
    except MilepostError as error:
        told = {"error": type(error).__name__, "words": str(error), "where": error.where, "refused": -1}
    except BaseException:
        told = {"error": "foreign", "words": traceback.format_exc()}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return told | {"seconds": sum(one.ru_utime + one.ru_stime for one in used), "memory": peak() - before}


def peak() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return int(file.read().partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    for entry in detect.FORMATS:
        __import__(f"milepost.formats.{entry.module}")
    answers = []
    for place in json.loads(Path(sys.argv[1]).read_text()):
        reader, writer = os.pipe()
        if not os.fork():
            raw = json.dumps(answer(place)).encode()
            os.write(writer, raw[:60000])
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            answers.append(json.loads(file.read()))
        os.wait()
    print(json.dumps(answers))
