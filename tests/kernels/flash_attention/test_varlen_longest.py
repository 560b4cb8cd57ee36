"""max_seqlen_q and max_seqlen_k of packed attention: every form in which callers have them."""

from functools import partial

import numpy as np
import pytest
import torch
from gradients import leaves, random

import reference.flash_attention_varlen as twin
from kernels.flash_attention.op import backward_op, forward_op
from kernels.flash_attention.packed import measure
from kernels.flash_attention_varlen import flash_attention_varlen
from kernels.runtime import device

DEVICE = device()
BOTH = pytest.mark.parametrize(
    "attend", [flash_attention_varlen, twin.flash_attention_varlen], ids=["kernels", "reference"]
)


def inputs():
    """q, k, v of two sequences, 2 and 3 queries over 6 and 3 keys, and their cu_seqlens."""
    shapes = ((5, 2, 16), (9, 1, 16), (9, 1, 16))
    x = [random(*shape, device=DEVICE, seed=i) for i, shape in enumerate(shapes)]
    bounds = ([0, 2, 5], [0, 6, 9])
    return x, [torch.tensor(n, dtype=torch.int32, device=DEVICE) for n in bounds]


def longest(cu_seqlens):
    return cu_seqlens.diff().max()


FORMS = {
    "int": (3, 6),
    "numpy": (np.int32(3), np.int64(6)),
    "0-d tensors": (torch.tensor(3), torch.tensor(6, dtype=torch.int32)),
    "0-d arrays": (np.array(3), np.array(6)),
    "None": (None, None),
    "one None": (None, 6),
    "more than needed": (torch.tensor(70), np.int64(99)),
}


@BOTH
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_the_same_call(attend, form):
    found = []
    for lengths in ((3, 6), form):
        x, sequences = inputs()
        x = leaves(x)
        o = attend(*x, *sequences, *lengths, causal=True)
        found.append((o, *torch.autograd.grad(o.square().sum(), x)))
    assert all(map(torch.equal, *found))


REFUSED = {
    "a float": (TypeError, 3.0),
    "numpy, a float": (TypeError, np.float64(3.0)),
    "a bool": (TypeError, True),
    "numpy, a bool": (TypeError, np.bool_(True)),
    "text": (TypeError, "3"),
    "a 0-d tensor of floats": (TypeError, torch.tensor(3.0)),
    "a 0-d tensor of bools": (TypeError, torch.tensor(True)),
    "a tensor (1,)": (TypeError, torch.tensor([3])),
    "negative": (ValueError, -1),
    "negative, a 0-d tensor": (ValueError, torch.tensor(-1)),
}


@BOTH
@pytest.mark.parametrize("which", [0, 1], ids="qk")
@pytest.mark.parametrize(("error", "wrong"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_length_is_refused_by_name(attend, error, wrong, which):
    x, sequences = inputs()
    lengths = [3, 6]
    lengths[which] = wrong
    with pytest.raises(error, match=f"^max_seqlen_{'qk'[which]} must be "):
        attend(*x, *sequences, *lengths)


def test_too_large_for_a_grid():
    x, sequences = inputs()
    with pytest.raises(ValueError, match=r"max_seqlen_k must be .* below 2\^31; got 2147483648"):
        flash_attention_varlen(*x, *sequences, 3, 2**31)


def test_measured_lengths_are_never_more_than_there_is():
    for values, tokens, wanted in (
        ([0, 2, 9], 9, 7),
        ([0], 5, 0),
        ([0, 2**30], 9, 9),
        ([7, 0], 9, 0),
    ):
        cu_seqlens = torch.tensor(values, dtype=torch.int32, device=DEVICE)
        assert measure(cu_seqlens, tokens) == wanted
    x, _ = inputs()
    none = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    assert flash_attention_varlen(*(y[:0] for y in x), none, none, None, None).shape == (0, 2, 16)


def loss(q, k, v, cu_q, cu_k, how):
    lengths = {"measured in the graph": (longest(cu_q), longest(cu_k)), "None": (None, None)}[how]
    o, lse = flash_attention_varlen(2 * q, k, v, cu_q, cu_k, *lengths, causal=True, return_lse=True)
    return o.square().sum() + lse.sum()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("how", ["measured in the graph", "None"])
def test_one_graph_with_gradients(how, backend):
    x, sequences = inputs()
    run = partial(loss, how=how)
    compiled = torch.compile(run, fullgraph=True, backend=backend)
    found = []
    for f in (run, compiled):
        y = leaves(x)
        value = f(*y, *sequences)
        found.append((value, *torch.autograd.grad(value, y)))
    assert all(map(torch.equal, *found))
    with torch.no_grad():
        assert torch.equal(compiled(*x, *sequences), found[0][0])


def test_a_tensor_from_outside_the_graph_and_numbers_that_change():
    x, sequences = inputs()
    compiled = torch.compile(flash_attention_varlen, fullgraph=True, backend="aot_eager")
    wanted = flash_attention_varlen(*x, *sequences, 3, 6)
    for lengths in ((torch.tensor(3), torch.tensor(6)), (3, 6), (4, 7), (5, 8), (None, 6)):
        assert torch.equal(compiled(*x, *sequences, *lengths), wanted)


def test_numbers_read_in_the_graph():
    """With capture_scalar_outputs a number is a symbol that nothing bounds."""
    x, (cu_q, cu_k) = inputs()

    def run(q, k, v, cu_q, cu_k):
        lengths = longest(cu_q).item(), longest(cu_k).item()
        return flash_attention_varlen(q, k, v, cu_q, cu_k, *lengths)

    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(*x, cu_q, cu_k), run(*x, cu_q, cu_k))


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lax"])
def test_export(strict):
    class Attend(torch.nn.Module):
        def forward(self, q, k, v, cu_q, cu_k):
            return flash_attention_varlen(q, k, v, cu_q, cu_k, longest(cu_q), None)

    x, sequences = inputs()
    program = torch.export.export(Attend(), (*x, *sequences), strict=strict)
    wanted = flash_attention_varlen(*x, *sequences, 3, 6)
    assert torch.equal(program.module()(*x, *sequences), wanted)


def test_the_operators_keep_their_promises_without_maxima():
    x, sequences = inputs()
    rows = [y[None].contiguous() for y in x]
    settings = (*sequences, None, None, True, 0.3)
    torch.library.opcheck(forward_op, (*leaves(rows), *settings))
    o, lse = forward_op(*rows, *settings)
    torch.library.opcheck(backward_op, (torch.randn_like(o), None, *rows, o, lse, *settings))
