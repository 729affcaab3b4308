"""What follows an accumulator: bias, skip-addition, multiply-shift, clip, pool, store."""
