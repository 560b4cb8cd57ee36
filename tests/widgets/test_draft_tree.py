"""The tree of drafts: what is framed and said follows the words that the model says."""

import doctest
import itertools
import sys

import pytest

from course.widgets import draft_tree
from course.widgets.draft_tree import ALL, PATHS, START, draft_tree_view
from course.widgets.explorer import page
from reference.speculative import Tree

MODULE = sys.modules["course.widgets.draft_tree"]
TREE = Tree.of_paths(PATHS)


def framed(view) -> list[str]:
    nodes = [text for text in view.figure.axes[0].texts if text.get_bbox_patch()]
    return [text.get_text() for text in nodes if text.get_bbox_patch().get_linewidth() > 1]


def followed(words: tuple[str, ...]) -> list[str]:
    """The words that are in the tree, one after the other from its root."""
    beginnings = {path[:n] for path in PATHS for n in range(1, len(path) + 1)}
    return list(max(({*beginnings} & {words[:n] for n in range(1, 4)}) | {()}, key=len))


@pytest.mark.parametrize("words", [*itertools.product(ALL[:3], ALL[2:4], ALL[3:6])])
def test_the_accepted_path_is_the_one_that_the_model_says(words):
    view = draft_tree_view(**dict(zip(START, words, strict=True)))
    path = followed(words)
    assert framed(view) == (["the", *path] if path else [])
    count = len(path) + 1
    assert f"{count} token{'s' * (count > 1)} for one pass" in view.sentence
    assert view.sentence.startswith(f"The model says: {' '.join(words)}.")
    following = (*words, "slept")[len(path)]
    assert f"{following} is new" in view.sentence


def test_moving_a_control_changes_the_page():
    *made, shown = draft_tree().children
    assert shown.value == page(draft_tree_view(**START))
    for control, name in zip(made, START, strict=True):
        before = shown.value
        control.value = "slept"
        assert shown.value != before, name
    assert "Nothing is accepted, but slept is new: 1 token for one pass." in shown.value


def test_every_word_of_the_tree_can_be_chosen():
    assert {*TREE.tokens} < {*ALL}


def test_doctests():
    results = doctest.testmod(MODULE)
    assert results.attempted and not results.failed
