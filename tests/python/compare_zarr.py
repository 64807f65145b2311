"""Compares Zarr stores with netCDF files as xarray reads them, and writes stores as xarray does.

compare_zarr.py ours STORE FILE      the store that we wrote has what the file has
compare_zarr.py write N FILE STORE   the file as a store of Zarr version N, with codecs that everybody has
compare_zarr.py equal FILE STORE     variables of the file have the values that they have in the store
"""

import sys

import numpy
import xarray


def same(a, b, names):
    for name in names:
        x, y = a[name], b[name]
        assert x.dims == y.dims, (name, x.dims, y.dims)
        assert x.dtype == y.dtype, (name, x.dtype, y.dtype)
        numpy.testing.assert_array_equal(x.values, y.values, err_msg=name)


def ours(store, file):
    # Nothing but the path: what anybody types.
    a, b = xarray.open_zarr(store), xarray.open_dataset(file)
    assert set(a.variables) == set(b.variables), (set(a.variables), set(b.variables))
    assert set(a.coords) == set(b.coords), (set(a.coords), set(b.coords))
    same(a, b, b.variables)
    for name in b.data_vars:
        assert a[name].attrs == b[name].attrs, (name, a[name].attrs, b[name].attrs)
    assert a.attrs == b.attrs, (a.attrs, b.attrs)


def write(version, file, store):
    data = xarray.open_dataset(file)
    if version == "2":
        from numcodecs import Shuffle, Zlib

        def encoding(v):
            return {"filters": [Shuffle(v.dtype.itemsize)], "compressors": [Zlib(3)]}
    else:
        from zarr.codecs import GzipCodec

        def encoding(v):
            return {"compressors": [GzipCodec(level=3)]}

    for v in data.variables.values():
        v.encoding.clear()
    encodings = {name: encoding(v) for name, v in data.variables.items() if v.dtype.kind in "fiuM"}
    data.to_zarr(store, zarr_format=int(version), encoding=encodings)


def equal(file, store):
    a, b = xarray.open_dataset(file), xarray.open_zarr(store)
    same(a, b, a.data_vars)
    same(a, b, [name for name in a.coords if name in b.coords])


{"ours": ours, "write": write, "equal": equal}[sys.argv[1]](*sys.argv[2:])
