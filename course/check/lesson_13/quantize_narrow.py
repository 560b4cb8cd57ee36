"""Wrong answers to exercise 13.1 in which something has too few bits.

NARROW has (name, what it says, changes of the right answer) of each.
"""

LARGEST = "x.abs().amax(-1)  # (B, Lk, Hkv)"
SCALE = "torch.where(largest == 0, 1.0, largest / 127)"
QUOTIENT = "(x / scale[..., None])"
WHOLE = "y.clamp(-127, 127).to(torch.int8)"
RETURNED = "return " + WHOLE + ", scale"
IN_FP32 = "    x = x.float()\n"

NARROW = [
    (
        "scales in fp16",
        "The scale comes in **fp16**. Two bytes are saved per token and head, and every number of "
        "the token gets an error of its own from that. Here it is fp32.",
        [(RETURNED, RETURNED + ".half()")],
    ),
    (
        "scales through fp16",
        "The scale has been **rounded to fp16** on its way. It has 11 bits then, and all numbers "
        "of the token are off. Compute it in fp32.",
        [(SCALE, SCALE + ".half().float()")],
    ),
    (
        "in the dtype of x",
        "The scale comes in **the dtype of x**. Of fp16 or bf16 input it must be fp32, too: "
        "convert x first.",
        [(IN_FP32, "")],
    ),
    (
        "returned in the dtype of x",
        "The scale is computed in fp32, but **returned in the dtype of x**. Of fp16 or bf16 input "
        "it must be fp32, too: return it as x was divided by it.",
        [(IN_FP32, "    dtype = x.dtype\n" + IN_FP32), (RETURNED, RETURNED + ".to(dtype)")],
    ),
    (
        "cast to the dtype of x",
        "The scale is computed in fp32, and then **cast to the dtype of x** before x is divided by "
        "it. Of fp16 or bf16 input it must be fp32, too: leave it as it is.",
        [(IN_FP32, "    dtype = x.dtype\n" + IN_FP32), (SCALE, SCALE + ".to(dtype)")],
    ),
    (
        "computed in the dtype of x",
        "The scale is fp32, but it was **computed in the dtype of x**, and rounded to its few "
        "bits. Convert x first.",
        [(IN_FP32, ""), ("largest / 127)", "largest / 127).float()")],
    ),
    (
        "divided in the dtype of x",
        "The scale is fp32, but **the quotient** is computed in the dtype of x: near 100, "
        "bf16 has only whole and half numbers. Convert x first.",
        [
            (IN_FP32, ""),
            (LARGEST, "x.float().abs().amax(-1)  # (B, Lk, Hkv)"),
            ("x / scale[..., None]", "x / scale[..., None].to(x.dtype)"),
        ],
    ),
]
