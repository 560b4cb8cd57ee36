"""The small model driven by the Triton kernels: attention and append, prefill and decode."""

import pytest
import torch
from small_models import TINY, small_model, some_tokens

from course.check.guards import empty_is_nan
from kernels import runtime
from kernels.append import append_kv
from kernels.flash_attention import flash_attention
from kernels.flash_decoding import flash_decode
from reference.closeness import assert_close_to_oracle
from reference.generate import generate
from reference.transformer import Config, KVCache, Transformer, over_prefix

DEVICE = runtime.device()
# As in the model that comes with the course: 16 dimensions are the minimum for tl.dot.
SIXTEEN = Config(layers=2, width=32, Hq=8, Hkv=2, D=16, hidden=24, context=64)


def on_device(config: Config) -> tuple[Transformer, Transformer]:
    """The model in fp32 on the kernels' device, and in fp64 on the CPU."""
    return small_model(config, dtype=torch.float32).to(DEVICE), small_model(config)


@pytest.mark.parametrize("config", [TINY, SIXTEEN], ids=["D=4", "D=16"])
def test_logits_through_the_kernels(config):
    (model, truth), tokens = on_device(config), some_tokens(2, 19)
    cache = KVCache(config, 2, 24, device=DEVICE, append=append_kv)
    with empty_is_nan():
        parts = [
            model(part, cache, attend)
            for part, attend in zip(
                tokens.to(DEVICE).split((16, 1, 2), dim=1),
                (over_prefix(flash_attention), flash_decode, flash_decode),
                strict=True,
            )
        ]
    assert_close_to_oracle(
        torch.cat(parts, 1).cpu(), model(tokens.to(DEVICE)).cpu(), truth(tokens), name="logits"
    )


def test_the_same_bytes_are_generated():
    model, _ = on_device(SIXTEEN)
    through_kernels = {
        "attend": flash_decode,
        "prefill_attend": over_prefix(flash_attention),
        "make_cache": lambda size: KVCache(SIXTEEN, 1, size, device=DEVICE, append=append_kv),
    }
    wanted = b"".join(generate(model, b"split, attend, ", max_bytes=5))
    assert b"".join(generate(model, b"split, attend, ", max_bytes=5, **through_kernels)) == wanted
