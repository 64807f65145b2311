"""Writes the corpus of foreign files for tests/format_oracle.rs: python make_corpus.py DIR

netCDF4-python's own files, and h5py files for every index, message and layout that the reader claims to know.
"""

import sys

import h5py
import netCDF4
import numpy as np

folder = sys.argv[1]
rng = np.random.default_rng(7)


def wind(name, compressed, fill, **chunks):
    with netCDF4.Dataset(f"{folder}/{name}.nc", "w") as d:
        d.Conventions = "CF-1.10"
        # More than eight attributes: dense storage.
        for i in range(12):
            d.setncattr(f"number_{i:02}", np.float32(i) / 3)
        d.history = "x" * 5000
        d.flags = np.array([1, -2, 3], "i8")
        d.setncattr_string("words", ["one", "zwei", "trois"])
        d.setncattr_string("word", "ein Wort")
        d.empty = ""
        sizes = dict(time=None, height=3, latitude=21, longitude=34, bnds=2)
        for dim, size in sizes.items():
            d.createDimension(dim, size)
        t = d.createVariable("time", "f8", ("time",))
        t.units = "hours since 1970-01-01 00:00:00"
        t[:] = 400000.0 + np.arange(7)
        d.createVariable("time_bnds", "f8", ("time", "bnds"))[:] = rng.random((7, 2))
        d.createVariable("height", "f4", ("height",))[:] = [10, 50, 100]
        d.createVariable("latitude", "f4", ("latitude",))[:] = np.linspace(49, 61, 21)
        d.createVariable("longitude", "f4", ("longitude",))[:] = np.linspace(-11, 3, 34)
        d.createVariable("crs", "i4", ()).grid_mapping_name = "latitude_longitude"
        d.createVariable("run", "f8", ())[...] = 12.5
        for v in ("x_wind", "y_wind"):
            options = dict(zlib=True, complevel=1, shuffle=True) if compressed else {}
            w = d.createVariable(
                v, "f4", ("time", "height", "latitude", "longitude"), fill_value=fill, **options, **chunks
            )
            w.units = "m s-1"
            a = np.round(rng.normal(0, 8, (7, 3, 21, 34)) * 256) / 256
            if fill is not None:
                a[:, :, :5, :6] = fill
            w[:] = a
        # Two of its three times are never written.
        d.createVariable("late", "i2", ("time", "longitude"), chunksizes=(1, 34))[2] = np.arange(34)
        d.createVariable("never", "i4", ("time", "latitude"))
        d.createVariable("name", "S1", ("height", "bnds"))[:] = np.array([[b"a", b"b"]] * 3)
        s = d.createVariable("label", str, ("height",))
        s[:] = np.array(["ten", "fünfzig", ""], object)
        # The name of a dimension without being its coordinate.
        d.createVariable("bnds", "i4", ("latitude", "bnds"))[:] = np.arange(42).reshape(21, 2)


wind("plain", False, None)
wind("plain_fill", False, np.float32(-32768), chunksizes=(2, 2, 10, 12))
wind("deflated", True, None)
wind("deflated_fill", True, np.float32(-32768), chunksizes=(2, 2, 10, 12))

with netCDF4.Dataset(f"{folder}/groups.nc", "w") as d:
    d.createDimension("x", 4)
    d.createVariable("x", "i4", ("x",))[:] = np.arange(4)
    g = d.createGroup("inner").createGroup("most")
    g.createDimension("y", 3)
    g.note = "inside"
    g.createVariable("v", "f8", ("y", "x"))[:] = np.arange(12).reshape(3, 4)

with netCDF4.Dataset(f"{folder}/many.nc", "w") as d:
    d.createDimension("t", None)
    v = d.createVariable("many", "i4", ("t",), chunksizes=(1,))
    v[:] = np.arange(11000)
    for i in range(300):
        d.createVariable(f"v{i:03}", "i2", ())[...] = i
    for i in range(200):
        v.setncattr(f"attribute_{i}", i)

with netCDF4.Dataset(f"{folder}/types.nc", "w") as d:
    d.createDimension("n", 5)
    for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        for endian in ("little", "big"):
            v = d.createVariable(f"{kind}_{endian}", kind, ("n",), endian=endian, fill_value=9)
            v[:] = np.array([0, 1, 2, 3, 100], kind)
            v.valid_range = np.array([0, 100], kind)
            v = d.createVariable(f"{kind}_{endian}_z", kind, ("n",), endian=endian, zlib=True, chunksizes=(3,))
            v[:] = np.array([0, 1, 2, 3, 100], kind)
    v = d.createVariable("checked", "f4", ("n",), fletcher32=True, zlib=True, chunksizes=(2,))
    v[:] = np.arange(5)

cube = np.arange(40 * 30 * 20, dtype="f4").reshape(40, 30, 20)


