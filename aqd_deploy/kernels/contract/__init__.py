"""What a compiler asks of kernels and what they answer: the specification of a convolution, the choice of a
family, how multiply-shifts may be computed, the caches to reckon with.
"""
