"""Integer ONNX to Relax to one shared library. Importing this package does not import TVM; compiling does."""

from aqd_deploy.compiler.build import CompileReport, compile_model

__all__ = ["CompileReport", "compile_model"]
