"""The grammar of `--input`, and values for arguments."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tilewright.cli.arrays import random_array, read_arrays, write_arrays
from tilewright.cli.errors import UsageError
from tilewright.cli.inputs import DTYPES, ArrayType, Input, gather, parse_input, parse_inputs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f32[1,224,224,3]", Input(None, ArrayType("float32", (1, 224, 224, 3)))),
        ("f32[]", Input(None, ArrayType("float32", ()))),
        (" bf16 [ 2 , 3 ] ", Input(None, ArrayType("bfloat16", (2, 3)))),
        ("float64[4]", Input(None, ArrayType("float64", (4,)))),
        ("u8[0,2]", Input(None, ArrayType("uint8", (0, 2)))),
        ("c64[1]", Input(None, ArrayType("complex64", (1,)))),
        ("flag=bool[3]", Input("flag", ArrayType("bool", (3,)))),
        ("x = i64[]", Input("x", ArrayType("int64", ()))),
        ("@a.npz", Input(None, Path("a.npz"))),
        ("x=@dir/a=b.npy", Input("x", Path("dir/a=b.npy"))),
        ("@a[1].npy", Input(None, Path("a[1].npy"))),
    ],
)
def test_what_can_be_written(text: str, expected: Input) -> None:
    assert parse_input(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected an element type and a shape"),
        ("f32", "a scalar is 'f32[]'"),
        ("f32[2,3", "expected an element type and a shape"),
        ("f32(2,3)", "expected an element type and a shape"),
        ("f32[2][3]", "expected an element type and a shape"),
        ("[2,3]", "expected an element type and a shape"),
        ("f32[2,-1]", "found '-1'"),
        ("f32[2,n]", "found 'n'"),
        ("f32[2,,3]", "found ''"),
        ("f32[2,]", "found ''"),
        ("f32[2 3]", "found '2 3'"),
        ("f32[²]", "found '²'"),
        ("f23[2]", "there is bf16, bool, c128, c64, f16, f32, f64, i16, i32, i64, i8, u16, u32, u64, u8"),
        ("ff32[2]", "did you mean 'f32'"),
        ("string[2]", "expected an element type, found 'string'"),
        ("=f32[2]", "expected an argument's name before '=', found ''"),
        ("1x=f32[2]", "found '1x'"),
        ("x=", "expected an element type and a shape"),
        ("@", "expected a path after '@'"),
    ],
)
def test_what_can_not_be_written(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_input(text)
    assert said in f"{refusal.value.message}; {refusal.value.remedy}"
    assert repr(text) in refusal.value.message
    assert refusal.value.remedy


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 10**6), max_size=5))
def test_every_type_reads_as_it_prints(dtype: str, shape: list[int]) -> None:
    type_ = ArrayType(DTYPES[dtype], tuple(shape))
    assert parse_input(str(type_)) == Input(None, type_)
    assert parse_input(f"name={dtype}[{','.join(map(str, shape))}]") == Input("name", type_)


@given(st.text(st.sampled_from("f32[],=@ x1\n-é"), max_size=12))
@example("x=y=f32[]")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(parse_input(text), Input)
    except UsageError as refusal:
        assert refusal.exit_code == 2


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="once, found it twice"):
        parse_inputs(["x=f32[1]", "x=f32[2]"])
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    with pytest.raises(UsageError, match="'x' more than once"):
        gather(parse_inputs(["x=f32[1]", f"@{tmp_path / 'a.npz'}"]))


class TestFiles:
    def test_arrays_by_position_and_by_name(self, tmp_path: Path) -> None:
        first, second, named = np.arange(3.0), np.arange(4), np.array(True)
        np.savez(tmp_path / "a.npz", first, second, flag=named)
        found = gather(parse_inputs(["f32[]", f"@{tmp_path / 'a.npz'}", "y=i32[2]"]))
        assert found.args[0] == ArrayType("float32", ())
        assert np.array_equal(found.args[1], first) and np.array_equal(found.args[2], second)
        assert list(found.kwargs) == ["flag", "y"]
        assert str(found) == "(f32[], f64[3], i64[4], flag=bool[], y=i32[2])"

    def test_more_than_ten_arrays_stand_in_order(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", *[np.full(1, number) for number in range(12)])
        found = gather(parse_inputs([f"@{tmp_path / 'a.npz'}"]))
        assert [int(np.asarray(value)[0]) for value in found.args] == list(range(12))

    def test_a_gap_between_positions_is_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", arr_0=np.zeros(1), arr_2=np.zeros(1))
        with pytest.raises(UsageError, match="without a gap"):
            gather(parse_inputs([f"@{tmp_path / 'a.npz'}"]))

    def test_a_named_argument_takes_one_array(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.arange(3))
        assert list(gather(parse_inputs([f"x=@{tmp_path / 'a.npy'}"])).kwargs) == ["x"]
        np.savez(tmp_path / "a.npz", a=np.zeros(1), b=np.zeros(1))
        with pytest.raises(UsageError, match="expected one array, found 2: a, b"):
            gather(parse_inputs([f"x=@{tmp_path / 'a.npz'}"]))

    def test_big_endian_and_fortran_arrays_are_brought_into_order(self, tmp_path: Path) -> None:
        array = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
        np.save(tmp_path / "a.npy", array)
        (found,) = read_arrays(tmp_path / "a.npy").values()
        assert found.dtype == np.float32 and found.dtype.isnative and found.flags.c_contiguous
        assert np.array_equal(found, array)

    def test_what_is_written_is_read_back(self, tmp_path: Path) -> None:
        arrays = {"arr_0": np.arange(3.0), "file": np.array(2, np.int8), "b": np.ones(2, ml_dtypes.bfloat16)}
        write_arrays(tmp_path / "a.npz", arrays)
        found = read_arrays(tmp_path / "a.npz")
        assert {n: (a.dtype, a.tolist()) for n, a in found.items()} == {
            n: (a.dtype, a.tolist()) for n, a in arrays.items()
        }

    def test_nothing_in_a_file_is_executed(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[object, ...]:
                return (tmp_path.joinpath("exploded").touch, ())

        np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
        (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb()))
        for name in ("a.npy", "b.npz"):
            with pytest.raises(UsageError, match="can't be read"):
                read_arrays(tmp_path / name)
        assert not (tmp_path / "exploded").exists()

    def test_damaged_files_are_refused(self, tmp_path: Path) -> None:
        whole = io.BytesIO()
        np.savez(whole, a=np.arange(100))
        data = whole.getvalue()
        with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
            pass
        with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
            archive.writestr("notes.txt", "hello")
        (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
        (tmp_path / "flipped.npz").write_bytes(data[:200] + bytes([data[200] ^ 255]) + data[201:])
        (tmp_path / "none.npy").write_bytes(b"")
        np.save(tmp_path / "words.npy", np.array(["a", "b"]))
        for path in sorted(tmp_path.iterdir()):
            with pytest.raises(UsageError) as refusal:
                read_arrays(path)
            assert path.name in refusal.value.message
        for path, found in ((tmp_path, "a folder"), (tmp_path / "missing.npz", "nothing")):
            with pytest.raises(UsageError, match=f"found {found}"):
                read_arrays(path)


@pytest.mark.parametrize("dtype", sorted(set(DTYPES.values())))
def test_random_values_have_the_type_and_repeat(dtype: str) -> None:
    type_ = ArrayType(dtype, (40, 3))
    first = random_array(type_, np.random.default_rng(5))
    assert (first.dtype.name, first.shape) == (dtype, (40, 3))
    assert np.array_equal(first, random_array(type_, np.random.default_rng(5)))
    assert len(np.unique(first)) > 1
    assert random_array(ArrayType(dtype, ()), np.random.default_rng(0)).shape == ()


def test_what_no_memory_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="don't fit into memory"):
        random_array(ArrayType("float32", (10**9, 10**9, 10**9)), np.random.default_rng(0))
