"""What is asked, what comes back, and what is known about both: three plain records.

Request   a prompt, limits, stop conditions, how to draw, and how urgent it is
Event     one token of an answer, on its way to whoever is reading
Answer    a request with everything that has come of it so far
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reference.serving.metrics import Trace
from reference.serving.scheduler import Limits
from reference.transformer import Config

REASONS = ("stop token", "stop string", "length", "context", "cancelled")
"""Why an answer ended. "context": the model's context is full."""


class NeverFits(ValueError):
    """A request that could not be answered up to its limit even if it were the only one."""


@dataclass(frozen=True)
class Request:
    """One question to a model.

    prompt: token ids, at least one. max_tokens: how many to write at most, at least 1.
    stop_tokens: ids that end the answer; the one that did is still part of it, as in
    `reference.generate`. stop_strings: texts that end the answer, wherever tokens happen to cut
    them; the answer's text ends before it. temperature, seed: as in `reference.generate.choose`.
    priority: a larger one goes first; equal ones in the order in which they were submitted.
    arrival: seconds after `Engine.serve` began; None: at once. id: how to name it, unique; None:
    the engine finds a number.

    Raises ValueError for an empty prompt, limits below 1, a negative temperature or an empty stop
    string.
    """

    prompt: Sequence[int]
    max_tokens: int = 128
    stop_tokens: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    priority: int = 0
    arrival: float | None = None
    id: Hashable = None

    def __post_init__(self) -> None:
        if not len(self.prompt):
            raise ValueError("prompt must have at least one token; got none")
        if self.max_tokens < 1 or self.temperature < 0:
            raise ValueError(
                "max_tokens must be at least 1 and temperature at least 0; got "
                f"{self.max_tokens} and {self.temperature}"
            )
        if isinstance(self.stop_strings, str) or "" in self.stop_strings:
            raise ValueError(
                f"stop_strings must be a tuple of texts, none empty; got {self.stop_strings!r}"
            )


class Event(NamedTuple):
    """What a step has added to one answer.

    token: the new token. text: what can be shown of it by now, possibly "": half a character, or
    what may turn out to be the beginning of a stop string, is held back. reason: "" while the
    answer goes on, else one of `REASONS`.
    """

    id: Hashable
    token: int
    text: str
    reason: str = ""


@dataclass
class Answer:
    """What has come of a request so far.

    order: its number among all that were submitted. tokens, text: the answer. reason: "" while it
    is not finished. trace: its times, in seconds. preemptions: how often it lost its pages.
    found: prompt tokens that another request had left in the cache. computed: tokens that went
    through the model on its behalf, those computed again included.
    """

    request: Request
    id: Hashable
    order: int
    trace: Trace
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    reason: str = ""
    preemptions: int = 0
    found: int = 0
    computed: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts the most urgent first: by priority, then by the order of submission."""
        return -self.request.priority, self.order

    @property
    def known(self) -> list[int]:
        """The tokens that the next one follows: the prompt and the answer so far."""
        return [*self.request.prompt, *self.tokens]


def check_fits(request: Request, config: Config, limits: Limits) -> None:
    """Raise `NeverFits` if the context or all pages together are too small for a request.

    Its last token is chosen, but never stored. Raises ValueError for tokens outside the vocabulary.
    """
    prompt = request.prompt
    if not 0 <= min(prompt) <= max(prompt) < config.vocabulary:
        raise ValueError(
            f"tokens must lie in 0…{config.vocabulary - 1}; got {min(prompt)} to {max(prompt)}"
        )
    if len(prompt) > config.context:
        raise NeverFits(
            f"the prompt must have at most {config.context} tokens, the model's context; got "
            f"{len(prompt)}"
        )
    pages = limits.pages_for(min(len(prompt) + request.max_tokens - 1, config.context))
    if pages > limits.num_pages:
        raise NeverFits(
            f"a prompt of {len(prompt)} tokens and an answer of up to {request.max_tokens} need "
            f"{pages} pages of {limits.page_size} tokens; there are {limits.num_pages} in all: ask "
            "for fewer tokens, or make an engine with more pages"
        )
