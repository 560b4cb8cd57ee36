"""An inference engine: many requests, one model, a paged cache, a step at a time.

    engine = Engine(model, num_pages=256)
    a = engine.submit(Request(prompt, max_tokens=64, stop_strings=("\\n\\n",)))
    b = engine.submit(Request(other, priority=1))
    for piece in engine.stream(a):       # b is answered along the way
        print(piece, end="")

In reading order:

    requests    what is asked and what comes back: Request, Event, Answer
    scheduler   who works in the next step: plain numbers in, decisions out
    packed      the tokens of a step as one row; prefill by FlashAttention-2, decode by
                Flash-Decoding; threads: both, fast on a CPU
    engine      submit, cancel, step, stream, serve
    text        stop strings that tokens cut anywhere
    metrics     TTFT, TPOT, throughput, goodput, percentiles
    load        requests at random times; clock: real or simulated time
    demo        `python -m reference.serving --demo`

Sources: Yu et al. 2022, "Orca: A distributed serving system for Transformer-based generative
models" (OSDI); Kwon et al. 2023, "Efficient memory management for large language model serving
with PagedAttention" (SOSP); Agrawal et al. 2024, "Taming throughput-latency tradeoff in LLM
inference with Sarathi-Serve" (OSDI); Zhong et al. 2024, "DistServe: Disaggregating prefill and
decoding for goodput-optimized large language model serving" (OSDI).
"""

from reference.serving.clock import Clock, Load, RealClock, SimulatedClock
from reference.serving.engine import Engine
from reference.serving.metrics import Objective, Summary, Trace, percentile, summarise
from reference.serving.packed import Attention
from reference.serving.requests import Answer, Event, NeverFits, Request
from reference.serving.scheduler import Decision, Job, Limits, Work, decide
from reference.serving.text import Bytes, StopStrings

__all__ = [
    "Answer",
    "Attention",
    "Bytes",
    "Clock",
    "Decision",
    "Engine",
    "Event",
    "Job",
    "Limits",
    "Load",
    "NeverFits",
    "Objective",
    "RealClock",
    "Request",
    "SimulatedClock",
    "StopStrings",
    "Summary",
    "Trace",
    "Work",
    "decide",
    "percentile",
    "summarise",
]
