"""Bytes per element by the name of its dtype, and checks of arguments."""

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "e4m3": 1, "e5m2": 1, "int8": 1}


def element_bytes(dtype: str) -> int:
    """Return the bytes of an element. Raises ValueError, listing the known names, for any other.

    >>> element_bytes("bf16"), element_bytes("fp8")
    (2, 1)
    """
    if dtype not in BYTES:
        raise ValueError(f"dtype must be one of {', '.join(BYTES)}; got {dtype!r}")
    return BYTES[dtype]


def positive(name: str, number: float) -> None:
    """Raise ValueError unless a number is above 0."""
    if not number > 0:
        raise ValueError(f"{name} must be above 0; got {number}")


def check_counts(**counts: int) -> None:
    """Raise ValueError unless every count is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1; got {count}")


def check_shape(*, heads: tuple[int, int], **counts: int) -> None:
    """Raise ValueError unless every count is at least 1 and Hq is a multiple of Hkv."""
    check_counts(Hq=heads[0], Hkv=heads[1], **counts)
    if heads[0] % heads[1]:
        raise ValueError(f"Hq must be a multiple of Hkv; got heads {heads[0]} and {heads[1]}")
