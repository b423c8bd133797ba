#!/usr/bin/env bash
# The models of docs/SCORES.md: benchmarks/scores.sh train.zip test.zip [weights, default imagenet] [weights of alpha 0.35]
# Takes two and a half hours on two cores. Writes submission.csv, metrics.json, predictions.csv, leaderboard.csv and
# the validation.csv of every job (JOB.validation.csv) to results/NAME/.
set -euo pipefail
train=$1 test=$2 weights=${3:-imagenet} small=${4:-imagenet}

search() { # NAME OVERRIDE...
  python -m catsdogs.search -m study="$1" data.train="$train" data.test="$test" split.holdout_fraction=0.2 "${@:2}"
}
recipe=(split.folds=5 backbone.image_size=256 augmentation=light schedule=cosine label_smoothing=none space=fixed
  model.unfreeze_depth=30 model.dropout=0.2 model.l2=5e-6 fit.epochs=3 tuner.max_trials=1
  model.dense_units=256 model.head_batch_norm=true)

keep() { # STUDY NAME
  mkdir -p "results/$2"
  cp "multirun/$1"/best/{submission.csv,metrics.json,predictions.csv} "multirun/$1/leaderboard.csv" "results/$2/"
  for table in "multirun/$1"/*/validation.csv; do
    cp "$table" "results/$2/$(basename "$(dirname "$table")").validation.csv"
  done
}

search final "${recipe[@]}" backbone.weights="$weights" model.unfreeze_depth=30,57 \
  schedule.peak_lr=0.0003,0.0001
python -m catsdogs.retrain study=final evaluate_with=folds tta=flip tta.average=logit && keep final single
python -m catsdogs.retrain study=final ensemble=folds ensemble.num_jobs=3 tta=flip tta.average=logit && keep final ensemble
cp multirun/final/best/ensemble.csv results/ensemble/

search seed_recipe experiment=seed_recipe backbone.weights="$weights" fit.epochs=15
python -m catsdogs.retrain study=seed_recipe calibrate=false && keep seed_recipe seed_recipe

search small "${recipe[@]}" backbone=mobilenet_v2_035 backbone.image_size=256 backbone.weights="$small" \
  schedule.peak_lr=0.0003
python -m catsdogs.retrain study=small evaluate_with=folds 'tta.kinds=[none,flip,crops,views]' && keep small small_single
cp multirun/small/best/tta.csv results/small_single/
python -m catsdogs.retrain study=small ensemble=folds tta=flip tta.average=logit && keep small small_ensemble
