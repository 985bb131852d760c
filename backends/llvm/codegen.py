"""Code generation: a scheduled loop program becomes a `Kernel`.

The path is: `passes.legalize`, then one function of LLVM IR with explicit vectors, then `toolchain.object_code`. Only
register promotion and value numbering are left to LLVM's passes; what a box unrolls into is what the schedule says.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

from ...ir.affine import AffineExpr
from ...ir.in_place import in_place
from ...ir.lanes import vector_lanes
from ...ir.loop import Alloc, Block, For, If, Index, LoopFunc, Seq, Stmt, loop_range
from ...ir.target import Target
from ...passes.legalize import legalize
from ...passes.next_parts import Part
from . import read_ahead
from .access import I64, Scopes
from .blocks import BlockEmitter
from .builder import Builder, vtype
from .kernel import Kernel
from .memory import ALIGNMENT, CodegenError, Memory
from .toolchain import object_code
from .walks import Walks, steps, walked_parts

CODEGEN_VERSION = 6
MAX_INSTRUCTIONS = 16_384
"""Most instructions of a kernel; LLVM's time grows with the square of a long run of loads and stores."""
_SYMBOL = "tilewright_kernel"


def compile_kernel(func: LoopFunc, target: Target) -> Kernel:
    """Generate object code for a scheduled program.

    Args:
        func: a verified program; its outermost loop may be parallel.
        target: the CPU.

    Returns:
        The kernel; its symbol is a digest of the code.

    Raises:
        CodegenError: the schedule can't be emitted: a register buffer with indices that are not constant or vectors
            that overlap, an operation without code, or more than `MAX_INSTRUCTIONS`.
    """
    text, extent, scratch = kernel_ir(func, target)
    # Equal code may serve programs of different sizes, which are different kernels.
    identity = f"{target.features}\n{text}\n{extent} {scratch} {func.num_outputs} {func.params}"
    symbol = "tw_" + hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
    code = object_code(text.replace(_SYMBOL, symbol), features=target.features)
    return Kernel(symbol, code, extent, scratch, func.params, func.num_outputs, in_place(func))


def kernel_ir(func: LoopFunc, target: Target) -> tuple[str, int, int]:
    """LLVM IR of a scheduled program, the extent of its parallel range, and its scratch bytes per thread."""
    lanes = vector_lanes(func, target)
    return legal_ir(legalize(func, lanes), lanes, target, in_place(func))


def legal_ir(func: LoopFunc, lanes: int, target: Target, shared: Sequence[int] = ()) -> tuple[str, int, int]:
    """`kernel_ir` of a program that is legalised for vectors of so many values.

    Args:
        func: the program.
        lanes: values per vector.
        target: the CPU.
        shared: positions of parameters that may share memory with the result.
    """
    aliases = frozenset((*shared, len(func.params) - 1)) if shared else frozenset()
    return _Emitter(Builder(target.feature_set), lanes, walked_parts(func, lanes, target), aliases).function(func)


