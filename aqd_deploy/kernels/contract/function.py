"""What every TIR function of the kernels keeps to, and what a program that holds it must provide."""

from __future__ import annotations

# An attribute of a function: the most that its buffers in memory take, in bytes a thread.
SCRATCH = "aqd.scratch_bytes"
# C functions that a program is linked with (`compiler.program_data`): a pointer to a byte of its data, and
# the wish for large pages.
DATA_SYMBOL = "aqd_data"
HUGE_PAGES_SYMBOL = "aqd_prefer_huge_pages"

# The options of TVM's pass context that kernels are written for. No pass may merge or move buffers: those of
# scope "local" would lose what keeps them in registers. Arguments are not checked: every shape is fixed here,
# and the virtual machine checks those that come from outside; the checks are a third of the compile time.
PASS_CONFIG = {
    "tirx.disable_storage_rewrite": True,
    "tirx.disable_assert": True,
    "tirx.disable_cse_tir": True,
}
