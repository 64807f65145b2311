"""Compares outputs with xarray and numpy: STUDY.nc FIELDS.nc INPUT.nc.. ; the truth is worked out in float64."""

import sys
import warnings

import netCDF4
import numpy as np
import xarray as xr

warnings.simplefilter("ignore", RuntimeWarning)
STUDY, FIELDS, *INPUTS = sys.argv[1:]


def same(what, made, truth, relative):
    made, truth = np.asarray(made, "f8"), np.asarray(truth, "f8")
    assert made.shape == truth.shape, (what, made.shape, truth.shape)
    assert (np.isnan(made) == np.isnan(truth)).all(), (what, "masks differ")
    off = np.abs(made - truth) > relative * np.maximum(np.abs(truth), 1e-9)
    off &= ~np.isnan(truth)
    assert not off.any(), (what, off.sum(), made[off][:3], truth[off][:3])


inputs = [xr.open_dataset(path) for path in INPUTS]
winds = xr.concat([i[["x_wind", "y_wind"]] for i in inputs], "time", coords="minimal", compat="override")
u, v = winds.x_wind.astype("f8"), winds.y_wind.astype("f8")
speed = np.sqrt(u**2 + v**2)
direction = (270 - np.degrees(np.arctan2(v, u))) % 360

with xr.open_dataset(STUDY) as study:
    assert study.speed_var.dtype == winds.x_wind.dtype, study.speed_var.dtype
    same("speed_var", study.speed_var, speed.var("time", ddof=1), 1e-6)
    same("direction_var", study.direction_var, direction.var("time", ddof=1), 1e-6)
    assert study.speed_var.attrs["units"] == "m2 s-2"
    assert study.speed_var.attrs["cell_methods"] == "time: variance (ddof 1)"
    for name in study.speed_var.dims:
        same(name, study[name], inputs[0][name], 0)
    if "lat" in inputs[0]:
        assert {"lat", "lon"} <= set(study.speed_var.coords), list(study.coords)
        same("lat", study.lat, inputs[0].lat, 0)
        assert study.rotated_pole.attrs["grid_north_pole_latitude"] == 37.5
        assert study.speed_var.attrs.get("grid_mapping", study.speed_var.encoding.get("grid_mapping")) == "rotated_pole"
        same("y_bnds", study.y_bnds, inputs[0].y_bnds, 0)

x = winds.x_wind
with xr.open_dataset(FIELDS) as fields:
    same("anomaly", fields.anomaly, x.astype("f8") - x.mean("time").astype("f8"), 1e-2 if x.dtype == np.float32 else 1e-6)
    assert fields.anomaly.dims == x.dims and fields.anomaly.dtype == x.dtype
    assert (fields.time.values == winds.time.values).all()
    same("total", fields.total, x.astype("f8").sum(), 1e-6)
    same("low", fields.low, x.min("time"), 1e-6)
    same("n", fields.n, x.count("time"), 0)
    assert fields.n.dtype == np.int64
    same("direction", fields.direction, direction, 1e-5)
    same("strong", fields.strong, xr.where(x.isnull(), np.nan, (x > 5).astype("f8")), 0)

with netCDF4.Dataset(STUDY) as study:
    masked = np.ma.getmaskarray(study["speed_var"][:])
    assert (masked == np.isnan(speed.var("time", ddof=1).values)).all()
print("equal")
