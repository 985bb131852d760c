"""LLVM as the code generator and the runtime use it: from IR text to object code for the host.

Everything here may be called from several threads at once: no LLVM object made here is shared between calls, and
llvmlite takes a lock around each of its calls into LLVM but the longest (`unlocked`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import llvmlite.binding as llvm

from .unlocked import emit_object

# Position-independent code with near addressing: constants are read relative to the instruction pointer, and the same
# object can be linked into a shared library. (LLVM's own default for just-in-time code uses 64-bit absolute addresses.)
_RELOCATION = "pic"
_CODE_MODEL = "small"
_CODEGEN_LEVEL = 2


class ToolchainError(RuntimeError):
    """LLVM rejected the IR it was given: a bug in the code generator, not in the user's program."""


def host_cpu() -> str:
    """LLVM's name of the processor this process runs on, for example ``znver5``."""
    return llvm.get_host_cpu_name()


@functools.cache
def host_features() -> str:
    """The processor's feature string as LLVM detects it: ``+name`` where present, ``-name`` where absent."""
    return llvm.get_host_cpu_features().flatten()


def object_code(ir_text: str, *, features: str, cpu: str | None = None) -> bytes:
    """Compile LLVM IR to a relocatable object file.

    Args:
        ir_text: a module in LLVM's textual form.
        features: feature string such as ``Target.features``; it overrides what ``cpu`` implies.
        cpu: LLVM's processor name, which decides instruction scheduling. By default the host's, without the features
            the host lacks (a virtual machine may hide some of its processor's).

    Returns:
        The object file; equal input gives equal bytes.

    Raises:
        ToolchainError: the text does not parse or verify.
    """
    with _optimized(ir_text, features, cpu) as (module, machine):
        return emit_object(module, machine)


def assembly(ir_text: str, *, features: str, cpu: str | None = None) -> str:
    """The assembly of what `object_code` makes of the same arguments, for inspection."""
    with _optimized(ir_text, features, cpu) as (module, machine):
        return machine.emit_assembly(module)


def optimized_ir(ir_text: str, *, features: str, cpu: str | None = None) -> str:
    """The IR after the passes of `object_code`, for inspection: an ``alloca`` left over is a lost register tile."""
    with _optimized(ir_text, features, cpu) as (module, _):
        return str(module)


@contextmanager
def _optimized(ir_text: str, features: str, cpu: str | None) -> Iterator[tuple[llvm.ModuleRef, llvm.TargetMachine]]:
    _initialize()
    # A context of its own: types and constants of thousands of candidates must not pile up in LLVM's global one.
    context = llvm.create_context()
    machine = _target_machine(features, cpu)
    try:
        module = _parse(ir_text, context)
        try:
            _run_passes(module, machine)
            yield module, machine
        finally:
            module.close()
    finally:
        machine.close()
        context.close()


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _target_machine(features: str, cpu: str | None) -> llvm.TargetMachine:
    """A target machine for one module; sharing one between modules crashes LLVM."""
    if cpu is None:
        cpu = host_cpu()
        absent = [name for name in host_features().split(",") if name.startswith("-")]
        features = ",".join([*absent, *([features] if features else [])])
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu, features=features, opt=_CODEGEN_LEVEL, reloc=_RELOCATION, codemodel=_CODE_MODEL
    )


def _parse(ir_text: str, context: llvm.ContextRef) -> llvm.ModuleRef:
    try:
        module = llvm.parse_assembly(ir_text, context)
    except RuntimeError as error:
        raise ToolchainError(f"LLVM can't parse generated IR: {error}") from error
    try:
        module.verify()
    except RuntimeError as error:
        module.close()
        raise ToolchainError(f"generated IR is not valid: {error}") from error
    return module


def _run_passes(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Inlining and promotion to registers: what generated code needs; the builder doesn't repeat values by itself.

    LLVM's standard pipelines take five times as long, and hoist splats out of the micro-kernels until they spill. Its
    pass for value numbering alone (NewGVN) ends the process on some branches: an assertion about its own result fails.
    """
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.run(module, builder)
