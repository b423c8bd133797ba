"""Settings of the user.

Input: `conf/`, `sweeps/`, the command line, or the `result.json` of a study. Output: a validated
`SearchConfig` or `RetrainConfig`, or an error that names key, value and fix.
"""
