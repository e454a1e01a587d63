"""From what was measured to the page: medians, intervals, goals, Markdown tables.

python bench/report.py runs/bench.json [docs/performance.md]      print it again, and write it into the page
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras_saves
from intervals import Interval, median, slowdown
from peers import PEERS, Milepost

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
Trials = Sequence[Mapping[str, Any]]
Groups = Mapping[str, Mapping[str, Sequence[Any]]]


class Figure(NamedTuple):
    """One number: how it is found in the trials of a peer, how it is shown, and what milepost should reach, if that was set.

    `goal` is compared with the estimate, or, if `upper`, with the upper end of its interval.
    """

    title: str
    group: str
    find: Callable[[Trials], Interval]
    show: Callable[[float], str]
    goal: float | None
    short: str | None = None
    """Head of its column in the table of peers; None keeps it out of there."""
    upper: bool = False


def _each(of: Callable[[Any], Sequence[float]]) -> Callable[[Trials], Interval]:
    """The median over all samples that `of` finds in each trial."""
    return lambda trials: median([sample for trial in trials for sample in of(trial)])


def _every_few(trials: Trials) -> Interval:
    alone, turns = _relative(trials, "every_few")
    return slowdown(alone, list(zip(*turns, strict=True)))


def _every_one(trials: Trials) -> Interval:
    alone, turns = _relative(trials, "every_one")
    return slowdown(alone, [[step for turn in turns for step in turn]])


def _relative(trials: Trials, key: str) -> tuple[list[float], list[list[float]]]:
    """Times of steps without saving, and of those in each turn under `key`, divided by the mean of the former in the same
    process."""
    alone: list[float] = []
    saving: list[list[float]] = []
    for trial in trials:
        unit = statistics.fmean(trial["alone"])
        alone += [time / unit for time in trial["alone"]]
        saving += [[time / unit for time in turn] for turn in trial[key]]
    return alone, saving


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms" if seconds < 0.02 else f"{1000 * seconds:.0f} ms"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _times(factor: float) -> str:
    return f"{factor:.3f} ×" if factor < 10 else f"{factor:.1f} ×"


def _per_gb(seconds: float) -> str:
    return f"{seconds:.2f} s/GB"


def _mb(nbytes: float) -> str:
    return f"{nbytes / 1e6:.0f} MB"


def _memory(trial: Any) -> list[float]:
    return [max(trial[task]["extra"] for task in ("stats", "diff"))]


FIGURES = (
    Figure(
        "training stands still in the save call", "training", _each(lambda one: one["call"]), _ms, 0.003, "save call"
    ),
    Figure(
        "… and before the next optimizer step",
        "training",
        _each(lambda one: one["hold"]),
        _ms,
        0.001,
        "wait before step",
    ),
    Figure("slowdown, a save every 5 steps", "training", _every_few, _percent, 0.02, "slowdown, every 5", upper=True),
    Figure("slowdown, a save at every step", "training", _every_one, _percent, 0.10, "slowdown, every 1"),
    Figure(
        "durable, beside a plain write",
        "training",
        _each(lambda one: [save["took"] / save["plain"] for save in one["durable"]]),
        _times,
        1.15,
        "durable / plain write",
    ),
    Figure(
        "processor time of a save",
        "training",
        _each(lambda one: [save["spent"][""] for save in one["durable"]]),
        _ms,
        None,
        "processor time",
    ),
    Figure(
        "cold verified restore, beside a plain read",
        "restore",
        _each(lambda one: [one["restore"] / one["plain_read"]]),
        _times,
        1.15,
        "restore / plain read",
    ),
    Figure(
        "… beside a plain read into fresh memory",
        "restore",
        _each(lambda one: [one["restore"] / one["plain_read_fresh"]]),
        _times,
        1.15,
        "restore / read into fresh memory",
    ),
    Figure(
        "extra memory, beside the state",
        "training",
        _each(lambda one: [one["extra"] / one["state"]]),
        _times,
        1.05,
        "extra memory",
    ),
    Figure(
        "20 checkpoints, 90 % frozen, beside full + 19 × changed",
        "frozen",
        _each(lambda one: [one["disk"] / (one["full"] + (one["checkpoints"] - 1) * one["changed"])]),
        _times,
        1.02,
        "disk, 90 % frozen",
    ),
    Figure("import milepost, beyond numpy", "import", _each(lambda one: [one[1] / 1000]), _ms, 0.060),
    Figure(
        "… and the first use of milepost.Checkpointer",
        "import",
        _each(lambda one: [(one[1] + one[2]) / 1000]),
        _ms,
        0.060,
    ),
    Figure("milepost ls, 1,000 checkpoints of 600 tensors", "ls", _each(lambda one: [one[0]]), _ms, 0.400),
    Figure("milepost show, first output on a file of 1 GB", "look", _each(lambda one: [one["first"]]), _ms, 0.250),
    Figure("milepost stats on one core", "look", _each(lambda one: [one["stats"]["seconds_per_gb"]]), _per_gb, 1.0),
    Figure("milepost diff on one core", "look", _each(lambda one: [one["diff"]["seconds_per_gb"]]), _per_gb, 1.0),
    Figure("… memory that either takes", "look", _each(_memory), _mb, None),
)


def page(results: Groups, about: Mapping[str, str], arguments: str) -> str:
    """The part of the page that is measured."""
    parts = [
        _machine(results, about, arguments),
        _goals(results),
        _peers(results),
        _looking(results),
        _keras(results),
        _threads(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def put(measured: str, where: Path) -> None:
    """Write what was measured between the markers of a page, or a new page."""
    text = where.read_text() if where.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{where} has no lines {BEGIN} and {END}")
    where.write_text(f"{before}{BEGIN}\n\n{measured}\n{END}{after}")


def _machine(results: Groups, about: Mapping[str, str], arguments: str) -> str:
    rows = [[name, value] for name, value in about.items()]
    rows.append(["command", f"`python bench/run.py {arguments}`".replace(" `", "`")])
    ours = results.get("training", {}).get(Milepost.name)
    if ours:
        steps = [time for trial in ours for time in trial["alone"]]
        rows.append(["state", f"{ours[0]['state'] / 1e9:.3f} GB in {ours[0]['tensors']} tensors"])
        rows.append(["step without saving", _ms(statistics.median(steps))])
    writes = [
        save["plain"]
        for trials in results.get("training", {}).values()
        for trial in trials
        for save in trial["durable"]
    ]
    if writes and ours:
        rows.append(["plain write", f"{ours[0]['state'] / statistics.median(writes) / 1e9:.2f} GB/s"])
    reads = [trial for trials in results.get("restore", {}).values() for trial in trials]
    if reads and ours:
        for name, key in (("plain read", "plain_read"), ("plain read into fresh memory", "plain_read_fresh")):
            rows.append([name, f"{ours[0]['state'] / statistics.median(one[key] for one in reads) / 1e9:.2f} GB/s"])
    return _table(["measured on", ""], rows)


def _goals(results: Groups) -> str:
    rows = []
    for figure in FIGURES:
        trials = results.get(figure.group, {}).get(Milepost.name)
        if not trials:
            continue
        found = figure.find(trials)
        goal, reached = "–", "–"
        if figure.goal is not None:
            goal = f"≤ {figure.show(figure.goal)}" + (" at the upper end" if figure.upper else "")
            reached = "yes" if (found.high if figure.upper else found.value) <= figure.goal else "no"
        rows.append(
            [
                figure.title,
                figure.show(found.value),
                _interval(found, figure.show),
                goal,
                reached,
                f"`make bench ARGS='--only {figure.group}'`",
            ]
        )
    return (
        _table(["milepost", "measured", "95 % interval (samples)", "goal", "reached", "command"], rows) if rows else ""
    )


def _peers(results: Groups) -> str:
    shown = [figure for figure in FIGURES if figure.short and len(results.get(figure.group, {})) > 1]
    names = [name for name in PEERS if any(results[figure.group].get(name) for figure in shown)]
    rows = [
        [str(figure.short), *(_cell(figure, results[figure.group].get(name)) for name in names)] for figure in shown
    ]
    rows.append(["when it says it is done", *(PEERS[name].claims for name in names)])
    rows.append(["a restore verifies", *(PEERS[name].verifies for name in names)])
    return _table(["", *names], rows) if shown else ""


def _cell(figure: Figure, trials: Trials | None) -> str:
    if not trials:
        return "–"
    found = figure.find(trials)
    return f"{figure.show(found.value)} [{_bounds(found, figure.show)}]"


def _looking(results: Groups) -> str:
    """Looking into a file, beside others."""
    trials = results.get("look", {})
    figures = [figure for figure in FIGURES if figure.group == "look"]
    rows = []
    for name, short in zip(
        ("first output of a whole process", "statistics", "difference", "memory for the last two"), figures, strict=True
    ):
        able = {
            peer: found for peer, found in trials.items() if short is figures[0] or all("stats" in one for one in found)
        }
        rows.append([name, *(_cell(short, able.get(peer)) for peer in trials)])
    return _table(["looking into a file of 1 GB", *trials], rows) if trials else ""


KERAS_GOAL = 0.25
"""Of the time that the better of Keras' own callbacks takes."""


