"""The small model's weights: saved, loaded, and judged on text that they were not trained on.

A folder holds two files that belong together: `model.safetensors` (fp16; its metadata gives the
sizes, the held-out loss and how the model was trained) and `held_out.txt`, the text of that loss.
`reference/weights/` is the folder that comes with the course.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from reference.attention import attention_with_cache
from reference.transformer import Attend, Config, KVCache, Transformer

WEIGHTS = Path(__file__).resolve().parent / "weights"
FILE, HELD_OUT = "model.safetensors", "held_out.txt"


def save(model: Transformer, folder: Path, held_out: bytes, about: dict[str, str]) -> float:
    """Write the weights in fp16, and the held-out text beside them; return the loss on it.

    The loss is that of the *rounded* weights, computed in fp32. It is stored in the file's metadata
    as `held_out_loss`, along with the model's sizes, a digest of the text, and `about`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: x.detach().half().contiguous() for name, x in model.state_dict().items()}
    rounded = Transformer(model.config)
    rounded.load_state_dict(tensors)
    loss = text_loss(rounded, held_out)
    metadata = {
        "config": json.dumps(asdict(model.config)),
        "held_out_loss": f"{loss:.6f}",
        "held_out_sha256": hashlib.sha256(held_out).hexdigest(),
    }
    (folder / FILE).write_bytes(to_bytes(tensors, metadata | about))
    (folder / HELD_OUT).write_bytes(held_out)
    return loss


def metadata(folder: Path = WEIGHTS) -> dict[str, str]:
    """The file's metadata: sizes, held-out loss (nats per byte), seed, steps, torch version."""
    with safe_open(folder / FILE, framework="pt") as file:
        return file.metadata()


def load(
    folder: Path = WEIGHTS,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Transformer:
    """The trained model, ready to use: `load()` returns the one that comes with the course.

    Raises FileNotFoundError if there is no model, and RuntimeError if its tensors don't fit the
    sizes given in its metadata.
    """
    model = Transformer(Config(**json.loads(metadata(folder)["config"])))
    with safe_open(folder / FILE, framework="pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return model.to(device=device, dtype=dtype).requires_grad_(False).eval()


def held_out(folder: Path = WEIGHTS) -> bytes:
    """The text that the model in this folder was not trained on.

    The course's text has grown since: an older model may know what `collect()` holds out today.
    """
    return (folder / HELD_OUT).read_bytes()


def windows(text: bytes, length: int) -> Iterator[Tensor]:
    """Cut bytes into int64 tensors (n, length + 1): all whole windows at once, then the rest.

    Neighbours share one byte: the last target of one is the first input of the next.
    """
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    whole = max(len(tokens) - 1, 0) // length
    if whole:
        yield torch.stack([tokens[i * length : (i + 1) * length + 1] for i in range(whole)])
    rest = tokens[whole * length :]
    if len(rest) > 1:
        yield rest[None]


@torch.no_grad()
def text_loss(
    model: Transformer,
    text: bytes,
    *,
    attend: Attend = attention_with_cache,
    make_cache: Callable[[int], KVCache] | None = None,
) -> float:
    """Mean cross-entropy of all bytes of a text but the first, in nats per byte.

    The text is read in windows as long as the model's context, each from scratch. The exp of the
    loss is the perplexity; divided by log 2, it is in bits per byte. make_cache: given a number of
    rows, returns the cache to read through (of another dtype, say); None: no cache.
    Raises ValueError for a text of fewer than two bytes.

    A model that knows nothing has a loss of log 256 = 5.55.
    """
    if len(text) < 2:
        raise ValueError(f"the text must have at least 2 bytes; got {len(text)}")
    device, losses = model.embedding.weight.device, []
    for window in windows(text, model.config.context):
        window = window.to(device)
        cache = None if make_cache is None else make_cache(len(window))
        logits = model(window[:, :-1], cache, attend).double()
        losses += F.cross_entropy(
            logits.flatten(0, 1), window[:, 1:].flatten(), reduction="none"
        ).tolist()
    return math.fsum(losses) / len(losses)
