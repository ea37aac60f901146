#!/bin/sh
# Train a part in build/NAME, going on where it was:  train.sh NAME script.py arguments…
name=$1; shift
mkdir -p build/$name
$P "$@" --sprites build/sprites.npz --work build/$name --threads 1 >> build/$name/log.txt 2>&1
