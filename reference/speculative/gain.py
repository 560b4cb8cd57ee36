"""What speculative decoding gains: tokens per pass, the cost of a pass, and where the two meet.

If each drafted token is accepted with probability α, independently, a draft of K tokens gives

    E = 1 + α + α² + … + α^K = (1 − α^(K+1)) / (1 − α)

tokens per pass: token i + 1 is there if the i before it were accepted. A pass over K + 1 tokens
takes `verify` times as long as a plain step, and each drafted token `draft` times. So

    speed-up = E / (verify + K · draft)

Source: Leviathan et al. 2023 (arXiv:2211.17192), equation 1 and theorem 3.8, where verify is 1.
"""

import math
from collections.abc import Sequence


def expected_tokens(alpha: float | Sequence[float], K: int | None = None) -> float:
    """Tokens per pass for a draft of K tokens, each accepted with probability alpha.

    alpha: one number with K ≥ 0; or without K one for each place, given that those before it were
    accepted. Raises ValueError for what is no probability, or K below 0.

    >>> expected_tokens(0.5, 3), expected_tokens([0.5, 0.5, 0.5])
    (1.875, 1.875)

    One token is certain, half the time there is a second, a quarter of the time a third.
    """
    if isinstance(alpha, int | float):
        if K is None or K < 0:
            raise ValueError(f"K must be at least 0 beside a single alpha; got {K}")
        alpha = [float(alpha)] * K
    elif K is not None:
        raise ValueError(f"give K or one alpha per place; got K = {K} and {len(alpha)} places")
    if not all(0 <= a <= 1 for a in alpha):
        raise ValueError(f"alpha must lie in 0…1; got {alpha}")
    reached, total = 1.0, 1.0
    for a in alpha:
        reached *= a
        total += reached
    return total


def speed_up(alpha: float, K: int, verify: float, draft: float = 0.0) -> float:
    """Plain steps' time / speculative time, per token.

    verify: the time of a pass over K + 1 tokens, draft: of drafting one token, both in plain steps.
    Raises ValueError for times that are not positive (draft may be 0), and as `expected_tokens`.

    >>> round(speed_up(0.8, 4, verify=1.0), 2), round(speed_up(0.8, 4, verify=1.2, draft=0.1), 2)
    (3.36, 2.1)
    """
    if not (verify > 0 and draft >= 0):
        raise ValueError(f"verify must be above 0, draft at least 0; got {verify} and {draft}")
    return expected_tokens(alpha, K) / (verify + K * draft)


def break_even(K: int, verify: float, draft: float = 0.0) -> float:
    """The acceptance from which a draft of K tokens pays; nan where even 1 would not be enough.

    >>> round(break_even(1, verify=1.3), 6), break_even(4, verify=5.5)
    (0.3, nan)

    One drafted token: 1 + α tokens for 1.3 steps. Five tokens at most don't pay for 5.5 steps.
    """
    if speed_up(1.0, K, verify, draft) < 1:
        return math.nan
    low, high = 0.0, 1.0
    if speed_up(low, K, verify, draft) >= 1:
        return low
    for _ in range(60):  # speed_up grows with alpha, so halving finds where it passes 1
        middle = (low + high) / 2
        low, high = (low, middle) if speed_up(middle, K, verify, draft) >= 1 else (middle, high)
    return high