def _keras(results: Groups) -> str:
    """What ``model.fit`` waits for saves, on each backend."""
    rows = []
    for backend, trials in results.get("keras", {}).items():
        found = {
            name: statistics.median(time for trial in trials for time in trial[name])
            for name in (*keras_saves.PEERS, keras_saves.OURS, keras_saves.DURABLE)
        }
        share = found[keras_saves.OURS] / min(found[name] for name in keras_saves.PEERS)
        about = f"{trials[0]['parameters'] / 1e6:.0f} million parameters, {trials[0]['bytes'] / 1e9:.2f} GB"
        shown = [f"{time:.2f} s" for time in found.values()]
        rows.append([f"{backend}, {about}", *shown, f"{share:.2f}", "yes" if share <= KERAS_GOAL else "no"])
    heads = ["model.fit waits in the callback", *keras_saves.PEERS, keras_saves.OURS, "… is durable after"]
    return _table([*heads, "of the better peer", f"≤ {KERAS_GOAL}"], rows) if rows else ""


def _threads(results: Groups) -> str:
    """Where the processor time of a save of milepost goes."""
    saves = [save["spent"] for trial in results.get("training", {}).get(Milepost.name, ()) for save in trial["durable"]]
    names = [name for name in {name: None for save in saves for name in save} if name]
    middle = {name: statistics.median(save.get(name, 0.0) for save in saves) for name in names}
    rows = [
        [name, _ms(middle[name])] for name in sorted(names, key=lambda name: -middle[name]) if middle[name] >= 0.0005
    ]
    return _table(["thread", "processor time of a save"], rows) if rows else ""


def _interval(found: Interval, show: Callable[[float], str]) -> str:
    return f"{_bounds(found, show)} ({found.samples})" if found.samples > 1 else f"({found.samples})"


def _bounds(found: Interval, show: Callable[[float], str]) -> str:
    if found.samples == 1:
        return "one sample"
    low, high = show(found.low), show(found.high)
    unit = high.rpartition(" ")[2]
    low = low.removesuffix(f" {unit}")
    return f"{low} to {high}" if found.wide else f"all {low} to {high}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def main() -> None:
    measured = json.loads(Path(sys.argv[1]).read_text())
    found = page(measured["results"], measured["machine"], measured["arguments"])
    print(found)
    for where in sys.argv[2:]:
        put(found, Path(where))


if __name__ == "__main__":
    main()
