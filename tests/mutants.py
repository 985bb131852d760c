"""What `mutation.py` breaks: one change of a source file each, and the tests that should fail for it."""

from __future__ import annotations

from dataclasses import dataclass

PRIMITIVES = ("tests/passes/test_primitives.py",)
PROPERTIES = ("tests/passes/test_schedule_properties.py", "-k", "random")
CODEGEN = ("tests/backends/test_codegen.py", "-k", "not random and not sketches")
SKETCHES = ("tests/backends/test_codegen.py", "-k", "sketches")
STREAM = ("tests/passes/test_stream.py",)
FORMS = ("tests/backends/test_streaming.py", "-k", "unnormalised or softmax-sum or masked")
WINOGRAD = ("tests/passes/test_winograd.py",)
FORMULATIONS = ("tests/e2e/test_formulations.py",)
RUNTIME = ("tests/backends/test_runtime.py",)
MOVES = ("tests/passes/test_lower_moves.py",)
CHOICES = ("tests/passes/test_choose.py",)
WIDEN = ("tests/passes/test_widen.py",)
LOOPS = ("tests/e2e/test_loops.py",)
TIME = ("tests/e2e/test_time_tiles.py",)
STENCIL = ("tests/search/test_stencil.py",)
SPLIT = ("tests/passes/test_split_reductions.py",)
UNGROUP = ("tests/passes/test_ungroup.py",)
EXTREMES = ("tests/backends/test_reductions.py",)
GRAPHS = ("tests/passes/test_graph_trace.py",)
IN_PLACE = ("tests/ir/test_in_place.py",)
PLANS_IN_PLACE = ("tests/e2e/test_in_place.py",)
MEMORY = ("tests/passes/test_memory.py",)
JOINED = ("tests/backends/test_joined_rows.py",)
AFFINE = ("tests/ir/test_affine.py",)
FEATURES = ("tests/costmodel/test_features.py",)
BANDED = ("tests/backends/test_banded.py",)
FINALISTS = ("tests/e2e/test_finalists.py",)
CALLS = ("tests/e2e/test_calls.py", "tests/e2e/test_recycling.py")
GATE = ("tests/e2e/test_gate.py",)
UNIT_AXES = ("tests/passes/test_unit_axes.py",)
SIMPLIFY = ("tests/passes/test_simplify.py",)
PLANS = ("tests/e2e/test_plans.py", "-k", "compared")
RANDOM = ("tests/e2e/test_random_words.py", "-k", "words_are or other or reinterpretations")
VECMATH = ("tests/backends/test_vecmath.py", "-k", "random_words or gamma or erf_inv")


