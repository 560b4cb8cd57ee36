"""What `flash_decode` does: check, choose tiles and splits, launch stage 1 and stage 2.

    q (B, Lq, Hq, D)       split_kernel        o (S, B, Lq, Hq, Dv)    combine_kernel   o, lse
    k, v (B, Lk, Hkv, D)  ───────────────►   lse (S, B, Lq, Hq)      ───────────────►
                          S · Hkv · B programs                       B·Lq·Hq·⌈Dv/128⌉ programs

Three ways to cut the keys: a number of splits (chosen here or given), a split size, a plan.
Nothing here reads a value on the device, so nothing waits and a CUDA graph can capture it all.
What a call like this one has already found out is not found out again (`kernels.call_cache`).
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.call import KernelCall
from kernels.call_cache import CALLS, DIRECT, Relaunch, launch_again, relaunches
from kernels.checks import resolve_scale
from kernels.flash_decoding.checks import (
    check_decode,
    check_grid,
    check_plan_fits,
    check_values,
    check_workspace,
)
from kernels.flash_decoding.features import Features, Splits
from kernels.heuristics import Launch, choose_decode
from kernels.runtime import (
    INTERPRETED,
    has_dependent_launch,
    has_small_shared_memory,
    has_tensor_cores,
)
from kernels.runtime import num_sms as sms_of


def decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    features: Features,
    splits: Splits,
    *,
    causal: bool,
    scale: float | None,
    workspace: Tensor | None,
    key: tuple | None = None,
    addresses: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Return o and lse; arguments and errors as in `kernels.flash_decoding.flash_decode`.

    key, addresses: of the call (`kernels.call_cache.sign`), if it is to be remembered.
    """
    tensors, known = (q, k_cache, v_cache), CALLS.get(key)
    if known is None:
        checked = _check(*tensors, features, splits, causal, scale, workspace)
    else:
        checked = known.checked
        check_values(q, k_cache, features)
    (B, Lq, Hq, _), Dv = q.shape, v_cache.shape[3]
    o = torch.empty(B, Lq, Hq, Dv, dtype=q.dtype, device=q.device)
    lse = torch.empty(B, Lq, Hq, dtype=torch.float32, device=q.device)
    launched, made = [], (o, lse)
    if lse.numel():
        launched, made = _launch(*tensors, features, splits, checked, made, causal, workspace)
    if known is None and key is not None:
        again = relaunches(launched, addresses, made) if DIRECT else None
        CALLS.put(key, Known.of(checked, made, again))
    return o, lse


class Choice(NamedTuple):
    """How a call is cut: tile sizes, the number of parts, blocks per split if the size is fixed.

    latent: the values are the first columns of the keys, and are not loaded again.
    """

    launch: Launch
    parts: int
    split_blocks: int | None
    latent: bool


class Checked(NamedTuple):
    """What is found out about a call before its launches; scale: a number, whatever was given."""

    choice: Choice
    scale: float


class Known(NamedTuple):
    """What is remembered of a call. Of its tensors, what they were, but not themselves.

    o, lse: shape, dtype and device. scratch: numbers of its partial results, fp32, 0 if it has
    none; lse_at: the bytes of them that lie before the partial lse. launches: None where kernels
    are interpreted.
    """

    checked: Checked
    o: tuple[torch.Size, torch.dtype, torch.device]
    lse: tuple[torch.Size, torch.dtype, torch.device]
    scratch: int
    lse_at: int
    launches: tuple[Relaunch, ...] | None

    @classmethod
    def of(
        cls, checked: Checked, made: Sequence[Tensor], launches: tuple[Relaunch, ...] | None
    ) -> "Known":
        """Describe a call that has been launched; made: o and lse, then its partial o and lse."""
        o, lse, *partials = made
        outputs = [(x.shape, x.dtype, x.device) for x in (o, lse)]
        numbers = sum(x.numel() for x in partials)
        return cls(checked, *outputs, numbers, 4 * partials[0].numel() if partials else 0, launches)

    def again(self, addresses: list[int], workspace: Tensor | None) -> tuple[Tensor, Tensor]:
        """Launch the kernels for other tensors of the same kind, and return o and lse."""
        (shape, dtype, device), (lse_shape, lse_dtype, _) = self.o, self.lse
        o = torch.empty(shape, dtype=dtype, device=device)
        lse = torch.empty(lse_shape, dtype=lse_dtype, device=device)
        made = [o.data_ptr(), lse.data_ptr()]
        if self.scratch:
            if workspace is None:
                workspace = torch.empty(self.scratch, dtype=torch.float32, device=device)
            else:
                torch.autograd.graph.increment_version(workspace)
            made += [workspace.data_ptr(), workspace.data_ptr() + self.lse_at]
        launch_again(self.launches, addresses + made, device)
        return o, lse


