"""Device profiles, one TOML a device, and their loader.

`get(name)` returns a `Target`: what the compiler generates code for and what the loader demands of a CPU.
"""

from aqd_deploy.targets.cpu import Cpu, read_cpu
from aqd_deploy.targets.profile import DEFAULT_BACKEND, Target, detect_host, get, names, path_of, problems

__all__ = [
    "DEFAULT_BACKEND",
    "Cpu",
    "Target",
    "detect_host",
    "get",
    "names",
    "path_of",
    "problems",
    "read_cpu",
]
