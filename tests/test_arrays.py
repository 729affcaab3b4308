"""Arrays from an .npz file: what its headers say is compared with what is wanted before anything is read."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from aqd_deploy.arrays import read_arrays, write_arrays
from aqd_deploy.errors import AqdError, ShapeError

WANTED = {"image": ((1, 3, 4, 4), ("uint8",))}
REALS = {"image": ((1, 3, 4, 4), ("uint8", "float16", "float32"))}
IMAGE = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)


def member(
    descr="|u1", shape=(1, 3, 4, 4), body: bytes = IMAGE.tobytes(), header: str | None = None
) -> bytes:
    """A .npy member whose header says whatever it is given."""
    text = header or repr({"descr": descr, "fortran_order": False, "shape": shape})
    data = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(data)) + data + body


def archive(path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def test_round_trip(tmp_path):
    path = tmp_path / "x.npz"
    write_arrays(path, {"image": IMAGE})
    assert np.array_equal(read_arrays(path, WANTED)["image"], IMAGE)
    np.savez_compressed(path, image=np.asfortranarray(IMAGE))
    assert np.array_equal(read_arrays(path, WANTED)["image"], IMAGE)


def test_a_dimension_that_may_have_any_size(tmp_path):
    np.savez(tmp_path / "x.npz", image=IMAGE)
    wanted = {"image": ((1, 3, "h", None), ("uint8",))}
    assert read_arrays(tmp_path / "x.npz", wanted)["image"].shape == IMAGE.shape


@pytest.mark.parametrize("name", ["bomb.npy", "image.npy"])
def test_what_inflates_to_much_is_refused_from_its_header(tmp_path, name):
    """0.2 MB that inflate to 200 MB, as an array that the model does not have or as one of another size."""
    body = bytes(200 << 20)
    path = archive(tmp_path / "x.npz", (name, member(shape=(200 << 20,), body=body)))
    del body
    tracemalloc.start()
    with pytest.raises(ShapeError, match="no input 'bomb'" if name == "bomb.npy" else "209715200"):
        read_arrays(path, WANTED)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (member(shape=(10**14,)), ShapeError, r"image does not fit.*uint8 \[100000000000000\].*1, 3, 4"),
        (member(descr="<f4"), ShapeError, "float32"),
        (member(body=b"123"), AqdError, "not as many bytes.*3 bytes; valid: 48 bytes"),
        (member(body=IMAGE.tobytes() + b"1"), AqdError, "49 bytes; valid: 48 bytes"),
        (member(descr="|O"), AqdError, "Python objects.*could run anything"),
        (member(shape=(1, -3, 4, 4)), AqdError, "negative size"),
        (member(shape="x"), AqdError, "cannot be read"),
        (member(header="[" * 9000), AqdError, "cannot be read"),
        (member(header="1"), AqdError, "cannot be read"),
        (member(header=" " * 60_000), AqdError, "cannot be read"),
        (b"\x93NUMPY\x09\x00", AqdError, "format 9.0"),
        (b"", AqdError, "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_headers(tmp_path, data, error, message):
    path = archive(tmp_path / "x.npz", ("image.npy", data))
    with pytest.raises(error, match=message):
        read_arrays(path, WANTED)


def test_names(tmp_path):
    with pytest.raises(ShapeError, match="input image is missing; got no inputs"):
        read_arrays(archive(tmp_path / "a.npz"), WANTED)
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "b.npz", ("image.npy", member()), ("image.npy", member()))
    with pytest.raises(AqdError, match="two arrays of one name"):
        read_arrays(path, WANTED)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", "float64"])
def test_several_dtypes_that_fit(tmp_path, dtype):
    np.savez(tmp_path / "x.npz", image=IMAGE.astype(dtype))
    if dtype == "float64":
        with pytest.raises(ShapeError, match=r"got float64.*valid: uint8 or float16 or float32"):
            read_arrays(tmp_path / "x.npz", REALS)
    else:
        assert read_arrays(tmp_path / "x.npz", REALS)["image"].dtype == dtype


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_single_array_is_the_only_input(tmp_path, name):
    buffer = io.BytesIO()
    np.save(buffer, IMAGE)
    (tmp_path / name).write_bytes(buffer.getvalue())
    assert np.array_equal(read_arrays(tmp_path / name, WANTED)["image"], IMAGE)
    with pytest.raises(ShapeError, match=r"without a name, and there are several inputs.*with image, mask"):
        read_arrays(tmp_path / name, {**WANTED, "mask": WANTED["image"]})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (member(shape=(10**14,)), "image does not fit"),
        (member(body=b"123"), "not as many bytes.*3 bytes; valid: 48 bytes"),
        (member(descr="|O"), "Python objects"),
        (member(header="[" * 9000), "cannot be read"),
    ],
    ids=["shape", "bytes", "objects", "header"],
)
def test_a_single_array_that_is_wrong(tmp_path, data, message):
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(AqdError, match=message):
        read_arrays(tmp_path / "x.npy", WANTED)


def test_a_header_that_says_it_is_long_is_not_read(tmp_path):
    data = b"\x93NUMPY\x02\x00" + (1 << 26).to_bytes(4, "little") + b" " * (1 << 26)
    path = archive(tmp_path / "x.npz", ("image.npy", data))
    del data
    tracemalloc.start()
    with pytest.raises(AqdError, match="a header of more than 10000 bytes"):
        read_arrays(path, WANTED)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_as_numpy_does_not(tmp_path, method):
    path = archive(tmp_path / "x.npz", ("image.npy", member()), method=method)
    with pytest.raises(AqdError, match="another way than numpy's"):
        read_arrays(path, WANTED)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("offset", range(30, 120, 7))
def test_damaged_streams(tmp_path, method, offset):
    path = archive(tmp_path / "x.npz", ("image.npy", member()), method=method)
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x55
    path.write_bytes(data)
    try:
        assert np.array_equal(read_arrays(path, WANTED)["image"], IMAGE)
    except AqdError as error:
        assert str(error)
