"""Integer kernels as TIR functions, one family a file.

`conv.conv2d` is the entry for convolutions, `pointwise` holds everything around them. When a program is
loaded, `unpack` expands stored weights, and `expand` the constants of epilogues, which are stored as
`frames`. `spec` is the contract with the compiler.

Convolution families; the one with the least estimated time is the default:

- depthwise (`conv_depthwise`): one channel a group; vectors of channels, 16-bit sums where they are proven.
- winograd (`conv_winograd`): exact minimal filtering where the transforms fit 8 or 16 bits; `winograd_lines`
  has the transforms, `winograd_forms` the proofs.
- blocked (`conv_blocked`): register tiles of pixels × output channels; `blocking` chooses the tiles, `strip`
  makes the padded copy of input rows, `windows` the sums that odd weights need.
- bytes: the same with sums of 8 bits, where NEON without dot products multiplies operands of 2 bits.
- few (`conv_few`): up to eight output channels; dot products along the input channels.
- grouped (`conv_grouped`): groups that do not fill vectors of output channels; `group_samples` gives each
  lane the inputs of its group. Its frame and that of `conv_depthwise` is `conv_maps`.
- loops (`conv_loops`): one value at a time, for any geometry.

`level_blocking` cuts a convolution over several maps (`ConvSpec.levels`), `stack` copies maps into one tensor
and transposes the network's outputs, which `border_store` does inside the convolution that makes them.

`products` emits the dot products of each instruction set, `dots_arm` those of ARM; `dots` decides from the
ranges which one is exact. `partial_sums` cuts reductions whose sums fit 8 or 16 bits for some steps only.
`core` has the caches that blocking reckons with. A new instruction set is one more entry of `dots.DOTS`.

`epilogue` writes what follows the accumulators; `scaling` chooses from constants and intervals how each
multiply-shift is computed, `fixed_point` computes it. A max-pool in the epilogue makes a blocked convolution
a `conv_pooled` one: the map under the pool stays in the cache.

`inner_loop` reads from machine code where the products are; tests and estimates look at that loop.

Every function takes contiguous buffers that begin at multiples of 64 bytes, as the TVM runtime allocates
them; generated code relies on it. Outputs must not alias inputs: tiles overlap at the borders of a map, and
what two tiles share is computed from the inputs twice.
"""

# Raised whenever a choice of a family comes to mean another function: tuning records of other versions are
# ignored.
KERNEL_VERSION = 2
