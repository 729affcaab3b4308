"""Autotuning: which of a convolution's kernels is the fastest on this CPU, measured within a time budget.

The package `records` names what is tuned, keeps what was measured and answers the compiler; it does not
import TVM. `tune` is the loop: `space` proposes candidates, of those that the target's backend lists,
`engine` builds and measures them with MetaSchedule, whose worker processes run `worker`.
"""
