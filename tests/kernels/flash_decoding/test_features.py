"""kernels.flash_decoding: every feature with every other, on poisoned memory, against fp64."""

from itertools import combinations

import pytest
import torch
from decode_calls import LONGER, judge, make_call
from eight_bits import EIGHT_BITS
from pairwise import covering, pairs_of

LEVELS = {
    "causal": (True, False),
    "Lq": (1, 2, 5),
    "G": (1, 3, 4),
    "dims": ((16, 16), (40, 24), (32, 64)),  # D and Dv
    "dtype": (torch.float32, torch.float16, torch.bfloat16),
    "lengths": ("full", "ragged", "ragged int64"),
    "leftpad": (False, True),
    "window": (None, 0, 40 * LONGER, (70 * LONGER, 2), (None, 1)),
    "softcap": (None, 0.5, 30.0),
    "sinks": (None, torch.float32, torch.bfloat16),
    "alibi": (0, 1, 2),  # 0: none; otherwise the dimensions of alibi_slopes
    "mask": (None, (torch.bool, 2), (torch.bool, 3), (torch.float32, 2), (torch.bfloat16, 3)),
    "layout": ("rows", "batch_idx", 1, 12, 16, 64, 100, 128),  # a number: pages of that many keys
    "eight": (None, *EIGHT_BITS),
    "per": ("tensor", "head", "row", "token"),
    "splits": ("one", "three", "chosen", "size", "plan"),
}
SPLITS = {
    "one": {"num_splits": 1},
    "three": {"num_splits": 3},
    "chosen": {"num_sms": 40},
    "size": {"split_size": 128},
    "plan": {"planned": True},
}
CASES = covering(LEVELS)


def name_of(levels):
    """The levels that differ from the plain ones."""
    return "-".join(
        f"{name}={level}".replace("torch.", "").replace(" ", "")
        for name, level in levels.items()
        if level != LEVELS[name][0]
    )


def test_the_list_covers_all_pairs():
    seen = set().union(*map(pairs_of, CASES))
    for a, b in combinations(LEVELS, 2):
        for x in LEVELS[a]:
            for y in LEVELS[b]:
                assert ((a, repr(x)), (b, repr(y))) in seen
    assert len(CASES) < 70  # the two largest factors alone make 30


@pytest.mark.parametrize("levels", CASES, ids=name_of)
def test_every_pair_of_features(levels):
    judge(make_call(levels, seed=CASES.index(levels)), **SPLITS[levels["splits"]])
