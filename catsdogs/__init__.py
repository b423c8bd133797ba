"""Search, compare and ship transfer-learning image classifiers.

The files, in the order of the data (directory listings sort by name; this list is the map):

    errors, files, locations, progress           what every stage may use
    provenance                                   versions, machine and time, for the record
    schema, compose                              conf/ + command line -> checked configuration
    sample_animals, sample_scenes, sample        a seed -> drawn archives
    archive, images, catalogue, split            archives -> pixels, rows, splits
    dataset                                      what every job of a study shares
    augment, views, batches                      pixels -> augmented views -> batches
    backbones, devices, cut, folding, engine     a frozen prefix and a trained suffix of a network
    activations, store, feature_keys, features   views -> activations at a cut, stored
    schedules, hypermodel, trial_model           configuration + hyperparameters -> compiled model
    training, trials, tuning                     model + batches -> trials
    study, study_progress                        job folders -> leaderboard, best job, what is left to do
    tta, calibration, ensemble, one_model        probabilities of views and models -> one
    pipeline, scores, submission, model_card     what is shipped, and how good it is
    job, selection                               configuration -> a finished job folder
    members, judging, final                      trials -> best/ (final_metrics, final_files)
    comparison                                   study folders -> answer, page, tables, exports; has a list of its own
    launch                                       what happens around Hydra's jobs
    search, retrain, report, predict, doctor, cache     entry points
"""

__version__ = "0.2.0"
