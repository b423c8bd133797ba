"""Search, compare and ship transfer-learning image classifiers.

The files, in the order of the data (directory listings sort by name; this list is the map):

    errors, files, locations, interrupts         what every stage may use
    provenance                                   versions, machine and time, for the record
    schema, compose                              conf/ + command line -> checked configuration
    pictures, sample                             a seed -> drawn archives
    archive, images, catalogue, split            archives -> pixels, rows, splits
    near_duplicates                              rows -> groups of copies, which belong on one side of a split
    dataset                                      what every job of a study shares
    augment, views, batches                      pixels -> augmented views -> batches
    backbones, devices, cut, folding, engine     a frozen prefix and a trained suffix of a network
    activations, store, feature_keys, features   views -> activations at a cut, stored
    schedules, hypermodel, trial_model           configuration + hyperparameters -> compiled model
    training, trials, progress                   model + batches -> trials, and a line for each epoch
    earlier, job_tables                          trials <-> the tables of a job
    oracles, replay, promotion                   what Keras Tuner proposes, from the start or from where a run ended
    limits, exhaustion, tuning                   one search, and what ends a trial or the whole
    selection                                    best trials + fresh seeds -> the winner
    job_lock, identity, study, standing          job folders -> leaderboard, best job, what the same command does
    study_progress                               job folders -> what is left to do
    tta, calibration, ensemble, one_model        probabilities of views and models -> one
    pipeline, scores, submission, model_card     what is shipped, and how good it is
    inputs, job                                  configuration -> a finished job folder
    members, judging, final                      trials -> best/ (final_metrics, final_files)
    comparison                                   study folders -> answer, page, tables, exports; has a list of its own
    data_audit                                   images -> what is wrong or odd in them; has a list of its own
    launch                                       what happens around Hydra's jobs
    search, retrain, report, predict, audit, doctor, cache     entry points
"""

__version__ = "0.3.0.dev0"
