"""Autotuning: which of a convolution's kernels is the fastest on this CPU, measured within a time budget.

`tasks` names what is tuned, `records` keeps what was measured, `lookup` answers the compiler; none of them
imports TVM. `tune` is the loop: `space` proposes candidates, `engine` builds and measures them with
MetaSchedule, whose worker processes run `worker`.
"""
