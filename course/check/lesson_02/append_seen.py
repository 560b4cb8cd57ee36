"""What exercise 2.1 sees of one call: how it ended, every cell, and what was returned."""

import torch

from course.check.guards import guarded, poisoned
from course.check.seen import Seen, copied

ACCEPTED, REFUSED = "no error: all tokens fit", "a ValueError"


def filled(rng, name, shape, lengths):
    """A cache filled up to the lengths, NaN after them and around it; a copy of what is in it."""
    cache = poisoned(shape, name=name, row_gap=3)
    for b, length in enumerate(lengths):
        cache.tensor[b, :length] = torch.randn(length, *shape[2:], generator=rng)
    return cache, cache.tensor.clone()


def seen(answer, rng, lengths, Ln, capacity, Hkv=1, D=2, dtype=torch.int64):
    """Append Ln tokens to rows of these lengths: was it refused, the cells, the lengths.

    Each is a separate observation, so that a message shows the one that differs; for a cache,
    the first difference in words, and then the whole cache, which tells mistakes apart.
    """
    B, names, shape = len(lengths), ("k", "v"), (len(lengths), capacity, Hkv, D)
    caches = [filled(rng, f"{name}_cache", shape, lengths) for name in names]
    new = [guarded(torch.randn(B, Ln, Hkv, D, generator=rng), name, row_gap=3) for name in names]
    fits = max(lengths) + Ln <= capacity
    given = f"lengths {lengths}, {Ln} new, capacity {capacity}, Hkv = {Hkv}, D = {D}"
    before = torch.tensor(lengths, dtype=dtype)
    inputs = {"k": new[0].tensor, "v": new[1].tensor, "lengths": before}
    kept = copied(inputs)
    args = (*(cache.tensor for cache, _ in caches), *inputs.values())
    end, result, how = call(answer, args, fits, given)
    found = [Seen(end, ACCEPTED if fits else REFUSED, given + how)]
    for i, (cache, old) in enumerate(caches):
        wanted = old.clone()
        for b, length in enumerate(lengths if fits else []):
            wanted[b, length : length + Ln] = kept[names[i]][b]
        got_words, wanted_words = first_difference(cache, old, wanted, [kept[x] for x in names])
        found.append(Seen(got_words, wanted_words, given))
        guards = (cache, new[i])
        found.append(Seen(cache.tensor, wanted, given, atol=0.0, rtol=0.0, guards=guards))
    given += "; what was given, afterwards"
    found += [Seen({name: x}, {name: kept[name]}, given) for name, x in inputs.items()]
    if result is not None and fits:
        found.append(returned(result, kept["lengths"] + Ln))
    return found


def returned(result, wanted):
    """The new lengths: integers of whatever width."""
    of_floats = isinstance(result, torch.Tensor) and result.dtype.is_floating_point
    given = "what is returned"
    return Seen({"new lengths": result}, {"new lengths": wanted}, given, any_dtype=not of_floats)


def call(answer, args, fits, given):
    """Call the answer: how it ended, in words, what it returned, and any other error it raised."""
    try:
        result = answer(*args)
    except ValueError:
        return "a ValueError, though all tokens fit" if fits else REFUSED, None, ""
    except Exception as error:
        known = (AssertionError, IndexError, RuntimeError)
        if fits or isinstance(error, NotImplementedError) or not isinstance(error, known):
            error.add_note(given)
            raise
        return "another kind of error", None, f"; it raised {type(error).__name__}"
    return ACCEPTED if fits else "no error, though there is no room", result, ""


def first_difference(cache, old, wanted, new):
    """The first wrong cell (row, place) of a cache: what is in it, and what should be.

    old: the cache as it was; new: k and v.
    """
    got = cache.tensor
    astray = ~((got == wanted) | (got.isnan() & wanted.isnan())).flatten(2).all(-1)
    if not bool(astray.any()):
        return cache.name, cache.name
    b, p = astray.nonzero()[0].tolist()
    if torch.equal(old[b, p].nan_to_num(99.0), wanted[b, p].nan_to_num(99.0)):
        should = "what was there before" if not old[b, p].isnan().any() else "left untouched"
    else:
        should = content(wanted[b, p], new)
    where = f"{cache.name}, row {b}, place {p}: "
    return where + content(got[b, p], new), where + should


def content(cell, new):
    """Say which of the new tokens lies in a cell (Hkv, D)."""
    if bool(cell.isnan().all()):
        return "never written"
    for name, tokens in zip(("k", "v"), new, strict=True):
        for b, i in (tokens == cell).flatten(2).all(-1).nonzero().tolist():
            return f"{name}[{b}, {i}]"
    return "none of the new tokens"
