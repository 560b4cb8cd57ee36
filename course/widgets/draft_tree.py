"""A tree of drafts, and what the model would say: which path is accepted, and how many tokens."""

from __future__ import annotations

import ipywidgets
import torch

from course.figures.speculative_decoding import draft_tree as draft_tree_figure
from course.widgets.explorer import Choice, View, explorer
from reference.speculative import Tree, accept

PATHS = (("cat", "sat", "down"), ("cat", "sat", "still"), ("cat", "ran"), ("dog", "sat"))
ALL = ("cat", "dog", "sat", "ran", "down", "still", "slept")
START = {"first": "cat", "second": "ran", "third": "down"}


def draft_tree_view(*, first: str, second: str, third: str) -> View:
    """The tree of four drafts after "the", if the model at temperature 0 says these words in turn.

    >>> draft_tree_view(first="cat", second="ran", third="down").sentence
    'The model says: cat ran down. Accepted: cat ran, and down is new: 3 tokens for one pass.'
    """
    tree = Tree.of_paths(PATHS)
    says = [ALL.index(word) for word in (first, second, third)]
    # What the model says depends on how far the text is: a row of logits for each depth.
    logits = torch.zeros(len(tree) + 1, len(ALL))
    for slot, depth in enumerate((0, *tree.depths)):
        logits[slot, says[depth] if depth < len(says) else ALL.index("slept")] = 1.0
    numbered = Tree(tuple(ALL.index(word) for word in tree.tokens), tree.parents)
    path, token = accept(numbered, logits)
    said = f"the model says: {first}, {second}, {third}"
    figure = draft_tree_figure(tree, tree.tokens, "the", path, said)
    kept = " ".join(tree.tokens[node] for node in path)
    accepted = f"Accepted: {kept}, and" if path else "Nothing is accepted, but"
    tokens = "1 token" if not path else f"{len(path) + 1} tokens"
    return View(
        figure,
        f"The model says: {first} {second} {third}. {accepted} {ALL[token]} is new: {tokens} for "
        "one pass.",
    )


def draft_tree() -> ipywidgets.VBox:
    """Controls for `draft_tree_view`."""
    labels = {"first": "the …", "second": "then …", "third": "then …"}
    return explorer(
        draft_tree_view,
        **{name: Choice(label, ALL, START[name]) for name, label in labels.items()},
    )