class _Emitter:
    """Emits statements; loop variables live in `Scopes`, buffers in `Memory`."""

    def __init__(
        self, builder: Builder, lanes: int, parts: dict[str, tuple[Part, ...]], aliases: frozenset[int]
    ) -> None:
        self.b = builder
        self.lanes = lanes
        self.parts = parts
        self.aliases = aliases
        self.scratch_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self.scopes = Scopes(self.b)
        self.memory = Memory(self.b, self.lanes)
        self.ranges: dict[str, tuple[int, int]] = {}
        self.ahead = ""
        self.walks = Walks(self.b, self.parts) if self.parts else None

    def function(self, func: LoopFunc) -> tuple[str, int, int]:
        """The module's text, the parallel extent and the scratch bytes."""
        streamed = [n for n, b in enumerate(func.params) if b.scope == "stream"]
        bodies = [f"{_SYMBOL}_body"]
        self._body(func, bodies[0], streams=False)
        if streamed:
            bodies.append(f"{_SYMBOL}_streaming_body")
            self._body(func, bodies[1], streams=True)
        extent = _parallel_extent(func.body)
        self._entry(bodies, len(func.params), streamed, extent)
        return self.b.module(), extent, self.scratch_bytes

    def _body(self, func: LoopFunc, name: str, streams: bool) -> None:
        """The function that does the work; outputs may be ``streamed`` only where they are aligned."""
        self._begin()
        names = [f"%p{i}" for i in range(len(func.params))]
        reads_ahead = read_ahead.any_busy(func.body, self.lanes)
        ahead = [("ptr", "%next"), ("ptr", "%last")] if reads_ahead else []
        arrays = [("ptr" if k in self.aliases else "ptr noalias", name) for k, name in enumerate(names)]
        params = [*arrays, ("i64", "%lo"), ("i64", "%hi"), ("ptr noalias", "%scratch")]
        self.b.begin(name, [*params, *ahead], "nounwind noinline", "internal")
        for buffer, pointer in zip(func.params, names, strict=True):
            self.memory.add_parameter(buffer, pointer, streams and buffer.scope == "stream")
        if self.walks is not None:
            self.walks.begin()
        elif reads_ahead:
            self.ahead = read_ahead.start(self.b)
        self.scopes.push()
        self._stmt(func.body)
        self.scopes.pop()
        if streams:
            self.b.store_fence()
        self.b.end()
        self.scratch_bytes = max(self.scratch_bytes, self.memory.scratch_bytes)

    def _entry(self, bodies: list[str], count: int, streamed: list[int], extent: int) -> None:
        """The exported function: unpacks the array of pointers, and takes the second body where outputs are aligned."""
        b = self.b
        b.begin(_SYMBOL, [("ptr", "%bufs"), ("i64", "%lo"), ("i64", "%hi"), ("ptr", "%scratch")])
        run, done = b.fresh_label("run"), b.fresh_label("done")
        b.cond_br(b.compare("lt", I64, "%lo", "%hi"), run, done)
        b.label(run)
        args = [b.value(f"load ptr, ptr {b.gep('ptr', '%bufs', i)}") for i in range(count)]
        ahead = [f"ptr {pointer}" for pointer in read_ahead.part(b, count, extent)] if self.ahead or self.walks else []
        text = ", ".join([*(f"ptr {a}" for a in args), "i64 %lo", "i64 %hi", "ptr %scratch", *ahead])
        if streamed:
            plain, streaming = b.fresh_label("plain"), b.fresh_label("streaming")
            places = [b.value(f"ptrtoint ptr {args[n]} to i64") for n in streamed]
            together = functools.reduce(lambda x, y: b.op("or", I64, x, y), places)
            aligned = b.compare("eq", I64, b.op("and", I64, together, str(ALIGNMENT - 1)), "0")
            b.cond_br(aligned, streaming, plain)
            b.label(streaming)
            b.emit(f"call void @{bodies[1]}({text})")
            b.br(done)
            b.label(plain)
        b.emit(f"call void @{bodies[0]}({text})")
        b.br(done)
        b.label(done)
        b.end()

    def _stmt(self, stmt: Stmt) -> None:
        match stmt:
            case Seq():
                for item in stmt.body:
                    self._stmt(item)
            case Block():
                self._block(stmt)
            case Alloc():
                mark = self.memory.allocate(stmt.buffer)
                self._stmt(stmt.body)
                self.memory.release(stmt.buffer, mark)
            case If():
                self._if(stmt)
            case For(kind="unroll"):
                self._unrolled(stmt)
            case For():
                self._loop(stmt)

    def _block(self, block: Block) -> None:
        BlockEmitter(self.b, self.scopes, self.memory, block).emit()
        if self.b.length > MAX_INSTRUCTIONS:
            raise CodegenError(f"expected at most {MAX_INSTRUCTIONS} instructions, found more in {block.name}")

    def _if(self, stmt: If) -> None:
        b = self.b
        tests = []
        for condition in map(self.scopes.resolve, stmt.conditions):
            if not condition.is_constant:
                tests.append(b.compare("ge", I64, self.scopes.value(condition), "0"))
            elif condition.const < 0:
                if stmt.orelse is not None:
                    self._stmt(stmt.orelse)
                return
        if not tests:
            self._stmt(stmt.then)
            return
        holds = tests[0]
        for test in tests[1:]:
            holds = b.op("and", vtype("bool"), holds, test)
        then, orelse, after = b.fresh_label("then"), b.fresh_label("else"), b.fresh_label("endif")
        b.cond_br(holds, then, orelse)
        for label, body in ((then, stmt.then), (orelse, stmt.orelse)):
            b.label(label)
            self.scopes.push()
            if body is not None:
                self._stmt(body)
            self.scopes.pop()
            b.br(after)
        b.label(after)

    def _unrolled(self, loop: For) -> None:
        lower, upper = (tuple(map(self.scopes.resolve, e)) for e in (loop.lower, loop.upper))
        if not all(e.is_constant for e in (*lower, *upper)):
            raise CodegenError(f"expected constant bounds for the unrolled loop {loop.name}")
        for value in range(max(e.const for e in lower), min(e.const for e in upper)):
            self.scopes.constants[loop.name] = AffineExpr((), value)
            self._stmt(loop.body)
        self.scopes.constants.pop(loop.name, None)

    def _loop(self, loop: For) -> None:
        """A rotated loop: its body runs at least once, after a test where it may be empty."""
        b = self.b
        shared = loop.kind == "parallel"
        lower = self._shifted("%lo", loop) if shared else self._bound(loop.lower, "smax")
        upper = self._shifted("%hi", loop) if shared else self._bound(loop.upper, "smin")
        body, after = b.fresh_label("loop"), b.fresh_label("end")
        known = self._known(loop)
        if not shared and self._surely_runs(loop):
            b.br(body)
        else:
            b.cond_br(b.compare("lt", I64, lower, upper), body, after)
        before = b.block
        b.label(body)
        counter = b.phi("i64", lower, before)
        self.scopes.registers[loop.name] = counter
        self.ranges[loop.name] = known
        self.scopes.push()
        self._fetch(loop)
        self._stmt(loop.body)
        self.scopes.pop()
        following = b.op("add", I64, counter, "1", "nsw")
        b.add_incoming(counter, following, b.block)
        b.cond_br(b.compare("lt", I64, following, upper), body, after)
        b.label(after)
        del self.scopes.registers[loop.name], self.ranges[loop.name]

    def _fetch(self, loop: For) -> None:
        """At the begin of an iteration: ask for a line of what is read soon."""
        if self.walks is not None:
            if loop.name in self.parts:
                self.walks.iteration(loop, self.scopes, self.memory)
            if steps(loop, self.lanes):
                self.walks.step()
        elif self.ahead and read_ahead.busy(loop, self.lanes):
            read_ahead.step(self.b, self.ahead)

    def _known(self, loop: For) -> tuple[int, int]:
        resolved = For(
            loop.name,
            tuple(map(self.scopes.resolve, loop.lower)),
            tuple(map(self.scopes.resolve, loop.upper)),
            loop.body,
        )
        return loop_range(resolved, self.ranges)

    def _surely_runs(self, loop: For) -> bool:
        pairs = ((self.scopes.resolve(u) - self.scopes.resolve(low)) for u in loop.upper for low in loop.lower)
        return all(gap.bounds(self.ranges)[0] > 0 for gap in pairs)

    def _shifted(self, value: str, loop: For) -> str:
        start = loop.lower[0].const
        return value if start == 0 else self.b.op("add", I64, value, str(start), "nsw")

    def _bound(self, exprs: Index, combine: str) -> str:
        values = [self.scopes.value(self.scopes.resolve(e)) for e in exprs]
        out = values[0]
        for value in values[1:]:
            out = self.b.intrinsic(combine, I64, out, value)
        return out


def _parallel_extent(stmt: Stmt) -> int:
    """Trip count of the outermost loop if it is parallel, else 1."""
    while isinstance(stmt, Alloc):
        stmt = stmt.body
    if not isinstance(stmt, For) or stmt.kind != "parallel":
        return 1
    return max(0, stmt.upper[0].const - stmt.lower[0].const)
