"""Requests at random times, as many users send them: a load to measure an engine under.

In an open loop, nobody waits for anybody's answer before asking. Times between arrivals are then
exponential, and the number of arrivals within a second is Poisson's: sometimes none comes, and
sometimes five come at once. That is what queues are made of.

    rate 2 per second    ┃  ┃┃      ┃    ┃ ┃┃┃         ┃ ┃       ┃
"""

import random
from collections.abc import Sequence

from reference.serving.engine import Engine
from reference.serving.requests import Answer, Request


def poisson(count: int, rate: float, seed: int = 0) -> list[float]:
    """The times of `count` arrivals, in seconds, `rate` per second on average; the first is at 0.

    Drawn by inverting the distribution function: a seed gives the same times everywhere. Raises
    ValueError unless count ≥ 1 and rate > 0.

    >>> [round(time, 2) for time in poisson(4, rate=2.0, seed=1)]
    [0.0, 0.07, 1.01, 1.73]
    """
    if count < 1 or rate <= 0:
        raise ValueError(f"count must be at least 1 and rate above 0; got {count} and {rate}")
    rng, times = random.Random(seed), [0.0]
    while len(times) < count:
        times.append(times[-1] + rng.expovariate(rate))
    return times


def byte_requests(
    text: bytes,
    count: int,
    rate: float,
    *,
    prompt: tuple[int, int] = (8, 64),
    answer: tuple[int, int] = (4, 48),
    common: bytes = b"",
    seed: int = 0,
) -> list[Request]:
    """Requests for the byte-level model, whose prompts are pieces of a text, at Poisson times.

    prompt, answer: from how many to how many bytes, each number equally likely; an answer may end
    earlier, with a line. common: what all prompts begin with, as a system prompt. Raises ValueError
    as `poisson`, and for a text shorter than the longest prompt.
    """
    if len(text) < prompt[1]:
        raise ValueError(f"the text must have {prompt[1]} bytes or more; got {len(text)}")
    rng, requests = random.Random(seed), []
    for arrival in poisson(count, rate, seed):
        length = rng.randint(*prompt)
        start = rng.randrange(len(text) - length + 1)
        asked = common + text[start : start + length]
        requests.append(
            Request(
                asked,
                max_tokens=rng.randint(*answer),
                stop_strings=("\n\n",),
                arrival=arrival,
            )
        )
    return requests


def run_with_progress(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    """`engine.run` under a progress bar of finished requests, which also says where the others are.

    Returns the answers in the order of submission.
    """
    from tqdm import tqdm  # a checkout has it; who installs this as a library does without

    names = []
    with tqdm(total=len(requests), unit="request", desc="serving") as bar:
        for event in engine.serve(requests):
            if event.reason:
                names.append(event.id)
                bar.set_postfix(running=len(engine.running), waiting=len(engine.waiting))
                bar.update()
    return sorted((engine.answers[name] for name in names), key=lambda answer: answer.order)
