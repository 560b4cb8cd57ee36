"""Ask a model in the terminal: `python -m reference.generate "Why is the sky blue?"`.

The answer appears as it is written; below it are the length of the prompt, the time to first token
(TTFT), the time per output token (TPOT) and the tokens per second. Ctrl-C ends it early.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence

import torch

from reference import checkpoint
from reference.generate import Timing, as_text, generate, generate_tokens
from reference.pretrained import SMOLLM2, load
from reference.transformer import Attend

# Named, not imported: `reference` knows no kernels, and runs where Triton does not.
ATTEND = {
    "reference": ("reference.flash_decoding", "flash_decode"),
    "threads": ("reference.flash_decoding_cpu", "flash_decode_threads"),
    "kernel": ("kernels.flash_decoding", "flash_decode"),
}
CHUNK = 256  # tokens per pass of prefill: logits over 49,152 tokens take 200 KB for each of them


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="python -m reference.generate", description=__doc__.split("\n")[0]
    )
    root.add_argument("prompt", help="a question, or the beginning of a text")
    root.add_argument(
        "--model",
        default="bytes",
        help="bytes: the byte-level model that comes with the course, which continues a text "
        "(default); smollm2: SmolLM2-135M-Instruct, after `make model`; or a path: a GGUF file or "
        "a folder in Hugging Face's format",
    )
    root.add_argument("--attend", choices=ATTEND, default="threads", help="default: threads")
    root.add_argument("--max-tokens", type=int, default=256, metavar="N", help="default: 256")
    root.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default: 0")
    root.add_argument("--seed", type=int, default=0, metavar="N", help="for a temperature above 0")
    root.add_argument("--raw", action="store_true", help="no chat template: continue the text")
    root.add_argument("--device", default=None, help="default: a GPU for --attend kernel, if any")
    return root


def attention(name: str) -> Attend:
    """The function that `--attend` names. Raises ImportError where its package is missing."""
    module, function = ATTEND[name]
    return getattr(importlib.import_module(module), function)


def device_of(options: argparse.Namespace) -> str:
    """Where to compute: as asked, else on the GPU if the kernel attends and there is one."""
    if options.device:
        return options.device
    return "cuda" if options.attend == "kernel" and torch.cuda.is_available() else "cpu"


def answer(options: argparse.Namespace, timing: Timing) -> Iterator[str]:
    """Load what the options name, and yield the answer piece by piece."""
    attend, device = attention(options.attend), device_of(options)
    if options.model == "bytes":
        stream = generate(
            checkpoint.load(device=device),
            options.prompt.encode(),
            max_bytes=options.max_tokens,
            temperature=options.temperature,
            seed=options.seed,
            attend=attend,
            timing=timing,
        )
        yield from as_text(stream)
        return
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    path = SMOLLM2 if options.model == "smollm2" else options.model
    model, tokenizer = load(path, dtype=dtype, device=device)
    plain = options.raw or not tokenizer.template
    tokens = generate_tokens(
        model,
        tokenizer.encode(options.prompt) if plain else tokenizer.chat(options.prompt),
        max_tokens=options.max_tokens,
        stop=tokenizer.stop,
        temperature=options.temperature,
        seed=options.seed,
        attend=attend,
        prefill_chunk=CHUNK,
        timing=timing,
    )
    yield from tokenizer.stream(tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 130 after Ctrl-C, 1 if something is missing."""
    options, timing, status = parser().parse_args(arguments), Timing(), 0
    try:
        for piece in answer(options, timing):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        timing.stopped, status = "Ctrl-C", 130
    except (ImportError, OSError, ValueError) as error:
        print(trouble(error), file=sys.stderr)
        return 1
    print(f"\n\n{timing}" if timing.ttft_ms else "\nStopped before the first token.")
    return status


def trouble(error: Exception) -> str:
    """What went wrong, in a sentence."""
    if isinstance(error, ImportError):
        return f"A package is missing ({error}): `make lab` installs what the course needs."
    return str(error)
