"""Integer kernels as TIR functions, one family a file."""
