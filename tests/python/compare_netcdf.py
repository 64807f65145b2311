"""Compares dimensions and variables' dimensions of jobq (JSON as for compare_read.py) with netCDF4-python."""

import json
import sys

import netCDF4

different = files = 0


def walk(path, group, dimensions, variables):
    for d in group.dimensions.values():
        dimensions.append([path + d.name, len(d), d.isunlimited()])
    for v in group.variables.values():
        variables[path + v.name] = [name_of(group, d) for d in v.dimensions]
    for name, inner in group.groups.items():
        walk(f"{path}{name}/", inner, dimensions, variables)


def name_of(group, dimension):
    while dimension not in group.dimensions:
        group = group.parent
    return (group.path.strip("/") + "/").lstrip("/") + dimension


for line in sys.stdin:
    mine = json.loads(line)
    files += 1
    with netCDF4.Dataset(mine["file"]) as d:
        dimensions, variables = [], {}
        walk("", d, dimensions, variables)
    if mine["dimensions"] != dimensions:
        different += 1
        print("DIFFERS", mine["file"], "dimensions", mine["dimensions"], dimensions)
    own = {v["name"]: v["dims"] for v in mine["variables"]}
    if own != variables or list(own) != list(variables):
        different += 1
        print("DIFFERS", mine["file"], "variables", own, variables)
print(f"compared {files} different {different}")
sys.exit(different > 0)
