"""A trainer to be killed: `python loader_trainer.py MODE`. Prints one JSON line when it is ready, another when it is
done.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from milepost.training.feeds import feed_for, shield

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Slow(Dataset[int]):
    def __init__(self, seconds: float, length: int = 40) -> None:
        self.seconds, self.length = seconds, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        time.sleep(self.seconds)
        return index


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def workers() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def batches(loader: DataLoader[int]) -> Iterator[Any]:
    feed = feed_for(loader)
    feed.begin(None)
    while True:
        try:
            yield feed.next()
        except StopIteration:
            return


def read(mode: str) -> None:
    """Flag handlers as a trainer has them; reads on whatever comes."""
    seen: set[int] = set()
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: seen.add(number))
    loader = DataLoader(Slow(0.05), 1, num_workers=2, multiprocessing_context="spawn" if mode == "spawn" else "fork")
    count = 0
    for _ in shield(loader) if mode == "untracked" else batches(loader):
        count += 1
        if count == 4:
            say(workers=workers())
    say(count=count, seen=sorted(seen))


def start_in_a_storm() -> None:
    """Signals arrive all the time while workers start and end."""
    storm = True
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)

    def send() -> None:
        while storm:
            for number in SIGNALS:
                os.killpg(0, number)
            time.sleep(0.0005)

    threading.Thread(target=send, daemon=True).start()
    feed = feed_for(DataLoader(Slow(0, 4), 1, num_workers=2))
    count = 0
    for _ in range(25):
        feed.begin(None)
        for _ in range(4):
            feed.next()
            count += 1
    storm = False
    feed.close()
    say(count=count)


def leave_without_a_word() -> None:
    """Ends with workers of every sort alive, and iterators held by the interpreter's last objects."""
    feeds = [feed_for(DataLoader(Slow(0), 1, num_workers=2, persistent_workers=keep)) for keep in (True, False)]
    for feed in feeds:
        feed.begin(None)
        feed.next()
    plain = iter(shield(DataLoader(Slow(0), 1, num_workers=2)))
    next(plain)
    sys.modules["held"] = (feeds, plain)  # type: ignore[assignment]
    say(workers=workers())


if __name__ == "__main__":
    mode = sys.argv[1]
    {"storm": start_in_a_storm, "leave": leave_without_a_word}.get(mode, lambda: read(mode))()
