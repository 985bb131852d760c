"""Compiles a program for an NVIDIA H200 on a machine without a GPU and prints what came out, as JSON.

Run as a script with the name of a program of `pallas_programs.LARGE`; needs `jax-cuda12-plugin`, `jax-cuda12-pjrt` and
`ptxas`.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
from jax.experimental import topologies
from pallas_programs import LARGE, scheduled

from tilewright.backends.pallas import GPU_TILES, TRITON, emit

TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 150000000000
  shared_memory_per_block_optin: 232448 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H200"
"""


def main() -> None:
    topology = topologies.get_topology_desc("h200", platform="cuda", target_config=TARGET, topology="1x1x1")
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    func = scheduled(LARGE[sys.argv[1]], GPU_TILES)
    types = [jax.ShapeDtypeStruct(b.shape, np.dtype(b.dtype), sharding=sharding) for b in func.inputs]
    program = jax.jit(emit(func, TRITON)).trace(*types).lower(lowering_platforms=("cuda",)).compile()
    kernels = program.as_text().count('custom_call_target="__gpu$xla.gpu.triton"')
    print(json.dumps({"kernels": kernels, "temporary_bytes": program.memory_analysis().temp_size_in_bytes}))


if __name__ == "__main__":
    main()
