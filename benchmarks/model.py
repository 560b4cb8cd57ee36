"""Decoding a real model on this CPU: ours against the same model in transformers.

    python -m benchmarks model [--quick] [--out FILE]

SmolLM2-135M-Instruct (after `make model`), fp32. Both sides have the same weights, in the same
memory. Ours attends by `flash_decode_threads`; transformers by SDPA, its default, with its default
cache. A step's cost depends on how many keys there are, not on their values, so the caches are
filled with random numbers, the same ones on both sides, rather than by a prefill that takes
minutes.
That both give the same logits is checked at every context before anything is timed.
"""

import inspect
import json
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.machine import memory_now_and_most
from benchmarks.protocol import RESULTS, median_ratio, save
from benchmarks.timing import HostClock, median_and_quartiles, take_turns
from course.huggingface.models import as_transformers
from course.model import sha256
from reference.flash_decoding_cpu import flash_decode_threads
from reference.pretrained import SMOLLM2, load
from reference.transformer import Config, KVCache, Transformer

CONTEXTS = (512, 2048, 8000)
QUICK_CONTEXTS = (40,)
QUICK = Config(
    vocabulary=300, layers=2, width=96, Hq=6, Hkv=2, D=16, hidden=128, context=64, rope_base=1e5
)
ROUNDS = 25
TOKEN = 65  # any token: its logits are compared, not read

PROTOCOL = (
    "B=1, one new token; the step that sees as many keys as `context` says; fp32; weights in the "
    "same memory for both; rotary angles of transformers for both; caches filled with the same "
    "random numbers; logits compared first; "
    "transformers: LlamaForCausalLM, attn_implementation 'sdpa', DynamicCache; both take turns in "
    "one process; warm-up not counted; median ms; ratio = median over rounds of transformers/ours; "
    "memory: each side alone in a process of its own, peak resident size less that before the "
    "model was read."
)


