"""Compares the wind study with xarray and numpy, height by height in float64: STUDY.nc INPUT.nc.. ; prints `equal`."""

import sys
import warnings

import numpy as np
import xarray as xr

warnings.simplefilter("ignore", RuntimeWarning)
STUDY, *INPUTS = sys.argv[1:]

study = xr.open_dataset(STUDY)
inputs = [xr.open_dataset(path) for path in INPUTS]
assert study.speed_var.dims == ("height", "latitude", "longitude"), study.speed_var.dims
for height in range(inputs[0].sizes["height"]):
    u, v = (
        np.concatenate([one[name].isel(height=height).values for one in inputs]).astype("f8")
        for name in ("x_wind", "y_wind")
    )
    truths = {
        "speed_var": np.hypot(u, v),
        "direction_var": (270 - np.degrees(np.arctan2(v, u))) % 360,
    }
    for name, values in truths.items():
        truth = np.nanvar(values, axis=0, ddof=1)
        made = study[name].isel(height=height).values.astype("f8")
        assert (np.isnan(made) == np.isnan(truth)).all(), (name, height, "masks differ")
        off = np.abs(made - truth) > 1e-6 * np.abs(truth)
        assert not off.any(), (name, height, off.sum(), made[off][:3], truth[off][:3])
print("equal")
