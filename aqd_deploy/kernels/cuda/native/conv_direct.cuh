// Convolution in channel groups, without tensor cores: a thread has four channels of a pixel and reads what it needs.
// Weights lie as [tap][input channel of the group][out_pitch]; a tile is one row. DEPTHWISE: each channel is a group, so
// that the four of them and their weights are a word each.
#pragma once
#include "conv.cuh"

template <bool DEPTHWISE, bool SIGNED, bool ODD, class E> AQD_DEVICE void conv_direct(const ConvArgs<E::TENSORS> &p) {
  const int quads = p.out_pitch / 4, index = blockIdx.x * blockDim.x + threadIdx.x, channel = index % quads * 4;
  int m = index / quads, which = 0;
  while (which < 8 && m >= p.level[which].tiles) which++;
  if (which == 8) return;
  const Level l = p.level[which];
  if (which) m -= p.level[which - 1].tiles;
  const Pixel o = aqd_pixel(l, m);
  int from[4], v[4] = {0, 0, 0, 0};
  for (int j = 0; j < 4; j++) from[j] = aqd_least(channel + j, p.channels - 1) / p.group_out * p.group_in;
  for (int ky = 0; ky < p.kernel_h; ky++)
    for (int kx = 0; kx < p.kernel_w; kx++) {
      const int y = o.y * p.stride_y - p.top + ky * p.dilation_y, x = o.x * p.stride_x - p.left + kx * p.dilation_x;
      if (y < 0 || y >= l.h || x < 0 || x >= l.w) continue;
      const uint8_t *pixel = p.x + (long long)(l.in_start + (o.n * l.h + y) * l.w + x) * p.pitch;
      const int8_t *w = p.w + (long long)(ky * p.kernel_w + kx) * p.group_in * p.out_pitch + channel;
      for (int i = 0; i < (DEPTHWISE ? 1 : p.group_in); i++, w += p.out_pitch) {
        const int weights = *(const int *)w;
        int values = 0;
        if (DEPTHWISE) values = *(const int *)(pixel + channel);
        else
          for (int j = 0; j < 4; j++) values |= pixel[from[j] + i] << 8 * j;
        for (int j = 0; j < 4; j++) {
          const int weight = (int8_t)(weights >> 8 * j), value = values >> 8 * j;
          v[j] += (SIGNED ? (int)(int8_t)value : (int)(uint8_t)value) * (ODD ? 2 * weight + 1 : weight);
        }
      }
    }
  const Spot s = {l, which, m, channel, p.channels, p.out_pitch};
  aqd_finish<E>(p.words, p.tensors, s, v);
}