@torch.no_grad()
def share_angles(model: Transformer, peer: Any) -> None:
    """Give our model the rotary angles of transformers, so that the rest can be compared.

    transformers multiplies position and frequency in fp32: at position 8,000 an angle is off by up
    to 5e-4 (ours come from fp64). Between random keys that alone moves logits by 2e-3 of the
    largest; with the same angles they agree to 5e-5.
    """
    place = torch.arange(model.config.context)[None]
    cos, sin = peer.model.rotary_emb(torch.zeros(1), place)  # (1, context, D), each half the same
    model.angles = tuple(x[0, :, : model.config.D // 2].contiguous() for x in (cos, sin))


@torch.no_grad()
def run_transformers(peer: Any, tokens: Tensor, cache: Any) -> Tensor:
    """Logits (1, L, vocabulary) in transformers for tokens (1, L) that follow what is in a cache.

    The argument was called `past_key_values` before transformers 5.24.
    """
    name = "cache" if "cache" in inspect.signature(peer.forward).parameters else "past_key_values"
    return peer(tokens, **{name: cache}).logits


class Ours:
    """Our Transformer after `context` − 1 random keys; a call decodes one token more."""

    def __init__(self, model: Transformer, context: int) -> None:
        self.model, self.context = model, context
        self.cache = KVCache(model.config, capacity=context)
        generator = torch.Generator().manual_seed(context)
        for part in (self.cache.k, self.cache.v):
            part.normal_(generator=generator)
        self.token = torch.tensor([[TOKEN]])

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """The logits (1, 1, vocabulary) of the step; it can be repeated."""
        self.cache.lengths.fill_(self.context - 1)
        return self.model(self.token, self.cache, flash_decode_threads)


class Theirs:
    """The same in transformers, with a cache of its own that begins as `Ours` does."""

    def __init__(self, peer: Any, keys: KVCache, context: int) -> None:
        from transformers import DynamicCache

        self.peer, self.cache = peer, DynamicCache(config=peer.config)
        for layer, parts in enumerate(zip(keys.k, keys.v, strict=True)):
            k, v = (part[:, : context - 1].transpose(1, 2).clone() for part in parts)
            self.cache.update(k, v, layer)
        self.token = torch.tensor([[TOKEN]])

    def __call__(self) -> Tensor:
        """The logits (1, 1, vocabulary) of the step; it can be repeated."""
        logits = run_transformers(self.peer, self.token, self.cache)
        self.cache.crop(-1)  # a view: the token is taken back, nothing is copied
        return logits


def verify(ours: Tensor, theirs: Tensor, context: int) -> float:
    """The largest difference between the logits, as a share of the largest of them.

    Raises AssertionError above 1e-3. fp32 sums differ by less; a missing key, by far more.
    """
    share = float((ours - theirs).abs().max() / theirs.abs().max())
    if not share <= 1e-3:
        raise AssertionError(f"the logits differ by {share:.1e} of the largest at {context} keys")
    return share


def measure(model: Transformer, peer: Any, context: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """One line of the table. Times in ms, memory in bytes."""
    ours = Ours(model, context)
    theirs = Theirs(peer, ours.cache, context)
    share = verify(ours(), theirs(), context)
    steps: dict[str, Callable[[int], object]] = {
        "transformers": lambda _: theirs(),
        "ours": lambda _: ours(),
    }
    times = take_turns(steps, HostClock(), rounds, warm_up=2, warm_up_ms=0.0)
    return {
        "context": context,
        "rounds": len(times["ours"]),
        **median_and_quartiles("ours_ms", times["ours"]),
        **median_and_quartiles("transformers_ms", times["transformers"]),
        "ours_tokens_per_s": round(1e3 / statistics.median(times["ours"]), 2),
        "transformers_tokens_per_s": round(1e3 / statistics.median(times["transformers"]), 2),
        "ratio": round(median_ratio(times["transformers"], times["ours"]), 3),
        "logits_differ_by": float(f"{share:.2g}"),
        "weight_bytes": weight_bytes(model),
        "cache_bytes": context * model.config.kv_bytes_per_token(),
    }


def weight_bytes(model: Transformer) -> int:
    """Bytes of all weights."""
    return sum(x.numel() * x.element_size() for x in model.parameters())


def read_model(quick: bool) -> Transformer:
    """SmolLM2 in fp32, or a tiny random model. Raises FileNotFoundError before `make model`."""
    if not quick:
        return load().model
    torch.manual_seed(0)
    return Transformer(QUICK).requires_grad_(False).eval()


# ---- memory: each side in a process of its own ---------------------------------------------------


def take_memory(side: str, context: int, quick: bool) -> int:
    """Read the model, fill a cache, decode a few tokens; return the bytes this took at its peak."""
    import transformers  # noqa: F401  so that its own size is in what was there before

    torch.arange(1, device="meta")  # and that of torch's compiler, which this loads for both
    before, _ = memory_now_and_most()
    model = read_model(quick)
    ours = Ours(model, context)
    step: Callable[[], Tensor] = ours
    if side == "transformers":
        step = Theirs(as_transformers(model), ours.cache, context)
        del ours
    for _ in range(3):
        step()
    return memory_now_and_most()[1] - before


def memory(context: int, quick: bool) -> dict[str, int]:
    """Peak bytes of either side, `ours_peak_bytes` and `transformers_peak_bytes`."""
    found = {}
    for side in ("ours", "transformers"):
        command = [sys.executable, "-m", "benchmarks.model", side, str(context), str(int(quick))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{side} failed at {context}: {done.stderr.strip()[-300:]}")
        found[f"{side}_peak_bytes"] = json.loads(done.stdout)
    return found


# ---- the run -------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    head = "context   ours tok/s   transformers tok/s   ratio   peak / (weights + cache)"
    lines = [
        f"{r['context']:>7,} {r['ours_tokens_per_s']:>12.1f} "
        f"{r['transformers_tokens_per_s']:>20.1f} {r['ratio']:>6.2f}× "
        f"{r['ours_peak_bytes'] / (r['weight_bytes'] + r['cache_bytes']):>12.2f}, theirs "
        f"{r['transformers_peak_bytes'] / (r['weight_bytes'] + r['cache_bytes']):.2f}"
        for r in rows
    ]
    return "\n".join([head, *lines])


@contextmanager
def or_what_to_install() -> Iterator[None]:
    """Leave with a sentence, as SystemExit, where transformers or SmolLM2 is missing."""
    try:
        import transformers  # noqa: F401

        yield
    except (ImportError, FileNotFoundError) as error:
        hint = "" if isinstance(error, FileNotFoundError) else ": pip install -e '.[hf]'"
        raise SystemExit(f"{error}{hint}") from error


def identity(quick: bool) -> dict[str, str]:
    """What a record says of the model that `read_model` returns."""
    if quick:
        return {"name": "random", "sha256": ""}
    return {"name": SMOLLM2.name, "sha256": sha256(SMOLLM2)}


def main(options: Namespace) -> None:
    """Measure every context, print the table, write the record."""
    with or_what_to_install():
        model = read_model(options.quick)
    contexts = QUICK_CONTEXTS if options.quick else CONTEXTS
    rows = []
    peer = as_transformers(model)
    share_angles(model, peer)
    for context in tqdm(contexts, unit="context", desc="model"):
        row = measure(model, peer, context, 3 if options.quick else ROUNDS)
        rows.append(row | memory(context, options.quick))
    print(table(rows))
    path = Path(options.out) if options.out else RESULTS / "model_cpu.json"
    save(path, PROTOCOL, rows, model=identity(options.quick), transformers=version("transformers"))
    print(f"written: {path}")


if __name__ == "__main__":
    print(take_memory(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"))
