"""What a person sees. Terminals are real (pseudo-terminals); what is on the screen is worked out as a terminal would."""

import fcntl
import io
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap

import pytest

from milepost.training.display import LINE_SECONDS, Display, SaveState, Speed
from milepost.training.metrics import Metrics, scalar
from milepost.training.progress import Phase, Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Written:
    def __init__(self, capsys) -> None:
        self._capsys, self._text = capsys, ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys) -> Written:
    """What was written to stderr so far."""
    return Written(capsys)


class Terminal:
    """What is on the screen after `data`: rows of text, and the escape sequences met on the way."""

    def __init__(self, data: str) -> None:
        self.rows, self.column, self.sequences = [""], 0, []
        for piece in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|.", data, re.DOTALL):
            if piece == "\n":
                self.rows.append("")
            elif piece == "\r":
                self.column = 0
            elif piece == "\x1b[K":
                self.rows[-1] = self.rows[-1][: self.column]
            elif piece[0] == "\x1b":
                self.sequences.append(piece)
            else:
                row = self.rows[-1].ljust(self.column)
                self.rows[-1] = row[: self.column] + piece + row[self.column + 1 :]
                self.column += 1
        self.widest = max(map(len, self.rows))


PREAMBLE = """
import os, sys, threading
from milepost.training.display import Display, SaveState
from milepost.training.metrics import Metrics
from milepost.training.progress import Progress
class Clock:
    now = 0.0
    def __call__(self): return self.now
clock, metrics = Clock(), Metrics()
progress, display = Progress(metrics=metrics), Display(clock=clock)
def step(number, total=None, **values):
    metrics.update(values)
    progress.move(step=number, batch=number)
    clock.now += 1
    display.update(progress, total)
"""


