"""Load and run compiled programs without the compiler: no TVM compiler, no torch is imported."""

from aqd_deploy.runtime.container import Container, read_container, read_manifest
from aqd_deploy.runtime.program import Program
from aqd_deploy.runtime.tensors import TensorInfo

__all__ = ["Container", "Program", "TensorInfo", "read_container", "read_manifest"]
