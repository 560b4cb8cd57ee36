"""Wrong answers to exercise 13.2 in which something has too few bits, or o and lse too many.

NARROW has (name, what it says, changes of the right answer, where to read) of each.
"""

ROUNDING = "4 · What the rounding does"
CASTS = "8 · At the edges"

SCORES = "scale * (q @ k.float().T) * k_scale  # (G, Lk)"
NUMERATOR = "(p * v_scale) @ v.float()"
RETURNED = "return o, m + l.log()"
PRODUCT = "(q @ k.float().T)"

NARROW = [
    (
        "q in eight bits",
        "q is **cast to int8** to meet k: what is after the point is lost. Widen k instead, in the "
        "registers of the product.",
        [(PRODUCT, "(q.to(torch.int8).float() @ k.float().T)")],
        CASTS,
    ),
    (
        "q in eight bits, and q · k as well",
        "q is **cast to int8**, and the product stays in int8: what is after the point is lost, "
        "and a sum beyond 127 wraps around. Widen k instead.",
        [(PRODUCT, "(q.to(torch.int8) @ k.T)")],
        CASTS,
    ),
    (
        "q rounded",
        "q is **rounded to whole numbers** to meet k. It may be smaller than ½ everywhere. Widen k "
        "instead.",
        [("(q @", "(q.round() @")],
        CASTS,
    ),
    (
        "q in eight bits with a scale",
        "q is **quantised**, too, with a scale of its own. Only the cache has few bits here: what "
        "rounding does to q comes on top of all that it has done to K.",
        [("(q @", "((q / q.abs().amax(1, True) * 127).round() * q.abs().amax(1, True) / 127 @")],
        ROUNDING,
    ),
    (
        "the weights in eight bits",
        "The weights are **cast to int8** to meet v: they are fractions, and most become 0. Widen "
        "v instead.",
        [("(p * v_scale)", "(p * v_scale).to(torch.int8).float()")],
        CASTS,
    ),
    (
        "the weights in eight bits, and p · v as well",
        "The weights are **cast to int8**, and the product stays in int8: fractions become 0, and "
        "a sum beyond 127 wraps around. Widen v instead.",
        [(NUMERATOR, "((p * v_scale).to(torch.int8) @ v).float()")],
        CASTS,
    ),
    (
        "the scales in eight bits",
        "The scales are **cast to int8** to meet K: most of them become 0. The product is a float.",
        [(" * k_scale", " * k_scale.to(torch.int8)")],
        CASTS,
    ),
    (
        "all in fp64",
        "o and lse come in **fp64**. You may compute in it, but return both in fp32.",
        [(RETURNED, "return o.double(), (m + l.log()).double()")],
        "",
    ),
    (
        "o in fp64",
        "o comes in **fp64**. You may compute in it, but return fp32, as the lse is.",
        [(RETURNED, "return o.double(), m + l.log()")],
        "",
    ),
    (
        "the lse in fp64",
        "The lse comes in **fp64**. You may compute in it, but return fp32, as o is.",
        [(RETURNED, "return o, (m + l.log()).double()")],
        "",
    ),
]
for dtype, cast, bits in (("fp16", "half", 11), ("bf16", "bfloat16", 8)):
    only = "Only the cache has few bits; compute in fp32."
    near = {"fp16": "a thousandth", "bf16": "a hundredth"}[dtype]
    NARROW += [
        (
            f"q in {dtype}",
            f"q passes through **{dtype}**: {bits} bits of it are left. {only}",
            [("(q @", f"(q.{cast}().float() @")],
            ROUNDING,
        ),
        (
            f"a product in {dtype}",
            f"q · k is computed **in {dtype}**, or its result is rounded to that: {bits} bits are "
            f"left. {only}",
            [(PRODUCT, f"(q.{cast}() @ k.{cast}().T).float()")],
            ROUNDING,
        ),
        (
            f"a product in {dtype}, and what follows",
            f"q · k is computed **in {dtype}** and multiplied by the softmax's scale in it, too: "
            f"{bits} bits are left. {only}",
            [(PRODUCT, f"(q.{cast}() @ k.{cast}().T)")],
            ROUNDING,
        ),
        (
            f"scores in {dtype}",
            f"The scores pass through **{dtype}**: near 4 they are off by {near}, and so is every "
            f"weight. {only}",
            [(SCORES, f"(scale * (q @ k.float().T) * k_scale).{cast}().float()")],
            ROUNDING,
        ),
        (
            f"weights in {dtype}",
            f"The weights pass through **{dtype}** before they meet the values: {bits} bits are "
            f"left of each. {only}",
            [("(p * v_scale)", f"(p * v_scale).{cast}().float()")],
            ROUNDING,
        ),
        (
            f"weights and values in {dtype}",
            f"Weights times values are computed **in {dtype}**: {bits} bits are left of the "
            f"weights, and of the sum. {only}",
            [(NUMERATOR, f"((p * v_scale).{cast}() @ v.{cast}()).float()")],
            ROUNDING,
        ),
        (
            f"both products in {dtype}",
            f"Both products, q · k and p · v, are computed **in {dtype}**: {bits} bits are left of "
            f"q, the scores, the weights and o. {only}",
            [
                (PRODUCT, f"(q.{cast}() @ k.{cast}().T).float()"),
                (NUMERATOR, f"((p * v_scale).{cast}() @ v.{cast}()).float()"),
            ],
            ROUNDING,
        ),
    ]
