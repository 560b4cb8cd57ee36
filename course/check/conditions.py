"""The conditions of a check: a setting of the process must not decide whether an answer is right.

A notebook is one process. PyTorch, NumPy and Python keep settings for all of it, and a learner may
have changed any of them, or the answer itself may: after `torch.set_default_dtype(torch.float64)`
half the tensors of a check would come out in double. So a check runs under the settings of a fresh
process, and afterwards everything is as the learner left it.

    fresh()           the settings of a fresh process; around a whole check
    fresh(seed)       the same, and random numbers begin at a seed; around every probe
    kept()            what the answer sets ends with it; around every call of an answer

`kept` sets nothing itself: a probe may have set something for this very call.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import overrides
from torch.utils import _device, _python_dispatch, deterministic

UNFIXED = object()
"""In place of a setting's fresh value: no verdict depends on it, so it is only put back."""


class Setting(NamedTuple):
    """One setting of the process: how to get it, how to put it, and its value in a fresh one."""

    get: Callable[[], Any]
    put: Callable[[Any], Any]
    fresh: Any = UNFIXED


@contextmanager
def fresh(seed: int | None = None) -> Iterator[None]:
    """Run the block, or the decorated function, as in a fresh process; put everything back after.

    seed: where global generators of random numbers start; None: where they are. They too are as
    before afterwards. Warnings are silent: they are no verdict, and nbgrader gives no points to a
    cell that wrote to stderr.
    """
    with ExitStack() as stack:
        stack.enter_context(_randomness(seed))
        stack.enter_context(_no_dispatch_modes())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(kept())
        for setting in settings():
            if setting.fresh is not UNFIXED and setting.get() != setting.fresh:
                setting.put(setting.fresh)
        warnings.simplefilter("ignore")
        yield


@contextmanager
def kept() -> Iterator[None]:
    """Put back afterwards every setting that the block has changed."""
    these = settings()
    before = [setting.get() for setting in these]
    with warnings.catch_warnings():
        try:
            yield
        finally:
            for setting, value in zip(these, before, strict=True):
                if setting.get() != value:
                    setting.put(value)


def settings() -> list[Setting]:
    """Return every setting of the process that can change what a check computes or prints."""
    return [
        Setting(overrides._get_current_function_mode_stack, _put_function_modes, []),
        Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        Setting(torch.is_grad_enabled, torch.set_grad_enabled, True),
        Setting(_default_device, _put_default_device, (None, None)),
        Setting(_determinism, _put_determinism, (False, False, True)),
        Setting(_anomalies, lambda on: torch.set_anomaly_enabled(*on), (False, True)),
        *(_autocast(*x) for x in (("cpu", torch.bfloat16), ("cuda", torch.float16))),
        *(_precision(of) for of in (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)),
        # not a fresh process's: tensors as small as a check's are done sooner by one thread
        Setting(torch.get_num_threads, torch.set_num_threads, 1),
        Setting(np.geterr, lambda on: np.seterr(**on), _NUMPY_ERRORS),
        Setting(np.geterrcall, np.seterrcall, None),
        Setting(np.get_printoptions, lambda x: np.set_printoptions(**x), _NUMPY_PRINTS),
        Setting(
            torch._tensor_str.get_printoptions, lambda x: torch.set_printoptions(**x), _TORCH_PRINTS
        ),
    ]


@contextmanager
def _randomness(seed: int | None) -> Iterator[None]:
    """Seed every global generator of random numbers, if seed is given; put them back afterwards.

    Those of GPUs only once CUDA runs: asking for them would start it.
    """
    cpu, cuda = torch.random.default_generator, torch.cuda
    generators = [
        (cpu.get_state, cpu.set_state, cpu.manual_seed),
        (np.random.get_state, np.random.set_state, np.random.seed),
        (random.getstate, random.setstate, random.seed),
    ]
    if cuda.is_initialized():
        generators += [(cuda.get_rng_state_all, cuda.set_rng_state_all, cuda.manual_seed_all)]
    before = [get() for get, _, _ in generators]
    try:
        for _, _, sow in generators if seed is not None else ():
            sow(seed)
        yield
    finally:
        for (_, put, _), state in zip(generators, before, strict=True):
            put(state)


@contextmanager
def _no_dispatch_modes() -> Iterator[None]:
    """Take every torch dispatch mode off its stack (fake tensors, counters …); put them back."""
    with _python_dispatch._disable_current_modes():
        try:
            yield
        finally:
            for _ in _python_dispatch._get_current_dispatch_mode_stack():
                _python_dispatch._pop_mode()  # left there by the answer


def _put_function_modes(modes: list[Any]) -> None:
    while overrides._len_torch_function_stack():
        overrides._pop_mode()
    for mode in modes:
        overrides._push_mode(mode)


def _default_device() -> tuple[Any, Any]:
    """What `torch.set_default_device` and `with torch.device(…)` note beside their mode."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return context, getattr(_device, "CURRENT_DEVICE", None)


def _put_default_device(noted: tuple[Any, Any]) -> None:
    torch._GLOBAL_DEVICE_CONTEXT.device_context, _device.CURRENT_DEVICE = noted


def _determinism() -> tuple[bool, bool, bool]:
    gently = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = deterministic.fill_uninitialized_memory
    return torch.are_deterministic_algorithms_enabled(), gently, filling


def _put_determinism(on: tuple[bool, bool, bool]) -> None:
    torch.use_deterministic_algorithms(on[0], warn_only=on[1])
    deterministic.fill_uninitialized_memory = on[2]


def _anomalies() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _autocast(device: str, dtype: torch.dtype) -> Setting:
    """Whether autocast is on for a device, and to which dtype it casts; dtype: the usual one."""

    def put(state: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, state[0])
        torch.set_autocast_dtype(device, state[1])

    get = torch.is_autocast_enabled, torch.get_autocast_dtype
    return Setting(lambda: (get[0](device), get[1](device)), put, (False, dtype))


def _precision(of: Any) -> Setting:
    """Whether products of fp32 matrices are computed in fp32; "none" is a backend's default."""

    def get() -> str:
        return "ieee" if of.fp32_precision == "none" else of.fp32_precision

    return Setting(get, lambda x: setattr(of, "fp32_precision", x), "ieee")


_NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
_NUMPY_PRINTS = {
    **np.get_printoptions(),  # the names differ between versions
    "precision": 8,
    "threshold": 1000,
    "edgeitems": 3,
    "linewidth": 75,
    "suppress": False,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "formatter": None,
    "floatmode": "maxprec",
    "legacy": False,
}
_TORCH_PRINTS = {
    "precision": 4,
    "threshold": 1000.0,
    "edgeitems": 3,
    "linewidth": 80,
    "sci_mode": None,
}
