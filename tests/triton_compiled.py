"""Compiles the kernels in Triton for GPUs that need not be there, each as it is called; run by `test_triton.py`.

Says the name of every kernel that came as far as the machine's code.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from recon import exposure_cuda, losses_cuda, occupancy_cuda

CAPABILITIES = (80, 90)  # Ampere, Hopper
TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int64: "*i64", torch.uint8: "*u8"}


def compiled(kernel: Any, *values: Any, grid: Any, warmup: bool, **options: Any) -> None:
    """In place of a kernel's launch."""
    signature, constants = {}, {}
    for parameter, value in zip(kernel.params, values, strict=True):
        if parameter.is_constexpr:
            constants[parameter.name] = value
            signature[parameter.name] = "constexpr"
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    for capability in CAPABILITIES:
        source = ASTSource(kernel, signature, constexprs=constants)
        code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert code.asm["cubin"]
        print(kernel.fn.__name__, capability)


def main() -> None:
    JITFunction.run = compiled
    picture = torch.zeros(1, 4, 5, 3, requires_grad=True)
    losses_cuda.photometric(picture, torch.zeros_like(picture), 0.2).backward()
    exposed, _ = exposure_cuda.expose(picture, torch.zeros_like(picture), torch.zeros(3, 4), (2.5, 2.0, 3.2))
    exposed.sum().backward()
    rays, cells = torch.ones(2, 6), torch.ones(8**3, dtype=torch.uint8)
    occupancy_cuda.march(rays, 0.1, 9.0, 0.02, cells, 8, torch.zeros(2), 16)


if __name__ == "__main__":
    main()
