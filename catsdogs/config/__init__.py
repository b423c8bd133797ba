"""What the user may set, and what it means.

In: `conf/`, `sweeps/`, the command line, or the `result.json` of a study. Out: a checked
`SearchConfig` or `RetrainConfig`, or one message that names key, value and fix.
"""
