"""Tokens into text as they arrive, and stop strings that tokens may cut anywhere.

    stop string "END"     tokens "The E", "N", "D of"
                          shown  "The ", "", ""          stopped: the answer is "The "
                          tokens "The E", "N", "ough"
                          shown  "The ", "", "ENough"    it was no stop string after all

What could still become a stop string must not be shown: a reader cannot unsee it. So the longest
end of the text that begins a stop string is held back until it is known what it is.
"""

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

import torch


class Decoder(Protocol):
    """Turns the tokens of one answer into text, piece by piece."""

    def push(self, token: int) -> str:
        """The text that is certain with this token; "" if a character is not complete."""

    def rest(self) -> str:
        """The text of what is left at the end."""


MakeDecoder = Callable[[], Decoder]
"""Returns a decoder for one answer: `Bytes`, or `tokenizer.decoder` of a `Tokenizer`."""


class Bytes:
    """The decoder of the byte-level model: UTF-8; what is not becomes the replacement character.

    >>> bytes_ = Bytes()
    >>> [bytes_.push(token) for token in "√2".encode()]
    ['', '', '√', '2']
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that this byte completes."""
        return self._decoder.decode(bytes([token]))

    def rest(self) -> str:
        """A replacement character if the last one is not complete."""
        return self._decoder.decode(b"", final=True)


class Silent:
    """The decoder where nobody has said what tokens mean: no text."""

    def push(self, token: int) -> str:
        """Nothing."""
        return ""

    def rest(self) -> str:
        """Nothing."""
        return ""


class StopStrings:
    """Lets text through up to the first stop string, however the text is cut into pieces.

    Of several stop strings the one that is complete first counts; of those complete at once, the
    longest. `stopped` says whether one was found. Raises ValueError for an empty stop string.

    >>> watch = StopStrings(["END"])
    >>> watch.push("The E"), watch.push("N"), watch.push("D of it"), watch.stopped
    ('The ', '', '', True)
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if any(not string for string in strings):
            raise ValueError(f"stop strings must not be empty; got {list(strings)}")
        self.strings, self.stopped = tuple(strings), False
        self._held = ""

    def push(self, text: str) -> str:
        """What may be shown now that this text has been added; nothing after a stop string."""
        if self.stopped:
            return ""
        begin, self._held = len(self._held), self._held + text
        for end in range(begin + 1, len(self._held) + 1):
            found = [s for s in self.strings if self._held.endswith(s, 0, end)]
            if found:
                shown, self._held = self._held[: end - max(map(len, found))], ""
                self.stopped = True
                return shown
        keep = self._undecided()
        shown, self._held = self._held[: len(self._held) - keep], self._held[-keep:] if keep else ""
        return shown

    def rest(self) -> str:
        """What was held back, at the end of the answer."""
        shown, self._held = self._held, ""
        return shown

    def _undecided(self) -> int:
        """How many characters at the end of the text begin some stop string."""
        longest = min(len(self._held), max(map(len, self.strings), default=1) - 1)
        begins = (n for n in range(longest, 0, -1) if self._begins(self._held[-n:]))
        return next(begins, 0)

    def _begins(self, text: str) -> bool:
        return any(string.startswith(text) for string in self.strings)


class Writer:
    """How the tokens of one answer are drawn and turned into text.

    generator: seeded, for temperatures above 0; it goes on where it was after a preemption.
    """

    def __init__(self, seed: int, decoder: Decoder, stop_strings: Sequence[str]) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.decoder, self.stops = decoder, StopStrings(stop_strings)

    def push(self, token: int) -> str:
        """What may be shown with this token."""
        return self.stops.push(self.decoder.push(token))

    def rest(self) -> str:
        """What was held back, now that no token will follow."""
        return self.stops.push(self.decoder.rest()) + self.stops.rest()
