"""Speculative decoding on this CPU: passes saved, tokens accepted, time against plain decoding.

    python -m benchmarks speculative [--quick] [--out FILE]

Two models write with and without a draft, in turns: the model of this course (bytes), and
SmolLM2-135M-Instruct (after `make model`), which copies a paragraph and answers a question. At
temperature 0 both sides must write the same tokens, and the record says whether they did. Counts
(acceptance, tokens per pass) depend on model and text alone; times depend on the machine.
"""

import os
import statistics
from argparse import Namespace
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.protocol import RESULTS, save
from benchmarks.timing import HostClock, median_and_quartiles, take_turns
from reference import checkpoint
from reference.attention import attention_with_cache
from reference.flash_decoding_cpu import flash_decode_threads
from reference.generate import Timing, generate_tokens
from reference.pretrained import SMOLLM2, load
from reference.speculative import (
    Draft,
    ModelDraft,
    PromptLookup,
    Speculation,
    TreeDraft,
    early_exit,
    speculate_tokens,
)
from reference.transformer import KVCache, Transformer

TEXT = Path(__file__).with_name("unseen.txt")
QUERIES = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 24, 32)
CONTEXT = 448  # keys before a timed pass, so that 32 queries fit into the smaller model's context
ROUNDS = {"bytes": 2, "smollm2": 2}
PASS_ROUNDS = 7
SAMPLE = 1.0  # the temperature of the rows that draw

PROTOCOL = (
    "B = 1, fp32, CPU threads. Plain: reference.generate.generate_tokens; speculative: "
    "reference.speculative.speculate_tokens; both attend by flash_decode_threads, trees by naive "
    "attention with a mask. Prompts: stretches of benchmarks/unseen.txt, which neither model was "
    "trained on, to be continued; paragraphs of it followed by their own first 40 characters, to "
    "be copied; two questions. All drafts and plain decoding take turns in one process, for "
    "`rounds` rounds. ms_per_token: decode time over tokens after the first, prefill not counted; "
    "ratio: median over rounds of plain / speculative ms_per_token, with quartiles. "
    "tokens_per_step, acceptance (of the places tested), acceptance_by_place (given those before), "
    "drafted_and_kept: over all prompts of the first round. same: whether the tokens are those of "
    "plain decoding (temperature 0). passes: one pass of `queries` tokens after "
    f"{CONTEXT} keys, causal; ratio to one query, median of rounds. load: the machine's load "
    "average before and after; on a shared machine times vary."
)


class Task(NamedTuple):
    """A model and prompts for it: name of the model and the task, how many tokens to write."""

    model: str
    name: str
    transformer: Transformer
    prompts: list[list[int]]
    tokens: int
    stop: frozenset[int] = frozenset()


def attend(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, **features: Any) -> Tensor:
    """Threads where there is no mask, and naive attention where there is."""
    if "mask" in features:
        return attention_with_cache(q, k, v, lengths, **features)
    return flash_decode_threads(q, k, v, lengths, **features)


