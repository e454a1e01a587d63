"""Signals are sent for real, to processes of their own: what a handler does to pytest would say little about a job."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from milepost.errors import MilepostWarning, ScriptError
from milepost.training.signals import DEFAULT, SignalWatch

PREAMBLE = """
import os, signal, sys, threading, time, warnings
from milepost.training.signals import SignalWatch

def kill(name, pid=None):
    os.kill(pid or os.getpid(), getattr(signal, name))

def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("waited in vain")
        time.sleep(0.001)

def handler_of(name):
    return signal.getsignal(getattr(signal, name))
"""


def start(body: str) -> subprocess.Popen[str]:
    code = PREAMBLE + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(body: str) -> tuple[int, str, str]:
    """Exit code (negative: the signal that ended it), output, errors."""
    process = start(body)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_noticed_and_the_process_goes_on(name):
    code, out, err = run(f"""
        before = time.time()
        with SignalWatch() as watch:
            assert watch.installed and watch.received is None and watch.count == 0
            kill({name!r})
            wait_for(lambda: watch.received)
            assert before <= watch.received.time <= time.time()
            print(watch.received.name, int(watch.received.number) == signal.{name}, watch.count)
        assert not watch.installed
    """)
    assert (code, out, err) == (0, f"{name} True 1\n", "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_afterwards_the_signal_ends_the_process_again(name):
    code, out, _ = run(f"""
        with SignalWatch() as watch:
            kill({name!r})
            wait_for(lambda: watch.received)
        print("still here", flush=True)
        kill({name!r})
        time.sleep(30)
    """)
    assert (code, out) == (-getattr(signal, name), "still here\n")


def test_a_storm_of_mixed_signals_is_survived_and_the_first_is_kept():
    process = start("""
        watch = SignalWatch()
        watch.install()
        print("ready", flush=True)
        wait_for(lambda: watch.received)
        print(watch.received.name, flush=True)
        work = 0
        stop = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.readline(), stop.set())).start()
        while not stop.is_set():  # a training loop that allocates, locks and prints while signals come
            work += len(repr([threading.Lock() for _ in range(50)]))
            print("", end="", flush=True)
        print(watch.received.name, watch.count)
    """)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR2)
    assert process.stdout.readline() == "SIGUSR2\n"
    rng = random.Random(1)
    for _ in range(600):
        process.send_signal(rng.choice(DEFAULT))
        if rng.random() < 0.2:
            time.sleep(0.001)
    out, err = process.communicate("done\n", timeout=60)
    name, count = out.split()
    assert (process.returncode, err, name) == (0, "", "SIGUSR2")
    assert 10 < int(count) <= 601  # the kernel merges what comes faster than it is taken


def test_signals_sent_by_many_threads_at_once_are_noticed():
    code, out, err = run("""
        with SignalWatch() as watch:
            threads = [threading.Thread(target=lambda: [kill("SIGTERM") for _ in range(100)]) for _ in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            wait_for(lambda: watch.received)
            print(watch.received.name, 1 <= watch.count <= 800)
    """)
    assert (code, out, err) == (0, "SIGTERM True\n", "")


def test_earlier_python_handlers_are_called_after_and_put_back():
    code, out, err = run("""
        def mine(number, frame):
            print("mine", number == signal.SIGTERM, frame is not None, watch.received is not None)
        signal.signal(signal.SIGTERM, mine)
        with SignalWatch() as watch:
            kill("SIGTERM"); kill("SIGTERM")
            print(watch.count)
        assert handler_of("SIGTERM") is mine
        assert handler_of("SIGUSR1") is signal.SIG_DFL
        watch.uninstall()
        kill("SIGTERM")
        print(watch.count)
    """)
    assert (code, err) == (0, "")
    assert out == "mine True True True\n" * 2 + "2\n" + "mine True True True\n" + "2\n"


def test_an_earlier_handler_may_raise_and_the_signal_is_noticed_still():
    code, out, _ = run("""
        def mine(number, frame):
            raise SystemExit(7)
        signal.signal(signal.SIGTERM, mine)
        with SignalWatch() as watch:
            try:
                kill("SIGTERM")
            finally:
                print(watch.received.name)
    """)
    assert (code, out) == (7, "SIGTERM\n")


def test_ignored_signals_are_watched_and_ignored_again_afterwards():
    code, out, err = run("""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        with SignalWatch() as watch:
            kill("SIGUSR1")
            print(watch.count)
        kill("SIGUSR1")
        print(watch.count)
    """)
    assert (code, out, err) == (0, "1\n1\n", "")


def test_a_handler_that_replaced_ours_stays_and_can_go_on_calling_it():
    code, out, err = run("""
        calls = []
        signal.signal(signal.SIGTERM, lambda number, frame: calls.append("first"))
        watch = SignalWatch()
        watch.install()
        ours = handler_of("SIGTERM")
        def later(number, frame):
            calls.append("later")
            ours(number, frame)
        signal.signal(signal.SIGTERM, later)
        kill("SIGTERM")
        watch.uninstall()
        assert handler_of("SIGTERM") is later
        assert handler_of("SIGUSR2") is signal.SIG_DFL
        kill("SIGTERM")
        print(watch.count, calls)
    """)
    assert (code, out, err) == (0, "1 ['later', 'first', 'later', 'first']\n", "")


@pytest.mark.parametrize("order", ["first, second", "second, first"])
def test_two_watches_at_once_both_notice_and_leave_nothing_behind(order):
    code, out, _ = run(f"""
        first, second = SignalWatch(), SignalWatch()
        first.install(); second.install()
        kill("SIGTERM")
        print(first.count, second.count)
        one, other = {order}
        one.uninstall()
        kill("SIGTERM")
        print(one.count, other.count)
        other.uninstall()
        assert handler_of("SIGTERM") is signal.SIG_DFL
        print("ending", flush=True)
        kill("SIGTERM")
        time.sleep(30)
    """)
    assert (code, out) == (-signal.SIGTERM, "1 1\n1 2\nending\n")


def test_a_watch_can_be_used_again_and_begins_anew():
    code, out, err = run("""
        watch = SignalWatch()
        for _ in range(2):
            watch.install(); watch.install()
            assert watch.received is None and watch.count == 0
            kill("SIGUSR1")
            print(watch.received.name, watch.count)
            watch.uninstall(); watch.uninstall()
    """)
    assert (code, out, err) == (0, "SIGUSR1 1\n" * 2, "")


def test_dismissed_it_swallows_them_for_a_time_and_then_they_end_the_process():
    code, out, _ = run("""
        watch = SignalWatch()
        watch.install()
        watch.dismiss(seconds=0.3)
        for _ in range(100):
            kill("SIGTERM")
        print("still here", flush=True)
        time.sleep(0.4)
        kill("SIGTERM")
        time.sleep(30)
    """)
    assert (code, out) == (-signal.SIGTERM, "still here\n")


def test_dismissed_for_some_signals_only_the_others_are_as_before():
    code, out, _ = run("""
        signal.signal(signal.SIGUSR2, lambda number, frame: print("called"))
        watch = SignalWatch()
        watch.install()
        watch.dismiss([signal.SIGUSR1])
        kill("SIGUSR1")
        kill("SIGUSR2")
        print(handler_of("SIGTERM") is signal.SIG_DFL, flush=True)
        kill("SIGTERM")
        time.sleep(30)
    """)
    assert (code, out) == (-signal.SIGTERM, "called\nTrue\n")


def test_a_new_watch_ends_one_that_was_dismissed():
    code, out, err = run("""
        for _ in range(3):
            watch = SignalWatch()
            watch.install()
            watch.dismiss()
        with SignalWatch() as watch:
            kill("SIGTERM")
            wait_for(lambda: watch.received)
        print(watch.count, handler_of("SIGTERM") is signal.SIG_DFL)
    """)
    assert (code, out, err) == (0, "1 True\n", "")


def test_control_c_is_left_alone_unless_asked_for():
    code, out, _ = run("""
        with SignalWatch():
            try:
                kill("SIGINT"); time.sleep(30)
            except KeyboardInterrupt:
                print("interrupted")
    """)
    assert (code, out) == (0, "interrupted\n")


def test_a_second_control_c_interrupts_where_the_first_was_noticed():
    code, out, _ = run("""
        with SignalWatch((signal.SIGINT, signal.SIGTERM)) as watch:
            kill("SIGTERM"); kill("SIGTERM")
            kill("SIGINT")
            print(watch.received.name, watch.count)
            try:
                kill("SIGINT"); time.sleep(30)
            except KeyboardInterrupt:
                print("interrupted", watch.count)
        assert handler_of("SIGINT") is signal.default_int_handler
    """)
    assert (code, out) == (0, "SIGTERM 3\ninterrupted 4\n")


def test_off_the_main_thread_it_says_so_and_changes_nothing():
    watch, lines = SignalWatch(warn=lambda line: lines.append(line)), []
    before = [signal.getsignal(number) for number in DEFAULT]
    thread = threading.Thread(target=watch.install)
    thread.start()
    thread.join()
    assert not watch.installed
    assert lines == ["SIGTERM, SIGUSR1, SIGUSR2 will not be answered: signals can be watched from the main thread only"]
    assert [signal.getsignal(number) for number in DEFAULT] == before
    watch.uninstall()


def test_without_a_place_for_lines_it_warns():
    watch, caught = SignalWatch(), []

    def install():
        try:
            watch.install()
        except MilepostWarning as warning:
            caught.append(str(warning))

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert len(caught) == 1
    assert "main thread" in caught[0]


def test_uninstalled_off_the_main_thread_it_gives_way_at_the_next_signal():
    code, out, _ = run("""
        watch = SignalWatch()
        watch.install()
        thread = threading.Thread(target=watch.uninstall)
        thread.start(); thread.join()
        print(watch.installed, flush=True)
        kill("SIGTERM")
        time.sleep(30)
    """)
    assert (code, out) == (-signal.SIGTERM, "False\n")


def test_a_handler_of_native_code_is_left_in_place():
    code, out, err = run("""
        import faulthandler
        faulthandler.register(signal.SIGUSR1, all_threads=False)
        lines = []
        with SignalWatch(warn=lines.append) as watch:
            kill("SIGUSR1"); kill("SIGTERM")
            print(lines, watch.received.name, watch.count)
        kill("SIGUSR1")
    """)
    assert code == 0
    assert out == "['SIGUSR1 will not be answered: a library has a handler of its own for it'] SIGTERM 1\n"
    assert err.count("most recent call first") == 2


@pytest.mark.parametrize("earlier", ["signal.SIG_DFL", "signal.SIG_IGN", "mine"])
@pytest.mark.parametrize("thread", [False, True])
def test_forked_children_have_the_earlier_handlers(earlier, thread):
    code, out, err = run(f"""
        import warnings; warnings.simplefilter("ignore")  # forking with threads is what is tested
        def mine(number, frame): pass
        signal.signal(signal.SIGTERM, {earlier})
        outer, watch = SignalWatch(), SignalWatch()
        outer.install(); watch.install()
        kill("SIGUSR1")
        def fork():
            child = os.fork()
            if child == 0:
                right = handler_of("SIGTERM") is {earlier} and handler_of("SIGUSR1") is signal.SIG_DFL
                quiet = not watch.installed and watch.received is None and watch.count == 0
                os._exit(0 if right and quiet else 9)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if {thread}:
            worker = threading.Thread(target=fork); worker.start(); worker.join()
        else:
            fork()
        assert outer.installed and watch.installed and watch.received.name == "SIGUSR1"
        kill("SIGTERM")
        print(watch.count)
    """)
    assert (code, out, err) == (0, "0\n2\n", "")


def test_children_end_by_sigterm_as_ever_however_early_it_comes():
    code, out, err = run("""
        with SignalWatch() as watch:
            for _ in range(100):
                child = os.fork()
                if child == 0:
                    time.sleep(30)
                    os._exit(0)
                kill("SIGTERM", child)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            print(watch.count)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    """)
    assert (code, out, err) == (0, "0\n", "")


def test_the_trainer_misses_no_signal_while_it_forks():
    code, out, err = run("""
        import subprocess
        with SignalWatch() as watch:
            sender = subprocess.Popen([sys.executable, "-c",
                f"import os, time\\nfor _ in range(200): os.kill({os.getpid()}, 10); time.sleep(0.0005)"])
            while sender.poll() is None:
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
            before = watch.count
            kill("SIGUSR1")
            print(before > 0, watch.count == before + 1)
    """)
    assert (code, out, err) == (0, "True True\n", "")


@pytest.mark.parametrize("wrong", [0, -1, 10**6, True, "SIGTERM", None, 1.5], ids=repr)
def test_what_is_no_signal_is_refused(wrong):
    with pytest.raises(ScriptError, match="no signal") as caught:
        SignalWatch((signal.SIGTERM, wrong))
    assert caught.value.found == repr(wrong)


@pytest.mark.parametrize("wrong", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_what_cannot_wait_is_refused_by_name(wrong):
    with pytest.raises(ScriptError, match=wrong.name):
        SignalWatch((wrong,))


def test_real_time_signals_have_names():
    with SignalWatch((signal.SIGRTMIN + 3,)) as watch:
        os.kill(os.getpid(), signal.SIGRTMIN + 3)
        assert watch.received.name == "SIGRTMIN+3"
