"""Whatever a kernel writes in place, autograd hears of: a stale gradient is an error, no number."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.append import append_kv
from kernels.flash_decoding import flash_decode, flash_decode_plan
from kernels.kvcache_api import flash_attn_with_kvcache
from kernels.runtime import device
from reference.kv_cache import append_kv as reference_append

DEVICE = device()
LENGTHS = torch.tensor([2, 5], device=DEVICE)


def compiled(step):
    torch.compiler.reset()
    return torch.compile(step, fullgraph=True, backend="aot_eager")


def watched(step):
    """As an operator: a dispatch mode is active."""

    def inside(*given):
        with FlopCounterMode(display=False):
            return step(*given)

    return inside


WAYS = {"eager": lambda step: step, "operator": watched, "compiled": compiled}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def tensors(dtype=torch.float32):
    caches = torch.zeros(2, 2, 8, 1, 4, device=DEVICE).to(dtype)
    return [*caches.clone().unbind(0), *torch.ones(2, 2, 1, 1, 4, device=DEVICE), LENGTHS]


def appended(k_cache, v_cache, k, v, lengths, *scales):
    scales = dict(zip(("k_scale", "v_scale"), scales, strict=False))
    append_kv(k_cache, v_cache, k, v, lengths, **scales)


def served(k_cache, v_cache, k, v, lengths):
    flash_attn_with_kvcache(k, k_cache, v_cache, k, v, cache_seqlens=lengths)


def reference(k_cache, v_cache, k, v, lengths):
    reference_append(k_cache, v_cache, k, v, lengths)


def raises_in_backward(saved, step, given):
    """Save a tensor for a backward, let the step write to it, and go backward."""
    weight = torch.ones((), device=DEVICE, requires_grad=True)
    loss = (saved * weight).sum()
    with torch.no_grad():
        step(*given)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every_way
@pytest.mark.parametrize("which", [0, 1], ids=["k_cache", "v_cache"])
@pytest.mark.parametrize("step", [appended, served])
def test_a_cache_that_was_saved(step, which, way):
    given = tensors()
    raises_in_backward(given[which], way(step), given)


def test_the_twin_of_append_tells_too():
    given = tensors()
    raises_in_backward(given[0], reference, given)


@every_way
def test_a_view_of_the_cache_that_was_saved(way):
    given = tensors()
    raises_in_backward(given[0][0, :3], way(appended), given)


@every_way
@pytest.mark.parametrize("which", [0, 1], ids=["k_scale", "v_scale"])
def test_scales_that_are_written(which, way):
    scales = torch.ones(2, 2, 8, 1, device=DEVICE).clone().unbind(0)
    raises_in_backward(scales[which], way(appended), [*tensors(torch.int8), *scales])


@every_way
def test_what_is_only_read_stays_valid(way):
    """A gradient through k, the lengths or a given scale is right, and is no error."""
    scale = torch.full((), 0.5, device=DEVICE)
    given = [*tensors(torch.int8), scale, scale]
    weight = torch.ones((), device=DEVICE, requires_grad=True)
    loss = (given[2] * weight * scale).sum()
    with torch.no_grad():
        way(appended)(*given)
    loss.backward()
    assert weight.grad == 0.5 * given[2].numel()


@every_way
def test_a_workspace_that_was_saved(way):
    q, k, v = torch.ones(1, 1, 2, 4, device=DEVICE), *torch.ones(2, 1, 200, 1, 4, device=DEVICE)
    workspace = torch.zeros(2000, device=DEVICE)

    def step(q, k, v, workspace):
        return flash_decode(q, k, v, num_splits=2, workspace=workspace)

    raises_in_backward(workspace, way(step), (q, k, v, workspace))


def test_a_plan_that_is_overwritten():
    q, k = torch.ones(2, 1, 2, 4, device=DEVICE), torch.ones(2, 8, 1, 4, device=DEVICE)
    plan = flash_decode_plan(q, k, k, LENGTHS)
    before = plan.items._version, plan.first_slot._version
    flash_decode_plan(q, k, k, LENGTHS, out=plan)
    assert plan.items._version > before[0] and plan.first_slot._version > before[1]


@every_way
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_caches_made_in_inference_mode_are_written_as_before(way, inside):
    """They have no version: there is nothing to tell, and no error."""
    with torch.inference_mode():
        given = tensors()
    if way is not compiled or inside:  # torch.compile itself refuses them outside
        with torch.inference_mode(inside):
            way(appended)(*given)
        assert given[0].count_nonzero() == 8
