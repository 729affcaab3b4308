"""ncnn: the float network, converted by pnnx.

Neither package can quantize: ncnn's INT8 tools (ncnn2table, ncnn2int8) are C++ programs outside of them.
"""

from __future__ import annotations

from pathlib import Path

from aqd_deploy import processes
from aqd_deploy.bench.network import Network
from aqd_deploy.bench.peers.contract import INSTALL_PEERS, Conversion, Opened, Peer, Variant
from aqd_deploy.errors import PeerError

_PARAM, _BIN = "float.param", "float.bin"
# By default it stores and computes in 16 bits where the CPU can.
_NARROW_FLOATS = (
    "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage",
)  # fmt: skip


def _convert(network: Network, folder: Path) -> None:
    """pnnx's program, called without its Python module, which would import torch."""
    shape = ",".join(str(size) for size in network.value.shape)
    work = folder / "work"
    work.mkdir()
    command = [
        str(_pnnx()),
        str(network.float_model.resolve()),
        f"inputshape=[{shape}]f32",
        "fp16=0",
        f"ncnnparam={folder.resolve() / _PARAM}",
        f"ncnnbin={folder.resolve() / _BIN}",
        # By default it writes these beside the float file, which may lie in a kept folder.
        *(f"{key}={(work / name).resolve()}" for key, name in _OTHER_OUTPUTS.items()),
    ]
    done = processes.run(command, cwd=work, temporary=work)
    for stray in (network.float_model.with_suffix(".pnnxsim.onnx"), *work.iterdir()):
        stray.unlink(missing_ok=True)
    work.rmdir()
    if done.returncode or not (folder / _PARAM).exists():
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise PeerError("pnnx could not convert the network", received=last[:200])


_OTHER_OUTPUTS = {
    "pnnxparam": "x.pnnx.param",
    "pnnxbin": "x.pnnx.bin",
    "pnnxpy": "x_pnnx.py",
    "pnnxonnx": "x.pnnx.onnx",
    "ncnnpy": "x_ncnn.py",
}


def _pnnx() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("pnnx")
    if spec is None or not spec.submodule_search_locations:
        raise PeerError("pnnx is not installed", next_command=INSTALL_PEERS)
    return Path(spec.submodule_search_locations[0]) / "pnnx"


def _open(path: Path, network: Network, threads: int) -> Opened:
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in _NARROW_FLOATS:
        setattr(net.opt, option, False)
    if net.load_param(str(path / _PARAM)) or net.load_model(str(path / _BIN)):
        raise PeerError("ncnn could not load what pnnx wrote", received=str(path))
    # ncnn keeps a pointer to it only, so it must outlive the Mat.
    pixels = np.ascontiguousarray(network.value[0])
    value = ncnn.Mat(pixels).clone()
    (source,), targets = net.input_names(), net.output_names()

    def run() -> object:
        extractor = net.create_extractor()
        extractor.input(source, value)
        results = [extractor.extract(name) for name in targets]
        if any(code for code, _ in results):
            raise PeerError("ncnn could not run the network", received=f"codes {[c for c, _ in results]}")
        return results

    return Opened(run)


PEER = Peer(
    "ncnn",
    ("ncnn", "pnnx"),
    ("ncnn", "pnnx"),
    INSTALL_PEERS,
    (
        Variant(
            "float",
            "float32, converted by pnnx (no fp16, no bf16)",
            Conversion("ncnn-float", ("ncnn", "pnnx"), _convert),
            _open,
        ),
    ),
    note="no INT8: its Python packages have no quantizer",
)
