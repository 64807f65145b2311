"""CPU seconds of the wind study with xarray and with jobq, in turns: wind_study.py JOBQ DIRECTORY [--repeat N]

xarray's CPU is counted from after its imports, jobq's from its start. A cluster's is that of scheduler, supervisors,
workers and queue from before to after the study, and all of the client.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time

STUDY = """speed = wind_speed(x_wind, y_wind); direction = wind_direction(x_wind, y_wind)
speed_var = var(speed, time, ddof=1); direction_var = var(direction, time, ddof=1)"""
WORKERS = 8
TICK = os.sysconf("SC_CLK_TCK")


def xarray_study(mode, out, inputs):
    """In a process of its own: computes the study, prints the CPU seconds since the imports."""
    import numpy as np
    import xarray as xr

    if mode == "dask":
        import dask.array  # noqa: F401
    import netCDF4  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF)
    if mode == "dask":
        winds = xr.open_mfdataset(inputs)
    else:
        winds = xr.concat([xr.open_dataset(path) for path in inputs], "time", data_vars="minimal")
        winds = winds.load()
    u, v = winds.x_wind, winds.y_wind
    speed = np.sqrt(u**2 + v**2)
    direction = (270 - np.degrees(np.arctan2(v, u))) % 360
    made = xr.Dataset({"speed_var": speed.var("time", ddof=1), "direction_var": direction.var("time", ddof=1)})
    coding = {"zlib": True, "complevel": 1, "shuffle": True}
    made.to_netcdf(out, encoding={name: coding for name in made.data_vars})
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


class Cluster:
    """8 workers on the local queue, with their state below `directory`."""

    def __init__(self, jobq, directory):
        self.jobq, self.state = jobq, directory / "state"
        self.environment = {**os.environ, "JOBQ_CLUSTER": "bench", "JOBQ_CFG_CLUSTER__STATE_DIR": str(self.state)}

    def run(self, *words):
        return subprocess.run([self.jobq, *words], env=self.environment, check=True, stdout=subprocess.PIPE).stdout

    def __enter__(self):
        self.run("up", "--queue", "local", "--workers", str(WORKERS), "--memory", "1GiB", "--wait", "-q")
        return self

    def __exit__(self, *_):
        self.run("down", "--purge")

    def processes(self):
        """Scheduler, queue, supervisors, workers, by the state directory that they were started with or for."""
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                program = os.readlink(entry / "exe")
            except OSError:
                continue
            if str(self.state).encode() in words and program == self.jobq:
                yield int(entry.name)

    def cpu(self):
        """Of all processes, and of those of their children that have ended."""
        total = 0.0
        for pid in self.processes():
            try:
                # The clock of another process, as clock_getcpuclockid(3) makes its number; in nanoseconds.
                total += time.clock_gettime((~pid << 3) | 2)
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[13]) + int(fields[14])) / TICK
            except OSError:
                pass
        return total


def measured(command, environment=None):
    """CPU and wall seconds of a command that must succeed, and what it printed."""
    started = time.monotonic()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command[0]} {command[1]}: exit code {child.returncode}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started, printed


def compare(ours, theirs):
    """The largest relative difference of the two results."""
    import numpy as np
    import xarray as xr

    worst = 0.0
    with xr.open_dataset(ours) as a, xr.open_dataset(theirs) as b:
        for name in ("speed_var", "direction_var"):
            x, y = a[name].values.astype("f8"), b[name].values.astype("f8")
            assert (np.isnan(x) == np.isnan(y)).all(), f"the masks of {name} differ"
            worst = max(worst, float(np.nanmax(np.abs(x - y) / np.maximum(np.abs(y), 1e-9))))
    return worst


def describe(arguments, report):
    import dask
    import netCDF4
    import numpy
    import xarray

    model = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    version = subprocess.run([arguments.jobq, "version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    print(f"Wind study, {datetime.date.today()}: {platform.system()} {platform.release()}, {model}, {os.cpu_count()} cores")
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"load before the first run {load} (other work on the machine lengthens wall times, hardly CPU seconds)")
    print(
        f"{version.strip()}; Python {platform.python_version()}, xarray {xarray.__version__}, dask {dask.__version__}, "
        f"numpy {numpy.__version__}, netCDF4 {netCDF4.__version__} (HDF5 {netCDF4.__hdf5libversion__})"
    )
    print(
        f"{report['inputs']} files, {report['decoded_nbytes'] / 1e6:.0f} MB decoded, {report['read_nbytes'] / 1e6:.0f} MB "
        f"in the files, {report['tiles']} tiles, {report['tasks']} tasks; each {arguments.repeat} times, in turns"
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("jobq")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    arguments.jobq = os.path.realpath(arguments.jobq)
    directory = arguments.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run([arguments.jobq, "example-data", directory / "in", "--files", "16", "-q"], check=True, stdout=subprocess.DEVNULL)
    inputs = sorted(str(path) for path in (directory / "in").glob("wind_*.nc"))
    output = lambda name: str(directory / f"{name}.nc")
    compute = [arguments.jobq, "compute", STUDY, "--in", *inputs, "--overwrite", "-q", "--json", "--out"]
    # Once for the page cache, and to know what is done.
    _, _, report = measured([*compute, output("local"), "--local"])
    describe(arguments, json.loads(report))

    def xarray(mode):
        command = [sys.executable, "-W", "ignore", __file__, "--xarray", mode, output(f"xarray-{mode}"), *inputs]
        _, wall, printed = measured(command)
        return float(printed), wall

    def local():
        cpu, wall, _ = measured([*compute, output("local"), "--local"])
        return cpu, wall

    def on_cluster(cluster):
        before = cluster.cpu()
        client, wall, _ = measured([*compute, output("cluster")], cluster.environment)
        return client + cluster.cpu() - before, wall

    with Cluster(arguments.jobq, directory) as cluster:
        ways = {
            "xarray, files loaded whole": lambda: xarray("plain"),
            "xarray, open_mfdataset (dask threads)": lambda: xarray("dask"),
            "jobq compute --local": local,
            f"jobq compute, {WORKERS} workers, all processes": lambda: on_cluster(cluster),
        }
        seconds = {name: [] for name in ways}
        for _ in range(arguments.repeat):
            for name, way in ways.items():
                seconds[name].append(way())
        processes = len(list(cluster.processes()))
    same = pathlib.Path(output("local")).read_bytes() == pathlib.Path(output("cluster")).read_bytes()
    print(f"\n{'':45} {'CPU s: median':>13} {'min':>7} {'max':>7}   {'wall s: median':>14}")
    median = {name: statistics.median(cpu for cpu, _ in runs) for name, runs in seconds.items()}
    for name, runs in seconds.items():
        cpu, wall = [cpu for cpu, _ in runs], statistics.median(wall for _, wall in runs)
        print(f"{name:45} {median[name]:13.2f} {min(cpu):7.2f} {max(cpu):7.2f}   {wall:14.2f}")
    ours = [name for name in ways if name.startswith("jobq")]
    theirs = [name for name in ways if name.startswith("xarray")]
    best = min(theirs, key=median.get)
    print()
    for name in ours:
        print(f"{name}: {median[name] / median[best]:.2f} of the CPU of '{best}'")
    print(f"the cluster's processes: {processes} and the client; its bytes and those of --local are {'the same' if same else 'DIFFERENT'}")
    print(f"largest relative difference from xarray's own (float32) result: {compare(output('local'), output('xarray-plain')):.1e}")
    shutil.rmtree(directory / "in")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1] == "--xarray":
        xarray_study(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        main()
