"""kernels.compile_report.targets: what fits on an SM, against published figures."""

from dataclasses import replace

import pytest

from kernels.compile_report.targets import TARGETS, target
from kernels.devices import DEVICES


@pytest.mark.parametrize(("arch", "name"), [(80, "sm_80"), ("100", "sm_100"), ("sm_75", "sm_75")])
def test_a_target_has_several_names(arch, name):
    assert target(arch).name == name
    assert target(arch).arch == int(name[3:])


def test_amd_goes_by_its_own_name():
    assert target("gfx942").arch == "gfx942" and target("gfx942").is_amd
    assert target("gfx942").warp_size == 64 and target(80).warp_size == 32
    with pytest.raises(ValueError, match=r"one of sm_75, .*gfx942; got 81"):
        target(81)


@pytest.mark.parametrize(("warps", "blocks"), [(4, 12), (10, 4)])
def test_the_example_of_the_best_practices_guide(warps, blocks):
    """NVIDIA, "CUDA C++ Best Practices Guide", "Calculating occupancy": 37 registers, 64 warps.

    12 blocks of 128 threads (75 %) or four of 320 (63 %), with the same registers per thread.
    """
    sm_70 = replace(target(80), shared_granule=256, shared_reserved=0)
    assert sm_70.resident_blocks(registers=37, shared_bytes=0, num_warps=warps) == blocks


@pytest.mark.parametrize(
    ("arch", "full"), [(75, 8), (80, 16), (86, 12), (89, 12), (90, 16), (100, 16), ("gfx942", 8)]
)
def test_few_registers_leave_the_warp_slots_to_decide(arch, full):
    """Resident threads: 1024, 2048, 1536, 1536, 2048, 2048 (programming guide); CDNA3: 32 waves."""
    assert target(arch).resident_blocks(registers=16, shared_bytes=0, num_warps=4) == full


@pytest.mark.parametrize(
    ("arch", "full"), [(75, 16), (80, 32), (86, 16), (89, 24), (90, 32), (100, 32), ("gfx942", 32)]
)
def test_small_programs_run_out_of_program_slots(arch, full):
    assert target(arch).resident_blocks(registers=16, shared_bytes=0, num_warps=1) == full


@pytest.mark.parametrize(("shared", "blocks"), [(71680, 2), (80 * 1024, 2), (81 * 1024, 2)])
def test_shared_memory_decides_and_the_driver_keeps_a_kibibyte(shared, blocks):
    """164 KiB on an A100: two programs of 81 KiB, plus 1 KiB each for the driver, fill it."""
    fits = {"registers": 32, "num_warps": 4}
    assert target(80).resident_blocks(shared_bytes=shared, **fits) == blocks
    assert target(80).resident_blocks(shared_bytes=81 * 1024 + 1, **fits) == 1


@pytest.mark.parametrize("gpu", TARGETS, ids=lambda gpu: gpu.name)
def test_the_most_that_a_program_may_have_fits_once_and_no_more(gpu):
    most = {"registers": gpu.registers_per_thread, "shared_bytes": gpu.shared_per_block}
    assert gpu.resident_blocks(**most, num_warps=4) == 1
    assert gpu.resident_blocks(**most | {"registers": 16}, num_warps=4) == 1
    assert gpu.resident_blocks(**most | {"registers": 513}, num_warps=4) == 0
    assert gpu.resident_blocks(**most | {"shared_bytes": 228 * 1024}, num_warps=4) == 0
    assert gpu.shared_per_sm - gpu.shared_per_block == gpu.shared_reserved


def test_registers_are_handed_out_in_eights():
    assert target(90).resident_blocks(registers=128, shared_bytes=0, num_warps=4) == 4
    assert target(90).resident_blocks(registers=129, shared_bytes=0, num_warps=4) == 3
    assert target(90).resident_blocks(registers=255, shared_bytes=0, num_warps=16) == 0


@pytest.mark.parametrize("gpu", TARGETS, ids=lambda gpu: gpu.name)
def test_the_most_demanding_device_of_each(gpu):
    others = [device for device in DEVICES if device.arch == gpu.name]
    assert gpu.device in others
    assert all(gpu.device.bytes_per_clock >= device.bytes_per_clock for device in others)


def test_tensor_memory_holds_512_columns():
    few = {"registers": 32, "shared_bytes": 0, "num_warps": 4}
    assert target(100).resident_blocks(**few, tensor_columns=256) == 2
    assert target(100).resident_blocks(**few, tensor_columns=512) == 1
