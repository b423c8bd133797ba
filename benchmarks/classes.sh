#!/usr/bin/env bash
# Three sides on the same images: catsdogs, the recipe of the public notebook, and a linear probe; for any classes.
# benchmarks/classes.sh NAME train.zip WEIGHTS SPLIT [SEED ...]
# SPLIT is split.holdout_fraction=0.2, or split.folds=5 to compare the best jobs out of fold, without TTA, on small data.
# For every seed of the split (default: 1), prints the log losses, and the difference of catsdogs to the other sides.
set -euo pipefail
name=$1 train=$2 weights=$3 split=$4 seeds=("${@:5}")

side() { # STUDY RETRAIN_OVERRIDES SEARCH_OVERRIDE...: searches, and prints the path of the predictions
  python -m catsdogs.search -m study="$1" "${shared[@]}" "${@:3}" >&2
  if [[ $split == split.folds=* ]]; then
    echo "multirun/$1/$(sed -n '2s/,.*//p' "multirun/$1/leaderboard.csv")/validation.csv"
  else
    # shellcheck disable=SC2086 # several words
    python -m catsdogs.retrain study="$1" $2 >&2
    echo "multirun/$1/best/predictions.csv"
  fi
}

for seed in "${seeds[@]:-1}"; do
  shared=(data.train="$train" backbone.weights="$weights" data.split_seed="$seed" "$split")
  ours=$(side "$name-$seed" "")
  recipe=$(side "$name-$seed-recipe" calibrate=false experiment=seed_recipe fit.epochs=15)
  python "$(dirname "$0")/linear_probe.py" "multirun/$name-$seed/probe.csv" "${shared[@]}" \
    --compare "$ours" --compare "$recipe"
done
