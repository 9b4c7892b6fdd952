"""Sums of programs' shares, in Triton's interpreter."""

import pytest
import torch

from triton_runs import DEVICE, compile_for_hopper, compiler, gpu, kernel

SHAPES = [((1, 7), 0), ((300, 33), 0), ((5, 3, 4, 600), 0), ((2, 3, 130, 40), 2), ((3, 17, 5), 1)]


@kernel
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_kernel_sums_are_exact_for_whole_numbers(shape, axis):
    from mtmamba.kernels.sums_triton import sum_parts

    parts = torch.arange(torch.Size(shape).numel(), device=DEVICE).view(shape) % 17
    found = sum_parts(parts.float(), axis)
    assert torch.equal(found, parts.sum(axis).float())
    assert sum_parts(parts.float(), axis, found) is found
    assert torch.equal(found, 2 * parts.sum(axis).float())


@gpu
def test_on_a_gpu_many_columns():
    from mtmamba.kernels.sums_triton import sum_parts

    parts = torch.randn(9, 20, 1536, 48, device="cuda")
    torch.testing.assert_close(sum_parts(parts).double(), parts.double().sum(0), rtol=0, atol=1e-5)
    assert torch.equal(sum_parts(parts), sum_parts(parts))


@pytest.mark.slow
@compiler
@pytest.mark.parametrize("count", [1, 8, 264])
def test_kernel_compiles_for_hopper_without_spills(count, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from mtmamba.kernels import sums_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile = kernels.tile_for(count)
    types, aligned = dict.fromkeys(("parts_ptr", "out_ptr"), "*fp32"), ("parts_ptr", "out_ptr", "columns")
    constants = {"ADD": True, "PARTS": tile[0], "COLUMNS": tile[1]}
    compiled = compile_for_hopper(kernels.sum_parts_kernel, types, constants, aligned, num_warps=4)
    assert compiled.stack + compiled.local == 0
    assert "ld.global.v" in compiled.ptx
