"""Text to tokens and back, and the chat template around a question.

Byte-level BPE begins with one token per byte, as our small model does, and then joins neighbours:
each merge of the list, in order, makes one new token out of two. Frequent words end as one token.

    "The sky is blue"   →   The| sky| is| blue        4 tokens for 15 bytes

A chat template is a small program in Jinja that comes with the model. It writes the conversation
the way the model saw conversations when it was trained; the stop token ends an answer.

Sources: Sennrich et al. 2016, "Neural machine translation of rare words with subword units";
Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.2 (bytes).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

Message = dict[str, str]
"""`{"role": "user", "content": "Why is the sky blue?"}`; roles: system, user, assistant."""


def byte_level(
    tokens: Sequence[str], merges: Sequence[str], special: Collection[str]
) -> tokenizers.Tokenizer:
    """A byte-level BPE from its vocabulary and merges ("a b"); digits are split one by one.

    special: tokens that plain text never becomes part of. Raises ValueError for merges of pieces
    that are not in the vocabulary.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    unknown = [pair for pair in pairs if not {*pair, "".join(pair)} <= vocabulary.keys()]
    if unknown:
        raise ValueError(f"{len(unknown)} merges are not of the vocabulary, such as {unknown[0]}")
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in special])
    return tokenizer


class Tokenizer:
    """A tokenizer of the package `tokenizers`, with the model's stop tokens and chat template.

    stop: numbers of the tokens that end an answer; template: Jinja, "" if the model has none;
    bos, eos: the tokens that a template may name, as text.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        *,
        stop: Collection[int] = (),
        template: str = "",
        bos: str = "",
        eos: str = "",
    ) -> None:
        self.inner, self.stop, self.template = inner, frozenset(stop), template
        self.bos, self.eos = bos, eos

    def __len__(self) -> int:
        """How many tokens there are, special ones included."""
        return self.inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The numbers of the tokens of plain text, after whatever the model begins a text with.

        The name of a special token, such as <|im_end|>, is text like any other here.
        """
        self.inner.encode_special_tokens = True
        try:
            return self.inner.encode(text).ids
        finally:
            self.inner.encode_special_tokens = False

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, without the special ones. What is not UTF-8 becomes U+FFFD."""
        return self.inner.decode(list(tokens), skip_special_tokens=True)

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Turn tokens into text as they arrive: a character of several tokens comes with its last.

        The pieces make up `decode` of all the tokens.
        """
        decoder = self.decoder()
        for token in tokens:
            if piece := decoder.push(token):
                yield piece
        if rest := decoder.rest():
            yield rest

    def decoder(self) -> Decoding:
        """What turns the tokens of one answer into text, one token at a time."""
        return Decoding(self)

    def chat(self, messages: str | Sequence[Message]) -> list[int]:
        """The tokens of a conversation, up to where the model's answer begins.

        messages: a question, or the whole conversation. Raises ValueError if the model has no
        template, for a message that holds a special token's name (it would end the message), and
        for what the template itself refuses; ImportError without the package jinja2.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not self.template:
            raise ValueError("this model has no chat template: use encode(text)")
        special = [x.content for x in self.inner.get_added_tokens_decoder().values() if x.special]
        for message in messages:
            for token in special:
                if token in message["content"]:
                    raise ValueError(f"a message must not hold the special token {token}")
        return self.inner.encode(self._rendered(messages), add_special_tokens=False).ids

    def _rendered(self, messages: Sequence[Message]) -> str:
        """The conversation as text. A template comes with a model: it may compute, nothing else."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(text: str) -> None:
            raise TemplateError(text)

        around = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        around.globals["raise_exception"] = refuse
        names = {"bos_token": self.bos, "eos_token": self.eos, "add_generation_prompt": True}
        try:
            return around.from_string(self.template).render(messages=messages, **names)
        except TemplateError as error:
            raise ValueError(f"the chat template fails: {error}") from error


class Decoding:
    """The text of tokens that arrive one at a time: `push` each, then ask for the `rest`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=True)
        self._seen: list[int] = []
        self._shown = 0

    def push(self, token: int) -> str:
        """The text that is certain with this token; "" within a character of several tokens."""
        self._seen.append(token)
        piece = self._stream.step(self._tokenizer.inner, token) or ""
        self._shown += len(piece)
        return piece

    def rest(self) -> str:
        """The text of what is left at the end: a character that never became complete."""
        return self._tokenizer.decode(self._seen)[self._shown :]