def indexes(f):
    """One dataset for every way to find data."""
    f.create_dataset("contiguous", data=cube)
    f.create_dataset("scalar", data=np.float64(4.5))
    f.create_dataset("single", data=cube, chunks=cube.shape, compression="gzip")
    f.create_dataset("single_raw", data=cube, chunks=cube.shape)
    f.create_dataset("fixed", data=cube, chunks=(7, 30, 9), compression="gzip", shuffle=True)
    f.create_dataset("fixed_raw", data=cube, chunks=(10, 10, 10))
    rows = np.zeros((3000, 10), "f4") + np.arange(3000)[:, None]
    f.create_dataset("fixed_paged", data=rows, chunks=(1, 10), compression="gzip")
    f.create_dataset("fixed_holes", shape=(30000,), chunks=(3,), dtype="i4")[20000:20100] = np.arange(100)
    f.create_dataset("grows", data=cube, maxshape=(None, 30, 20), chunks=(4, 30, 20), compression="gzip")
    f.create_dataset("grows_inside", data=cube, maxshape=(40, None, 25), chunks=(7, 4, 6))
    f.create_dataset("grows_long", data=rows, maxshape=(None, 10), chunks=(1, 10), compression="gzip")
    f.create_dataset("grows_far", shape=(90000,), maxshape=(None,), chunks=(2,), dtype="i2")[80000:80010] = 7
    f.create_dataset("grows_all", data=cube, maxshape=(None, None, 20), chunks=(4, 5, 20), compression="gzip")
    wide = np.arange(3000 * 20, dtype="f4").reshape(3000, 20)
    f.create_dataset("grows_all_long", data=wide, maxshape=(None, None), chunks=(1, 10), compression="gzip")
    f.create_dataset("grows_all_raw", data=cube, maxshape=(None, None, None), chunks=(9, 11, 7))
    shrunk = f.create_dataset("shrunk", data=cube, maxshape=(None, 30, 20), chunks=(4, 30, 20))
    shrunk.resize(13, 0)
    f.create_dataset("sparse", shape=(40, 30, 20), chunks=(4, 30, 20), dtype="f4", fillvalue=-9.0)[8:12] = cube[8:12]
    f.create_dataset("unwritten", shape=(4, 5), chunks=(2, 5), dtype="i4", fillvalue=3)
    f.create_dataset("checked", data=cube, chunks=(10, 30, 20), fletcher32=True)
    f.create_dataset("checked_all", data=cube, chunks=(10, 30, 20), fletcher32=True, shuffle=True, compression="gzip")
    f.create_dataset("odd_bytes", data=np.arange(15, dtype="u1"), chunks=(5,), fletcher32=True)
    f.create_dataset("big", data=cube.astype(">f4"), chunks=(10, 30, 20), compression="gzip", shuffle=True)
    f.create_dataset("big_contiguous", data=cube.astype(">f8"))
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_chunk((10, 30, 20))
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(cube.shape)
    implicit = h5py.h5d.create(f.id, b"implicit", h5py.h5t.IEEE_F32LE, space, early)
    implicit.write(h5py.h5s.ALL, h5py.h5s.ALL, cube)
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)
    small = h5py.h5d.create(f.id, b"compact", h5py.h5t.STD_I32BE, h5py.h5s.create_simple((4,)), compact)
    small.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(4, dtype="i4"))
    # One chunk whose shuffle was skipped.
    masked = f.create_dataset("masked_filter", shape=(8,), chunks=(4,), dtype="i4", shuffle=True)
    masked[:] = np.arange(8)
    masked.id.write_direct_chunk((4,), np.arange(4, 8, dtype="i4").tobytes(), filter_mask=1)
    f.create_dataset("fixed_text", data=np.array([b"abc", b"de"]))
    f.create_dataset("text", data=["eins", "zwei", "drei"], dtype=h5py.string_dtype())
    f.create_dataset("enumeration", data=np.array([True, False, True]))


def groups(f):
    """Compact and dense groups and attributes of all sorts."""
    f.attrs["text"] = "plain"
    f.attrs["texts"] = ["x", "yy"]
    f.attrs["fixed"] = np.bytes_(b"fixed")
    f.attrs["numbers"] = np.arange(5, dtype=">i2")
    f.attrs["large"] = np.arange(7000, dtype="f8")
    for k in range(40):
        f.attrs[f"dense_{k}"] = k
    g = f.create_group("outer/inner")
    g.attrs["where"] = "inside"
    for k in range(500):
        g.create_dataset(f"d{k:03}", data=k)
    f["named"] = np.dtype("f4")
    f.create_dataset("of_named_type", data=np.arange(3, dtype="f4"), dtype=f["named"])
    f["again"] = f["of_named_type"]
    f["soft"] = h5py.SoftLink("/outer")


versions = ["earliest", "v108", "v110", "v112", "v114", "latest"]
for version in versions:
    try:
        f = h5py.File(f"{folder}/h5py_{version}.h5", "w", libver=(version, "latest"))
    except ValueError:
        continue  # an h5py that does not know that version
    with f:
        indexes(f)
        try:
            groups(f)
        except (OSError, RuntimeError):
            # Attributes over 64 KiB need dense storage, which the earliest format lacks.
            pass

with h5py.File(f"{folder}/user_block.h5", "w", userblock_size=1024) as f:
    indexes(f)
    f.attrs["texts"] = ["behind", "a block"]

with h5py.File(f"{folder}/ordered.h5", "w", track_order=True) as f:
    for name in ("zebra", "apple", "mango", *(f"n{i}" for i in range(20, 0, -1))):
        f.create_dataset(name, data=1)
        f.attrs[name] = name

# Dimension scales by h5py alone, without netCDF's numbers.
with h5py.File(f"{folder}/scales.h5", "w") as f:
    f["y"] = np.arange(3.0)
    f["x"] = np.arange(4.0)
    f["v"] = np.zeros((3, 4)) + np.arange(4)
    for axis, name in enumerate(("y", "x")):
        f[name].make_scale(name)
        f["v"].dims[axis].attach_scale(f[name])

with h5py.File(f"{folder}/unreadable.h5", "w") as f:
    f.create_dataset("lzf", data=cube, chunks=(10, 30, 20), compression="lzf")
    f.create_dataset("compound", data=np.zeros(3, [("a", "i4"), ("b", "f8")]))
    f.create_dataset("fine", data=np.arange(3))
    f.create_dataset("half", data=np.zeros(3, "f2"))
