"""Settings of the user.

In: `conf/`, `sweeps/`, the command line, or the `result.json` of a study. Out: a validated
`SearchConfig` or `RetrainConfig`, or an error that names key, value and fix.
"""
