"""The text of a module lowered for a TPU, its kernel made readable; helpers that tests share.

JAX has no public way to print the kernel inside of a custom call, so this uses parts of it that change without notice:
golden files name the versions that wrote them.
"""

from __future__ import annotations

import base64
import json
import re

import jax
import jaxlib
from jax import export
from jax._src.interpreters import mlir
from jax._src.lib import tpu
from jaxlib.mlir import ir, passmanager

HEADER = f"// jax {jax.__version__}, jaxlib {jaxlib.__version__}"
_PAYLOAD = re.compile(r'backend_config = "((?:[^"\\]|\\.)*)"')


def module_text(exported: export.Exported) -> str:
    """The module without locations, followed by each Mosaic kernel in it."""
    with mlir.make_ir_context():
        text = ir.Module.parse(exported.mlir_module()).operation.get_asm(enable_debug_info=False)
    kernels = [_kernel_text(payload) for payload in _PAYLOAD.findall(text)]
    return "\n".join([HEADER, _PAYLOAD.sub('backend_config = "..."', text).strip(), *kernels, ""])


def _kernel_text(payload: str) -> str:
    config = json.loads(payload.replace(r"\22", '"'))
    context = mlir.make_ir_context()
    context.allow_unregistered_dialects = True
    with context:
        tpu.register_dialect(context)
        module = ir.Module.parse(base64.b64decode(config["custom_call_config"]["body"]))
        passmanager.PassManager.parse("builtin.module(mosaic-serde{serialize=false})").run(module.operation)
        return module.operation.get_asm(enable_debug_info=False).strip()
