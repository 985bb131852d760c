"""The machine a program is compiled for: vector width, threads, caches and rough speed limits."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

_KIB = 1024
_MIB = 1024 * _KIB

# Conservative values for systems that don't say; only rankings depend on them, never correctness.
_DEFAULT_L1 = 32 * _KIB
_DEFAULT_L2 = 256 * _KIB
_DEFAULT_L3 = 4 * _MIB
_DEFAULT_GHZ = 2.0
_BANDWIDTH_PER_THREAD_GBS = 20.0
_BANDWIDTH_SOCKET_GBS = 80.0

# /proc/cpuinfo flag -> LLVM feature, for the flags code generation can use.
_X86_FEATURES = {
    "pni": "sse3",
    "ssse3": "ssse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "popcnt": "popcnt",
    "cx16": "cx16",
    "lahf_lm": "sahf",
    "movbe": "movbe",
    "abm": "lzcnt",
    "bmi1": "bmi",
    "bmi2": "bmi2",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "avx2": "avx2",
    "avx_vnni": "avxvnni",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "avx512_vnni": "avx512vnni",
    "avx512vbmi": "avx512vbmi",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_bitalg": "avx512bitalg",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx512ifma": "avx512ifma",
}
_ARM_FEATURES = {
    "asimd": "neon",
    "asimdhp": "fullfp16",
    "asimddp": "dotprod",
    "bf16": "bf16",
    "i8mm": "i8mm",
}
# What each x86-64 level needs, highest first: the level's name is a CPU name that LLVM knows.
_X86_LEVELS = (
    ("x86-64-v4", {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}),
    ("x86-64-v3", {"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"}),
    ("x86-64-v2", {"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "sahf"}),
    ("x86-64", set()),
)
# The instruction sets `Target.restricted` can limit a target to, with the vector bits that remain.
_RESTRICTIONS = {"sse2": 128, "avx2": 256, "avx512": 512}


@dataclass(frozen=True, slots=True)
class Target:
    """A CPU to compile for.

    Attributes:
        name: The processor as the system names it, for example `AuthenticAMD AMD EPYC family 26 model 2`.
        features: LLVM feature string, for example `+avx2,+fma`; only what the host (and the operating system) supports.
        vector_bits: Width of the widest usable vector register, in bits.
        threads: Hardware threads this process may run on.
        l1_bytes: Size of a core's first-level data cache.
        l2_bytes: Size of a core's second-level cache.
        l3_bytes: Size of the shared last-level cache.
        fma_gflops_per_thread: Peak float32 multiply-add rate of one thread, in GFLOP/s; an estimate unless measured.
        bandwidth_gbs: Memory read bandwidth of all threads together, in GB/s; an estimate unless measured.
        arch: Instruction set architecture, `x86_64` or `aarch64`.
    """

    name: str
    features: str
    vector_bits: int
    threads: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    fma_gflops_per_thread: float
    bandwidth_gbs: float
    arch: str = "x86_64"

    @property
    def vector_bytes(self) -> int:
        """Width of a vector register in bytes."""
        return self.vector_bits // 8

    @property
    def clock_hz(self) -> float:
        """Cycles per second at which two multiply-adds of a whole vector each reach the peak.

        It is what predictions count in, half the real clock where there are no multiply-adds.
        """
        return max(self.fma_gflops_per_thread * 1e9 / (4 * (self.vector_bits // 32)), 1e8)

    @property
    def feature_set(self) -> frozenset[str]:
        """Names of the enabled LLVM features, without their sign."""
        return frozenset(item[1:] for item in self.features.split(",") if item.startswith("+"))

    @property
    def llvm_cpu(self) -> str:
        """A CPU name for LLVM that implies nothing the features don't: an x86-64 level, or `generic`."""
        if self.arch != "x86_64":
            return "generic"
        enabled = self.feature_set
        needed: set[str] = set()
        best = "x86-64"
        for level, required in reversed(_X86_LEVELS):
            needed |= required
            if needed <= enabled:
                best = level
        return best

    @property
    def fingerprint(self) -> str:
        """Digest of what decides which code is fast here: processor, features and threads. A database key."""
        text = "\n".join((self.arch, self.name, self.features, str(self.threads)))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def restricted(self, instruction_set: str) -> Target:
        """The same machine limited to an older instruction set, for testing and for portable code.

        Args:
            instruction_set: `sse2`, `avx2` or `avx512`.

        Returns:
            A target without the newer features; the peak shrinks with the vector width. A machine that has no more than
            this anyway is returned as it is.

        Raises:
            ValueError: The instruction set is unknown, or this target lacks it.
        """
        if instruction_set not in _RESTRICTIONS:
            raise ValueError(f"expected one of {', '.join(_RESTRICTIONS)}, found {instruction_set!r}")
        bits = _RESTRICTIONS[instruction_set]
        if self.arch != "x86_64" or self.vector_bits < bits:
            raise ValueError(f"{self.name} ({self.arch}, {self.vector_bits}-bit vectors) has no {instruction_set}")
        if all(_needed_bits(name) <= bits for name in self.feature_set):
            return self
        kept = [f"+{name}" for name in _x86_order(self.feature_set) if _needed_bits(name) <= bits]
        # The explicit minus also works where a backend names the host's CPU, which would imply the feature.
        dropped = ["-avx512f"] if bits == 256 else ["-avx", "-avx512f"]
        peak = self.fma_gflops_per_thread * bits / self.vector_bits
        if bits == 128:
            peak /= 2  # no fused multiply-add
        return replace(self, features=",".join(kept + dropped), vector_bits=bits, fma_gflops_per_thread=peak)


