"""Several answers at once in the terminal: `python -m reference.serving --demo`.

Requests arrive at random times and share one model. Each has a line, on which its answer grows;
below, in the end, a table says what the waiting was. Without a terminal, answers are printed whole.

    make model
    python -m reference.serving --demo --model smollm2
"""

import argparse
import importlib
import shutil
import sys
from collections.abc import Hashable, Sequence
from typing import TextIO

import torch

from reference import checkpoint
from reference.pretrained import SMOLLM2, load
from reference.pretrained.terminal import ATTEND, device_of, trouble
from reference.serving.engine import Engine
from reference.serving.load import poisson
from reference.serving.metrics import Objective, summarise
from reference.serving.packed import Attention
from reference.serving.requests import Answer, Request
from reference.serving.text import Bytes
from reference.serving.threads import THREADS

TEXTS = (
    "The last query sees",
    "A page is",
    "Merging two partial results",
    "The kernel reads",
    "A row without keys",
    "The scheduler",
)
QUESTIONS = (
    "Why is the sky blue?",
    "Write a haiku about a train.",
    "What is 17 plus 25? Show your work.",
    "Name three rivers in Europe.",
    "What does a compiler do? One sentence.",
    "Give me a recipe for pancakes.",
)
OBJECTIVE = Objective(ttft=2.0, tpot=0.2)
"""What counts towards goodput: 2 s to the first token and five tokens a second."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="python -m reference.serving", description=__doc__.split("\n")[0]
    )
    root.add_argument("--demo", action="store_true", required=True, help="serve, and look on")
    root.add_argument(
        "--model",
        default="bytes",
        help="bytes: the byte-level model that comes with the course (default); smollm2: "
        "SmolLM2-135M-Instruct, after `make model`; or a path: a GGUF file or a folder in Hugging "
        "Face's format",
    )
    root.add_argument("--attend", choices=ATTEND, default="threads", help="default: threads")
    root.add_argument("--device", default=None, help="default: a GPU for --attend kernel, if any")
    for name, default, text in (
        ("requests", 6, "how many in all"),
        ("rate", 2.0, "how many arrive per second, on average"),
        ("max-tokens", 64, "length of an answer, at most"),
        ("max-running", 4, "how many in one step, at most"),
        ("num-pages", 128, "pages of 16 tokens; fewer, and somebody has to give way"),
        ("step-tokens", 128, "tokens in one step; longer prompts are cut into chunks"),
        ("seed", 0, "of the arrivals"),
    ):
        root.add_argument(
            f"--{name}", type=type(default), default=default, help=f"{text} (default: {default})"
        )
    return root


def attention(name: str) -> Attention:
    """The functions that `--attend` names. Raises ImportError where their package is missing."""
    if name == "threads":
        return THREADS
    if name == "reference":
        return Attention()
    # Named, not imported: `reference` knows no kernels, and runs where Triton does not.
    decoding = importlib.import_module(ATTEND["kernel"][0])
    prefill = importlib.import_module("kernels.flash_attention").flash_attention
    append = importlib.import_module("kernels.append").append_kv
    return Attention(prefill, decoding.flash_decode, decoding.flash_decode_plan, append)


def prepare(options: argparse.Namespace) -> tuple[Engine, list[Request]]:
    """The engine and the requests that the options ask for."""
    device = device_of(options)
    if options.model == "bytes":
        model, decoder, stop = checkpoint.load(device=device), Bytes, frozenset()
        prompts = [text.encode() for text in TEXTS]
    else:
        path = SMOLLM2 if options.model == "smollm2" else options.model
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model, tokenizer = load(path, dtype=dtype, device=device)
        decoder, stop = tokenizer.decoder, tokenizer.stop
        ask = tokenizer.chat if tokenizer.template else tokenizer.encode
        prompts = [ask(question) for question in QUESTIONS]
    engine = Engine(
        model,
        num_pages=options.num_pages,
        max_running=options.max_running,
        step_tokens=options.step_tokens,
        attention=attention(options.attend),
        decoder=decoder,
    )
    times = poisson(options.requests, options.rate, options.seed)
    requests = [
        Request(prompts[i % len(prompts)], options.max_tokens, stop, arrival=time, id=i + 1)
        for i, time in enumerate(times)
    ]
    return engine, requests


class Board:
    """A line per request on a terminal, redrawn in place; elsewhere each answer once, when done."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.lines = out, 0
        self.live = out.isatty()
        self.width = shutil.get_terminal_size().columns - 1

    def show(self, engine: Engine, done: Hashable | None = None) -> None:
        """Draw how far everyone is; done: who has just been answered."""
        if self.live:
            up = f"\x1b[{self.lines}A" if self.lines else ""
            rows = [f"\x1b[2K{self._row(a, engine)}\n" for a in engine.answers.values()]
            self.lines = len(rows)
            self.out.write(up + "".join(rows))
        elif done is not None:
            answer = engine.answers[done]
            self.out.write(f"[{answer.id}] {answer.text.strip()}\n")
        self.out.flush()

    def _row(self, answer: Answer, engine: Engine) -> str:
        """One line: the number, a mark, and the end of the text."""
        running = answer.id in engine.running
        mark = "✓" if answer.reason else "▸" if running else "…"
        head = f"{answer.id:>3} {mark} "
        text = " ".join(answer.text.split())
        room = self.width - len(head)
        return head + (text if len(text) <= room else "…" + text[1 - room :])


def report(answers: Sequence[Answer]) -> str:
    """What became of each request, and the table of all."""
    head = "request  prompt  found  tokens  TTFT ms  TPOT ms  gave way  ended by"
    rows = [
        f"{a.id:>7} {len(a.request.prompt):>7} {a.found:>6} {len(a.tokens):>7} "
        f"{1000 * a.trace.ttft:>8.0f} {1000 * a.trace.tpot:>8.1f} {a.preemptions:>9}  {a.reason}"
        for a in answers
    ]
    promise = f"(goodput: TTFT ≤ {OBJECTIVE.ttft:g} s and TPOT ≤ {1000 * OBJECTIVE.tpot:g} ms)"
    summary = summarise([answer.trace for answer in answers], OBJECTIVE)
    return "\n".join([head, *rows, "", f"{summary} {promise}"])


def serve(engine: Engine, requests: Sequence[Request], board: Board) -> None:
    """Show the answers as they grow."""
    for event in engine.serve(requests):
        board.show(engine, event.id if event.reason else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 130 after Ctrl-C, 1 if something is missing."""
    options, status = parser().parse_args(arguments), 0
    try:
        engine, requests = prepare(options)
        try:
            serve(engine, requests, Board(sys.stdout))
        except KeyboardInterrupt:
            status = 130
            for name in [*engine.waiting, *engine.running]:
                engine.cancel(name)
    except (ImportError, OSError, ValueError) as error:
        print(trouble(error), file=sys.stderr)
        return 1
    if engine.answers:
        print(f"\n{report(list(engine.answers.values()))}")
    return status
