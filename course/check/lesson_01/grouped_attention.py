"""Exercise 1.3: grouped-query attention that repeats neither K nor V."""

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.check.compare import complain
from course.check.draw import integer
from course.check.observe import tensors_in
from course.check.seen import Seen
from course.check.spec import Exercise, also_right, holds, mistake, right, slip

SCALE = "1 · One query, four keys"
D = 16
# fp32, values up to about 4: a score is a sum of at most 32 products, an output one of at most 24
# weights, and either may be off by eps times its number of terms.
TOLERANCE = 4 * (32 + 24) * torch.finfo(torch.float32).eps


@right
def grouped_attention(q, k, v):
    Hkv = k.shape[2]
    grouped = q.unflatten(2, (Hkv, q.shape[2] // Hkv))  # (B, Lq, Hkv, G, D), a view
    scores = q.shape[-1] ** -0.5 * torch.einsum("bqhgd,bkhd->bhgqk", grouped, k)
    p = torch.softmax(scores, dim=-1)  # (B, Hkv, G, Lq, Lk)
    return torch.einsum("bhgqk,bkhd->bqhgd", p, v).flatten(2, 3)


@also_right
def by_matmul(q, k, v):
    """The rows of a group stacked, one matrix product per KV head."""
    B, Lq, Hq, width = q.shape
    Hkv, G = k.shape[2], Hq // k.shape[2]
    rows = q.reshape(B, Lq, Hkv, G, width).permute(0, 2, 3, 1, 4).reshape(B, Hkv, G * Lq, width)
    p = torch.softmax(rows @ k.permute(0, 2, 3, 1) * width**-0.5, dim=-1)
    o = (p @ v.permute(0, 2, 1, 3)).reshape(B, Hkv, G, Lq, v.shape[3])
    return o.permute(0, 3, 1, 2, 4).reshape(B, Lq, Hq, v.shape[3])


def one_by_one(q, k, v):
    """What is wanted, head by head in fp64 and rounded at the end."""
    G, heads = q.shape[2] // k.shape[2], []
    for h in range(q.shape[2]):
        one_q, one_k, one_v = q[:, :, h].double(), k[:, :, h // G].double(), v[:, :, h // G]
        scores = one_q @ one_k.transpose(1, 2) / math.sqrt(q.shape[3])
        p = torch.exp(scores - scores.amax(-1, keepdim=True))  # softmax would wake all threads
        heads.append(p @ one_v.double() / p.sum(-1, keepdim=True))
    return torch.stack(heads, 2).float()


def draw(rng, Lq, Hq, Hkv, Lk=9, D=D, B=2):
    q = torch.randn(B, Lq, Hq, D, generator=rng)
    return q, *(torch.randn(B, Lk, Hkv, D, generator=rng) for _ in "kv")


def seen(answer, q, k, v, where=""):
    given = f"q {tuple(q.shape)}, k and v {tuple(k.shape)}{where}"
    wanted = one_by_one(q, k, v)
    return Seen.of(answer, (q, k, v), wanted=wanted, given=given, atol=TOLERANCE, rtol=0)


@holds("Hkv = Hq, every head has its own keys")
def no_sharing(answer, rng):
    return seen(answer, *draw(rng, Lq=1, Hq=4, Hkv=4))


@holds("Hkv = 1, all heads share")
def one_for_all(answer, rng):
    return seen(answer, *draw(rng, Lq=1, Hq=4, Hkv=1))


@holds("G = 4 and G = 3: head h reads KV head h // G")
def groups(answer, rng):
    return [seen(answer, *draw(rng, 1, Hq, Hkv)) for Hq, Hkv in ((8, 2), (6, 2), (12, 4), (6, 3))]


@holds("Lq = 3")
def several_queries(answer, rng):
    return seen(answer, *draw(rng, Lq=3, Hq=8, Hkv=2))


@holds("other B, D and Lk; more queries than keys; one key")
def other_sizes(answer, rng):
    Dim, G, Hkv = 2 * integer(rng, 9, 15) + 1, integer(rng, 2, 5), integer(rng, 2, 3)
    return [
        seen(answer, *draw(rng, 5, G * Hkv, Hkv, integer(rng, 2, 4), Dim, 3)),
        seen(answer, *draw(rng, 2, 3 * G, 3, 1, integer(rng, 2, 5), 1)),
    ]


@holds("scores of a thousand")
def large_scores(answer, rng):
    """Small integers times a power of two: the scores are exact in fp32."""
    q, k, v = draw(rng, 2, 6, 2)
    return seen(answer, 512 * q.round(), k.round(), v, ", multiplied by 512")


@holds("k and v are slices of something longer")
def part_of_a_cache(answer, rng):
    q, k, v = draw(rng, Lq=2, Hq=8, Hkv=2, Lk=12)
    k[:, 7:], v[:, 7:] = math.nan, math.nan
    return seen(answer, q, k[:, :7], v[:, :7], ", the first 7 of 12 rows; the others are NaN")


class Made(TorchDispatchMode):
    """Record the largest tensor that any operation makes, and how much it copies of k and v."""

    def __init__(self, k, v):
        super().__init__()
        self.numbers = torch.cat([k.flatten(), v.flatten()])
        self.largest = self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for _, t in tensors_in((args, kwargs or {}))}
        for _, t in tensors_in((made,)):
            self.largest = max(self.largest, t.untyped_storage().nbytes() // t.element_size())
            view = t.untyped_storage().data_ptr() in given and not func._schema.is_mutable
            copy = not view and t.is_floating_point() and "empty" not in str(func)
            if copy and torch.isin(t.float(), self.numbers).all():
                self.copied += t.numel()
        return made


@holds("k and v are not copied G times, nor head by head")
def nothing_repeated(answer, rng):
    q = torch.randn(1, 1, 16, 32, generator=rng)
    k, v = torch.randn(2, 1, 24, 2, 32, generator=rng).unbind(0)
    k, v = k.clone(), v.clone()  # each with its own storage
    with Made(k, v) as made:
        o = answer(q, k, v)
    correct = Seen(o, one_by_one(q, k, v), "G = 8", atol=TOLERANCE, rtol=0)
    if complain(correct):  # how it was computed matters only once it is right
        return correct
    given = f"k and v of {k.numel()} numbers each, G = 8; the largest tensor on the way has "
    copied = made.copied - 2 * k.numel()  # the frame copied k and v to see whether they change
    given += f"{made.largest}, and {copied} numbers of k and v were copied in all"
    # each may be copied to a new layout once or twice; scores and q are smaller than k here
    few = made.largest <= 2 * k.numel() and copied <= 4 * k.numel()
    return Seen("no copies" if few else "copies", "no copies", given)


slip(
    "dealt like cards",
    "Query head h is paired with KV head **h % Hkv**. Heads that share are neighbours: "
    "the first G query heads read KV head 0, the next G read KV head 1.",
    ("(Hkv, q.shape[2] // Hkv)", "(q.shape[2] // Hkv, Hkv)"),
    ("bqhgd", "bqghd"),
)
slip(
    "split in another order",
    "The heads of q are split as **(G, Hkv)**, but neighbours share a KV head: the index "
    "within the group varies fastest, so the split is (Hkv, G).",
    ("(Hkv, q.shape[2] // Hkv)", "(q.shape[2] // Hkv, Hkv)"),
    ('"bqhgd', '"bqghd'),
)
slip(
    "joined in another order",
    "Each head is computed correctly, but at the end **G and Hkv are joined in the other "
    "order**, so the heads come out shuffled: join (Hkv, G), as they were split.",
    ("->bqhgd", "->bqghd"),
)
slip(
    "k and v repeated",
    "The numbers are right, but on the way k or v was **copied for every query head**, all at "
    "once or one after another, or multiplied entry by entry into something as large. That throws "
    "away the saving of GQA: give q the extra dimension instead.",
    ("    Hkv =", "    G = q.shape[2] // k.shape[2]\n    Hkv ="),
    ("    Hkv =", "    k, v = k.repeat_interleave(G, 2), v.repeat_interleave(G, 2)\n    Hkv ="),
)
slip(
    "not scaled",
    "This is what you get **without the scale**: multiply the scores by 1/√D before the softmax.",
    ("q.shape[-1] ** -0.5 * ", ""),
    see=SCALE,
)
slip(
    "scaled by 1/D",
    "The scores are divided by **D instead of √D**: the spread of a dot product grows "
    "with the square root of its length.",
    ("-0.5", "-1.0"),
    see=SCALE,
)
slip(
    "multiplied by the root",
    "The scores are **multiplied by √D**: they have to be divided by it, since a sum of D products "
    "is larger, not smaller, than one.",
    ("-0.5", "0.5"),
    see=SCALE,
)
slip(
    "scaled by the heads",
    "The scores are divided by **√Hq instead of √D**: each score is a sum of D products, "
    "however many heads there are.",
    ("q.shape[-1]", "q.shape[2]"),
    see=SCALE,
)


@mistake(
    "In the matrix product k is stretched along **the KV heads instead of their members**: with "
    "shapes (B, Hkv, G, …) for q and (B, 1, Hkv, …) for k, G meets Hkv. The 1 belongs where q has "
    "G. (torch's matmul would copy k for it, though: join G and Lq to rows first.)"
)
def stretched_along_the_heads(q, k, v):
    (B, Lq, Hq, width), Hkv = q.shape, k.shape[2]
    members = q.reshape(B, Lq, Hkv, Hq // Hkv, width).permute(0, 2, 3, 1, 4)
    p = torch.softmax(members @ k.permute(0, 2, 3, 1)[:, None] * width**-0.5, dim=-1)
    o = p @ v.permute(0, 2, 1, 3)[:, None]
    return o.permute(0, 3, 1, 2, 4).reshape(B, Lq, Hq, width)


slip(
    "rows read in another order",
    "With one query all is right; with several, the rows of a group were stacked as **(G, Lq) and "
    "taken apart as (Lq, G)**. Take them apart as they were put together.",
    ("Hkv, G, Lq, v.shape[3])", "Hkv, Lq, G, v.shape[3])"),
    ("permute(0, 3, 1, 2, 4).reshape(B, Lq, Hq, v", "permute(0, 2, 1, 3, 4).reshape(B, Lq, Hq, v"),
    of=by_matmul,
)
slip(
    "scaled after the softmax",
    "The scale comes **after the softmax** and only makes the output smaller. Scale the "
    "scores, before it.",
    ("q.shape[-1] ** -0.5 * ", ""),
    ("torch.softmax", "q.shape[-1] ** -0.5 * torch.softmax"),
    see=SCALE,
)
slip(
    "masked",
    "This is attention with a **causal mask**. The task asks for none: every query sees every key.",
    ("    p =", "    future = 1 + k.shape[1] - q.shape[1]\n    p ="),
    ("(scores,", "(scores + torch.full(scores.shape[-2:], -math.inf).triu(future),"),
)
slip(
    "softmax over the queries",
    "The softmax runs over the **queries** instead of the keys. For each query the "
    "weights of all keys must add up to 1.",
    ("dim=-1", "dim=-2"),
    see="4 · Many queries, and what each may see",
)
slip(
    "not moved back",
    "Each head is right on its own, but with several queries the result is **reshaped "
    "without moving dimensions first**, which mixes up heads and queries.",
    ("->bqhgd", "->bhgqd"),
    ("flatten(2, 3)", "reshape(q.shape)"),
)
slip(
    "exp as it is",
    "Large scores go into exp **as they are** and overflow there. `torch.softmax` subtracts each "
    "row's maximum first.",
    ("torch.softmax(scores, dim=-1)", "torch.exp(scores)"),
    ("p, v)", "p / p.sum(-1, keepdim=True), v)"),
    see="2 · When exp overflows",
)
slip(
    "no softmax",
    "The scores are used as weights **without softmax**.",
    ("torch.softmax(scores, dim=-1)", "scores"),
)
slip(
    "not divided",
    "The weights are exponentials **not divided by their sum**.",
    ("torch.softmax(scores, dim=-1)", "torch.exp(scores)"),
)
for root in (4, 8):
    slip(
        f"√{root**2} for every D",
        f"The scores are divided by **{root}**, whatever D is: take it from the shape of q.",
        ("q.shape[-1] ** -0.5", f"1 / {root}"),
        see=SCALE,
    )
slip(
    "scaled by the keys",
    "The scores are divided by the root of the **number of keys** instead of √D.",
    ("q.shape[-1]", "k.shape[1]"),
    see=SCALE,
)
slip(
    "masked top-left",
    "This is attention with a **causal mask**, and a top-left one: query i sees keys 0 to i. The "
    "task asks for no mask.",
    ("    p =", "    future = torch.full(scores.shape[-2:], -math.inf).triu(1)\n    p ="),
    ("(scores,", "(scores + future,"),
)
slip(
    "one KV head for all",
    "All query heads read **KV head 0**. Each group of G has a KV head of its own.",
    ("    scores", "    k, v = k[:, :, :1].expand_as(k), v[:, :, :1].expand_as(v)\n    scores"),
)
slip(
    "groups in reverse",
    "The groups read the KV heads **from the last to the first**.",
    ("    scores", "    k, v = k.flip(2), v.flip(2)\n    scores"),
)
slip(
    "keys summed",
    "The weighted sum runs over the **keys**: what a query reads are the values.",
    ("p, v)", "p, k)"),
)
slip(
    "keys and values swapped",
    "**k and v are swapped**: queries are compared with keys, values are summed.",
    ("grouped, k)", "grouped, v)"),
    ("p, v)", "p, k)"),
)
for name, kept in (("first", "1:"), ("last", ":-1")):
    slip(
        f"{name} key left out",
        f"The **{name} key** is left out: every query reads all Lk of them.",
        ("    scores", f"    k, v = k[:, {kept}], v[:, {kept}]\n    scores"),
    )
slip(
    "groups not joined",
    "The heads are still split into **(Hkv, G)**: o has the shape of q.",
    (".flatten(2, 3)", ""),
)
slip(
    "heads before queries",
    "The heads come **before the queries** in o. Its dimensions are those of q: B, Lq, Hq, D.",
    ("->bqhgd", "->bhgqd"),
    ("flatten(2, 3)", "flatten(1, 2)"),
)
slip(
    "in double",
    "The numbers are right, but in **fp64**: o has the dtype of q.",
    ("flatten(2, 3)", "flatten(2, 3).double()"),
)

GROUPED_ATTENTION = Exercise.of(
    __name__,
    "1.3 grouped attention",
    title="Grouped-query attention without a copy",
    section="5 · Heads, and how they share",
)
