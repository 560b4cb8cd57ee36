"""The roofline of a pass over several tokens per sequence: what checking a draft costs.

A pass has two parts, one after the other, and each is as slow as its memory or its arithmetic:

    linear layers   weights are read once for all B · Lq tokens, 2 operations per weight and token
    attention       keys of a sequence are read once for all Lq of its tokens

While memory is the limit of both, Lq tokens take as long as one, and a draft is checked for free.
From B · Lq ≈ ridge point on, the linear layers' arithmetic is the limit, and nothing is free: a
server with a large batch has no time to spare for tokens that may be thrown away.

Source: Leviathan et al. 2023 (arXiv:2211.17192), on the arithmetic that drafts cost;
roofline: Williams et al. 2009.
"""

from course.hardware.kv_memory import Model, model_named
from course.hardware.roofline import Work, decode_work, roofline_us
from course.hardware.sizes import check_counts, element_bytes
from kernels.devices import Device


def pass_work(
    model: Model | str, *, context: int, queries: int = 1, batch: int = 1, dtype: str = "bf16"
) -> tuple[Work, Work]:
    """Count a pass: the linear layers, and the attention of all layers.

    context: keys of each sequence before the pass. queries: new tokens of each. Raises ValueError
    for counts below 1 and unknown models.

    >>> linear, attention = pass_work("Llama-3 8B", context=4096, queries=4)
    >>> round(linear.intensity), round(attention.intensity)
    (4, 16)
    """
    check_counts(context=context, queries=queries, batch=batch)
    model = model_named(model) if isinstance(model, str) else model
    weights = model.parameters * 1e9
    linear = Work(2 * weights * batch * queries, weights * element_bytes(dtype))
    layer = decode_work(
        batch=batch,
        heads=(model.query_heads, model.kv_heads),
        head_dim=model.head_dim,
        length=context + queries,
        queries=queries,
        dtype=dtype,
    )
    return linear, Work(model.layers * layer.operations, model.layers * layer.bytes)


def pass_us(
    model: Model | str,
    device: Device | str,
    *,
    context: int,
    queries: int = 1,
    batch: int = 1,
    dtype: str = "bf16",
) -> float:
    """Return the least time of a pass, µs: that of its two parts, each at its own roof."""
    work = pass_work(model, context=context, queries=queries, batch=batch, dtype=dtype)
    return sum(roofline_us(part, device, dtype) for part in work)


def pass_ratio(
    model: Model | str,
    device: Device | str,
    *,
    context: int,
    queries: int,
    batch: int = 1,
    dtype: str = "bf16",
) -> float:
    """Return how many plain steps a pass over `queries` tokens per sequence takes.

    >>> [round(pass_ratio("Llama-3 8B", "H100 SXM", context=4096, queries=5, batch=b), 2)
    ...  for b in (1, 64, 256)]
    [1.0, 1.03, 1.35]

    Alone, a user's five tokens take as long as one. Among 256 users they take a third longer.
    """
    one = {"context": context, "batch": batch, "dtype": dtype}
    return pass_us(model, device, queries=queries, **one) / pass_us(model, device, **one)
