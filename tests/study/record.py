"""Record what the estimates of the time left see during a study, for `test_recordings.py`.

python tests/study/record.py FILE OVERRIDES...     runs catsdogs.search -m OVERRIDES, and writes FILE

FILE is JSON Lines. The first line has the command, and the seconds at which jobs started and finished. Every other line
is a call of a `JobEstimate`: seconds, job, method, its arguments, and the `Fills` at that time.
"""

import functools
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from catsdogs.base.files import read_json
from catsdogs.base.provenance import parse_timestamp
from catsdogs.search import main
from catsdogs.study.estimate import JobEstimate
from catsdogs.study.plan import read_plan

METHODS = ("__init__", "start", "progress", "finish")


def recorded(name: str, running: list[str]) -> Any:
    method = getattr(JobEstimate, name)

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **keywords: Any) -> None:
        now, outer = time.time(), not running  # a method may call another one
        first = name != "progress" or not arguments[1] or self._current.setup is None
        running.append(name)
        method(self, *arguments, **keywords)
        running.pop()
        if outer and first:
            job = Path(HydraConfig.get().runtime.output_dir)
            values = [value for value in arguments if not callable(value)]
            with Path(os.environ["RECORDING"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps([now, job.name, name, values, self._fills(), str(job.parent)]) + "\n")

    return call


# Also in the processes of jobs, which import this file.
nested: list[str] = []
for each in METHODS:
    setattr(JobEstimate, each, recorded(each, nested))

if __name__ == "__main__" and multiprocessing.parent_process() is None:
    target = Path(sys.argv[1])
    os.environ["RECORDING"] = str(target.with_suffix(".calls").absolute())
    sys.argv = [sys.argv[0], "-m", *sys.argv[2:]]
    main()
    calls = [json.loads(line) for line in Path(os.environ["RECORDING"]).read_text(encoding="utf-8").splitlines()]
    study = Path(calls[0][-1])
    plan = read_plan(study)
    started, times = plan.started.timestamp(), {}
    for file in study.glob("*/result.json"):
        ends = (parse_timestamp(read_json(file)[key]) for key in ("started", "finished"))
        times[file.parent.name] = [end.timestamp() - started for end in ends]
    caches = {name: cache for name, (_, cache) in plan.planned.items()}
    lines: list[Any] = [{"command": sys.argv[1:], "run": plan.run, "jobs": times, "caches": caches}]
    lines += [[round(now - started, 2), *call] for now, *call, _ in calls]
    target.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    Path(os.environ["RECORDING"]).unlink()