def detect_target(
    cpuinfo: Path = Path("/proc/cpuinfo"), caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")
) -> Target:
    """Describe the machine this process runs on, without measuring anything.

    Args:
        cpuinfo: The system's list of processors (Linux).
        caches: The directory with the first processor's `index*` cache descriptions (Linux).

    Returns:
        The host's target. What the system does not tell is filled in conservatively: baseline vectors, small caches.
    """
    fields = _first_processor(_read(cpuinfo))
    arch = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    features = _features(fields, arch)
    bits = _vector_bits(features)
    sizes = _cache_sizes(caches)
    threads = _usable_threads()
    return Target(
        name=_name(fields),
        features=_feature_string(features),
        vector_bits=bits,
        threads=threads,
        l1_bytes=sizes.get(1, _DEFAULT_L1),
        l2_bytes=sizes.get(2, _DEFAULT_L2),
        l3_bytes=sizes.get(3, _DEFAULT_L3),
        fma_gflops_per_thread=_peak_estimate(fields, features, bits),
        bandwidth_gbs=min(_BANDWIDTH_PER_THREAD_GBS * threads, _BANDWIDTH_SOCKET_GBS),
        arch=arch,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _first_processor(text: str) -> dict[str, str]:
    """The `key: value` lines of the first processor in /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.split("\n\n")[0].splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields[key.strip()] = value.strip()
    return fields


def _name(fields: dict[str, str]) -> str:
    if "model name" in fields:
        vendor, family, model = (fields.get(key, "?") for key in ("vendor_id", "cpu family", "model"))
        return f"{vendor} {fields['model name']} family {family} model {model}"
    if "CPU part" in fields:
        return f"implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return platform.processor() or platform.machine() or "unknown"


def _features(fields: dict[str, str], arch: str) -> list[str]:
    if arch == "x86_64":
        flags = set(fields.get("flags", "").split())
        return [feature for flag, feature in _X86_FEATURES.items() if flag in flags]
    if arch == "aarch64":
        flags = set(fields.get("Features", "").split())
        return [feature for flag, feature in _ARM_FEATURES.items() if flag in flags]
    return []


def _feature_string(features: list[str]) -> str:
    signed = [f"+{name}" for name in features]
    if _vector_bits(features) == 512:
        signed.append("-prefer-256-bit")  # some CPU names ask for half-width vectors
    return ",".join(signed)


def _vector_bits(features: list[str]) -> int:
    if {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= set(features):
        return 512
    return 256 if {"avx2", "fma"} <= set(features) else 128


def _needed_bits(feature: str) -> int:
    """Vector width of the oldest instruction set that has the feature."""
    if feature.startswith("avx512"):
        return 512
    return 256 if feature in ("avx", "avx2", "avxvnni", "fma", "f16c") else 128


def _x86_order(features: Iterable[str]) -> list[str]:
    enabled = set(features)
    return [name for name in _X86_FEATURES.values() if name in enabled]


def _usable_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _peak_estimate(fields: dict[str, str], features: list[str], vector_bits: int) -> float:
    """Two vector units, each a multiply-add per cycle, at the frequency the system reports."""
    try:
        ghz = float(fields.get("cpu MHz", "")) / 1000
    except ValueError:
        ghz = _DEFAULT_GHZ
    flops_per_lane = 2 if {"fma", "neon"} & set(features) else 1
    return ghz * (vector_bits // 32) * 2 * flops_per_lane


def _cache_sizes(root: Path) -> dict[int, int]:
    """Bytes of each data or unified cache, by level."""
    sizes: dict[int, int] = {}
    for index in sorted(root.glob("index*")):
        if _read(index / "type").strip() not in ("Data", "Unified"):
            continue
        level, size = _read(index / "level").strip(), _parse_size(_read(index / "size").strip())
        if level.isdigit() and size:
            sizes[int(level)] = size
    return sizes


def _parse_size(text: str) -> int:
    """Bytes of a sysfs size like `48K`; 0 where it can't be read."""
    unit = {"K": _KIB, "M": _MIB, "G": 1024 * _MIB}.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * unit if digits.isdigit() else 0
