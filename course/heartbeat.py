"""Run a slow command of the set-up: keep its output, show its progress, and a sign of life.

Like `bootstrap.py`, which uses it, this keeps to the standard library and Python 3.6's syntax.
"""

import os
import queue
import subprocess
import sys
import threading
import time

BEAT = 4.0  # seconds without news after which the set-up says that it is still at work


class News:
    """What the set-up shows: news line by line and, when there is none, what it is waiting for.

    On a terminal the signs of life overwrite each other; in a file each is a line.
    """

    def __init__(self, step: str) -> None:
        self.step, self.began = step, time.monotonic()
        self.shown = self.began
        self.in_place = sys.stdout.isatty()
        self.width = 0  # of the sign of life on the terminal's last line

    def turn_to(self, step: str) -> None:
        """Note which step is under way."""
        if step and step != self.step:
            self.step, self.began = step, time.monotonic()

    def wipe(self) -> None:
        """Remove the sign of life from the terminal's last line."""
        if self.width:
            print("\r" + " " * self.width, end="\r", flush=True)
            self.width = 0

    def tell(self, text: str) -> None:
        """Show a line of news."""
        self.wipe()
        print("  " + text, flush=True)
        self.shown = time.monotonic()

    def beat(self) -> None:
        """Show that the step under way still runs, and for how long it has."""
        text = f"  still {self.step} ({time.monotonic() - self.began:.0f} s)"
        if self.in_place:
            self.wipe()
            print(text, end="", flush=True)
            self.width = len(text)
        else:
            print(text, flush=True)
        self.shown = time.monotonic()

    def patience(self) -> float:
        """Return how many seconds may still pass without news."""
        return max(0.0, self.shown + BEAT - time.monotonic())


def _pass_on(stream: object, lines: queue.Queue) -> None:
    """Put each line of a stream into the queue, and None at its end."""
    for raw in stream:
        lines.put(raw.decode("utf-8", "replace"))
    lines.put(None)


def _end(process: subprocess.Popen) -> None:
    """End a process that was interrupted, and wait until it has ended."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def follow(command: list, step: str, read: object, log_path: str = "", **options: object) -> int:
    """Run a command and show its progress; return its exit status (below 0: it was killed).

    Args:
        command: the program and its arguments.
        step: what it does at first, as in "still {step} (8 s)".
        read: called with each line of its output; returns what to show of it, and the step that it
            begins, each "" if there is none.
        log_path: the file that its output is added to, if any.
        options: `cwd` and `env` of the process.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C; the command has been ended.
    """
    news, lines = News(step), queue.Queue()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True).start()
    try:
        with open(log_path or os.devnull, "a", encoding="utf-8") as log:
            while True:
                try:
                    line = lines.get(timeout=news.patience())
                except queue.Empty:
                    news.beat()
                    continue
                if line is None:
                    return process.wait()
                log.write(line)
                text, step = read(line)
                if text:
                    news.tell(text)
                news.turn_to(step)
    except BaseException:
        _end(process)
        raise
    finally:
        news.wipe()
