"""Random calls of decoding with any features, every cell that must not be read poisoned, and the
answer by brute force: loops over numbers, sharing no code with what they judge."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from poison import dead_poisoned, paged
from torch import Tensor

from reference.quantization import quantize

LAYOUTS = ("rows", "cache_batch_idx", "block_table")
QUANTISED = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)
SCORES = ("cache_leftpad", "window", "softcap", "sinks", "alibi_slopes", "mask")
FEATURES = (*SCORES, "cache_batch_idx", "block_table", "quantised")


@dataclass(frozen=True)
class Case:
    """`arguments` and `keywords` of a call, and the true rows (B, capacity, Hkv, D) in fp64."""

    arguments: tuple[Tensor, Tensor, Tensor, Tensor]
    keywords: dict[str, Any]
    k: Tensor
    v: Tensor

    def __str__(self) -> str:
        return f"{sorted(self.keywords)}, q {tuple(self.arguments[0].shape)}"


def draw_case(seed: int, features: tuple[str, ...], dtype: torch.dtype = torch.float64) -> Case:
    """A small random call with these features (names from FEATURES, at most one layout)."""
    rng = torch.Generator().manual_seed(seed)

    def pick(*choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), (), generator=rng))]

    B, Lq, Hkv, G, D, Dv, capacity = 3, pick(1, 2, 4), pick(1, 2), pick(1, 3), 8, pick(8, 5), 24
    layout = next((name for name in LAYOUTS if name in features), "rows")
    C = pick(2, 5) if layout == "cache_batch_idx" else B
    q = torch.randn(B, Lq, Hkv * G, D, generator=rng, dtype=torch.float64)
    caches = [torch.randn(C, capacity, Hkv, d, generator=rng, dtype=torch.float64) for d in (D, Dv)]
    lengths = torch.randint(0, capacity + 1, (B,), generator=rng)
    lengths[0] = pick(capacity, 1, 0)
    keywords: dict[str, Any] = {"causal": pick(True, False), "scale": pick(None, 0.7)}
    for name in SCORES:
        if name in features:
            keywords[name] = _draw(name, rng, pick, B, Lq, Hkv * G, capacity)

    stored, scales, true = _store(caches, "quantised" in features, dtype, pick)
    rows = torch.randint(C, (B,), generator=rng) if layout == "cache_batch_idx" else torch.arange(B)
    keywords |= {} if layout != "cache_batch_idx" else {"cache_batch_idx": rows.int()}
    true = [x[rows] for x in true]
    if scales and scales[0].ndim == 2:  # each row of q has its own, though it share its keys
        own = 1 + torch.rand(B, 1, generator=rng)
        scales = [
            (scale[rows] * own).masked_fill(lengths[:, None] == 0, math.nan) for scale in scales
        ]
        true = [x * scale.double()[:, None, :, None] for x, scale in zip(true, scales, strict=True)]
    live = torch.zeros(C, capacity, dtype=torch.bool)
    for b in range(B):
        first = int(keywords["cache_leftpad"][b]) if "cache_leftpad" in features else 0
        left = _sides(keywords.get("window"))[0]
        first = max(first, 0 if left is None else int(lengths[b]) - Lq - left)
        live[rows[b], first : lengths[b]] = True
    tensors = [dead_poisoned(x, live) for x in (*stored, *scales)]
    if layout == "block_table":
        tensors, keywords["block_table"] = paged(tensors, live, pick(1, 2, 3, 7, 8), rng)
    for name, scale in zip(("k_scale", "v_scale"), tensors[2:], strict=False):
        keywords[name] = scale
    return Case((q.to(dtype), *tensors[:2], lengths.int()), keywords, *true)


def _draw(name: str, rng: torch.Generator, pick: Any, B: int, Lq: int, Hq: int, room: int) -> Any:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    shape = pick((Lq, Lq), (B, Lq, Lq))
    return {
        "cache_leftpad": lambda: torch.randint(0, room // 2, (B,), generator=rng).int(),
        "window": lambda: pick(0, 3, 9, (2, 1), (None, 0), (None, 2), (5, None), (1, 30)),
        "softcap": lambda: pick(0.4, 2.0, 30),
        "sinks": lambda: normal(Hq).to(pick(torch.float32, torch.bfloat16)),
        "alibi_slopes": lambda: normal(*pick((Hq,), (B, Hq))).abs(),
        "mask": lambda: pick(
            normal(*shape) > -0.3,
            normal(*shape),
            normal(*shape).masked_fill(normal(*shape) > 0.8, -math.inf).bfloat16(),
        ),
    }[name]()


def _store(caches: list[Tensor], quantised: bool, dtype: torch.dtype, pick: Any) -> tuple:
    """The caches as stored, their scales if any, and the numbers they stand for, in fp64.

    Scales per row (C, Hkv) are not multiplied in: that is up to the rows of q.
    """
    if not quantised:
        stored = [cache.to(dtype) for cache in caches]
        return stored, [], [x.double() for x in stored]
    eight, per = pick(*QUANTISED), pick("tensor", "head", "row", "token")
    pairs = [quantize(cache, eight, per) for cache in caches]
    true = []
    for x, scale in pairs:
        spread = scale[..., None] if scale.ndim else scale
        true.append(x.double() * (1 if per == "row" else spread.double()))
    stored, scales = (list(x) for x in zip(*pairs, strict=True))
    return stored, [x.reshape(1) if pick(True, False) and x.ndim == 0 else x for x in scales], true


def _sides(window: Any) -> tuple[int | None, int | None]:
    return window if isinstance(window, tuple) else (window, None)


def brute_force(case: Case) -> tuple[Tensor, Tensor]:
    """o (B, Lq, Hq, Dv) and lse (B, Lq, Hq) in fp64, number by number."""
    q, lengths = case.arguments[0].double(), case.arguments[3].tolist()
    B, Lq, Hq, _ = q.shape
    o = torch.zeros(B, Lq, Hq, case.v.shape[3], dtype=torch.float64)
    lse = torch.full((B, Lq, Hq), -math.inf, dtype=torch.float64)
    G, sinks = Hq // case.k.shape[2], case.keywords.get("sinks")
    for b in range(B):
        for i in range(Lq):
            for h in range(Hq):
                seen = {}
                for j in range(lengths[b]):
                    s = _score(case.keywords, q[b, i, h], case.k[b, j, h // G], b, i, h, j,
                               lengths[b], Lq)  # fmt: skip
                    if s is not None:
                        seen[j] = s
                sink = [] if sinks is None else [float(sinks[h])]
                every = torch.tensor([*seen.values(), *sink], dtype=torch.float64)
                if len(every):
                    lse[b, i, h] = torch.logsumexp(every, 0)
                for j, s in seen.items():
                    o[b, i, h] += math.exp(s - lse[b, i, h]) * case.v[b, j, h // G]
    return o, lse


def _score(given: dict, q: Tensor, k: Tensor, b: int, i: int, h: int, j: int, length: int,
           Lq: int) -> float | None:  # fmt: skip
    """What key j scores for query i of row b, head h; None if it must not be seen."""
    pos = length - Lq + i
    left, right = _sides(given.get("window"))
    if given["causal"] and j > pos:
        return None
    if "cache_leftpad" in given and j < given["cache_leftpad"][b]:
        return None
    if (left is not None and j < pos - left) or (right is not None and j > pos + right):
        return None
    scale = len(q) ** -0.5 if given["scale"] is None else given["scale"]
    s = scale * sum(x * y for x, y in zip(q.tolist(), k.tolist(), strict=True))
    if "softcap" in given:
        s = given["softcap"] * math.tanh(s / given["softcap"])
    if "alibi_slopes" in given:
        slopes = given["alibi_slopes"]
        s -= float(slopes[b, h] if slopes.ndim == 2 else slopes[h]) * abs(pos - j)
    column = j - (length - Lq)
    if "mask" in given and column >= 0:
        mask = given["mask"][b] if given["mask"].ndim == 3 else given["mask"]
        if mask.dtype == torch.bool:
            return s if mask[i, column] else None
        s += float(mask[i, column])
        return None if s == -math.inf else s
    return s
