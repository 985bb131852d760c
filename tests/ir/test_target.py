"""Describing the host from the files of its system."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tilewright.ir.target import Target, detect_target

AVX2 = "fpu sse sse2 pni ssse3 cx16 sse4_1 sse4_2 movbe popcnt avx f16c lahf_lm abm bmi1 avx2 bmi2 fma"
AVX512 = f"{AVX2} avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16 avx512_vnni"


def host(folder: Path, flags: str, monkeypatch: pytest.MonkeyPatch) -> Target:
    """The target of a made-up x86 machine with three cache levels."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    fields = {"vendor_id": "V", "cpu family": "6", "model": "1", "model name": "N", "cpu MHz": "2000.0", "flags": flags}
    processor = "\n".join(f"{key}\t: {value}" for key, value in fields.items())
    (folder / "cpuinfo").write_text(f"{processor}\n\n{processor.replace('N', 'other')}\n")
    caches = [("Data", "1", "48K"), ("Instruction", "1", "64K"), ("Unified", "2", "1024K"), ("Unified", "3", "32M")]
    for index, values in enumerate(caches):
        (folder / "cache" / f"index{index}").mkdir(parents=True, exist_ok=True)
        for name, value in zip(("type", "level", "size"), values, strict=True):
            (folder / "cache" / f"index{index}" / name).write_text(value + "\n")
    return detect_target(folder / "cpuinfo", folder / "cache")


def test_avx512_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = host(tmp_path, AVX512, monkeypatch)
    assert (target.vector_bits, target.vector_bytes, target.llvm_cpu) == (512, 64, "x86-64-v4")
    assert {"avx512f", "avx512bf16", "fma", "lzcnt", "bmi"} <= target.feature_set
    assert "-prefer-256-bit" in target.features.split(",")
    assert (target.l1_bytes, target.l2_bytes, target.l3_bytes) == (48 * 1024, 2**20, 32 * 2**20)
    assert target.fma_gflops_per_thread == pytest.approx(2.0 * 16 * 2 * 2)
    assert target.name == "V N family 6 model 1"


@pytest.mark.parametrize(
    ("flags", "bits", "cpu"),
    [
        (AVX2, 256, "x86-64-v3"),
        (AVX2.replace(" fma", ""), 128, "x86-64-v2"),
        (AVX2 + " avx512f", 256, "x86-64-v3"),
        ("fpu sse sse2", 128, "x86-64"),
    ],
)
def test_lesser_machines(flags: str, bits: int, cpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = host(tmp_path, flags, monkeypatch)
    assert (target.vector_bits, target.llvm_cpu) == (bits, cpu)


def test_restricted_to_older_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = host(tmp_path, AVX512, monkeypatch)
    avx2, sse2 = full.restricted("avx2"), full.restricted("sse2")
    assert (avx2.vector_bits, avx2.llvm_cpu, sse2.vector_bits, sse2.llvm_cpu) == (256, "x86-64-v3", 128, "x86-64-v2")
    assert {"avx2", "fma"} <= avx2.feature_set and not any(name.startswith("avx512") for name in avx2.feature_set)
    assert not any(name.startswith("avx") for name in sse2.feature_set) and "fma" not in sse2.feature_set
    assert "-avx512f" in avx2.features
    assert full.fma_gflops_per_thread == 2 * avx2.fma_gflops_per_thread == 8 * sse2.fma_gflops_per_thread
    assert full.restricted("avx512") is full and avx2.restricted("avx2") is avx2
    assert len({full.fingerprint, avx2.fingerprint, sse2.fingerprint}) == 3


def test_restriction_drops_newer_features_of_the_same_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = host(tmp_path, AVX2 + " avx512f", monkeypatch)  # the foundation alone does not make 512-bit code
    assert partial.vector_bits == 256 and "avx512f" in partial.feature_set
    assert "avx512f" not in partial.restricted("avx2").feature_set


def test_impossible_restrictions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = host(tmp_path, AVX2, monkeypatch)
    with pytest.raises(ValueError, match="expected one of sse2, avx2, avx512, found 'avx1024'"):
        target.restricted("avx1024")
    with pytest.raises(ValueError, match=r"256-bit vectors.* has no avx512"):
        target.restricted("avx512")


def test_silent_system_gets_conservative_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    target = detect_target(tmp_path / "missing", tmp_path / "missing")
    assert (target.arch, target.vector_bits, target.features, target.llvm_cpu) == ("aarch64", 128, "", "generic")
    assert target.l1_bytes and target.l2_bytes and target.l3_bytes and target.threads >= 1
    assert target.fma_gflops_per_thread > 0 and target.bandwidth_gbs > 0 and target.name


def test_fingerprint_ignores_measured_speed_but_not_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    target = host(tmp_path, AVX2, monkeypatch)
    assert replace(target, fma_gflops_per_thread=1.0, bandwidth_gbs=1.0).fingerprint == target.fingerprint
    assert replace(target, threads=target.threads + 1).fingerprint != target.fingerprint


def test_host_is_detected() -> None:
    target = detect_target()
    assert target == detect_target() and target.vector_bits >= 128 and target.threads >= 1
