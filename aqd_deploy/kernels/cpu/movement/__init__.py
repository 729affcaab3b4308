"""Kernels that move, pool and add values between convolutions."""
