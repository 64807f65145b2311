"""Writes a few small files with every structure that the reader knows, to be damaged: python make_small.py DIR"""

import sys

import h5py
import netCDF4
import numpy as np

folder = sys.argv[1]
block = np.arange(40 * 6, dtype="f4").reshape(40, 6)


def fill(f, many):
    f.create_dataset("contiguous", data=block)
    f.create_dataset("single", data=block, chunks=block.shape, compression="gzip")
    f.create_dataset("fixed", data=block, chunks=(7, 4), compression="gzip", shuffle=True, fletcher32=True)
    f.create_dataset("paged", shape=(3000,), chunks=(1,), dtype="u1")[2000:2010] = 5
    f.create_dataset("grows", data=block, maxshape=(None, 6), chunks=(4, 6), compression="gzip")
    f.create_dataset("grows_far", shape=(4000,), maxshape=(None,), chunks=(1,), dtype="u1")[2500:2520] = 7
    f.create_dataset("grows_all", data=block, maxshape=(None, None), chunks=(2, 3), compression="gzip")
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_chunk((10, 6))
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(block.shape)
    h5py.h5d.create(f.id, b"implicit", h5py.h5t.IEEE_F32BE, space, early).write(h5py.h5s.ALL, h5py.h5s.ALL, block)
    f.create_dataset("text", data=["eins", "zwei", "drei"], dtype=h5py.string_dtype())
    f.create_dataset("fixed_text", data=np.array([b"abc", b"de"]))
    g = f.create_group("group")
    for k in range(many):
        g.create_dataset(f"d{k}", data=k)
        f.attrs[f"a{k}"] = f"text {k}"
    f["named"] = np.dtype("f4")
    f.create_dataset("of_named_type", data=np.arange(3, dtype="f4"), dtype=f["named"])
    f["y"] = np.arange(40.0)
    f["y"].make_scale("y")
    f["contiguous"].dims[0].attach_scale(f["y"])


for version, many in (("earliest", 12), ("v110", 30), ("latest", 12)):
    with h5py.File(f"{folder}/{version}.h5", "w", libver=(version, "latest")) as f:
        fill(f, many)

with netCDF4.Dataset(f"{folder}/default.nc", "w") as d:
    for i in range(12):
        d.setncattr(f"number_{i}", i)
    d.createDimension("t", None)
    d.createDimension("x", 5)
    d.createDimension("bare", 3)
    d.createVariable("t", "f8", ("t",))[:] = np.arange(70)
    v = d.createVariable("v", "f4", ("t", "x"), zlib=True, chunksizes=(1, 5), fill_value=-1)
    v[:] = np.arange(350).reshape(70, 5)
    d.createVariable("name", str, ("bare",))[:] = np.array(["a", "b", "c"], object)
