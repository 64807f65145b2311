"""Writes wind files as netCDF4-python and xarray users have them: DIR. Prints their names, one study a line."""

import sys

import netCDF4
import numpy as np

FOLDER = sys.argv[1]
RANDOM = np.random.default_rng(20261120)
TIMES, YS, XS = 7, 31, 45


def winds(path, start, packed, bounds):
    """One file with u and v over (time, y, x), curvilinear coordinates, and a rotated pole."""
    with netCDF4.Dataset(path, "w") as file:
        file.Conventions = "CF-1.7"
        file.createDimension("time", None)
        file.createDimension("y", YS)
        file.createDimension("x", XS)
        file.createDimension("bnds", 2)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "hours since 2020-01-01"
        time.calendar = "standard"
        if bounds:
            time.bounds = "time_bnds"
            edges = file.createVariable("time_bnds", "f8", ("time", "bnds"))
            edges[:] = np.stack([np.arange(TIMES) - 0.5, np.arange(TIMES) + 0.5], 1) + start
        time[:] = np.arange(TIMES) + start
        for name, size, standard in (("y", YS, "grid_latitude"), ("x", XS, "grid_longitude")):
            axis = file.createVariable(name, "f4", (name,))
            axis.standard_name = standard
            axis.units = "degrees"
            axis.bounds = name + "_bnds"
            axis[:] = np.linspace(-2, 2, size)
            file.createVariable(name + "_bnds", "f4", (name, "bnds"))[:] = np.arange(2 * size).reshape(size, 2)
        for name in ("lat", "lon"):
            field = file.createVariable(name, "f8", ("y", "x"), zlib=True)
            field.units = "degrees_north" if name == "lat" else "degrees_east"
            field[:] = RANDOM.random((YS, XS))
        pole = file.createVariable("rotated_pole", "i4", ())
        pole.grid_mapping_name = "rotated_latitude_longitude"
        pole.grid_north_pole_latitude = 37.5
        for name in ("x_wind", "y_wind"):
            values = RANDOM.normal(2, 8, (TIMES, YS, XS)).astype("f4")
            gone = RANDOM.random(values.shape) < 0.1
            gone[:, 3, 4] = True
            gone[1:, 5, 6] = True
            kind = dict(zlib=True, shuffle=True, chunksizes=(3, 8, 11), complevel=2)
            if packed == "contiguous":
                kind = {}
            if packed == "short":
                variable = file.createVariable(name, "i2", ("time", "y", "x"), fill_value=-32767, **kind)
                variable.scale_factor = np.float32(0.01)
                variable.add_offset = np.float32(1.0)
            elif packed == "double":
                variable = file.createVariable(name, "f8", ("time", "y", "x"), fletcher32=True, **kind)
                variable.missing_value = -9e9
            elif packed == "big":
                variable = file.createVariable(name, ">f4", ("time", "y", "x"), endian="big", fill_value=1e20, **kind)
            else:
                variable = file.createVariable(name, "f4", ("time", "y", "x"), fill_value=1e20, **kind)
            variable.units = "m s-1"
            variable.coordinates = "lat lon"
            variable.grid_mapping = "rotated_pole"
            if packed == "double":
                variable[:] = np.where(gone, -9e9, values.astype("f8"))
            else:
                variable[:] = np.ma.array(values, mask=gone)


for kind in ("plain", "short", "double", "big", "contiguous"):
    names = [f"{FOLDER}/{kind}_{k}.nc" for k in range(3)]
    for k, name in enumerate(names):
        winds(name, k * TIMES, kind, bounds=kind == "plain")
    print(" ".join(names))
