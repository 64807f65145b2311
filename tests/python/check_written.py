"""Reads what jobq wrote with netCDF4-python, xarray and h5py, and appends to a copy: python check_written.py DIR

DIR has written.nc, whose values follow a formula that is repeated here, many.nc with 20,000 chunks,
wide.nc with 5,000 variables, and wind files.
"""

import glob
import shutil
import sys

import h5py
import netCDF4
import numpy as np
import xarray

folder = sys.argv[1]
fill = np.float32(-32768)
t, x = np.meshgrid(np.arange(7), np.arange(10), indexing="ij")
expected = (t * 100 + x + 0.25).astype("f4")
ordinal = (t // 3) * 3 + x // 4
missing = ordinal % 3 == 2


def check_values(path):
    with netCDF4.Dataset(path) as d:
        assert [(k, len(v), v.isunlimited()) for k, v in d.dimensions.items()] == [
            ("time", 7, True),
            ("x", 10, False),
            ("only", 4, False),
            ("forever", 2, True),
        ], d.dimensions
        field = d["field"][:]
        assert (np.ma.getmaskarray(field) == missing).all()
        assert (field.filled(0)[~missing] == expected[~missing]).all()
        assert d["field"]._FillValue == fill and d["field"].units == "m s-1"
        assert d["field"].filters()["zlib"] and d["field"].filters()["shuffle"]
        assert d["field"].chunking() == [3, 4]
        assert (d["time"][:] == np.arange(7) * 1.5).all() and d["time"].dimensions == ("time",)
        assert d.title == "Wärme" and d.nothing == "" and d.words == ["a", "", "ccc"]
        assert d.limits.dtype == np.dtype("i2") and d.limits.tolist() == [-1, 7]
        assert d.number.dtype == np.dtype("f8") and d.number == 2.5
        assert d["scalar"][...] == 2.5 and d["scalar"].dimensions == ()
        assert b"".join(d["letters"][:].tolist()) == b"abcd"
        assert d["only"].dimensions == ("x", "only") and (d["only"][:].reshape(-1) == np.arange(40)).all()
        assert d["absent"].shape == (7, 2) and np.ma.getmaskarray(d["absent"][:]).all()
        for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"):
            v = d[f"of_{kind}"]
            v.set_auto_mask(False)
            assert v.dtype == np.dtype(kind) and v[:].tolist() == list(range(10)), kind


def check_xarray(path, engine):
    with xarray.open_dataset(path, engine=engine, decode_times=False) as d:
        assert dict(d.sizes) == {"time": 7, "x": 10, "only": 4, "forever": 2}
        assert (np.isnan(d["field"].values) == missing).all()
        assert (d["field"].values[~missing] == expected[~missing]).all()
        assert d["field"].attrs["units"] == "m s-1" and "time" in d["field"].coords


path = f"{folder}/written.nc"
check_values(path)
engines = xarray.backends.list_engines()
for engine in ("netcdf4", "h5netcdf"):
    if engine in engines:
        check_xarray(path, engine)

with h5py.File(path) as f:
    assert [s.name for s in (f["field"].dims[0][0], f["field"].dims[1][0])] == ["/time", "/x"]
    assert f["field"].compression == "gzip" and f["field"].shuffle
    assert f["time"].is_scale and f["x"].is_scale
    assert len(f["x"].attrs["REFERENCE_LIST"]) >= 2

# Append, rename, lengthen: all that rewrites what we wrote.
copy = f"{folder}/appended.nc"
shutil.copy(path, copy)
with netCDF4.Dataset(copy, "a") as d:
    d.createDimension("new", 3)
    v = d.createVariable("added", "f4", ("time", "new"), zlib=True)
    v[:] = np.arange(21).reshape(7, 3)
    v.note = "added"
    d["field"].more = "attributes"
    d.extra = np.arange(3)
with netCDF4.Dataset(copy, "a") as d:
    d["field"][7] = np.arange(10)
    d["time"][7] = 99
    d.renameVariable("of_i2", "renamed")
    d.renameDimension("only", "alone")
    d["field"].renameAttribute("units", "unit")
with netCDF4.Dataset(copy) as d:
    assert len(d.dimensions["time"]) == 8 and d["time"][7] == 99
    assert (d["field"][7] == np.arange(10)).all()
    assert (d["field"][:7].filled(0)[~missing] == expected[~missing]).all()
    assert d["added"].dimensions == ("time", "new") and (d["added"][:7].reshape(-1) == np.arange(21)).all()
    assert b"".join(d["letters"][:].tolist()) == b"abcd" and d["letters"].dimensions == ("alone",)
    assert d["renamed"][:].tolist() == list(range(10)) and d["renamed"].dimensions == ("x",)
    assert d["field"].unit == "m s-1" and d["field"].more == "attributes"

with netCDF4.Dataset(f"{folder}/many.nc") as d:
    values = d["many"][:]
    assert values.shape == (20000,) and (values == np.arange(20000)).all()
    assert d["many"].chunking() == [1]

with netCDF4.Dataset(f"{folder}/wide.nc") as d:
    assert len(d.variables) == 5000 and d["v4999"].dimensions == ("x",)
    assert d["v4999"][:].tolist() == [4999 % 200, 1]

winds = sorted(glob.glob(f"{folder}/winds/wind_*.nc"))
assert len(winds) == 2
whole = xarray.concat([xarray.open_dataset(w, engine="netcdf4") for w in winds], "time")
assert (np.diff(whole["time"].values) == np.timedelta64(1, "h")).all() and whole["time"].size == 10
assert whole["x_wind"].dims == ("time", "height", "latitude", "longitude")
assert 0 < int(whole["x_wind"].isnull().sum()) < whole["x_wind"].size / 4
assert whole["x_wind"].attrs["standard_name"] == "x_wind"
print("all read")
