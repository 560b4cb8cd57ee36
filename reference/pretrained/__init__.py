"""A real model in `reference.transformer`: weights and tokenizer of a Llama, read from files.

    model, tokenizer = load()              # SmolLM2-135M-Instruct, after `make model`
    model, tokenizer = load("a/folder")    # config.json, *.safetensors, tokenizer.json

    file, folder ─→ Config ─→ an empty Transformer ─→ one tensor at a time into its place
                 └→ Tokenizer: text ⇄ numbers, and the chat template around a question

Nothing here computes attention: the model is the Transformer that the byte-level model is, with
other sizes. In reading order: `weights` (what goes where), `gguf_header`, `gguf_file` and
`huggingface` (two ways to store it), `tokenizer`, `terminal` (`python -m reference.generate`).

Sources: Touvron et al. 2023, "LLaMA"; Allal et al. 2025, "SmolLM2: When Smol Goes Big"
(arXiv:2502.02737); the GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from reference.pretrained import gguf_file, huggingface
from reference.pretrained.tokenizer import Tokenizer
from reference.pretrained.weights import UnfitError
from reference.transformer import Transformer

FOLDER = Path(__file__).resolve().parents[2] / "models"
SMOLLM2 = FOLDER / "SmolLM2-135M-Instruct.Q4_1.gguf"
"""Where `make model` puts the model."""

__all__ = ["FOLDER", "SMOLLM2", "Pretrained", "Tokenizer", "UnfitError", "load"]


class Pretrained(NamedTuple):
    """What `load` returns."""

    model: Transformer
    tokenizer: Tokenizer


def load(
    path: Path | str = SMOLLM2,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Pretrained:
    """Read a model of the Llama architecture: a GGUF file, or a folder in Hugging Face's format.

    path: by default the model that `make model` fetches, 135 million parameters: 538 MB in fp32.
    Tensors are read one at a time: little more memory than that is needed.

    Raises FileNotFoundError, saying what is missing; `UnfitError`, a ValueError, for what the
    Transformer cannot compute or what is damaged, by name; ImportError without the packages that
    read the files (gguf, tokenizers, safetensors).
    """
    path = Path(path)
    if path.is_dir():
        return Pretrained(*huggingface.load(path, dtype, device))
    if path.is_file():
        return Pretrained(*gguf_file.load(path, dtype, device))
    if path == SMOLLM2:
        raise FileNotFoundError(
            "SmolLM2 is not here yet: run `make model` (93 MB, once), then try again."
        )
    raise FileNotFoundError(f"path must be a folder or a .gguf file; there is nothing at {path}")
