"""Convolutions with 3x3 taps by minimal filtering (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks).

The image is cut into overlapping tiles. Each is transformed, channels are summed by one matrix product per element of
a transformed tile, and tiles of results are transformed back: with tiles of 4x4 results 36 products instead of 144.

A NaN or an infinity spreads over its tile, beyond the results that it has a part in, and large numbers overflow
earlier than in the sum itself. So the formulation is valid only where every element of the image is small enough for
nothing to overflow, which a first kernel finds out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..ir.affine import AffineExpr, constant, var
from ..ir.graph import Graph, GraphBuilder, Op, TensorType
from ..ir.loop import Access, Alloc, Apply, Block, Buffer, Const, Expr, For, Iter, LoopFunc, Read, Stmt, seq
from .epilogue import Epilogue, without
from .formulation import Formulation, Part, Value
from .lower import LoweringError, Workload, lower
from .toom_cook import TAPS, Filtering, filtering, transformed_weights

SIZES = (2, 4)
"""Results per tile and axis."""
_CHANNELS = 16
"""Channels and features have to be multiples of this: vectors run along them."""
_BLOCK = 32
"""Channels that are transformed together, so that the rows of tiles they are read from stay in the first cache."""
_LARGEST = 1e30
"""Where no intermediate value exceeds this, nothing overflows."""
_LIMIT = 1e15
"""Largest element of an image: the same for all, so that equal shapes share kernels."""
_MOST_BAND = 1 << 19
"""Most bytes of the rows of an image that a row of tiles is made of: they are to stay in a core's cache."""
_F32 = "float32"