def byte_task(quick: bool) -> Task:
    """Four stretches of 160 bytes of the unseen text, to be continued by 128 bytes each."""
    text = TEXT.read_bytes()
    count, tokens = (1, 12) if quick else (4, 128)
    starts = [i * (len(text) // 4) for i in range(count)]
    prompts = [list(text[start : start + 160]) for start in starts]
    return Task("bytes", "continue", checkpoint.load(), prompts, tokens)


def smollm2_tasks() -> list[Task]:
    """Two paragraphs to be copied, and two questions. Raises FileNotFoundError."""
    model, tokenizer = load()
    parts = [x for x in TEXT.read_text(encoding="utf-8").split("\n\n") if len(x) > 400][:2]
    copies = [tokenizer.encode(f"{part}\n\n{part[:40]}") for part in parts]
    questions = ["Why is the sky blue?", "How does a bicycle stay upright?"]
    return [
        Task("smollm2", "copy", model, copies, 32, tokenizer.stop),
        Task("smollm2", "answer", model, list(map(tokenizer.chat, questions)), 32, tokenizer.stop),
    ]


def drafts_for(task: Task, temperature: float) -> dict[str, Draft]:
    """The drafts that are measured, by name."""
    model, most = task.transformer, task.transformer.config.layers
    exits = (most // 4, most // 2, 3 * most // 4)
    if task.model != "bytes":  # passes of a large model take long, and its trees longer
        exits = exits[1:2]
    found: dict[str, Draft] = {
        "look-up, 4 tokens": PromptLookup(depth=4),
        "look-up, 8 tokens": PromptLookup(depth=8),
        "look-up, tree of 3": PromptLookup(depth=4, branches=3),
    }
    options = {"temperature": temperature, "attend": attend}
    for layers in exits:
        found[f"{layers} of {most} layers, 3 tokens"] = ModelDraft(
            early_exit(model, layers), 3, **options
        )
    if task.model == "bytes":
        half = early_exit(model, most // 2)
        found[f"{most // 2} of {most} layers, tree 3·2·1"] = TreeDraft(half, (3, 2, 1), **options)
    return found


def ms_per_token(timings: list[Timing]) -> float:
    """Decode time over all tokens that were decoded."""
    return sum(sum(t.tpot_ms) for t in timings) / max(1, sum(len(t.tpot_ms) for t in timings))


def run_all(
    task: Task, draft: Draft | None, temperature: float
) -> tuple[list[list[int]], list[Timing]]:
    """Tokens and timing for every prompt; draft None: plain decoding."""
    texts, timings = [], []
    for prompt in task.prompts:
        options: dict[str, Any] = {
            "max_tokens": task.tokens,
            "stop": task.stop,
            "temperature": temperature,
            "attend": attend,
        }
        if draft is None:
            timings.append(Timing())
            stream: Iterator[int] = generate_tokens(
                task.transformer, prompt, timing=timings[-1], **options
            )
        else:
            timings.append(Speculation())
            stream = speculate_tokens(
                task.transformer, prompt, draft, timing=timings[-1], **options
            )
        texts.append(list(stream))
    return texts, timings


def measure(task: Task, temperature: float, rounds: int) -> list[dict[str, Any]]:
    """One row per draft."""
    drafts = drafts_for(task, temperature)
    first: dict[str, tuple[list[list[int]], list[Timing]]] = {}
    times: dict[str, list[float]] = {name: [] for name in ("plain", *drafts)}
    bar = tqdm(total=rounds * len(times), desc=f"{task.model}, {task.name}", unit="run")
    for _ in range(rounds):
        for name in times:
            found = run_all(task, drafts.get(name), temperature)
            first.setdefault(name, found)
            times[name].append(ms_per_token(found[1]))
            bar.update()
    bar.close()
    plain = times["plain"]
    return [
        {
            "model": task.model,
            "task": task.name,
            "temperature": temperature,
            "draft": name,
            "prompt_tokens": [len(prompt) for prompt in task.prompts],
            "rounds": rounds,
            **counted(first[name][1]),
            "same": first[name][0] == first["plain"][0] if temperature == 0 else None,
            **median_and_quartiles("ms_per_token", times[name]),
            **median_and_quartiles("plain_ms_per_token", plain),
            **median_and_quartiles(
                "ratio", [a / b for a, b in zip(plain, times[name], strict=True)]
            ),
        }
        for name in drafts
    ]


def counted(timings: list[Speculation]) -> dict[str, Any]:
    """What the passes of all prompts together say."""
    whole = Speculation(steps=[step for timing in timings for step in timing.steps])
    draft_ms = sum(step.draft_ms for step in whole.steps)
    all_ms = draft_ms + sum(step.verify_ms for step in whole.steps)
    return {
        "tokens": sum(len(timing.tpot_ms) for timing in timings),
        "passes": len(whole.steps),
        "drafted": sum(step.drafted for step in whole.steps),
        "tokens_per_step": round(whole.tokens_per_step, 4),
        "acceptance": round(whole.acceptance, 4),
        "acceptance_by_place": [round(x, 4) for x in whole.acceptance_by_place],
        "drafted_and_kept": round(whole.drafted_and_kept, 4),
        "share_of_time_drafting": round(draft_ms / all_ms, 4),
        "verify_ms": round(statistics.median(step.verify_ms for step in whole.steps), 4),
    }


@torch.no_grad()
def passes(name: str, model: Transformer, rounds: int, context: int = CONTEXT) -> list[dict]:
    """The time of a pass over n queries, for each n, beside that of one."""
    cache = KVCache(model.config, capacity=context + max(QUERIES))
    generator = torch.Generator().manual_seed(0)
    for part in (cache.k, cache.v):
        part.normal_(generator=generator)

    def step(queries: int) -> Callable[[int], Tensor]:
        tokens = torch.full((1, queries), 65)

        def run(_: int) -> Tensor:
            cache.lengths = torch.full((1,), context, dtype=torch.int32)
            return model(tokens, cache, flash_decode_threads)

        return run

    steps = {str(n): step(n) for n in QUERIES}
    times = take_turns(steps, HostClock(), rounds, warm_up=2, warm_up_ms=0.0)
    return [
        {
            "model": name,
            "queries": n,
            **median_and_quartiles("ms", times[str(n)]),
            "ratio": round(
                statistics.median(a / b for a, b in zip(times[str(n)], times["1"], strict=True)), 4
            ),
        }
        for n in QUERIES
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    head = f"{'model':8} {'task':21} T  {'draft':30} accepted  tokens/pass  ratio  same"
    return "\n".join([head, *(
        f"{r['model']:8} {r['task']:21} {r['temperature']:.0f}  {r['draft']:30} "
        f"{r['acceptance']:8.0%} {r['tokens_per_step']:12.2f} {r['ratio']:6.2f}  {r['same']}"
        for r in rows
    )])  # fmt: skip


def load_average() -> list[float]:
    """The machine's load over 1, 5 and 15 minutes; empty where the system does not say."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else []


def main(options: Namespace) -> None:
    """Measure both models, print the table, write the record."""
    try:
        tasks = [byte_task(options.quick), *([] if options.quick else smollm2_tasks())]
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    before, rows = load_average(), []
    for task in tasks:
        rounds = 1 if options.quick else ROUNDS[task.model]
        for temperature in (0.0, SAMPLE) if task.model == "bytes" else (0.0,):
            rows += measure(task, temperature, rounds)
    print(table(rows))
    models = {task.model: task.transformer for task in tasks}
    timed = [
        row
        for name, model in models.items()
        for row in passes(name, model, 2 if options.quick else PASS_ROUNDS)
    ]
    files = {"bytes": checkpoint.WEIGHTS / checkpoint.FILE, "smollm2": SMOLLM2}
    sums = {name: sha256(files[name].read_bytes()).hexdigest() for name in models}
    path = Path(options.out) if options.out else RESULTS / "speculative.json"
    text = sha256(TEXT.read_bytes()).hexdigest()
    more = {"models": sums, "text": text, "load": [before, load_average()], "passes": timed}
    save(path, PROTOCOL, rows, **more)
    print(f"written: {path}")
