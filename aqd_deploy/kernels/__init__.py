"""Integer kernels as TIR functions, one family a file.

`conv.conv2d` is the entry for convolutions, `pointwise` holds everything around them, `unpack` expands stored
weights when a program is loaded. `spec` is the contract with the compiler.

Convolution families, in the order they are tried:

- depthwise (`conv_depthwise`): one channel a group; vectors of channels.
- blocked (`conv_blocked`): register tiles of pixels × output channels; `dots` has the dot product of each
  instruction set, `blocking` chooses the tiles, `strip` makes the padded copy of input rows, `windows` the
  sums that odd weights need. A new instruction set is one more entry of `dots.DOTS`.
- loops (`conv_loops`): whatever is left, one value at a time.

Every function takes contiguous buffers that begin at multiples of 64 bytes, as the TVM runtime allocates
them; generated code relies on it. Outputs must not alias inputs: tiles overlap at the borders of a map, and
what two tiles share is computed from the inputs twice.
"""

# Raised whenever a choice of a family comes to mean another function: tuning records of other versions are
# ignored.
KERNEL_VERSION = 1
