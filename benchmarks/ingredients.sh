#!/usr/bin/env bash
# Effect of each ingredient: benchmarks/ingredients.sh train.zip [weights of MobileNetV2, default imagenet]
# Each job differs from the first in one setting and trains on three folds of the images outside the holdout (80%).
# Takes 50 minutes on two cores and prints the table of docs/SCORES.md.
set -euo pipefail
search() { # NAME OVERRIDE...: later values of a setting replace those below
  python -m catsdogs.search -m study="$1" data.train="$train" backbone.weights="$weights" \
    split.holdout_fraction=0.2 split.folds=3 backbone.image_size=256 augmentation=light schedule=cosine label_smoothing=none \
    space=fixed model.unfreeze_depth=30 model.dropout=0.2 model.l2=5e-6 fit.epochs=3 tuner.max_trials=1 \
    model.dense_units=256 model.head_batch_norm=true schedule.peak_lr=0.0003 "${@:2}"
}
train=$1 weights=${2:-imagenet}

search size backbone.image_size=224,256,288
search lr schedule.peak_lr=0.0001,0.001
search epochs fit.epochs=6
search depth model.unfreeze_depth=0,10,57
studies=(size lr epochs depth)
if [[ -d conf/optimizer ]]; then # removed, because they do not help; docs/SCORES.md names the commit that has them
  search optimizer optimizer=averaged,discriminative,probe_first,gradual
  search mixing mixing=mixup,cutmix
  search decay optimizer=adamw optimizer.weight_decay=0.1
  search constant schedule=constant optimizer=averaged optimizer.ema_momentum=0.995
  studies+=(optimizer mixing decay constant)
fi
python "$(dirname "$0")/ingredients.py" multirun/size/*256 "${studies[@]/#/multirun/}"
