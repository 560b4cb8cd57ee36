"""Train the small model on this course's own text: `python -m reference.train`, on two CPU cores.

The model learns to predict the next byte, with AdamW; the learning rate warms up, then falls along
a cosine. Every so often the loss on held-out text is measured and the best weights so far are saved
(so that text has a say in them, if only in when to stop). They go to `build/weights`; to renew the
course's own:

    python -m reference.train --steps 1200 --bf16 --out reference/weights

The weights file itself records how they were trained: `reference.checkpoint.metadata()`.

Sources: Loshchilov & Hutter 2019, "Decoupled weight decay regularization" (AdamW), and 2017,
"SGDR" (cosine); the text is `reference.corpus`.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.checkpoint import save, text_loss
from reference.corpus import ROOT, collect
from reference.transformer import Config, Transformer


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, cache_seqlens: None = None, *, causal: bool = True
) -> Tensor:
    """PyTorch's own attention, which has a fast backward pass; all of k and v is read."""
    G = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(G, dim=2) for x in (k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


def batches(text: bytes, rows: int, length: int, seed: int) -> Iterator[Tensor]:
    """Random stretches of the text, endlessly: int64 (rows, length + 1). The seed decides which.

    Raises ValueError for a text shorter than a stretch.
    """
    if len(text) < length + 1:
        raise ValueError(f"the text must have at least {length + 1} bytes; got {len(text)}")
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    stretches = tokens.unfold(0, length + 1, 1)
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield stretches[torch.randint(len(stretches), (rows,), generator=generator)]


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Up to the peak in the first twentieth of the steps, then down along a cosine towards 0.

    >>> [round(learning_rate(step, 100, 1.0), 2) for step in (0, 4, 52, 99)]
    [0.2, 1.0, 0.51, 0.0]

    Five steps of warm-up, and the middle of the cosine half-way through the other 95.
    """
    warm = max(steps // 20, 1)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def optimizer_for(model: Transformer, peak: float) -> torch.optim.AdamW:
    """AdamW; weight decay applies only to the matrices, not to the norms' scales."""
    matrices = [w for w in model.parameters() if w.ndim == 2]
    scales = [w for w in model.parameters() if w.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": scales, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))


def train(
    model: Transformer,
    text: bytes,
    *,
    steps: int,
    rows: int = 8,
    length: int | None = None,
    peak: float = 3e-3,
    seed: int = 0,
    bf16: bool = False,
) -> Iterator[float]:
    """Train the model in place; yield the loss of each step, in nats per byte.

    rows, length: a step's batch; a row has `length` bytes (None: the model's context). peak: the
    highest learning rate. bf16: multiply matrices in bf16, faster if the CPU has instructions
    for it; weights and sums stay fp32. Raises ValueError for a text shorter than a row.
    """
    optimizer = optimizer_for(model, peak)
    length = model.config.context if length is None else length
    for step, batch in zip(range(steps), batches(text, rows, length, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(batch[:, :-1], attend=sdpa)
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield loss.item()


def run(options: argparse.Namespace) -> float:
    """Train with a progress bar, write the best weights to options.out, return their loss."""
    text, held_out = collect()
    from tqdm import tqdm  # a checkout has it; who installs this as a library does without

    torch.manual_seed(options.seed)
    model, best, began = Transformer(Config()), math.inf, time.monotonic()
    losses = train(model, text, steps=options.steps, seed=options.seed, bf16=options.bf16)
    bar = tqdm(enumerate(losses, 1), total=options.steps, unit="step")
    for step, loss in bar:
        late = time.monotonic() - began > 60 * options.minutes
        if step % options.every == 0 or step == options.steps or late:
            now = text_loss(model, held_out)
            bar.write(f"step {step}: {loss:.3f} on its batch, {now:.3f} on the held-out text")
            if now < best:
                best = now
                save(model, options.out, held_out, about(options, step, len(text)))
        if late:
            bar.write(f"stopped after {options.minutes} minutes")
            break
    return best


def about(options: argparse.Namespace, step: int, trained_on: int) -> dict[str, str]:
    """How the weights were trained, for the metadata of their file."""
    return {
        "steps": f"{step} of {options.steps}",
        "seed": str(options.seed),
        "bf16": str(options.bf16),
        "trained_on_bytes": str(trained_on),
        "torch": torch.__version__,
    }


def parser() -> argparse.ArgumentParser:
    """The command line; `parser().parse_args([])` gives the defaults."""
    made = argparse.ArgumentParser(
        prog="python -m reference.train",
        description="Train the small model on this course's own text.",
    )
    made.add_argument("--out", type=Path, default=ROOT / "build" / "weights", help="output folder")
    made.add_argument("--steps", type=int, default=1000)
    made.add_argument("--every", type=int, default=100, help="steps between held-out evaluations")
    made.add_argument("--minutes", type=float, default=20.0, help="time limit, finished or not")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--bf16", action="store_true", help="faster on CPUs with bf16 instructions")
    return made


if __name__ == "__main__":
    arguments = parser().parse_args()
    print(f"best loss on the held-out text: {run(arguments):.3f} nats per byte, in {arguments.out}")
