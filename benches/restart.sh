#!/bin/bash
# How long a scheduler takes to read and replay the journal of a large graph that is half done.
# Wanted: 1,000,000 tasks within 1 s, 100,000 within 60 ms.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo test --release --test restart -- --ignored --nocapture how_long
