"""Features of candidates: what their loop nests compute, touch and waste. Nothing is replayed or compiled.

Sizes, counts and cycles are binary logarithms, shares lie between 0 and 1. Model files and records keep
`FEATURE_VERSION`; features of different versions are never mixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.target import Target
from ..passes.schedule import Trace
from .anatomy import Access, WorkloadAnatomy
from .banded import banded_seconds
from .nest import Nests, read_nests
from .stream import stream_seconds
from .strided import LINE_BYTES, lane_loads

FEATURE_VERSION = 8

FEATURE_NAMES = (
    "log_predicted",  # seconds that the roofline predicts; the learned models correct this
    "log_compute_cycles",
    "log_other_cycles",
    "log_entry_cycles",
    "log_l2_cycles",
    "log_l3_cycles",
    "log_memory_cycles",
    "log_flops",
    "log_bytes",
    "intensity",
    "rows",
    "vectors",
    "accumulators",
    "register_share",
    "fma_per_load",
    "unroll",
    "log_unrolled",
    "log_code",
    "latency_bound",
    "row_waste",
    "vector_waste",
    "log_reduce_steps",
    "log_tiles",
    "log_parallel",
    "imbalance",
    "log_tile_bytes",
    "log_outer_bytes",
    "l1_level",
    "l2_level",
    "placed",
    "in_registers",
    "reduces_lanes",
    "copied",
    "packed",
    "partitioned",
    "guarded",
    "separate",
    "swapped",
    "streamed",
    "strided_loads",
    "loops",
    "steps",
)

_SCALAR_S = 50e-9
"""A few instructions on scalars."""
_FMA_PER_CYCLE = 2.0
_LOADS_PER_CYCLE = 2.0
_FMA_LATENCY = 4.0
_TILE_CYCLES = 14.0
_LOOP_CYCLES = 2.0
"""For a tile without a loop over what is reduced."""
_ACROSS_CYCLES = 7.0
"""For a tile whose lanes are added up at the end, the additions included: those of one tile overlap with the next's."""
_UNROLL_PENALTY = 0.03
"""Share by which each doubling of the reduction steps in a loop body slows it: loads move up, registers run out."""
_L2_BYTES_PER_CYCLE = 48.0
_L3_BYTES_PER_CYCLE = 28.0
_CODE_LIMIT = 160.0
"""Multiply-adds in a loop body beyond which the front end no longer keeps up."""
_LANE_TAIL_CYCLES = 30.0
"""For what is left of a reduction when the lanes don't divide it, per tile."""
_TRANSPOSED_CYCLES = 8.0
"""For a vector of results that is accumulated in one buffer and read, transposed, from another."""
_PICKED_STRIDE = 4
"""Vectors of elements at most this far apart are picked from the vectors they lie in; beyond, each is a load."""
DISPATCH_S = 1.5e-6
"""What calling a kernel costs by itself, on all threads."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """The register tile of each candidate."""

    box: np.ndarray
    rows: np.ndarray
    row_column: np.ndarray
    vector_values: np.ndarray
    vectors: np.ndarray
    unroll: np.ndarray


class FeatureExtractor:
    """Makes the feature matrix of candidates of one workload.

    Args:
        work: the workload.
        target: the CPU.
    """

    def __init__(self, work: WorkloadAnatomy, target: Target) -> None:
        self.work = work
        self.target = target
        self.lanes = target.vector_bytes // work.element_bytes
        self.hz = target.clock_hz
        self.register_count = 32 if target.vector_bits >= 512 or target.arch == "aarch64" else 16

    def __call__(self, traces: Sequence[Trace]) -> np.ndarray:
        """Features of schedules.

        Returns:
            float32[traces, len(FEATURE_NAMES)].
        """
        if not traces:
            return np.zeros((0, len(FEATURE_NAMES)), np.float32)
        if not len(self.work.extents):
            return self._scalars(len(traces))
        nests = read_nests(self.work, traces)
        tile = self._tile(nests)
        bytes_ = self._footprints(nests)
        live = bytes_ * ~(self._private()[None, None, :] & nests.registers[:, None, None])
        sets = self._by_buffer(live).sum(axis=2)
        columns = self._shape(nests, tile) | self._compute(nests, tile)
        columns |= self._memory(nests, live, sets, live * self._paired(nests))
        columns |= self._parallel(nests)
        columns["log_predicted"] = self._streamed(traces, self._predict(columns, nests))
        for name in [n for n in columns if n.startswith("log_")]:
            columns[name] = np.log2(np.maximum(columns[name], 1e-12))
        return np.stack([np.broadcast_to(columns[n], len(nests)) for n in FEATURE_NAMES], axis=1).astype(np.float32)

    def _streamed(self, traces: Sequence[Trace], predicted: np.ndarray) -> np.ndarray:
        """The prediction, with that of `stream_seconds` or `banded_seconds` for traces that fuse several reductions."""
        own = [_of_several(self.work, trace, self.target) for trace in traces]
        usual = np.broadcast_to(predicted, len(traces))
        return np.array([p if s is None else s for s, p in zip(own, usual, strict=True)])

    def _scalars(self, count: int) -> np.ndarray:
        """Features of a program without iterators: there is nothing to schedule."""
        features = np.zeros((count, len(FEATURE_NAMES)), np.float32)
        features[:, FEATURE_NAMES.index("log_predicted")] = np.log2(_SCALAR_S)
        return features

    # ---- the tile

    def _tile(self, nests: Nests) -> _Tile:
        work = self.work
        box = nests.spans[:, -1]
        everyone = np.arange(len(nests))
        data = work.members[work.main] & ~work.reduces
        values = np.where(nests.vector >= 0, box[everyone, nests.vector], 1.0)
        rows = np.where(data, box, 1.0)
        rows[everyone, nests.vector] = np.where(nests.vector >= 0, 1.0, rows[everyone, nests.vector])
        reduced = np.where(work.reduces, box, 1.0)
        reduced[everyone, nests.vector] = np.where(nests.vector >= 0, 1.0, reduced[everyone, nests.vector])
        vectors = self._vectors(values, nests)
        return _Tile(box, rows.prod(axis=1), rows.argmax(axis=1), values, vectors, reduced.prod(axis=1))

    def _vectors(self, values: np.ndarray, nests: Nests) -> np.ndarray:
        """Vectors that a row of values takes; only its share of those that run across the ends of rows."""
        return np.where(nests.joined, values / self.lanes, np.ceil(values / self.lanes))

    def _shape(self, nests: Nests, tile: _Tile) -> dict[str, np.ndarray]:
        accumulators = tile.rows * tile.vectors
        needed = accumulators + np.minimum(tile.rows, tile.vectors) + 1
        reduce_steps = float(np.prod(self.work.extents[self.work.reduces], dtype=float))
        tiles = self._visits(nests) / self._reduce_visits(nests)
        copies = tile.unroll * nests.unrolled * np.where(nests.partitioned, 3, 1)
        return {
            "log_flops": np.array(self.work.flops),
            "rows": np.minimum(tile.rows, 64),
            "vectors": np.minimum(tile.vectors, 64),
            "accumulators": np.minimum(accumulators, 256),
            "register_share": np.minimum(needed / self.register_count, 8.0),
            "unroll": np.minimum(tile.unroll, 256),
            "log_unrolled": nests.unrolled,
            "log_code": accumulators * copies + 1,
            "log_reduce_steps": np.array(reduce_steps),
            "log_tiles": tiles,
            "placed": nests.placed,
            "in_registers": nests.registers,
            "reduces_lanes": nests.lanes > 1,
            "copied": nests.copied,
            "packed": nests.packed,
            "partitioned": nests.partitioned,
            "guarded": np.array(self.work.guarded),
            "separate": nests.separate,
            "swapped": nests.swapped,
            "streamed": nests.streamed,
            "loops": (nests.trips > 1).sum(axis=1),
            "steps": nests.steps,
        }

    def _visits(self, nests: Nests) -> np.ndarray:
        """How often the innermost tile of the main Block is entered."""
        return nests.trips.prod(axis=1)

    def _reduce_visits(self, nests: Nests) -> np.ndarray:
        """How often per tile, because of loops over what is reduced."""
        full = self.work.extents[self.work.reduces]
        return np.ceil(full / np.maximum(nests.spans[:, -1][:, self.work.reduces], 1)).prod(axis=1)

    # ---- computing

    def _compute(self, nests: Nests, tile: _Tile) -> dict[str, np.ndarray]:
        everyone = np.arange(len(nests))
        extents = self.work.extents
        row_box = tile.box[everyone, tile.row_column]
        rest = tile.rows / np.maximum(row_box, 1)
        row_full, row_tail = np.divmod(extents[tile.row_column], np.maximum(row_box, 1))
        width = np.maximum(tile.vector_values, 1)
        full_extent = np.where(nests.vector >= 0, extents[nests.vector], 1)
        vector_full, vector_tail = np.divmod(full_extent, width)
        visits = self._visits(nests) / ((row_full + (row_tail > 0)) * (vector_full + (vector_tail > 0)))
        loads, strided = self._loads(nests, tile)
        cycles = np.zeros(len(nests))
        entry = np.zeros(len(nests))
        per_tile = self._reduce_visits(nests)
        around = np.where(per_tile > nests.unrolled, _TILE_CYCLES, _LOOP_CYCLES)
        for rows, row_count in ((row_box, row_full), (row_tail, row_tail > 0)):
            for values, count in ((width, vector_full), (vector_tail, vector_tail > 0)):
                share = np.where(row_box * width > 0, rows * values / (row_box * width), 0)
                vectors = self._vectors(values, nests)
                work = rows * rest * vectors * tile.unroll
                spilled = np.where(nests.registers, 0.0, 2.0) * work
                busy = np.maximum(work / _FMA_PER_CYCLE, (loads * np.sqrt(share) + spilled) / _LOADS_PER_CYCLE)
                step = np.maximum(busy, _FMA_LATENCY * tile.unroll)
                times = visits * row_count * count
                cycles += times * step * self.work.taken
                stores = 1.5 + np.where(nests.separate, _TRANSPOSED_CYCLES, 0.0)
                one_by_one = rows * rest * vectors * stores + around
                entry += times / per_tile * np.where(nests.lanes > 1, rows * rest * _ACROSS_CYCLES, one_by_one)
        ragged = (nests.lanes > 1) & (vector_tail > 0)
        entry += self._visits(nests) / per_tile * np.where(ragged, _LANE_TAIL_CYCLES, 0.0)
        over = np.maximum(self._registers(nests, tile) / self.register_count, 1.0)
        cycles *= np.where(nests.registers, over, 1.0)
        body = tile.rows * tile.vectors * tile.unroll * np.where(nests.partitioned, nests.unrolled, 1.0)
        cycles *= 1.0 + _UNROLL_PENALTY * np.log2(np.maximum(tile.unroll, 1))
        cycles *= 1.0 + np.clip(body / _CODE_LIMIT - 1.0, 0.0, 3.0)
        others = [self.work.box(b) * self.work.cycles[b] / self.lanes for b in range(len(self.work.names))]
        latency = _FMA_LATENCY * _FMA_PER_CYCLE / np.maximum(tile.rows * tile.vectors, 1)
        return {
            "log_compute_cycles": cycles,
            "log_other_cycles": np.array(sum(others) + 1.0),
            "log_entry_cycles": entry,
            "fma_per_load": np.minimum(tile.rows * tile.vectors * tile.unroll / np.maximum(loads, 1), 64),
            "latency_bound": np.clip(latency, 0, 8),
            "row_waste": row_tail / np.maximum(extents[tile.row_column], 1),
            "vector_waste": np.ceil(full_extent / width) * width / np.maximum(full_extent, 1) - 1,
            "strided_loads": strided,
        }

    def _registers(self, nests: Nests, tile: _Tile) -> np.ndarray:
        """Vectors that a tile has to hold: its sums and, where both operands move along the vectors, its weights."""
        sums = tile.rows * tile.vectors
        moving = [
            np.where(nests.vector >= 0, a.strides[:, nests.vector].any(axis=0), False)
            for a in self.work.accesses
            if a.block == self.work.main and not a.writes and len(a.strides)
        ]
        by_channel = self.work.multiplies and len(moving) > 1
        return np.where(by_channel & np.all(moving, axis=0), sums + tile.unroll * tile.vectors + 1, sums)

    def _loads(self, nests: Nests, tile: _Tile) -> tuple[np.ndarray, np.ndarray]:
        """Loads of one visit of the main Block's tile, and whether vectors are gathered from strided memory."""
        total = np.zeros(len(nests))
        strided = np.zeros(len(nests), bool)
        for access in self.work.accesses:
            if access.block != self.work.main or access.writes:
                continue
            elements = _elements(access, tile.box)
            inner = access.strides[-1, nests.vector] if len(access.strides) else np.zeros(len(nests), int)
            moves = np.where(nests.vector >= 0, access.strides[:, nests.vector].any(axis=0), False)
            gathers = moves & (inner != 1) & ~nests.packed
            picked = gathers & (inner > 1) & (inner <= _PICKED_STRIDE)
            apart = gathers & ~picked & ~self.work.reduces.any()
            per_lane = lane_loads(access, nests, self.target) if apart.any() else 1.0
            elements = elements * access.share * np.where(apart, per_lane, 1.0)
            # Of an access that strides along its last axis, elements between those in use count as well.
            vectors = elements * tile.vectors / np.maximum(tile.vector_values, 1)
            total += np.where((moves & ~gathers) | picked, vectors, elements)
            strided |= gathers
        return np.maximum(total, 1.0), strided

    # ---- memory

    def _private(self) -> np.ndarray:
        return np.array([a.private for a in self.work.accesses], bool)

    def _by_buffer(self, amounts: np.ndarray) -> np.ndarray:
        """The largest amount of the accesses of each parameter: several Blocks that read it find it in the cache."""
        names = [f"{a.buffer}/{n}" if a.private else a.buffer for n, a in enumerate(self.work.accesses)]
        return np.stack([amounts[..., [n == name for n in names]].max(axis=-1) for name in dict.fromkeys(names)], -1)

    def _footprints(self, nests: Nests) -> np.ndarray:
        """Bytes that every access touches in one execution of each level's body: [candidates, levels, accesses]."""
        return np.stack([_elements(a, nests.spans) * a.itemsize for a in self.work.accesses], axis=-1)

    def _paired(self, nests: Nests) -> np.ndarray:
        """How much more than what an access touches comes into the second-level cache: [candidates, levels, accesses].

        Lines are fetched in pairs, so that of rows of which single lines are touched, their neighbours come along.
        """
        runs = np.stack([_run(a, nests.spans) * a.itemsize for a in self.work.accesses], axis=-1)
        return np.where((runs >= LINE_BYTES) & (runs < 2 * LINE_BYTES), 2 * LINE_BYTES / runs, 1.0)

    def _memory(self, nests: Nests, live: np.ndarray, sets: np.ndarray, paired: np.ndarray) -> dict[str, np.ndarray]:
        target = self.target
        threads = max(target.threads, 1)
        total = sets[:, 0]
        # The threads share the whole: each one's caches see a part of it.
        sets = np.concatenate([sets[:, :1] / threads, sets[:, 1:]], axis=1)
        l2, l1_level = self._traffic(nests, live, sets, target.l1_bytes * 0.75)
        if not self.work.reduces.any():
            # What a band of a chain of elementwise steps leaves for the next step stays where it is.
            own = ~(self._private()[None, None, :] & (nests.placed == 1)[:, None, None])
            live, paired = live * own, paired * own
            total = live[:, 0].sum(axis=1)
        l3, l2_level = self._traffic(nests, paired, sets, target.l2_bytes * 0.75)
        memory, _ = self._traffic(nests, paired, sets, target.l3_bytes * 0.75)
        memory = memory + np.where(nests.streamed, 0.0, self._stored())  # caches fetch what is stored through them
        memory_bytes_per_cycle = target.bandwidth_gbs * 1e9 / threads / self.hz
        fits = total <= target.l3_bytes * 0.75
        return {
            "log_bytes": total,
            "intensity": np.log2(self.work.flops / np.maximum(total, 1) + 1),
            "log_l2_cycles": np.where(sets[:, 0] <= target.l1_bytes * 0.75, 0, l2 / _L2_BYTES_PER_CYCLE) + 1,
            "log_l3_cycles": np.where(sets[:, 0] <= target.l2_bytes * 0.75, 0, l3 / _L3_BYTES_PER_CYCLE) + 1,
            "log_memory_cycles": np.where(fits, 0, memory / memory_bytes_per_cycle) + 1,
            "log_tile_bytes": sets[:, -1] + 1,
            "log_outer_bytes": sets[:, 1] + 1,
            "l1_level": l1_level,
            "l2_level": l2_level,
        }

    def _stored(self) -> float:
        """Bytes of the result."""
        return float(
            max((math.prod(a.shape) * a.itemsize for a in self.work.accesses if a.writes and not a.private), default=0)
        )

    def _traffic(self, nests: Nests, live: np.ndarray, sets: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
        """Bytes moved into a cache of a size, and the level whose data fit into it.

        Data stay while the loop right around the level whose data fit goes on: it loads what it touches as a whole,
        once, whether its iterations touch the same, overlap like the windows of a convolution, or lie apart. Loops over
        what the main Block reduces stand around that Block alone.
        """
        everyone = np.arange(len(nests))
        fits = sets <= size
        missing = ~fits[:, :-1].any(axis=1)
        fits[:, -1] = True
        level = fits.argmax(axis=1)
        outer = np.maximum(level - 1, 0)
        loads = np.empty((len(nests), len(self.work.accesses)))
        for main in (False, True):
            trips = nests.trips if main else np.where(nests.reducing, 1.0, nests.trips)
            executions = np.concatenate([np.ones((len(nests), 1)), np.cumprod(trips, axis=1)], axis=1)
            around = np.where(level > 0, trips[everyone, outer], 1.0)
            mine = np.array([(a.block == self.work.main) == main for a in self.work.accesses], bool)
            whole = np.minimum(live[everyone, outer], live[everyone, level] * around[:, None])
            loads[:, mine] = (whole * executions[everyone, outer][:, None])[:, mine]
        # Where nothing but the innermost level fits, every Block fetches its operands anew.
        total = np.where(missing, loads.sum(axis=1), self._by_buffer(loads).sum(axis=1))
        return total, level

    def _parallel(self, nests: Nests) -> dict[str, np.ndarray]:
        threads = max(self.target.threads, 1)
        busiest = np.ceil(nests.parallel / threads)
        return {"log_parallel": nests.parallel, "imbalance": busiest * threads / np.maximum(nests.parallel, 1)}

    def _predict(self, columns: dict[str, np.ndarray], nests: Nests) -> np.ndarray:
        """Seconds: computing and moving data overlap in part."""
        compute = columns["log_compute_cycles"] + columns["log_other_cycles"] + columns["log_entry_cycles"]
        levels = np.broadcast_arrays(*(columns[f"log_{name}_cycles"] for name in ("l2", "l3", "memory")))
        # A packed constant is one stream, whose way through the caches is a pipeline: its slowest part counts.
        streams = self.work.multiplies & self.work.reduces.any() & nests.packed & ~nests.copied
        moving = np.where(streams, np.maximum.reduce(levels), sum(levels))
        both = np.maximum(compute, moving) + 0.3 * np.minimum(compute, moving)
        threads = max(self.target.threads, 1)
        return DISPATCH_S + both * np.maximum(columns["imbalance"], 1.0) / threads / self.hz


def _of_several(work: WorkloadAnatomy, trace: Trace, target: Target) -> float | None:
    """Seconds of a trace that fuses several reductions, which the features don't describe; None for any other."""
    streamed = stream_seconds(work, trace, target)
    return banded_seconds(work, trace, target) if streamed is None else streamed


def _elements(access: Access, spans: np.ndarray) -> np.ndarray:
    """Elements that an access touches over boxes: spans[..., columns] -> [...]."""
    if not len(access.strides):
        return np.ones(spans.shape[:-1])
    along = 1.0 + (spans[..., None, :] - 1.0).clip(0) @ access.strides.T[None]
    return np.minimum(along[..., 0, :], access.shape).prod(axis=-1)


def _run(access: Access, spans: np.ndarray) -> np.ndarray:
    """Neighbouring elements that an access touches over boxes where rows are touched in part, else infinitely many."""
    if not len(access.strides):
        return np.full(spans.shape[:-1], np.inf)
    along = 1.0 + (spans - 1.0).clip(0) @ access.strides[-1]
    return np.where(along < access.shape[-1], along, np.inf)


def extract_features(work: WorkloadAnatomy, traces: Sequence[Trace], target: Target) -> np.ndarray:
    """Features of schedules of a workload (see `FeatureExtractor`)."""
    return FeatureExtractor(work, target)(traces)
