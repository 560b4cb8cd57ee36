"""Ask a model of transformers that attends by this course's functions.

    python -m course.huggingface "Why is the sky blue?" --model smollm2

The answer appears as it is written. Below it stands what attended; with `--check`, also whether
transformers' own SDPA writes the same tokens. On a CPU, `--attend kernel` is Triton's interpreter:
seconds for every token.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from course.huggingface import register
from course.huggingface.attend import BACKENDS
from course.huggingface.models import Ready, read


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="python -m course.huggingface", description=__doc__.split("\n")[0]
    )
    root.add_argument("prompt", help="a question, or the beginning of a text")
    root.add_argument(
        "--model",
        default="smollm2",
        help="smollm2: SmolLM2-135M-Instruct, after `make model` (default); or a path: a GGUF file "
        "of a Llama, or a folder in Hugging Face's format",
    )
    root.add_argument(
        "--attend", choices=BACKENDS, help="default: kernel if there is a GPU, else reference"
    )
    root.add_argument("--max-tokens", type=int, default=64, metavar="N", help="default: 64")
    root.add_argument("--raw", action="store_true", help="no chat template: continue the text")
    root.add_argument("--check", action="store_true", help="compare with SDPA's tokens")
    return root


class Printer:
    """A streamer of transformers that prints what each new token adds to the text."""

    def __init__(self, decode: Callable[[Iterable[int]], str]) -> None:
        self.decode, self.tokens, self.shown, self.prompt = decode, [], "", True

    def put(self, tokens: Tensor) -> None:
        """Get the prompt, once, then every new token."""
        if self.prompt:
            self.prompt = False
            return
        self.tokens += tokens.flatten().tolist()
        self._show(self.decode(self.tokens).rstrip("\ufffd"))  # half a character waits

    def end(self) -> None:
        """Print what has waited in vain."""
        self._show(self.decode(self.tokens))

    def _show(self, text: str) -> None:
        print(text[len(self.shown) :], end="", flush=True)
        self.shown = text


@torch.no_grad()
def answer(ready: Ready, attention: str, most: int, streamer: Any = None) -> list[int]:
    """The tokens that the model adds to its prompt, greedily, with the attention of this name."""
    ready.model.set_attn_implementation(attention)
    prompt = torch.tensor([ready.prompt], device=ready.model.device)
    tokens = ready.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=ready.stop or None,
        pad_token_id=ready.stop[0] if ready.stop else 0,
        streamer=streamer,
    )
    return tokens[0, len(ready.prompt) :].tolist()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 1 if something is missing or differs."""
    options = parser().parse_args(arguments)
    gpu = torch.cuda.is_available()
    attend = options.attend or ("kernel" if gpu else "reference")
    try:
        ready = read(options.model, options.prompt, raw=options.raw)
        name = register(backend=attend)
    except (ImportError, OSError, ValueError) as error:
        print(trouble(error), file=sys.stderr)
        return 1
    ready.model.to("cuda" if gpu and attend == "kernel" else "cpu")
    written = answer(ready, name, options.max_tokens, Printer(ready.decode))
    kind = type(ready.model).__name__
    print(f"\n\n{kind}, {len(ready.prompt)} + {len(written)} tokens, attention: {attend}")
    if not options.check:
        return 0
    own = "sdpa" if ready.model._supports_sdpa else "eager"
    same = answer(ready, own, options.max_tokens) == written
    print(f"{'the same' if same else 'OTHER'} tokens as transformers' own attention ({own})")
    return 0 if same else 1


def trouble(error: Exception) -> str:
    """What went wrong, in a sentence."""
    if isinstance(error, ImportError):
        return f'A package is missing ({error}): `pip install -e ".[hf]"` installs transformers.'
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
