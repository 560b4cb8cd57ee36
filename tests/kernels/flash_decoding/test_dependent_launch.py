"""The merge is put in place while stage 1 still runs, where a GPU can do that, and waits there."""

import pytest
import torch
from decode_calls import DEVICE
from fake_cuda import FakeCuda

from kernels import compile_report, runtime
from kernels.call import KernelCall
from kernels.flash_decoding import flash_decode, launch
from kernels.flash_decoding.combine import combine_call


@pytest.fixture(scope="module")
def assembly():
    """PTX by stage and target."""
    rows = compile_report.run(r": (split bf16 D=64 G=8 Lq=1|combine bf16 D=64)$", arch=(80, 90))
    return {(row.name.split()[0], row.arch): row.ptx for row in rows}


def test_the_merge_waits_before_it_reads_anything(assembly):
    before = assembly["combine", 90].split("griddepcontrol.wait")
    assert len(before) == 2 and "ld.global" not in before[0] and "ld.global" in before[1]


def test_stage_1_says_that_it_runs_before_it_walks_over_the_keys(assembly):
    before = assembly["split", 90].split("griddepcontrol.launch_dependents")
    assert len(before) == 2 and "mma" not in before[0] and "mma" in before[1]


def test_older_gpus_have_no_such_instruction(assembly):
    assert not any("griddepcontrol" in ptx for (_, arch), ptx in assembly.items() if arch == 80)


@pytest.mark.parametrize(("capability", "wanted"), [((8, 9), False), ((9, 0), True)])
def test_which_gpus_can(monkeypatch, capability, wanted):
    fake = FakeCuda(capability=capability)
    monkeypatch.setattr(runtime, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", fake.get_device_capability)
    monkeypatch.setattr(torch.version, "hip", None)
    ask = runtime.has_dependent_launch.__wrapped__
    assert ask(torch.device("cuda", 0)) is wanted and not ask(torch.device("cpu"))
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert not ask(torch.device("cuda", 0))
    monkeypatch.setattr(runtime, "INTERPRETED", True)
    assert not ask(torch.device("cuda", 0))


@pytest.mark.parametrize("num_splits", [1, 3])
def test_it_is_asked_for_where_there_are_two_stages(monkeypatch, num_splits):
    """Alone, a kernel that told its successor to start would start whatever comes next."""
    asked = []

    def spy(make):
        def call(*args, pdl=False, **options):
            asked.append(pdl)
            return make(*args, **options)

        return call

    stages = [spy(stage) for stage in launch._stages()]
    monkeypatch.setattr(launch, "_stages", lambda: stages)
    monkeypatch.setattr(launch, "has_dependent_launch", lambda device: True)
    q, k = torch.randn(1, 1, 2, 16, device=DEVICE), torch.randn(1, 200, 1, 16, device=DEVICE)
    flash_decode(q, k, k.clone(), num_splits=num_splits)
    assert asked == ([False] if num_splits == 1 else [True, True])


def test_triton_gets_the_option_only_where_it_is_on():
    """AMD's compiler refuses an option that it does not know."""
    seen = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **options: seen.append(options)

    for on in (False, True):
        KernelCall(Kernel(), (1,), {}, launch_pdl=on).launch(torch.device("cpu"))
    assert "launch_pdl" not in seen[0] and seen[1]["launch_pdl"] is True


def test_a_merge_on_its_own_is_an_ordinary_launch():
    o = torch.empty(2, 3, 1, 2, 16)
    call = combine_call(o, o[..., 0].contiguous(), o[0].contiguous(), o[0, ..., 0].contiguous())
    assert not call.launch_pdl and call.args["PDL"] is False
