"""Speculative decoding: a cheap draft of the next tokens, checked by the model in a single pass.

    text so far ─→ draft: some likely tokens ─→ one pass of the model ─→ accept or resample ─┐
        ▲                (cheap)                 (as long as one step)     (exact)           │
        └──────────────────────── one to depth + 1 new tokens ◄──────────────────────────────┘

The output has the distribution that the model alone would give it; at temperature 0 it is the same
text. What changes is how many passes it takes. In reading order:

    tree        drafts as trees (a plain draft is a tree with one branch), and the mask of a tree
    acceptance  which drafted tokens stay, and what takes the place of the first that does not
    drafts      where drafts come from: the prompt itself, or a smaller model
    verify      the pass: rotary angles by depth, and the cache rolled back to what was accepted
    decode      `speculate_tokens`, the loop, and what it measures
    gain        expected tokens per step, and when it pays

Sources: Stern et al. 2018, "Blockwise parallel decoding for deep autoregressive models"; Leviathan
et al. 2023, "Fast inference from transformers via speculative decoding" (arXiv:2211.17192); Chen et
al. 2023, "Accelerating large language model decoding with speculative sampling"
(arXiv:2302.01318); Miao et al. 2024, "SpecInfer" (arXiv:2305.09781).
"""

from reference.speculative.acceptance import Accepted, accept, probabilities, residual
from reference.speculative.decode import Speculation, Step, speculate_tokens
from reference.speculative.drafts import Draft, ModelDraft, PromptLookup, TreeDraft, early_exit
from reference.speculative.gain import break_even, expected_tokens, speed_up
from reference.speculative.tree import Tree
from reference.speculative.verify import TreeView, keep, run_tree

__all__ = [
    "Accepted",
    "Draft",
    "ModelDraft",
    "PromptLookup",
    "Speculation",
    "Step",
    "Tree",
    "TreeDraft",
    "TreeView",
    "accept",
    "break_even",
    "early_exit",
    "expected_tokens",
    "keep",
    "probabilities",
    "residual",
    "run_tree",
    "speculate_tokens",
    "speed_up",
]