def on_terminal(body: str, columns: int = 100, **environment: str) -> tuple[Terminal, str]:
    """Run `body` with stdout and stderr on a terminal; the screen, and all that was written."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(body)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}, "TERM": "xterm-256color", **environment},
    )  # fmt: skip
    os.close(follower)
    data = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # nobody holds the other end any more
            break
        if not piece:
            break
        data += piece
    os.close(leader)
    assert process.wait(60) == 0, data.decode()
    return Terminal(data.decode()), data.decode()


def elsewhere(body: str) -> tuple[str, str]:
    """Run `body` with pipes for stdout and stderr; what came out of them, byte for byte."""
    done = subprocess.run([sys.executable, "-c", PREAMBLE + textwrap.dedent(body)], capture_output=True, check=True)
    return done.stdout.decode(), done.stderr.decode()


# -- plain lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
def test_a_line_at_the_start_after_each_epoch_now_and_then_and_at_the_end(stderr, clock, told):
    metrics = Metrics()
    progress, display = Progress(metrics=metrics), Display(clock=clock)
    for step in range(1, 301):
        clock.now += 1
        metrics.update({"loss": 1 / step})
        progress.move(step, batch=(step - 1) % 100 + 1, phase=Phase.IN_EPOCH)
        display.update(progress, 100)
        if step % 100 == 0:
            metrics.update({"val_loss": step / 1000})
            progress.move(epoch=progress.epoch + 1, batch=0, phase=Phase.EPOCH_ENDED)
            if told:
                display.update(progress)
                display.update(progress)
    display.close()
    lines = [
        "milepost: epoch 0 (1/100), step 1, loss 1",
        "milepost: epoch 0 (61/100), step 61, 1 steps/s, 0:39 left, loss 0.01639",
        "milepost: epoch 0 ended, step 100, 1 steps/s, loss 0.01, val_loss 0.1",
        "milepost: epoch 1 (60/100), step 160, 1 steps/s, 0:40 left, loss 0.00625, val_loss 0.1",
        "milepost: epoch 1 ended, step 200, 1 steps/s, loss 0.005, val_loss 0.2",
        "milepost: epoch 2 (60/100), step 260, 1 steps/s, 0:40 left, loss 0.003846, val_loss 0.2",
        "milepost: epoch 2 ended, step 300, 1 steps/s, loss 0.003333, val_loss 0.3",
    ]
    if not told:  # then it is noticed one step later
        lines[2] = "milepost: epoch 1 (1/100), step 101, 1 steps/s, 1:39 left, loss 0.009901, val_loss 0.1"
        lines[3] = "milepost: epoch 1 (61/100), step 161, 1 steps/s, 0:39 left, loss 0.006211, val_loss 0.1"
        lines[4] = "milepost: epoch 2 (1/100), step 201, 1 steps/s, 1:39 left, loss 0.004975, val_loss 0.2"
        lines[5] = "milepost: epoch 2 (61/100), step 261, 1 steps/s, 0:39 left, loss 0.003831, val_loss 0.2"
    assert stderr.getvalue().splitlines() == lines


def test_without_a_loader_only_steps_are_shown(stderr, clock):
    display = Display(clock=clock)
    display.update(Progress(step=7))
    assert stderr.getvalue() == "milepost: epoch 0, step 7\n"


def test_the_last_line_is_not_said_twice(stderr, clock):
    display = Display(clock=clock)
    display.update(Progress(step=7))
    display.close()
    display.close()
    display.update(Progress(step=8))
    display.update(Progress(step=8, epoch=1, phase=Phase.EPOCH_ENDED))
    assert stderr.getvalue().count("\n") == 1


def test_between_looks_nothing_is_read(stderr, clock):
    reads = []

    class Far:
        device = "far"
        shape = ()

        def item(self):
            reads.append(clock.now)
            return 0.5

    progress, display = Progress(), Display(clock=clock)
    display.update(progress)
    for _ in range(1000):
        progress._metrics.update({"loss": Far()})
        display.update(progress)
        clock.now += LINE_SECONDS / 2000
    assert reads == []
    clock.now += LINE_SECONDS
    display.update(progress)
    assert len(reads) == 1
    assert "loss 0.5" in stderr.getvalue()


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ([(100, SaveState.STAGING)], "staging 100"),
        ([(100, SaveState.STAGING), (100, SaveState.WRITING)], "writing 100"),
        ([(100, SaveState.WRITING), (100, SaveState.DURABLE)], "saved 100"),
        ([(100, SaveState.DURABLE), (200, SaveState.WRITING)], "saved 100, writing 200"),
        ([(100, SaveState.DURABLE), (200, SaveState.FAILED)], "saved 100, failed 200"),
        ([(200, SaveState.FAILED), (300, SaveState.DURABLE)], "saved 300"),
    ],
)
def test_the_last_checkpoint_and_its_state_are_shown(stderr, clock, states, shown):
    display = Display(clock=clock)
    for step, state in states:
        display.checkpoint(step, state)
    display.update(Progress(step=7))
    assert stderr.getvalue() == f"milepost: epoch 0, step 7, {shown}\n"


def test_a_metric_that_cannot_be_read_ends_nothing(stderr, clock):
    class Broken:
        device = "far"
        shape = ()

        def item(self):
            raise RuntimeError("device-side assert")

    progress, display = Progress(), Display(clock=clock)
    progress._metrics._values = {"loss": scalar("loss", Broken())}
    display.update(progress)
    display.close()
    assert stderr.getvalue() == "milepost: epoch 0, step 0, metrics cannot be read\n"


def test_progress_can_be_switched_off_and_notes_stay(stderr, clock):
    display = Display(False, clock=clock)
    display.update(Progress(step=7))
    display.update(Progress(step=8, epoch=1, phase=Phase.EPOCH_ENDED))
    display.note("continues from step 7")
    display.warn("the disk is nearly full")
    display.close()
    assert stderr.getvalue() == "milepost: continues from step 7\nmilepost: warning: the disk is nearly full\n"


# -- notes -------------------------------------------------------------------------------------------------------------


def test_what_comes_from_outside_is_shown_and_not_obeyed(stderr, clock):
    display = Display(clock=clock)
    display.note("\x1b]52;c;cm0=\x07 \u202egpj [red]x[/red] \r\x9b2J")
    display.warn("not good:\nmilepost: all is well")
    progress = Progress()
    progress._metrics.update({"a\x1b[2J\nb": 1.0})
    display.update(progress)
    assert stderr.getvalue().split("\n") == [
        r"milepost: \x1b]52;c;cm0=\x07 \u202egpj [red]x[/red] \r\x9b2J",
        "milepost: warning: not good:",
        "          milepost: all is well",
        r"milepost: epoch 0, step 0, a\x1b[2J\nb 1",
        "",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_stream_cannot_encode_is_escaped(monkeypatch, encoding):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(data, encoding=encoding))
    Display().note("größer → kleiner")
    expected = "milepost: größer → kleiner\n".encode(encoding, "backslashreplace")
    assert data.getvalue() == expected


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, closed(), Full()], ids=["none", "closed", "full"])
def test_a_stream_that_takes_nothing_ends_nothing(monkeypatch, clock, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    display = Display(clock=clock)
    display.note("hello")
    display.update(Progress())
    display.close()


def test_a_reader_that_has_gone_ends_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-c", PREAMBLE + "display.note('x' * 100_000); step(1); display.close(); print('trained')"],
        stdout=subprocess.PIPE,
        stderr=writer,
    )
    os.close(writer)
    assert process.stdout == b"trained\n"


def test_a_job_without_a_terminal_does_not_load_rich():
    out, err = elsewhere("step(1); display.note('hello'); display.close(); print('rich' in sys.modules)")
    assert out == "False\n"
    assert err == "milepost: epoch 0 (1), step 1\nmilepost: hello\n"


def test_a_dumb_terminal_gets_plain_lines():
    screen, written = on_terminal("step(1); step(2); display.close()", TERM="dumb")
    assert "\x1b" not in written
    assert screen.rows == ["milepost: epoch 0 (1), step 1", "milepost: epoch 0 (2), step 2, 1 steps/s", ""]


# -- the live line -----------------------------------------------------------------------------------------------------


def test_one_line_is_drawn_again_and_again_and_a_plain_one_stays():
    screen, written = on_terminal("""
        for number in range(1, 51):
            step(number, total=50, loss=1 / number)
        display.close()
    """)
    assert written.count("step ") > 40
    assert screen.rows == ["milepost: epoch 0 (50/50), step 50, 1 steps/s, 0:00 left, loss 0.02", ""]


def test_what_others_write_stands_above_the_line():
    screen, _ = on_terminal("""
        import warnings
        for number in range(1, 6):
            step(number)
            print("printed", number)
            step(number)
            sys.stderr.write(f"logged {number}\\n")
            step(number)
            display.note(f"noted {number}")
        sys.stdout.writelines(["one\\n", "two\\n"])
    """)
    expected = [f"{word} {number}" for number in range(1, 6) for word in ("printed", "logged", "milepost: noted")]
    assert screen.rows[:-2] == [*expected, "one", "two"]
    assert screen.rows[-2].startswith("milepost: epoch 0 (5), step 5, ")


def test_an_unfinished_line_of_others_is_not_overwritten():
    screen, _ = on_terminal("""
        step(1)
        print("Password: ", end="", flush=True)
        for number in range(2, 9):
            step(number)
        print("given")
        step(9)
        print("half a line", end="", flush=True)
        display.note("noted")
        sys.stderr.write("\\rbar 1"); sys.stderr.flush()
        step(10)
        sys.stderr.write("\\rbar 2\\n")
        display.close()
    """)
    assert screen.rows[:4] == ["Password: given", "half a line", "milepost: noted", "bar 2"]
    assert screen.rows[4].startswith("milepost: epoch 0 (10), step 10, ")


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_line_that_is_too_long_is_cut_to_one_row(columns):
    screen, _ = on_terminal("""
        for number in range(1, 4):
            step(number, total=10**9, **{f"metric_{index}": index / 7 for index in range(40)})
        os.write(1, b"\\r\\n")
        os._exit(0)
    """, columns=columns)  # fmt: skip
    assert len(screen.rows) == 2
    assert screen.rows[0].startswith("epoch 0 (3/10")
    assert columns - 8 < screen.widest < columns


def test_names_are_neither_markup_nor_escapes():
    screen, written = on_terminal("""
        step(1, **{"[red]x[/red]": 1.0, ":smile:": 2.0, "a\\x1b]0;t\\x07": 3.0, "[/x]": 4.0, "中": 5.0})
        os.write(1, b"\\r\\n")
        os._exit(0)
    """)
    assert screen.rows[0] == r"epoch 0 (1)  step 1  [red]x[/red] 1  :smile: 2  a\x1b]0;t\x07 3  [/x] 4  中 5"
    assert "\x1b]" not in written


def test_colors_are_used_unless_they_are_not_wanted():
    body = "step(1, loss=0.5); display.close()"
    colored = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert any(map(colored.fullmatch, on_terminal(body)[0].sequences))
    assert not any(map(colored.fullmatch, on_terminal(body, NO_COLOR="1")[0].sequences))


def test_notes_of_many_threads_stay_whole():
    screen, _ = on_terminal("""
        def talk(name):
            for number in range(40):
                display.note(f"{name} {number} " + "x" * 30)
                print(f"{name} prints {number}\\n", end="")
        threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
        step(1)
        for thread in threads: thread.start()
        number = 1
        while any(thread.is_alive() for thread in threads):
            number += 1
            step(number)
        for thread in threads: thread.join()
        display.close()
    """)
    expected = [f"milepost: {name} {number} " + "x" * 30 for name in "abcd" for number in range(40)]
    expected += [f"{name} prints {number}" for name in "abcd" for number in range(40)]
    assert sorted(screen.rows[:-2]) == sorted(expected)


def test_the_streams_are_put_back_unless_somebody_replaced_them():
    screen, _ = on_terminal("""
        import io
        out, err = sys.stdout, sys.stderr
        step(1)
        assert sys.stdout is not out and sys.stderr is not err
        assert sys.stdout.isatty() and sys.stdout.fileno() == 1 and sys.stderr.encoding == err.encoding
        kept = sys.stderr
        sys.stdout = other = io.StringIO()
        display.close()
        assert sys.stdout is other and sys.stderr is err
        kept.write("through an old reference\\n")
        sys.stdout = out
        print("fine")
    """)
    assert screen.rows[1:] == ["through an old reference", "fine", ""]


def test_output_that_goes_elsewhere_stays_there():
    screen, _ = on_terminal("""
        reader, writer = os.pipe()
        sys.stdout = os.fdopen(writer, "w")
        mine = sys.stdout
        step(1)
        assert sys.stdout is mine
        print("to the pipe", flush=True)
        display.close()
        assert os.read(reader, 100) == b"to the pipe\\n"
    """)
    assert screen.rows == ["milepost: epoch 0 (1), step 1", ""]


def test_a_script_that_forgets_to_close_leaves_the_terminal_in_order():
    screen, _ = on_terminal("""
        step(1)
        print("the end")
        step(2)
    """)
    assert screen.rows == ["the end", "milepost: epoch 0 (2), step 2, 1 steps/s", ""]


def test_forked_children_write_without_waiting_for_the_lock():
    screen, _ = on_terminal("""
        step(1)
        held, done = threading.Event(), threading.Event()
        def hold():
            with display._lock:
                held.set()
                done.wait(30)
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(30)
        if (child := os.fork()) == 0:
            print("\\rfrom the child", flush=True)
            sys.exit(0)  # with all that is registered to run at exit
        assert os.waitpid(child, 0)[1] == 0
        done.set()
        thread.join()
        display.close()
    """)
    assert screen.rows[-2:] == ["milepost: epoch 0 (1), step 1", ""]
    assert sum("from the child" in row for row in screen.rows) == 1
    assert sum("milepost:" in row for row in screen.rows) == 1


def test_a_live_line_can_be_had_where_none_is_expected():
    _, err = elsewhere("display = Display(True, clock=clock); step(1); step(2); display.close()")
    assert err.count("\r") >= 2
    assert Terminal(err).rows == ["milepost: epoch 0 (2), step 2, 1 steps/s", ""]


def test_a_slow_terminal_is_drawn_on_less_often(stderr, clock, monkeypatch):
    looks = []

    class Slow(Progress):
        @property
        def metrics(self):
            looks.append(clock.now)
            clock.now += 0.004  # what it takes to draw, or to wait for a device
            return {}

    display = Display(True, clock=clock)
    progress = Slow()
    begin = clock.now
    while clock.now < begin + 20:
        display.update(progress)
        clock.now += 0.001
    display.close()
    gaps = [later - earlier for earlier, later in itertools.pairwise(looks[:-1])]
    assert min(gaps) > 0.7
    assert len(looks) > 15


# -- speed -------------------------------------------------------------------------------------------------------------


def test_speed_follows_changes_and_forgets():
    speed = Speed()
    assert speed.value is None
    for second in range(11):
        speed.at(second, 10 * second)
    assert speed.value == pytest.approx(10)
    for second in range(11, 72):
        speed.at(second, 100 + 20 * (second - 10))
    assert speed.value == pytest.approx(20, abs=0.1)


def test_speed_leaves_out_pauses_and_begins_anew_when_the_count_falls():
    speed = Speed()
    speed.at(0, 0)
    speed.at(1, 10)
    speed.pause()
    speed.at(1000, 10)
    speed.at(1001, 20)
    assert speed.value == pytest.approx(10)
    speed.at(1002, 3)
    assert speed.value == pytest.approx(10)
    speed.at(1003, 13)
    assert speed.value == pytest.approx(10)


@pytest.mark.parametrize(
    ("left", "shown"),
    [(0, "0:00"), (59, "0:59"), (61, "1:01"), (3599, "59:59"), (3723, "1:02:03"), (400_000, "111:06:40")],
)
def test_time_left_is_written_as_on_a_clock(stderr, clock, left, shown):
    display = Display(clock=clock)
    progress = Progress()
    display.update(progress, left + 60)
    clock.now += 60
    progress.move(batch=60, step=60)
    display.update(progress, left + 60)
    assert f", {shown} left" in stderr.getvalue()
