"""Kernels of CPUs as TIR functions: `conv` and `winograd` compute convolutions, `epilogue` what follows
their accumulators, `movement` what lies between them; `unpack` expands stored weights when a program is
loaded; `isa` has the instruction sets.
"""
