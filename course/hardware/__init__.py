"""GPUs (and this CPU) in numbers, and what follows from them: plain functions, no figures.

    devices      `kernels.devices`, the one table; `limits` of an SM; `table()`, which prints it
    this_cpu     this machine's processor, measured: bandwidth, arithmetic, cores
    roofline     time from bytes and operations; intensity of prefill and decode; ridge point
    speculation  the time of a pass over several tokens, to check a draft
    launch       programs, waves and predicted µs of Flash-Decoding and of FlashAttention-2
    timeline     which program runs where and when
    kv_memory    bytes of KV cache per token and user, users that fit
    interconnects, shared_prefix   merges over many GPUs; the bytes of a prefix read once
    published    others' published figures beside the model's
    fitted       the model's assumptions, fitted to a recorded GPU run
    split_curves time against the number of splits
    regret       split rules scored against the best number of splits

Predictions are those of `kernels.explain`: there is one model. Units are in the names: `_us` is
microseconds, `_gb` 10⁹ bytes, `_tflops` 10¹² operations per second; bandwidth is in GB/s.
"""

from course.hardware.fitted import Fit, fit, status
from course.hardware.kv_memory import (
    MODELS,
    Model,
    bytes_per_token,
    bytes_per_user,
    model_named,
    users_that_fit,
)
from course.hardware.launch import (
    WaveCounts,
    count_waves,
    predict_fa2,
    predict_flash_decoding,
    resident_programs,
)
from course.hardware.machine import this_cpu
from course.hardware.published import ARTICLE, POST, compare_article, compare_post
from course.hardware.roofline import (
    Work,
    attainable_tflops,
    decode_intensity,
    decode_work,
    linear_work,
    peak_tflops,
    prefill_intensity,
    prefill_work,
    ridge_point,
    roofline_us,
)
from course.hardware.specifications import limits, table
from course.hardware.speculation import pass_ratio, pass_us, pass_work
from course.hardware.timeline import Run, makespan, schedule, timeline_of, utilisation
from kernels.devices import DEVICES, Device

__all__ = [
    "ARTICLE",
    "DEVICES",
    "MODELS",
    "POST",
    "Device",
    "Fit",
    "Model",
    "Run",
    "WaveCounts",
    "Work",
    "attainable_tflops",
    "bytes_per_token",
    "bytes_per_user",
    "compare_article",
    "compare_post",
    "count_waves",
    "decode_intensity",
    "decode_work",
    "fit",
    "limits",
    "linear_work",
    "makespan",
    "model_named",
    "pass_ratio",
    "pass_us",
    "pass_work",
    "peak_tflops",
    "predict_fa2",
    "predict_flash_decoding",
    "prefill_intensity",
    "prefill_work",
    "resident_programs",
    "ridge_point",
    "roofline_us",
    "schedule",
    "status",
    "table",
    "this_cpu",
    "timeline_of",
    "users_that_fit",
    "utilisation",
]
