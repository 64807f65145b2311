#!/usr/bin/env python3
"""What the prompt costs: `jq status` of a living cluster, and a JSON jq call through our `jq` against a direct one.

    cargo build --release --bins && python3 benches/prompt.py [RUNS]

Whole processes, in turns, in milliseconds: the least and the median of RUNS (200). The cluster is one of its own, in a
temporary directory, with 2 workers on the built-in queue.
"""
import os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
OURS = Path(__file__).resolve().parent.parent / os.environ.get("CARGO_TARGET_DIR", "target") / "release"


def milliseconds(command, environment):
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1e3


def main():
    json_jq = next(
        (p for d in os.environ["PATH"].split(":") if (p := shutil.which("jq", path=d)) and Path(p).parent != OURS), None
    )
    home = tempfile.mkdtemp(prefix="jobq-prompt-")
    environment = {**os.environ, "HOME": home, "PATH": f"{OURS}:{os.environ['PATH']}"}
    environment["JOBQ_CFG_CLUSTER__STATE_DIR"] = f"{home}/state"
    jq = str(OURS / "jq")
    ways = {"jq status": [jq, "status"]}
    if json_jq:
        ways |= {"JSON jq, direct": [json_jq, "-n", "1"], "JSON jq, through ours": [jq, "-n", "1"]}
    subprocess.run([jq, "up", "-q", "--queue", "local", "--workers", "2", "--wait"], env=environment, check=True)
    try:
        times = {name: [] for name in ways}
        for _ in range(RUNS):
            for name, command in ways.items():
                times[name].append(milliseconds(command, environment))
    finally:
        subprocess.run([jq, "down", "--purge"], env=environment, check=True)
        shutil.rmtree(home, ignore_errors=True)
    print(f"{time.strftime('%F')}, {os.cpu_count()} cores, {RUNS} runs in turns, ms")
    for name, values in times.items():
        values.sort()
        print(f"{name:24} least {values[0]:7.2f}   median {values[len(values) // 2]:7.2f}")


main()
