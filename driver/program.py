"""Kernel calls of a native call on their way to a plan: which value each argument is, then where values live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..backends.llvm.kernel import Kernel
from ..ir.plan import Condition, Repeat, Slot, Stage, Window
from ..passes.memory import Lifetime, Spot, assign_spots


@dataclass(frozen=True, slots=True)
class Place:
    """A value as an argument.

    Args:
        value: of the graph, or a temporary of the program; the number of a packed constant.
        window: which part of it; None for all.
        constant: whether it is a packed constant.
    """

    value: int
    window: Window | None = None
    constant: bool = False


@dataclass(frozen=True, slots=True)
class KernelCall:
    """One kernel call.

    Args:
        kernel: the kernel.
        args: one place per parameter.
        chunks: into how many parts its range is cut.
        condition: a boolean value, and which of the two it must be for the call to be made; None for always.
    """

    kernel: Kernel
    args: tuple[Place, ...]
    chunks: int
    condition: tuple[int, bool] | None = None

    @property
    def places(self) -> tuple[Place, ...]:
        """The arguments and what the condition reads."""
        return self.args if self.condition is None else (*self.args, Place(self.condition[0]))


@dataclass(slots=True)
class Program:
    """The kernel calls of one native call.

    Args:
        inputs: values that come from outside.
        outputs: values that are results.
        roots: for each alias, the value whose memory it shares.
        sizes: bytes of every value.
        calls: in order.
        repeats: which of them are repeated.
        spans: first and last call of each loop: what it touches is alive throughout.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    roots: Mapping[int, int]
    sizes: dict[int, int]
    calls: list[KernelCall] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def temporary(self, size: int) -> int:
        """A new value of so many bytes that no graph knows."""
        value = min(-1, min(self.sizes, default=0) - 1)
        self.sizes[value] = size
        return value

    def layout(self) -> tuple[int, tuple[Stage, ...]]:
        """The arena's size, and the calls as stages of a plan."""
        lives = self._lifetimes()
        rooms = {value: lives.pop(value) for value in self.outputs if value in lives}
        conditions = {call.condition[0] for call in self.calls if call.condition is not None}
        spots, size = assign_spots(lives, self._heirs(lives, rooms), rooms, conditions)
        return size, tuple(self._stage(call, spots) for call in self.calls)

    def _lifetimes(self) -> dict[int, Lifetime]:
        """Of intermediates, and of results from their first use on."""
        lives: dict[int, Lifetime] = {}
        for number, call in enumerate(self.calls):
            first, last = next((s for s in self.spans if s[0] <= number <= s[1]), (number, number))
            for place in call.places:
                value = self._root(place)
                if value is None or value in self.inputs:
                    continue
                known = lives.get(value)
                end = len(self.calls) if value in self.outputs else last
                lives[value] = Lifetime(self.sizes[value], known.first if known else first, end)
        return lives

    def _heirs(self, lives: Mapping[int, Lifetime], rooms: Mapping[int, Lifetime]) -> dict[int, int]:
        """For values that can be written where an intermediate that dies then lives, which one that is."""
        heirs: dict[int, int] = {}
        begins = {value: life.first for value, life in (*lives.items(), *rooms.items())}
        for number, call in enumerate(self.calls):
            written = self._root(call.args[-1])
            if written is None or begins.get(written) != number or self._in_loop(number):
                continue
            dying = (v for v in self._read_in_place(call) if v in lives and lives[v].last == number)
            value = next(dying, None)
            if value is not None:
                heirs[written] = value
        return heirs

    def _in_loop(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self.spans)

    def _read_in_place(self, call: KernelCall) -> list[int]:
        """Values that a call reads, as a whole and only through parameters that its result may replace."""
        result = len(call.args) - 1
        read = [(k, place, self._root(place)) for k, place in enumerate(call.places) if k != result]
        late = {v for k, place, v in read if k not in call.kernel.in_place or place.window is not None}
        return [v for _, _, v in read if v is not None and v not in late]

    def _root(self, place: Place) -> int | None:
        """The value whose memory an argument is; None for a constant."""
        return None if place.constant else self.roots.get(place.value, place.value)

    def _stage(self, call: KernelCall, spots: Mapping[int, Spot]) -> Stage:
        args = tuple(self._slot(place, spots) for place in call.args)
        condition = None
        if call.condition is not None:
            value, wanted = call.condition
            condition = Condition(self._slot(Place(value), spots), wanted)
        return Stage(call.kernel.symbol, args, call.kernel.extent, call.chunks, condition)

    def _slot(self, place: Place, spots: Mapping[int, Spot]) -> Slot:
        value = self._root(place)
        if value is None:
            return Slot("constant", place.value)
        if value in self.inputs:
            return Slot("input", self.inputs.index(value), place.window)
        if value in self.outputs:
            return Slot("output", self.outputs.index(value), place.window)
        spot = spots[value]
        if spot.room is None:
            return Slot("arena", spot.offset, place.window)
        part = place.window or Window(0)
        whole = place.window is None and self.sizes[value] == self.sizes[spot.room]
        window = None if whole else Window(spot.offset + part.offset, part.stride)
        return Slot("output", self.outputs.index(spot.room), window)
