"""Machine code for CPUs: LLVM IR from loops, vector math, the plan runtime and its XLA handler."""
