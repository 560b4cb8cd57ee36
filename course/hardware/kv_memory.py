"""How much memory a KV cache takes, and how many users fit beside the weights.

    bytes per token = 2 (K and V) · layers · Hkv · D · bytes per element

Sources: the models' published configurations (`config.json`) and model cards: Meta, "Llama 3";
Jiang et al. 2023, "Mistral 7B" (here from v0.2 on, which has no sliding window); TII, "Falcon-7B"
(one KV head: multi-query attention, Shazeer 2019).
"""

from dataclasses import dataclass

from course.hardware.sizes import element_bytes, positive


@dataclass(frozen=True)
class Model:
    """A decoder. parameters: how many, in 10⁹. Then layers, Hq, Hkv, D; longest: its context."""

    name: str
    parameters: float
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    longest: int

    def __post_init__(self) -> None:
        for field in ("parameters", "layers", "kv_heads", "head_dim", "longest"):
            positive(field, getattr(self, field))
        if self.query_heads < 1 or self.query_heads % self.kv_heads:
            got = f"{self.query_heads} and {self.kv_heads}"
            raise ValueError(f"query_heads must be a multiple of kv_heads; got {got}")

    @property
    def group(self) -> int:
        """G: how many query heads share a KV head."""
        return self.query_heads // self.kv_heads


MODELS = (
    Model("Llama-3 8B", 8.03, layers=32, query_heads=32, kv_heads=8, head_dim=128, longest=8192),
    Model("Llama-3 70B", 70.6, layers=80, query_heads=64, kv_heads=8, head_dim=128, longest=8192),
    Model("Mistral 7B", 7.24, layers=32, query_heads=32, kv_heads=8, head_dim=128, longest=32768),
    Model("Falcon 7B", 7.22, layers=32, query_heads=71, kv_heads=1, head_dim=64, longest=2048),
)


def model_named(name: str) -> Model:
    """Return the model of that name, in upper or lower case. Raises ValueError if there is none."""
    for model in MODELS:
        if model.name.lower() == name.lower():
            return model
    names = ", ".join(model.name for model in MODELS)
    raise ValueError(f"no model is called {name!r}; there are {names}")


def _resolve(model: Model | str) -> Model:
    return model_named(model) if isinstance(model, str) else model


def bytes_per_token(model: Model | str, dtype: str = "fp16") -> int:
    """Return the bytes that one token takes in the caches of all layers.

    >>> [bytes_per_token(model) // 1024 for model in MODELS]
    [128, 320, 128, 8]

    These are KiB, in fp16. Falcon's single KV head of 64 columns takes a sixteenth of Mistral's
    eight of 128. The scales of a quantised cache are not counted: with an fp32 scale per head and
    token, each head's D bytes become D + 4.
    """
    model = _resolve(model)
    return 2 * model.layers * model.kv_heads * model.head_dim * element_bytes(dtype)


def bytes_per_user(model: Model | str, context: int, dtype: str = "fp16") -> int:
    """Return the bytes of one user's cache of `context` tokens.

    >>> bytes_per_user("Llama-3 70B", 8192) / 2**30
    2.5
    """
    if context < 0:
        raise ValueError(f"context must not be negative; got {context}")
    return bytes_per_token(model, dtype) * context


def users_that_fit(
    model: Model | str,
    context: int,
    memory_gb: float,
    *,
    dtype: str = "fp16",
    weights_dtype: str = "fp16",
    usable: float = 0.9,
) -> int:
    """Return how many users of `context` tokens each fit beside the weights, 0 if none do.

    memory_gb: of all GPUs together, 10⁹ bytes. dtype: of the cache. usable: the share of memory
    that is left for weights and caches; activations, the CUDA context and fragmentation take the
    rest. Its default is an assumption.

    >>> users_that_fit("Llama-3 8B", 8192, 80), users_that_fit("Llama-3 8B", 8192, 80, dtype="fp8")
    (52, 104)
    >>> users_that_fit("Llama-3 70B", 8192, 80)
    0

    70.6 · 10⁹ weights of two bytes each take more than 80 GB on their own.
    """
    model = _resolve(model)
    positive("context", context)
    positive("memory_gb", memory_gb)
    if not 0 < usable <= 1:
        raise ValueError(f"usable must be above 0 and at most 1; got {usable}")
    weights = model.parameters * 1e9 * element_bytes(weights_dtype)
    left = memory_gb * 1e9 * usable - weights
    return max(0, int(left // bytes_per_user(model, context, dtype)))