def _check(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    features: Features,
    splits: Splits,
    causal: bool,
    scale: float | None,
    workspace: Tensor | None,
) -> Checked:
    """Check everything that can be checked before there are partial results."""
    check_decode(q, k_cache, v_cache, features, causal)
    scale = resolve_scale(scale, q.shape[3])
    latent = shares_memory(k_cache, v_cache)
    choice = choose_splits(q, k_cache, v_cache, features, splits, latent)
    if workspace is not None:
        check_workspace(workspace, 0, q.device)
    return Checked(choice, scale)


def choose_splits(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    features: Features,
    splits: Splits,
    latent: bool = False,
) -> Choice:
    """Choose tile sizes and the cut of the keys: from shapes, not values.

    latent: whether the caches share memory. It matters only if the number of splits is chosen here.
    Raises as `Splits.check` and `Splits.check_fits` do.
    """
    (B, Lq, Hq, D), Hkv = q.shape, k_cache.shape[2]
    capacity = features.capacity(k_cache)
    splits.check()
    own_cut = splits.plan is not None or splits.split_size is not None
    choice = choose_decode(
        batch=B,
        queries=Lq,
        heads=(Hq, Hkv),
        head_dim=D,
        value_dim=v_cache.shape[3],
        element_size=k_cache.element_size(),
        tensor_cores=q.dtype != torch.float32 and has_tensor_cores(q.device),
        max_len=features.span(k_cache, Lq),
        num_sms=splits.num_sms or sms_of(q.device),
        num_splits=1 if own_cut else splits.num_splits,
        latent=latent,
        small=has_small_shared_memory(q.device),
        paged=features.block_table is not None,
        interpreted=INTERPRETED,
        capacity=0 if splits.split_size else capacity,  # a fixed size fits the smaller block too
    )
    launch, parts, split_blocks = choice.launch, choice.num_splits, None
    check_grid(q, Hkv * choice.shape.m_tiles, launch.block_m)
    splits.check_fits(launch.block_n, B, Lq, capacity, features)
    if splits.plan is not None:
        parts = len(splits.plan.items)
    elif splits.split_size is not None:
        parts = max(1, -(-capacity // splits.split_size))
        split_blocks = splits.split_size // launch.block_n
    elif splits.num_splits is not None:  # more splits than blocks would be empty
        parts = min(splits.num_splits, max(1, -(-capacity // launch.block_n)))
    return Choice(launch, parts, split_blocks, latent and choice.columns == D)


def _launch(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    features: Features,
    splits: Splits,
    checked: Checked,
    out: tuple[Tensor, Tensor],
    causal: bool,
    workspace: Tensor | None,
) -> tuple[list[tuple[KernelCall, Any]], tuple[Tensor, ...]]:
    """Launch stage 1 and, unless it writes the answer itself, stage 2; out: o and lse.

    Returns what was launched, and as what it was compiled; o, lse and their partial results.
    """
    choice, plan = checked.choice, splits.plan
    items, first_slot = (None, None) if plan is None else (plan.items, plan.first_slot)
    if plan is not None and INTERPRETED:
        check_plan_fits(items, first_slot, plan.block_n, q.shape[1], k_cache, features)
    partials = out  # a single split is the answer
    shape = partials_shape(q, features, splits, choice.parts)
    if shape is not None:
        partials = _partials(shape, v_cache.shape[3], workspace, q.device)
    pdl = partials is not out and has_dependent_launch(q.device)
    split_call, combine_call = _stages()
    split = split_call(
        q,
        k_cache,
        None if choice.latent else v_cache,
        features,
        *partials,
        num_splits=choice.parts,
        causal=causal,
        scale=checked.scale,
        launch=choice.launch,
        split_blocks=choice.split_blocks,
        items=items,
        pdl=pdl,
    )
    launched = [(split, split.launch(q.device))]
    if partials is out:
        return launched, out
    combine = combine_call(*partials, *out, first_slot=first_slot, sinks=features.sinks, pdl=pdl)
    return [*launched, (combine, combine.launch(q.device))], (*out, *partials)


@cache
def _stages() -> tuple[Callable[..., KernelCall], Callable[..., KernelCall]]:
    """Import both stages at the first call, since that loads triton."""
    from kernels.flash_decoding.combine import combine_call
    from kernels.flash_decoding.split import split_call

    return split_call, combine_call


def partials_shape(
    q: Tensor, features: Features, splits: Splits, parts: int
) -> tuple[int, ...] | None:
    """Return the shape of the partial lse; None if a single split writes the answer itself."""
    B, Lq, Hq, _ = q.shape
    if splits.plan is not None:
        return parts, Lq, Hq
    return (parts, B, Lq, Hq) if parts > 1 or features.sinks is not None else None


def _partials(
    shape: tuple[int, ...], Dv: int, workspace: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Room for o (*shape, Dv) and lse (*shape), fp32: in the caller's workspace, or a new one."""
    count = torch.Size(shape).numel()
    if workspace is None:
        workspace = torch.empty(count * (Dv + 1), dtype=torch.float32, device=device)
    else:
        check_workspace(workspace, count * (Dv + 1), device)
        torch.autograd.graph.increment_version(workspace)
    return (
        workspace[: count * Dv].view(*shape, Dv),
        workspace[count * Dv : count * (Dv + 1)].view(shape),
    )


def check_call(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    features: Features,
    splits: Splits,
    *,
    causal: bool,
    scale: float | None,
    workspace: Tensor | None,
) -> None:
    """Raise what `decode` raises, as far as shapes and dtypes tell: for tensors without memory."""
    check_decode(q, k_cache, v_cache, features, causal)
    resolve_scale(scale, q.shape[3])
    if workspace is not None:
        check_workspace(workspace, 0, q.device)
    if q.device.type == "cuda" and not torch.cuda.is_available():
        splits.check()  # its tiles, and how many SMs to fill, are known where it is
        return
    latent = shares_storage(k_cache, v_cache)
    choice = choose_splits(q, k_cache, v_cache, features, splits, latent)
    shape = partials_shape(q, features, splits, choice.parts)
    if workspace is not None and shape is not None and q.numel():
        count = torch.Size(shape).numel() * (v_cache.shape[3] + 1)
        check_workspace(workspace, count, q.device)


def shares_storage(k_cache: Tensor, v_cache: Tensor) -> bool:
    """Say what `shares_memory` says, of tensors that have no address."""
    try:
        same = k_cache.untyped_storage() is v_cache.untyped_storage()
    except NotImplementedError:  # a subclass may have no storage either
        return False
    same = same and k_cache.storage_offset() == v_cache.storage_offset()
    return same and v_cache.stride() == k_cache.stride() and k_cache.numel() > 0


def shares_memory(k_cache: Tensor, v_cache: Tensor) -> bool:
    """Say whether the values are the first columns of the keys (MLA)."""
    return (
        v_cache.data_ptr() == k_cache.data_ptr() != 0
        and v_cache.stride() == k_cache.stride()
        and k_cache.numel() > 0
    )
