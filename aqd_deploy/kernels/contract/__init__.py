"""What a compiler asks of kernels and what they answer: the backend, the specification of a convolution, the
choice of a kernel and the kernel, how multiply-shifts may be computed, the caches to reckon with.
"""
