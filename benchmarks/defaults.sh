#!/usr/bin/env bash
# What a user gets who sets nothing but paths: benchmarks/defaults.sh NAME train.zip test.zip WEIGHTS
# Prints the time of `search -m` and of `retrain`, and copies submission.csv, metrics.json and leaderboard.csv to
# results/NAME/. The cache is empty at the start.
set -euo pipefail
name=$1 cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
time python -m catsdogs.search -m study="$name" data.train="$2" data.test="$3" backbone.weights="$4" cache="$cache"
time python -m catsdogs.retrain study="$name" cache="$cache"
mkdir -p "results/$name"
cp "multirun/$name"/best/{submission.csv,metrics.json} "multirun/$name/leaderboard.csv" "results/$name/"
