#!/bin/sh
# What the guest runs: lays out the kernel's parts, then the script named in the file "script". Standard output is
# the tests' to read.
./bench.sh && exec python3 -u "$(cat script)"