@dataclass(frozen=True)
class Mutant:
    """One change of a source file, and the tests that should fail for it."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant("passes/tiling.py", "trips = -(-it.extent // factor)", "trips = it.extent // factor", PRIMITIVES),
    Mutant("passes/tiling.py", "    if it.extent % factor:\n", "    if it.extent % factor > 1:\n", PROPERTIES),
    Mutant("passes/tiling.py", "abs(step) > hi - lo", "abs(step) > 0", PRIMITIVES),
    Mutant("passes/tiling.py", "both.mod(n)", "both.mod(m)", PRIMITIVES),
    Mutant("passes/tiling.py", "len(writers) > len(written)", "len(writers) < len(written)", PRIMITIVES),
    Mutant("passes/placement.py", "        if not above:\n", "        if above:\n", PRIMITIVES),
    Mutant("passes/placement.py", "order.index(writers[-1]) > order", "order.index(writers[-1]) < order", PRIMITIVES),
    Mutant("passes/placement.py", "stmt not in writers and stmt.write", "stmt in writers and stmt.write", PRIMITIVES),
    Mutant("passes/footprint.py", "max(high, t.high + shift.const)", "min(high, t.high + shift.const)", PRIMITIVES),
    Mutant("passes/footprint.py", "(scope.limits[name] - 1) * k", "(scope.limits[name] - 2) * k", PROPERTIES),
    Mutant("passes/caching.py", "shape=(-(-extent // factor), *rest", "shape=(extent // factor, *rest", PRIMITIVES),
    Mutant("passes/caching.py", "limit = extent.limit if below", "limit = extent.limit if not below", PROPERTIES),
    Mutant("passes/caching.py", "inside.index(writers[-1]) > inside", "inside.index(writers[-1]) < inside", PRIMITIVES),
    Mutant("passes/reduction.py", "    if it.extent % factor:\n", "    if it.extent % factor > 1:\n", PROPERTIES),
    Mutant("passes/legalize.py", "    if lo >= it.extent:\n", "    if hi >= it.extent:\n", SKETCHES),
    Mutant(
        "passes/decide.py",
        "        if high < 0:\n            return Const(",
        "        if low < 0:\n            return Const(",
        CODEGEN,
    ),
    Mutant("passes/legalize.py", "read.otherwise == 0 and _is", "read.otherwise != 0 and _is", CODEGEN),
    Mutant("passes/legalize.py", "if not g.variables() & own)", "if g.variables() & own)", CODEGEN),
    Mutant(
        "backends/llvm/block_memory.py",
        "return min(self.lanes, self._wide",
        "return max(self.lanes, self._wide",
        CODEGEN,
    ),
    Mutant("backends/llvm/blocks.py", "elif resolved.const < 0:", "elif resolved.const <= 0:", CODEGEN),
    Mutant("backends/llvm/block_memory.py", "offset, t, mask, otherwise)\n", "offset, t, otherwise)\n", CODEGEN),
    Mutant("backends/llvm/memory.py", "if taken is not None:", "if taken is not None and taken == offset:", CODEGEN),
    Mutant(
        "backends/llvm/access.py", 'b.compare("lt", I64, value, back)', 'b.compare("le", I64, value, back)', CODEGEN
    ),
    Mutant("backends/llvm/codegen.py", '"lt", I64, following, upper', '"le", I64, following, upper', CODEGEN),
    Mutant(
        "passes/collapse.py",
        "for e in (*block.guard, *_conditions(block.value)))",
        "for e in _conditions(block.value))",
        ("tests/passes/test_collapse.py",),
    ),
    Mutant(
        "passes/collapse.py",
        "guarded or len(where) != 2 or",
        "guarded or len(where) > 2 or",
        ("tests/passes/test_collapse.py",),
    ),
    Mutant("passes/regions.py", "return count == 1", "return count <= 2", ("tests/passes/test_fusion.py",)),
    Mutant("passes/regions.py", "if producers & reached:", "if producers > reached:", ("tests/passes/test_fusion.py",)),
    Mutant(
        "passes/segments.py",
        "if needs[n] <= done",
        "if needs[n] >= done",
        ("tests/passes/test_segments.py",),
    ),
    Mutant(
        "passes/memory.py",
        "self.first <= other.last and",
        "self.first < other.last and",
        ("tests/passes/test_memory.py",),
    ),
    Mutant(
        "passes/lower_blocks.py",
        "guard += [at, constant(extent - 1) - at]",
        "guard += [at, constant(extent) - at]",
        ("tests/passes/test_lower.py",),
    ),
    Mutant(
        "passes/lower_blocks.py",
        "next(gone) if axis in axes",
        "next(gone) if axis not in axes",
        ("tests/passes/test_lower.py",),
    ),
    # streaming
    Mutant(
        "passes/stream_blocks.py",
        'self.row("repair", self.repair, Apply(self.parts.exp, (gap,), dtype))',
        'self.row("repair", self.repair, Const(1.0, dtype))',
        STREAM,
    ),
    Mutant("passes/stream_blocks.py", "Const(lowest, dtype)), dtype)", "Const(LOWEST, dtype)), dtype)", STREAM),
    Mutant(
        "passes/stream.py", "constant(-(-parts.extent // self.factor))", "constant(parts.extent // self.factor)", STREAM
    ),
    Mutant(
        "passes/stream.py",
        "limit = constant(parts.extent) if parts.extent % self.factor else None",
        "limit = None",
        STREAM,
    ),
    Mutant("passes/stream.py", "for op, other in scaled.after:", "for op, other in scaled.after[1:]:", STREAM),
    Mutant(
        "passes/stream.py",
        "(self.join.shift_of(0.0), self.parts.shift)",
        "(self.parts.shift, self.join.shift_of(0.0))",
        FORMS,
    ),
    Mutant("passes/stream_masked.py", '"gt": (1, -1)', '"gt": (1, -2)', STREAM),
    Mutant("passes/stream_masked.py", '"gt": "le"', '"gt": "lt"', STREAM),
    Mutant("passes/stream_masked.py", "max(step, 0) * (it.extent - 1)", "max(step, 0) * it.extent", STREAM),
    Mutant("passes/stream_masked.py", "max(step, 0) * (it.extent - 1)", "min(step, 0) * (it.extent - 1)", STREAM),
    Mutant("passes/stream_masked.py", "(some, none, masked), self.dtype", "(some, masked, masked), self.dtype", STREAM),
    Mutant("passes/stream_masked.py", "Const(1 / self.unit, self.dtype)", "Const(1.0, self.dtype)", STREAM),
    Mutant(
        "passes/stream_masked.py",
        'Const(0.0, self.dtype), Apply("exp", (gap,)',
        'Apply("exp", (gap,), self.dtype), Apply("exp", (gap,)',
        STREAM,
    ),
    Mutant("passes/stream_masked.py", "holds=number == 0", "holds=number == 1", STREAM),
    Mutant(
        "passes/stream_parts.py",
        "return finite and self._stands_in(chosen) and",
        "return self._stands_in(chosen) and",
        STREAM,
    ),
    Mutant("passes/stream_parts.py", 'if target not in self.axes and block.monoid != "sum":', "if False:", STREAM),
    Mutant(
        "ir/rescale.py",
        "if found is None or (scaled is not None and not found.same(scaled)):",
        "if found is None:",
        STREAM,
    ),
    Mutant("ir/rescale.py", "if scaled is None:\n        raise", "if False:\n        raise", STREAM),
    Mutant("ir/rescale.py", "if not roles.free(condition):", "if False:", STREAM),
    # winograd
    Mutant(
        "passes/winograd.py",
        "guard = (row, constant(height - 1) - row)",
        "guard = (row, constant(height) - row)",
        WINOGRAD,
    ),
    Mutant("passes/winograd.py", "constant(width - 1) - at[2]", "constant(width) - at[2]", WINOGRAD),
    Mutant(
        "passes/winograd.py",
        "any(low < 0 or high < 0 for low, high in padding)",
        "any(low < 0 for low, high in padding)",
        WINOGRAD,
    ),
    Mutant("passes/winograd.py", "or not np.isfinite(ordered).all()", "or False", WINOGRAD),
    Mutant(
        "passes/winograd.py",
        'size = builder.add1("abs", builder.input(TensorType(site.image, _F32)))',
        "size = builder.input(TensorType(site.image, _F32))",
        WINOGRAD,
    ),
    Mutant(
        "passes/winograd.py",
        '("window_strides", "lhs_dilation", "rhs_dilation")',
        '("window_strides", "lhs_dilation")',
        WINOGRAD,
    ),
    # conditional stages
    Mutant("driver/assembly.py", "condition=(valid, False))", "condition=(valid, True))", FORMULATIONS),
    Mutant(
        "backends/llvm/runtime_stages.py", "%tested = sub i64 %condition, 1", "%tested = sub i64 %condition, 0", RUNTIME
    ),
    Mutant(
        "backends/llvm/runtime_stages.py",
        "%holds = icmp eq i64 %found, %wanted",
        "%holds = icmp eq i64 %found, 1",
        RUNTIME,
    ),
    Mutant(
        "backends/llvm/runtime_stages.py",
        "%distance = mul i64 %stride, %turn",
        "%distance = mul i64 %stride, 1",
        RUNTIME,
    ),
    Mutant("backends/llvm/runtime_stages.py", "%own_turn = add i64 %turn, %i", "%own_turn = add i64 %turn, 0", RUNTIME),
    # moves and choices
    Mutant("passes/lower_moves.py", "constant(step * (extent - 1)) - at]", "constant(step * extent) - at]", MOVES),
    Mutant("passes/lower_moves.py", "conditions += [-at.mod(step)] if interior else []", "pass", MOVES),
    Mutant(
        "passes/lower_moves.py", "min(max(int(start.value), 0), extent - 1)", "min(int(start.value), extent - 1)", MOVES
    ),
    Mutant("passes/lower_moves.py", "Const(extent - 1, start.dtype)", "Const(extent, start.dtype)", MOVES),
    Mutant("passes/lower_moves.py", "for c in (at, constant(n - 1) - at)]", "for c in (at, constant(n) - at)]", MOVES),
    Mutant("passes/lower_moves.py", "for value, start, end in reversed(", "for value, start, end in (", MOVES),
    Mutant("passes/lower_moves.py", "if start.dtype in dtypes.SIGNED:", "if False:", MOVES),
    Mutant(
        "passes/choose.py", "if k > 0 else condition.const // -k + 1", "if k > 0 else condition.const // -k", CHOICES
    ),
    Mutant("passes/choose.py", "place = -(condition.const // k) if", "place = -condition.const // k if", CHOICES),
    Mutant("passes/choose.py", "condition.substitute(moved), rising)", "condition, rising)", CHOICES),
    Mutant("passes/choose.py", "or place % lanes == 0 or not _indexes(block, it, registers)", "or True", CHOICES),
    Mutant("passes/choose.py", "If((-(rest + high) - 1,)", "If((-(rest + low) - 1,)", CHOICES),
    Mutant("passes/choose.py", "return If((rest + low,), sides[0]", "return If((rest + high,), sides[0]", CHOICES),
    Mutant("passes/copying.py", "return substitute(copied, loops)", "return copied", PRIMITIVES),
    # 16-bit floats
    Mutant("passes/widen.py", "if block.write.buffer in exact or not dtypes", "if not dtypes", WIDEN),
    Mutant("passes/widen.py", "if expr.op == _CONVERT and expr.args[0].dtype in NARROW:", "if False:", WIDEN),
    Mutant(
        "passes/widen.py",
        '_STORED = frozenset((_CONVERT, "bitcast_convert_type", "nextafter"))',
        '_STORED = frozenset(("bitcast_convert_type", "nextafter"))',
        WIDEN,
    ),
    Mutant("passes/widen.py", "if b.monoid is not None or (", "if (", WIDEN),
    Mutant("passes/widen.py", "return _converted(value, _WIDE) if name in self.wide else value", "return value", WIDEN),
    Mutant("passes/widen.py", '"bitcast_convert_type", "nextafter"))', '"bitcast_convert_type"))', WIDEN),
    # loops
    Mutant(
        "driver/loops.py",
        "last = (self.scan.length - done) % 2 == 0",
        "last = (self.scan.length - done) % 2 == 1",
        LOOPS,
    ),
    Mutant(
        "driver/loops.py",
        "Window((self.scan.length - 1 - number) * size, -step * size)",
        "Window((self.scan.length - number) * size, -step * size)",
        LOOPS,
    ),
    Mutant(
        "driver/loops.py", "if root in taken or body.producer(root) is None:", "if body.producer(root) is None:", LOOPS
    ),
    Mutant(
        "driver/loops.py",
        "for number in range(done + period * count, length):",
        "for number in range(done + period * count, done):",
        LOOPS,
    ),
    Mutant(
        "driver/time_tiles.py",
        "last = replace(op, operands=(*scan.invariants, middle)",
        "last = replace(op, operands=(*scan.invariants, *scan.initial)",
        TIME,
    ),
    Mutant("driver/time_tiles.py", "named[carry] = env[following]", "named[following] = env[following]", TIME),
    # reductions
    Mutant(
        "passes/split_reductions.py",
        "inner = tuple(a + (a >= axis) for a in axes)",
        "inner = tuple(a + (a > axis) for a in axes)",
        SPLIT,
    ),
    Mutant(
        "passes/split_reductions.py",
        "tuple(a + (a > self.axis) for a in",
        "tuple(a + (a > self.axis + 1) for a in",
        SPLIT,
    ),
    Mutant("passes/split_reductions.py", "return self.axis not in op.params", "return True or op.params", SPLIT),
    Mutant("passes/split_reductions.py", "not (opcode in _EXTREMES and dtypes.is_float(dtype))", "True", SPLIT),
    Mutant(
        "passes/ungroup.py",
        "inner = tuple(a - (a > axis) for a in axes if a != axis)",
        "inner = tuple(a for a in axes if a != axis)",
        UNGROUP,
    ),
    Mutant("passes/ungroup.py", "if a not in axes or a == axis)", "if a not in axes)", UNGROUP),
    Mutant("passes/ungroup.py", "n in gone and n - 1 not in gone and", "n in gone and", UNGROUP),
    Mutant(
        "passes/lower_blocks.py",
        '"or", (holds, Apply("ne", (element, element)',
        '"or", (holds, Apply("eq", (element, element)',
        EXTREMES,
    ),
    Mutant(
        "passes/lower_blocks.py",
        'low.reduction(op, buffer, "min", index',
        'low.reduction(op, buffer, "max", index',
        EXTREMES,
    ),
    Mutant("passes/lower_blocks.py", '{"max": "or", "min": "and"}', '{"max": "and", "min": "or"}', EXTREMES),
    Mutant(
        "passes/graph_primitives.py",
        "if any(grouping.result(region) == value_of",
        "if not any(grouping.result(region) == value_of",
        GRAPHS,
    ),
    Mutant("passes/graph_choices.py", "or stored or len(readers)", "or len(readers)", GRAPHS),
    Mutant("passes/graph_choices.py", "made |= set(op.results)", "pass", GRAPHS),
    # results over parameters
    Mutant("ir/in_place.py", "read.order <= write.order and pair", "pair", IN_PLACE),
    Mutant("ir/in_place.py", "max(-low, high) < abs(step)", "max(-low, high) <= abs(step)", IN_PLACE),
    Mutant("ir/in_place.py", "max(-low, high) < abs(step)", "-low < abs(step)", IN_PLACE),
    Mutant("ir/in_place.py", "low > 0 or high < 0 for", "low >= 0 or high < 0 for", IN_PLACE),
    Mutant("ir/in_place.py", "return low - most, high - least", "return low - least, high - most", IN_PLACE),
    Mutant("ir/in_place.py", "names += [it.name for it in block.iters]", "pass", IN_PLACE),
    Mutant("ir/in_place.py", "for read in _uses(p, source.name, writes=False) for", "for read in writes for", IN_PLACE),
    Mutant("ir/in_place.py", 'or result.scope != "global"', "or False", IN_PLACE),
    Mutant("ir/in_place.py", "if func.num_outputs != 1 or", "if", IN_PLACE),
    Mutant("ir/in_place.py", "same = (buffer.dtype, math", "same = (result.dtype, math", IN_PLACE),
    Mutant("driver/program.py", "and lives[v].last == number)", ")", PLANS_IN_PLACE),
    Mutant("driver/program.py", "k not in call.kernel.in_place or", "False or", PLANS_IN_PLACE),
    Mutant("passes/memory.py", "max(known.last, life.last)", "known.last", MEMORY),
    Mutant("passes/memory.py", "return apart if apart[1] < found[1] else found", "return found", MEMORY),
    Mutant("passes/memory.py", "life.last < own.first and", "life.last <= own.first and", MEMORY),
    Mutant("passes/memory.py", "own.first and offset + life.size <= own.size", "own.first", MEMORY),
    Mutant("passes/memory.py", "if o.overlaps(life))", "if life.overlaps(life) is None)", MEMORY),
    Mutant("passes/memory.py", "- {*homebound} -", "-", MEMORY),
    Mutant("driver/program.py", "Window(spot.offset + part.offset", "Window(part.offset", PLANS_IN_PLACE),
    Mutant("driver/program.py", "or begins.get(written) != number or", "or", PLANS_IN_PLACE),
    Mutant("driver/program.py", "known.first if known else first, end)", "number, end)", PLANS_IN_PLACE),
    Mutant("backends/llvm/plan_table.py", "or slot != stage.args[position]:", ":", RUNTIME),
    Mutant("backends/llvm/plan_table.py", "if other not in kernel.in_place or", "if", RUNTIME),
    Mutant("backends/llvm/plan_table.py", "min(count - 1, high // distance)", "high // distance", RUNTIME),
    # rows joined to one range of vectors
    Mutant("passes/flatten.py", "(first.limit - first.lower) * size", "first.limit * size", PRIMITIVES),
    Mutant("passes/flatten.py", "if second.limit is not None or not", "if not", PRIMITIVES),
    Mutant(
        "passes/edit.py", 'and s.kind == "parallel" for s in walk', 'and s.kind == "grid" for s in walk', PRIMITIVES
    ),
    Mutant("ir/affine.py", "== k * atom.divisor:", "== k:", AFFINE),
    Mutant("ir/affine.py", "(atom.operand * k).terms)", "atom.operand.terms)", AFFINE),
    Mutant("backends/llvm/block_memory.py", "a == (dynamic, offset) for", "a != (dynamic, offset) for", JOINED),
    Mutant("backends/llvm/strided.py", "if place < start + lanes)", "if place <= start + lanes)", JOINED),
    Mutant("search/banded.py", "if chunk and tile.endswith(JOINED):", "if False:", BANDED),
    # what is predicted, and what is compared
    Mutant("costmodel/features.py", "np.minimum(live[everyone, outer]", "np.maximum(live[everyone, outer]", FEATURES),
    Mutant("costmodel/features.py", "sums + tile.unroll * tile.vectors + 1", "sums", FEATURES),
    Mutant("costmodel/features.py", "2 * LINE_BYTES / runs, 1.0)", "1.0, 1.0)", FEATURES),
    Mutant("driver/finalists.py", "if 2 * size <= source", "if 2 * size > source", FINALISTS),
    Mutant("driver/finalists.py", "if k in usual and s > LOSING", "if k in usual and s < LOSING", FINALISTS),
    Mutant("driver/plan_contest.py", "if not differing or not", "if not", PLANS),
    # how calls go, and what is measured with their arguments
    Mutant("backends/calls.py", "return call if function is self._traced else None", "return call", CALLS),
    Mutant("backends/calls.py", "elif seen and self._recycling is None and", "elif seen and", CALLS),
    Mutant("backends/calls.py", "self._compile_anew = True", "pass", CALLS),
    Mutant("backends/calls.py", "self._recycling is not None and call.same(compiled)", "self._recycling", CALLS),
    Mutant("backends/calls.py", "self.entry = self._watched\n        self.jitted", "self.jitted", CALLS),
    Mutant("backends/calls.py", "return all(a is b", "return any(a is b", CALLS),
    Mutant("driver/gate.py", "and self.upper_bound >= 1.0)", ")", GATE),
    Mutant("driver/gate.py", "_SURELY = 4.0", "_SURELY = 1.0", GATE),
    Mutant("driver/last_check.py", "elif self._options.effort > 0:", "else:", FINALISTS),
    # axes of size 1
    Mutant("passes/unit_axes.py", "or not r.only_user(product.result)", "", UNIT_AXES),
    Mutant(
        "passes/unit_axes.py", 'or len(first.params["dimensions"]) != len(second.params["dimensions"])', "", UNIT_AXES
    ),
    Mutant("passes/unit_axes.py", "(*units, *(kept[axis]", "(*units, *(kept[-1 - axis]", UNIT_AXES),
    Mutant("passes/simplify.py", "and inner.type.size == source.size > 0", "", SIMPLIFY),
    Mutant("passes/manager.py", "return None if op is None or op.opaque else op", "return op", UNIT_AXES),
    Mutant("passes/outer.py", "len(batch) + skipped + free", "len(batch) + free", ("tests/passes/test_outer.py",)),
    Mutant("passes/outer.py", "or not exact:", "or False:", ("tests/passes/test_outer.py",)),
    Mutant(
        "passes/lower_blocks.py",
        "pair[1] if vectors_left",
        "pair[0] if vectors_left",
        ("tests/passes/test_lower_order.py",),
    ),
    Mutant(
        "costmodel/shares.py",
        "-(condition.const // factor))",
        "-(condition.const // factor) + 1)",
        ("tests/costmodel/test_shares.py",),
    ),
    Mutant("costmodel/anatomy.py", "share + out[key].share", "out[key].share", ("tests/costmodel/test_shares.py",)),
    Mutant("costmodel/strided.py", "lines <= second]", "lines < 0]", ("tests/costmodel/test_strided.py",)),
    Mutant("costmodel/xla.py", "or value in stored:", "or False:", ("tests/costmodel/test_xla.py",)),
    Mutant(
        "costmodel/xla.py",
        "return replace(target, fma_gflops_per_thread=peak",
        "slower = 1.0\n    return replace(target, fma_gflops_per_thread=peak",
        ("tests/costmodel/test_xla.py",),
    ),
    Mutant("driver/worthwhile.py", "(wins and region in gains)", "region in gains", ("tests/e2e/test_worthwhile.py",)),
    Mutant("driver/gate.py", "ours > _STALLED * usual", "ours > 99 * usual", ("tests/e2e/test_gate.py",)),
    Mutant("driver/references.py", "_under_partial(region) or region", "region", ("tests/e2e/test_references.py",)),
    Mutant("frontends/solvers.py", "(shape[-2:]) >= _SMALL", "(shape[-2:]) >= 0", ("tests/e2e/test_solvers.py",)),
    Mutant("frontends/random_words.py", "math.prod(shape[axis + 1 :])", "math.prod(shape[axis:])", RANDOM),
    Mutant("frontends/random_words.py", "bool(shape) and math.prod", "math.prod", RANDOM),
    Mutant("frontends/random_words.py", " and _counts_elements(option.jax_threefry_partitionable)", "", RANDOM),
    Mutant("frontends/random_words.py", "key.dtype != _key_dtype() or", "", RANDOM),
    Mutant("frontends/jaxpr.py", ' and not (name == "bitcast_convert_type" and _changes_size(eqn))', "", RANDOM),
    Mutant("backends/llvm/vecmath_threefry.py", "keys[(group + 2) % 3]", "keys[(group + 1) % 3]", VECMATH),
    Mutant("backends/llvm/vecmath_erf_inv.py", "o.fma(o.neg(x), x, 1.0)", "o.sub(1.0, o.mul(x, x))", VECMATH),
    Mutant(
        "backends/llvm/vecmath_gamma.py",
        "o.sub(below, above), o.sub(above",
        "o.sub(above, below), o.sub(above",
        VECMATH,
    ),
)
