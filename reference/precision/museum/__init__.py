"""A museum of bugs: each was in public code, and is rebuilt here as small as it can be.

A `Piece` has a broken and a mended version of one function, an input that tells them apart, the
truth in fp64, and where it was reported. The functions are written for this course; no code is
taken from the projects. Every one of these bugs passed the tests of its project, and most of them
gave plausible numbers: none is a typo that the first run would have shown.

    scoring   from scores to weights          reading    which number is where
    merging   from partials to the answer     batching   what a row owes to the other rows
"""

from reference.precision.museum.batching import BATCHING
from reference.precision.museum.merging import MERGING
from reference.precision.museum.piece import Piece
from reference.precision.museum.reading import READING
from reference.precision.museum.scoring import SCORING

PIECES = (*SCORING, *READING, *MERGING, *BATCHING)
MUSEUM: dict[str, Piece] = {piece.name: piece for piece in PIECES}

__all__ = ["MUSEUM", "Piece"]