@dataclass(frozen=True, slots=True)
class _Site:
    """A convolution of a region that can be computed so.

    Args:
        region: the region.
        conv: the convolution.
        weights: its second operand in the order of rows, columns, channels, features.
        low: zeros before the image, by axis.
    """

    region: Graph
    conv: Op
    weights: np.ndarray
    low: tuple[int, int]

    @property
    def image(self) -> tuple[int, ...]:
        """Shape of the image: batch, height, width, channels."""
        return self.region.types[self.conv.operands[0]].shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the results."""
        return self.conv.type.shape

    def tiles(self, results: int) -> tuple[int, int]:
        """Tiles along height and width."""
        return -(-self.shape[1] // results), -(-self.shape[2] // results)


def winograd(region: Graph, results: int) -> Formulation | None:
    """The formulation with tiles of ``results`` by ``results`` results; None where it does not apply.

    Args:
        region: a convolution with constant weights and what is computed from it element by element.
        results: 2 or 4.
    """
    site = _site(region)
    if site is None or min(site.shape[1:3]) < results:
        return None
    try:
        output = _output(site, results)
    except LoweringError:
        return None
    algorithm = filtering(results)
    rows, columns = site.tiles(results)
    batch, products = site.shape[0], algorithm.size**2
    weights = TensorType((products, site.image[3], site.shape[3]), _F32)
    if _grown(site, algorithm) * _LIMIT > _LARGEST or _band_bytes(site, algorithm) > _MOST_BAND:
        return None
    temporaries = {
        "magnitude": TensorType(site.image[:2], _F32),
        "valid": TensorType((), "bool"),
        "tiles": TensorType((products, batch, rows, columns, site.image[3]), _F32),
        "sums": TensorType((products, batch, rows, columns, site.shape[3]), _F32),
    }
    image = site.conv.operands[0]
    parts = (
        Part(_magnitude(site).func, (image, "magnitude"), False),
        Part(_valid(site).func, ("magnitude", "valid"), False),
        Part(_input(site, results), (image, "tiles"), True),
        Part(_product(temporaries["tiles"], weights), ("tiles", "weights", "sums"), True),
        output,
    )
    return Formulation(
        f"winograd{results}",
        parts,
        temporaries,
        {"weights": weights},
        lambda: {"weights": transformed_weights(site.weights, algorithm)},
        "valid",
        functools.partial(_values, site, algorithm),
        without(site.region, site.conv),
        site.conv.result,
    )


def _site(region: Graph) -> _Site | None:
    convs = [op for op in region.ops if op.opcode == "conv_general_dilated"]
    if len(convs) != 1 or len(region.outputs) != 1:
        return None
    (conv,) = convs
    weights = region.constant(conv.operands[1])
    if weights is None or conv.operands[0] not in region.inputs or conv.type.dtype != _F32:
        return None
    p = conv.params
    lhs, rhs, out = p["dimension_numbers"]
    plain = all(set(p[name]) == {1} for name in ("window_strides", "lhs_dilation", "rhs_dilation"))
    groups = p["feature_group_count"] * p["batch_group_count"]
    if not plain or groups != 1 or tuple(lhs) != (0, 3, 1, 2) or tuple(out) != (0, 3, 1, 2):
        return None
    ordered = np.transpose(weights, (*rhs[2:], rhs[1], rhs[0]))
    padding = p["padding"]
    if ordered.shape[:2] != (TAPS, TAPS) or any(low < 0 or high < 0 for low, high in padding):
        return None
    if ordered.shape[2] % _CHANNELS or ordered.shape[3] % _CHANNELS or not np.isfinite(ordered).all():
        return None
    if region.types[conv.operands[0]].size == 0 or conv.type.size == 0:
        return None
    return _Site(region, conv, ordered, (padding[0][0], padding[1][0]))


def _band_bytes(site: _Site, algorithm: Filtering) -> int:
    """Bytes of the rows of a row of tiles, one block of channels of them."""
    wide = (site.tiles(algorithm.results)[1] - 1) * algorithm.results + algorithm.size
    return 4 * algorithm.size * wide * _part(site.image[3])


def _grown(site: _Site, algorithm: Filtering) -> float:
    """How many times as large as an element of the image an intermediate value can be."""
    tiles = algorithm.growth(algorithm.data) ** 2
    sums = tiles * site.image[3] * algorithm.growth(algorithm.filter) ** 2 * float(np.abs(site.weights).max())
    return max(tiles, sums * max(algorithm.growth(algorithm.back) ** 2, 1.0))


# ---- whether it is valid


def _magnitude(site: _Site) -> Workload:
    """The largest magnitude of each row of the image; NaN where there is one."""
    builder = GraphBuilder()
    size = builder.add1("abs", builder.input(TensorType(site.image, _F32)))
    return lower(builder.build([builder.add1("reduce_max", size, axes=(2, 3))]), "magnitude")


def _valid(site: _Site) -> Workload:
    """Whether no row has a larger magnitude than allowed; not so where one is NaN."""
    builder = GraphBuilder()
    rows, limit = builder.input(TensorType(site.image[:2], _F32)), builder.constant(np.array(_LIMIT, np.float32))
    return lower(builder.build([builder.add1("reduce_and", builder.add1("le", rows, limit), axes=(0, 1))]), "valid")


def _product(tiles: TensorType, weights: TensorType) -> LoopFunc:
    """Channels summed, one matrix product for each element of a transformed tile; the weights are a constant."""
    builder = GraphBuilder()
    left = builder.input(TensorType((tiles.shape[0], math.prod(tiles.shape[1:4]), tiles.shape[4]), _F32))
    right = builder.input(weights)
    params = {"dimension_numbers": (((2,), (1,)), ((0,), (0,))), "precision": None, "preferred_element_type": None}
    func = lower(builder.build([builder.add1("dot_general", left, right, **params)]), "product").func
    image, filters, sums = func.params
    return replace(func, params=(image, replace(filters, scope="constant"), sums))


# ---- its values, by NumPy


def _values(site: _Site, algorithm: Filtering, given: Mapping[Value, np.ndarray], dtype: type) -> dict[str, np.ndarray]:
    """See `Formulation.values`; values that are given already are taken as they are."""
    image = given[site.conv.operands[0]].astype(dtype)
    magnitude = np.abs(image).max((2, 3))
    found = {"magnitude": magnitude, "valid": np.asarray((magnitude <= _LIMIT).all())}
    found["tiles"] = _transformed(site, algorithm, image)
    tiles = given.get("tiles", found["tiles"]).astype(dtype)
    products, *count, channels = tiles.shape
    flat = tiles.reshape(products, -1, channels)
    weights = transformed_weights(site.weights, algorithm).astype(dtype)
    found["sums"] = np.matmul(flat, weights).reshape(products, *count, -1)
    found["middle"] = _back(site, algorithm, given.get("sums", found["sums"]).astype(dtype))
    return found


def _transformed(site: _Site, algorithm: Filtering, image: np.ndarray) -> np.ndarray:
    """float[products, batch, rows, columns, channels] of an image."""
    results, size = algorithm.results, algorithm.size
    tiles = site.tiles(results)
    whole = [(n - 1) * results + size for n in tiles]
    padded = np.zeros((image.shape[0], *whole, image.shape[3]), image.dtype)
    height, width = (min(n, w - low) for n, w, low in zip(image.shape[1:3], whole, site.low, strict=True))
    padded[:, site.low[0] : site.low[0] + height, site.low[1] : site.low[1] + width] = image[:, :height, :width]
    matrix = np.array(algorithm.data, image.dtype)
    for axis, count in ((1, tiles[0]), (3, tiles[1])):
        places = np.arange(count)[:, None] * results + np.arange(size)
        padded = np.take(padded, places, axis=axis)
    moved = np.einsum("ai,nyixjc->anyxjc", matrix, padded)
    out = np.einsum("bj,anyxjc->abnyxc", matrix, moved)
    return out.reshape(size**2, image.shape[0], *tiles, image.shape[3])


def _back(site: _Site, algorithm: Filtering, sums: np.ndarray) -> np.ndarray:
    """Results of the convolution from transformed sums."""
    size, matrix = algorithm.size, np.array(algorithm.back, sums.dtype)
    products = sums.reshape(size, size, *sums.shape[1:])
    moved = np.einsum("ai,ijnyxk->ajnyxk", matrix, products)
    out = np.einsum("bj,ajnyxk->nyaxbk", matrix, moved)
    batch, rows, results, columns, _, features = out.shape
    whole = out.reshape(batch, rows * results, columns * results, features)
    return whole[:, : site.shape[1], : site.shape[2]]


# ---- transformations


def _input(site: _Site, results: int) -> LoopFunc:
    """Every tile of the image transformed along both axes: ``B^T d B``."""
    algorithm = filtering(results)
    batch, _height, _width, channels = site.image
    rows, columns = site.tiles(results)
    wide = (columns - 1) * results + algorithm.size
    part = _part(channels)
    names = _Loops(batch, rows, channels // part)
    n, y, c = names.batch, names.row, names.block * part
    x_tile = var("column")
    image = Buffer("x0", site.image, _F32)
    tiles = Buffer("y0", (algorithm.size**2, batch, rows, columns, channels), _F32)
    band = Buffer("band", (algorithm.size, wide, part), _F32, "cache")
    once = Buffer("once", (algorithm.size, algorithm.size, part), _F32, "cache")

    def along_rows(number: int, row: Sequence[float]) -> Block:
        value = _combined(row, lambda i: _read(band, constant(i), x_tile * results + var("j"), var("c")))
        iters = _iters(j=algorithm.size, c=part)
        return Block(f"rows{number}", iters, Access("once", (constant(number), var("j"), var("c"))), value)

    def along_columns(number: int, row: Sequence[float]) -> Block:
        value = _combined(row, lambda j: _read(once, var("i"), constant(j), var("c")))
        place = var("i") * algorithm.size + number
        iters = _iters(i=algorithm.size, c=part)
        return Block(f"columns{number}", iters, Access("y0", (place, n, y, x_tile, var("c") + c)), value)

    transform = [along_rows(k, row) for k, row in enumerate(algorithm.data)]
    transform += [along_columns(k, row) for k, row in enumerate(algorithm.data)]
    loop = _loop("column", columns, Alloc(once, seq(*transform)))
    body = Alloc(band, seq(*_band(site, band, y * results, n, c), loop))
    return LoopFunc("input", (image, tiles), 1, names.around(body))


def _band(site: _Site, band: Buffer, first: AffineExpr, n: AffineExpr, c: AffineExpr) -> list[Block]:
    """The rows of the image that a row of tiles reads, with zeros around them."""
    _, height, width, _ = site.image
    size, wide, part = band.shape
    row = first + var("i") - site.low[0]
    spans = {"left": (0, site.low[1]), "right": (site.low[1] + width, wide)}
    found: list[Block] = []
    for name, (start, stop) in spans.items():
        if start < min(stop, wide):
            iters = _iters(i=size, x=stop - start, c=part)
            place = (var("i"), var("x") + start, var("c"))
            found.append(Block(name, iters, Access("band", place), Const(0.0, _F32)))
    inside = min(width, wide - site.low[1])
    value = Read("x0", (n, row, var("x"), var("c") + c), _F32)
    guard = (row, constant(height - 1) - row)
    place = (var("i"), var("x") + site.low[1], var("c"))
    return [
        *found,
        Block("middle", _iters(i=size, x=inside, c=part), Access("band", place), value, None, guard, "zero"),
    ]


def _output(site: _Site, results: int) -> Part:
    """Tiles of sums transformed back, ``A^T m A``, and what the region computes from each result."""
    algorithm = filtering(results)
    batch, height, width, features = site.shape
    rows, columns = site.tiles(results)
    part = _part(features)
    names = _Loops(batch, rows, features // part)
    n, y, k, x = names.batch, names.row, names.block * part, var("column")
    sums = Buffer("x0", (algorithm.size**2, batch, rows, columns, features), _F32)
    once = Buffer("once", (results, algorithm.size, part), _F32, "cache")
    epilogue = Epilogue(site.region, site.conv)

    def along_rows(number: int, row: Sequence[float]) -> Block:
        at = (n, y, x, var("c") + k)
        value = _combined(row, lambda i: _read(sums, var("j") + i * algorithm.size, *at))
        iters = _iters(j=algorithm.size, c=part)
        return Block(f"rows{number}", iters, Access("once", (constant(number), var("j"), var("c"))), value)

    def along_columns(number: int, row: Sequence[float]) -> Block:
        result = _combined(row, lambda j: _read(once, var("i"), constant(j), var("c")))
        at = (n, y * results + var("i"), x * results + number, var("c") + k)
        value = epilogue.value(result, at)
        inside = []
        if height % results:
            inside.append(constant(height - 1) - at[1])
        if width % results:
            inside.append(constant(width - 1) - at[2])
        iters = _iters(i=results, c=part)
        return Block(f"columns{number}", iters, Access("y0", at), value, None, tuple(inside))

    transform = [along_rows(i, row) for i, row in enumerate(algorithm.back)]
    transform += [along_columns(j, row) for j, row in enumerate(algorithm.back)]
    body = _loop("column", columns, Alloc(once, seq(*transform)))
    output = Buffer("y0", site.shape, epilogue.dtype)
    func = LoopFunc("output", (sums, *epilogue.params, output), 1, names.around(body))
    return Part(func, ("sums", *epilogue.values, site.region.outputs[0]), True)


# ---- pieces of loops


@dataclass(frozen=True, slots=True)
class _Loops:
    """Loops over images, rows of tiles and blocks of channels; those of one iteration are left out."""

    batches: int
    rows: int
    blocks: int

    @property
    def batch(self) -> AffineExpr:
        """Number of the image."""
        return var("image") if self.batches > 1 else constant(0)

    @property
    def row(self) -> AffineExpr:
        """Row of tiles."""
        return var("row") if self.rows > 1 else constant(0)

    @property
    def block(self) -> AffineExpr:
        """Block of channels."""
        return var("block") if self.blocks > 1 else constant(0)

    def around(self, body: Stmt) -> Stmt:
        """The loops around a statement."""
        for name, count in (("block", self.blocks), ("row", self.rows), ("image", self.batches)):
            body = For(name, (constant(0),), (constant(count),), body) if count > 1 else body
        return body


def _loop(name: str, count: int, body: Stmt) -> Stmt:
    return For(name, (constant(0),), (constant(count),), body)


def _part(channels: int) -> int:
    return _BLOCK if channels % _BLOCK == 0 else _CHANNELS


def _iters(**extents: int) -> tuple[Iter, ...]:
    return tuple(Iter(name, constant(0), extent) for name, extent in extents.items())


def _read(buffer: Buffer, *index: AffineExpr) -> Read:
    return Read(buffer.name, index, buffer.dtype)


def _combined(coefficients: Sequence[float], term: Callable[[int], Expr]) -> Expr:
    """The sum of terms with constant coefficients; multiplications by one and zero are left out."""
    chosen = sorted((k for k, c in enumerate(coefficients) if c), key=lambda k: coefficients[k] < 0)
    total: Expr | None = None
    for number in chosen:
        factor = coefficients[number]
        size, value = abs(factor), term(number)
        scaled = value if size == 1.0 else Apply("mul", (value, Const(size, _F32)), _F32)
        if total is None:
            total = scaled if factor > 0 else Apply("neg", (scaled,), _F32)
        else:
            total = Apply("add" if factor > 0 else "sub", (total, scaled), _F32)
    return total if total is not None else Const(0.0, _F32)
