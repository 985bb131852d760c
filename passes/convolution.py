"""Convolutions along one axis: which elements of the image and which taps of the kernel meet at a result."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.affine import AffineExpr
from ..ir.graph import Op
from .manager import Rewriter


class LoweringError(ValueError):
    """A region can't be expressed as loops; it stays XLA's."""


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution along one spatial axis.

    Args:
        extent: elements of the image.
        kernel: taps of the kernel.
        stride: elements between neighbouring results.
        spread: elements between neighbouring taps.
        dilation: results per element of the image: 2 and more for a transposed convolution.
        padding: zeros before the image, in units of results where it is dilated.
    """

    extent: int
    kernel: int
    stride: int
    spread: int
    dilation: int
    padding: int

    @property
    def taps(self) -> int:
        """Steps of the sum: those taps that meet an element of the image, not a zero between two of them."""
        return -(-self.kernel // self.dilation)

    def place(self, result: AffineExpr, step: AffineExpr) -> tuple[AffineExpr, AffineExpr]:
        """The element and the tap that meet.

        In a transposed convolution result ``o`` sees the taps ``k`` with ``o + k - padding`` a multiple of the
        dilation: every dilation-th one from a first that depends on the phase ``o % dilation`` alone. The last step may
        then lie beyond the kernel.

        Args:
            result: index of the result.
            step: step of the sum.
        """
        if self.dilation == 1:
            return result * self.stride + step * self.spread - self.padding, step
        first = (-result + self.padding).mod(self.dilation)
        element = (result + (self.dilation - 1 - self.padding)).floordiv(self.dilation) + step
        return element, step * self.dilation + first


def windows_of(op: Op, image: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Window, ...]:
    """The convolution along each spatial axis.

    Args:
        op: a `conv_general_dilated`.
        image: shape of the first operand.
        kernel: shape of the second operand.

    Raises:
        LoweringError: a dilated image with strides or spread taps: which taps meet elements is irregular then.
    """
    p = op.params
    lhs, rhs, _ = p["dimension_numbers"]
    found = tuple(
        Window(image[lhs[2 + n]], kernel[rhs[2 + n]], stride, spread, dilation, low)
        for n, (stride, spread, dilation, (low, _)) in enumerate(
            zip(p["window_strides"], p["rhs_dilation"], p["lhs_dilation"], p["padding"], strict=True)
        )
    )
    if any(w.dilation > 1 and (w.stride > 1 or w.spread > 1) for w in found):
        raise LoweringError("expected input dilation without strides or dilated kernels")
    return found


def whole_phases(op: Op, r: Rewriter) -> int | None:
    """A transposed convolution whose results are no whole number of phases computes a few more, which are cut off.

    Its results then are an array of phases, each an ordinary convolution.
    """
    p = op.params
    out = p["dimension_numbers"][2]
    missing = [
        -op.type.shape[out[2 + n]] % dilation if stride == 1 else 0
        for n, (dilation, stride) in enumerate(zip(p["lhs_dilation"], p["window_strides"], strict=True))
    ]
    if not any(missing):
        return None
    shape = list(op.type.shape)
    for n, more in enumerate(missing):
        shape[out[2 + n]] += more
    padding = tuple((low, high + more) for (low, high), more in zip(p["padding"], missing, strict=True))
    larger = r.builder.add(op.opcode, op.operands, {**p, "padding": padding}, [op.type.with_shape(tuple(shape))])[0]
    return r.add1("slice", larger, start_indices=(0,) * len(shape), limit_indices=op.type.shape, strides=None)


def channels_last(op: Op, r: Rewriter) -> int | None:
    """A transposed convolution of planes is one of pixels between transpositions.

    Phases of a plane's rows are interleaved in memory; those of pixels leave vectors of channels whole.
    """
    p = op.params
    lhs, rhs, out = p["dimension_numbers"]
    rank = op.type.rank
    if all(d == 1 for d in p["lhs_dilation"]) or out[1] == rank - 1:
        return None
    last = (0, rank - 1, *range(1, rank - 1))
    image = r.add1("transpose", op.operands[0], permutation=(lhs[0], *lhs[2:], lhs[1]))
    shape = tuple(op.type.shape[axis] for axis in (out[0], *out[2:], out[1]))
    params = {**p, "dimension_numbers": (last, rhs, last)}
    result = r.builder.add(op.opcode, (image, op.operands[1]), params, [op.type.with_shape(shape)])[0]
    order = (out[0], *out[2:], out[1])
    return r.add1("transpose", result, permutation=tuple(order.index(axis) for axis in range(rank)))
