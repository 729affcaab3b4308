"""Integer kernels as TIR functions.

`contract` is what a compiler asks and gets: the specification of a convolution and of what follows it, a
choice of a kernel, the kernel, and `backend`, everything that is asked of a kind of device. `backends` knows
them by name; `reference` computes the integers that all of them must return. `storage` and `winograd` hold
for every device: how weights and constants lie in a program, and which minimal filterings are exact.

`cpu` is the backend of CPUs. In `cpu/conv` a family of convolution kernels is one class in one file, and an
entry of `families`; the one with the least estimated time is the default:

- depthwise: one channel a group; vectors of channels, 16-bit sums where they are proven.
- winograd (in `cpu/winograd`): exact minimal filtering where the transforms fit 8 or 16 bits. `inputs` and
  `outputs` write the transforms, `conv` the products between them, `plan` cuts the work.
- few (`few_channels`): up to eight output channels; dot products along the input channels.
- blocked (`register_tiles`, `blocked`): register tiles of pixels × output channels; `blocking` chooses the
  tiles, `padded_rows` copies input rows with their padding, `window_sums` has the sums that odd weights need.
- bytes: the same with sums of 8 bits, where NEON without dot products multiplies operands of 2 bits.
- grouped: groups that do not fill vectors of output channels; `group_samples` gives each lane the inputs of
  its group. Its frame and that of depthwise is `maps`.
- loops: one value at a time, for any geometry.

`level_blocking` cuts a convolution over several maps (`ConvSpec.levels`), `partial_sums` a reduction whose
sums fit 8 or 16 bits for some steps only. A max-pool in the epilogue makes a blocked convolution a `pooled`
one: the map under the pool stays in the cache.

`cpu/isa` has one entry an instruction set (`x86`, `arm`, `portable`), of capabilities and of dot products,
each a class; `exactness` has what ranges prove, `select` the choice among the products. `assembly` reads from
machine code where the products are; tests and estimates look at that loop.

`cpu/epilogue` writes what follows the accumulators: `contract/scaling` chooses from constants and intervals
how each multiply-shift is computed, `fixed_point` computes it, `nchw_store` stores network outputs. In
`cpu/movement`, `pointwise` holds everything around the convolutions, `pyramid_stack` copies maps into one
tensor and transposes outputs. When a program is loaded, `cpu/unpack` expands its weights and constants.

Every function takes contiguous buffers that begin at multiples of 64 bytes, as the TVM runtime allocates
them; generated code relies on it. Outputs must not alias inputs: tiles overlap at the borders of a map, and
what two tiles share is computed from the inputs twice.
"""

# Raised whenever a choice of a family comes to mean another function: tuning records of other versions are
# ignored.
KERNEL_VERSION = 2
