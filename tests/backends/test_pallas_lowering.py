"""What kernels become: modules for TPUs and GPUs, lowered on a machine that has neither."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pallas_devices import need_lowering
from pallas_programs import LARGE, program, scheduled
from pallas_text import HEADER, module_text

from tilewright.backends.pallas import GPU_TILES, TPU, TPU_TILES, TRITON, emit, lowered

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("name", LARGE)
def test_kernels_are_lowered_for_a_tpu(name):
    func = scheduled(LARGE[name], TPU_TILES)
    exported = lowered(emit(func, TPU), func, TPU)
    assert exported.platforms == ("tpu",)
    assert exported.mlir_module().count("@tpu_custom_call(") == 1


@pytest.mark.parametrize("name", LARGE)
def test_kernels_are_lowered_for_cuda(name):
    need_lowering(TRITON)
    func = scheduled(LARGE[name], GPU_TILES)
    exported = lowered(emit(func, TRITON), func, TRITON)
    assert exported.platforms == ("cuda",)
    assert exported.mlir_module().count("@__gpu$xla.gpu.triton(") == 1


@pytest.mark.parametrize("name", ["matmul", "softmax"])
def test_golden_modules(name, golden, request):
    path = FOLDER / "golden" / f"pallas_{name}.txt"
    if path.exists() and not request.config.getoption("--update-golden"):
        written = path.read_text().partition("\n")[0]
        if written != HEADER:
            pytest.skip(f"the golden file is of {written[3:]}, this is {HEADER[3:]}")
    func = scheduled(LARGE[name])
    golden.check(f"pallas_{name}", module_text(lowered(emit(func), func, TPU)))


def test_cells_that_need_what_the_first_one_computed_run_in_order():
    """Cores would share a dimension that is said to be parallel, and only one of them would run its first cell."""
    func = program("""
        input x: float32[16, 256]
        output y: float32[16, 256]
        grid o in 0..2
          alloc t: float32[8, 256]
            block a [i: 0..8, j: 0..256]
              t[i, j] = mul(x[i + 8*o, j], 2.0:float32)
            grid p in 0..2
              block b [i: 0..8, j: 128*p..+128]
                y[i + 8*o, j] = t[i, j]
    """)
    text = module_text(lowered(emit(func), func, TPU))
    assert "[#tpu.dimension_semantics<parallel>, #tpu.dimension_semantics<arbitrary>]" in text


def test_modules_are_the_same_every_time():
    func = scheduled(LARGE["matmul"])
    assert module_text(lowered(emit(func), func, TPU)) == module_text(lowered(emit(func), func, TPU))


@pytest.mark.parametrize("name", ["matmul", "softmax"])
def test_kernels_compile_for_a_gpu(name, tmp_path):
    """XLA compiles for an H200 without one; in a process of its own, since it needs the CUDA plugin set up."""
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        pytest.skip("jax-cuda12-plugin is not installed")
    if shutil.which("ptxas") is None:
        pytest.skip("ptxas of a CUDA toolkit is not on the path")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, str(FOLDER / "compile_for_gpu.py"), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kernels"] == 1
    assert found["temporary_bytes"] == 0
