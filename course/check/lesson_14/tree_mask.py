"""Exercise 14.2: which slot of a tree sees which, and at which position it is."""

import torch

from course.check.draw import integer
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

TREE = "5 · A tree of drafts"


@right
def tree_mask(parents, start):
    slots = len(parents) + 1
    mask = torch.eye(slots, dtype=torch.bool)
    position = torch.full((slots,), start)
    for node, parent in enumerate(parents):
        mask[node + 1] |= mask[parent + 1]
        position[node + 1] = position[parent + 1] + 1
    return mask, position


@also_right
def by_climbing(parents, start):
    """From each node up to the root."""
    slots = len(parents) + 1
    mask = torch.zeros(slots, slots, dtype=torch.bool)
    position = []
    for node in range(-1, len(parents)):
        at, depth = node, 0
        mask[node + 1, 0] = True
        while at >= 0:
            mask[node + 1, at + 1] = True
            at, depth = parents[at], depth + 1
        position.append(start + depth)
    return mask, torch.tensor(position)


@also_right
def by_powers(parents, start):
    """Ancestors are parents of parents: powers of a matrix; the depth is how many there are."""
    slots = len(parents) + 1
    step = torch.eye(slots)
    for node, parent in enumerate(parents):
        step[node + 1, parent + 1] = 1
    mask = torch.matrix_power(step, slots) > 0
    return mask, start + mask.sum(1) - 1


def seen(answer, parents, start):
    """Ask for a tree, and compare with mask and positions of the module."""
    mask, position = tree_mask(parents, start)
    told = f"parents {parents}, start {start}"
    return Seen.of(
        answer, (list(parents), start), wanted=(mask, position), given=told,
        names=("mask", "position"),
    )  # fmt: skip


def random_parents(rng, n):
    return [integer(rng, -1, node - 1) for node in range(n)]


@holds("three nodes: a, b after a, and c beside a")
def by_hand(answer, rng):
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]).bool()
    return Seen.of(
        answer, ([-1, 0, -1], 10), wanted=(mask, torch.tensor([10, 11, 12, 11])),
        given="parents [-1, 0, -1], start 10", names=("mask", "position"),
    )  # fmt: skip


@holds("one branch: the causal mask, and positions one after the other")
def a_chain(answer, rng):
    return seen(answer, list(range(-1, integer(rng, 2, 5))), integer(rng, 3, 9))


@holds("all nodes follow the text directly: they don't see each other")
def a_star(answer, rng):
    return seen(answer, [-1] * integer(rng, 3, 6), integer(rng, 3, 9))


@holds("no node at all: the root alone")
def only_the_root(answer, rng):
    return seen(answer, [], integer(rng, 1, 9))


@holds("the lesson's tree, in which a word stands at two places")
def cat_and_dog(answer, rng):
    return seen(answer, [-1, 0, 1, 1, 0, -1, 5], 7)


@holds("deep and wide trees, at the start of a text and far into it")
def random_trees(answer, rng):
    return [
        seen(answer, random_parents(rng, 9), 0),
        seen(answer, random_parents(rng, 14), integer(rng, 100, 1000)),
    ]


slip(
    "causal",
    "The mask is the **causal** one: a slot sees all slots before it. In a tree it may only see "
    "those on its own path.",
    ("    return mask, position", "    return torch.ones(slots, slots).tril().bool(), position"),
)
slip(
    "all of it",
    "Every slot sees **every slot**. A node sees itself and its ancestors.",
    ("    return mask, position", "    return torch.ones_like(mask), position"),
)
slip(
    "transposed",
    "Rows and columns are **swapped**: row i says what slot i sees, so ancestors are in the row of "
    "the descendant.",
    ("    return mask, position", "    return mask.T.contiguous(), position"),
)
slip(
    "parents only",
    "A node sees its **parent, but not the parent's ancestors**. It follows all of them: take over "
    "the parent's whole row.",
    ("mask[node + 1] |= mask[parent + 1]", "mask[node + 1, parent + 1] = True"),
)
slip(
    "not itself",
    "A slot does not see **itself**. The last key that a query sees is its own.",
    ("    return mask, position", "    return mask & ~torch.eye(slots).bool(), position"),
)
slip(
    "not the root",
    "The nodes don't see the **root**, slot 0. It is the newest token of the text, and its keys "
    "come with this pass, not from the cache.",
    ("    return mask, position", "    mask[1:, 0] = False\n    return mask, position"),
)
slip(
    "inverted",
    "True and False are **swapped**: True marks what may be seen.",
    ("    return mask, position", "    return ~mask, position"),
)
slip(
    "no slot for the root",
    "The root is **missing**: n nodes have n + 1 slots.",
    ("    return mask, position", "    return mask[1:, 1:], position[1:]"),
)
slip(
    "nodes taken for slots",
    "Parents are counted as **nodes**, and used as slots. Node i is in slot i + 1, and the parent "
    "−1 is slot 0, not the last one.",
    ("mask[parent + 1]", "mask[parent]"),
    ("position[parent + 1]", "position[parent]"),
)
slip(
    "numbers added",
    "The mask holds **numbers**, not True and False: `flash_decode` would add them to the scores.",
    ("    return mask, position", "    return mask.float(), position"),
)
slip(
    "slots as positions",
    "Positions count **slots**. Two nodes of one depth are at the same distance from the text, "
    "whichever slots they are in.",
    ("position[node + 1] = position[parent + 1] + 1", "position[node + 1] = start + node + 1"),
)
slip(
    "depth alone",
    "Positions are **depths, without the text before**: the root is at `start`.",
    ("torch.full((slots,), start)", "torch.zeros(slots, dtype=torch.int64)"),
)
slip(
    "one too far",
    "Every position is **one too large**: the root itself is at `start`.",
    ("torch.full((slots,), start)", "torch.full((slots,), start + 1)"),
)
slip(
    "all at the root",
    "All slots are at the **same position** as the root. A node is one further than its parent.",
    ("position[parent + 1] + 1", "position[parent + 1]"),
)
slip(
    "one after the root",
    "All nodes are **one** further than the root, however deep they are. Count from the parent.",
    ("position[node + 1] = position[parent + 1] + 1", "position[node + 1] = start + 1"),
)
slip(
    "position in fp32",
    "Positions come as **fp32**. They index a table of angles: they must be integers.",
    ("    return mask, position", "    return mask, position.float()"),
)
slip(
    "as a list",
    "Positions come as a **list**. Asked for is a tensor.",
    ("    return mask, position", "    return mask, position.tolist()"),
)
slip(
    "the mask alone",
    "Only the **mask** is returned. The positions belong to it: return both.",
    ("    return mask, position", "    return mask"),
)


@mistake(
    "**Siblings see each other.** They are different answers to the same question; only one of "
    "them can be in the text.",
    name="siblings",
)
def siblings(parents, start):
    mask, position = tree_mask(parents, start)
    for node, parent in enumerate(parents):
        for other in range(node):
            if parents[other] == parent:
                mask[node + 1, other + 1] = True
    return mask, position


@mistake(
    "A node sees all slots **of smaller depth**. Depth does not make an ancestor: follow the "
    "parents.",
    name="by depth",
)
def by_depth(parents, start):
    mask, position = tree_mask(parents, start)
    return mask | (position[None, :] < position[:, None]), position


@mistake(
    "A node also sees its **descendants**. They come later in the text: it must not.",
    name="both ways",
)
def both_ways(parents, start):
    mask, position = tree_mask(parents, start)
    return mask | mask.T, position


TREE_MASK = Exercise.of(
    __name__,
    "14.2 tree mask",
    title="The mask of a tree",
    section=TREE,
)
