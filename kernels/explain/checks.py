"""Checks what `kernels.explain` accepts: TypeError or ValueError for anything else.

Nothing from `kernels.checks`, which needs triton: explaining needs none.
"""


def check_counts(
    counts: dict[str, int], heads: tuple[int, int], optional: dict[str, int | None]
) -> None:
    """Check what is counted from 1 on, the pair of heads, and head dims of at most 576."""
    if not isinstance(heads, tuple | list) or len(heads) != 2:
        raise TypeError(f"heads must be a pair (Hq, Hkv); got {heads!r}")
    given = {name: x for name, x in optional.items() if x is not None}
    for name, x in (counts | {"Hq": heads[0], "Hkv": heads[1]} | given).items():
        _check_int(name, x, 1)
    if heads[0] % heads[1]:
        raise ValueError(f"Hq must be a multiple of Hkv; got heads {heads[0]} and {heads[1]}")
    if max(counts["head_dim"], counts["value_dim"]) > 576:
        raise ValueError(f"head_dim and value_dim must be at most 576; got {counts}")


def check_keys(length: int, capacity: int, window: int | None) -> None:
    """Check what may be 0; there must be room for all keys."""
    _check_int("length", length, 0)
    _check_int("capacity", capacity, length)
    if window is not None:
        _check_int("window", window, 0)


def _check_int(name: str, x: int, least: int) -> None:
    if isinstance(x, bool) or not isinstance(x, int):
        raise TypeError(f"{name} must be an int; got {x!r}")
    if x < least:
        raise ValueError(f"{name} must be at least {least}; got {x}")


def check_dtypes(dtype: str, kv_dtype: str) -> None:
    """Check dtype names: the cache has the dtype of q, or an eight-bit one."""
    if dtype not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"dtype must be fp32, bf16 or fp16; got {dtype!r}")
    if kv_dtype not in (dtype, "int8", "e4m3", "e5m2"):
        raise ValueError(f"kv_dtype must be {dtype}, int8, e4m3 or e5m2; got {kv_dtype!r}")
