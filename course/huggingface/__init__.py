"""This course's kernels inside Hugging Face models.

    from course.huggingface import register
    model.set_attn_implementation(register())          # then generate as always

`register` tells transformers about an attention function: prefill by FlashAttention-2, decode by
Flash-Decoding. Nothing in a model changes. The mask function beside it is transformers' own for
SDPA; without one, left padding would be ignored silently.

    sight      what each query sees, read from a mask; what a mask cannot ask for
    attend     the attention function, and what it refuses
    models     a model of `reference.pretrained` as one of transformers
    __main__   python -m course.huggingface "Why is the sky blue?"

Without a GPU the Triton kernels are interpreted, which takes seconds per token; `backend=
"reference"` computes the same in PyTorch. transformers comes with `pip install -e .[hf]`.

Sources: `AttentionInterface` in transformers/modeling_utils.py and `AttentionMaskInterface` in
transformers/masking_utils.py, version 5.24.
"""

from course.huggingface.attend import Backend, CourseAttention, backend_of

NAME = "split_kv"
"""The name if you give none. It could not be "flash_…": see `check_name`."""

__all__ = ["NAME", "Backend", "register"]


def register(name: str = NAME, *, backend: str | Backend = "kernel") -> str:
    """Make an attention function known to transformers, and return the name to select it by.

    name: for `model.set_attn_implementation(name)`, or `from_pretrained(…,
        attn_implementation=name)`.
    backend: "kernel" (Triton; interpreted without a GPU), "reference" (PyTorch), or two functions
    of yours. Registering a name again replaces its function, in models that have it selected, too.

    Raises ValueError for a name that transformers could not select or has itself, and for an
    unknown backend; ImportError without transformers, or without triton for "kernel".
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    check_name(name)
    found = AttentionInterface().get(name)
    if name == "eager" or not (found is None or isinstance(found, CourseAttention)):
        raise ValueError(f"name must be new; got {name!r}, which transformers has already")
    AttentionInterface.register(name, CourseAttention(backend_of(backend)))
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


def check_name(name: str) -> None:
    """Raise ValueError for a name that transformers would not look up in its interface.

    It takes "flash" anywhere in a name for FlashAttention itself, "/" for a repository to download,
    "|" for a prefix and "@" for a revision.
    """
    if not name or "flash" in name or set(name) & set("/|@:"):
        raise ValueError(
            'name must be without "flash", "/", "|", "@" and ":", which mean something else to '
            f"transformers; got {name!r}"
        )
