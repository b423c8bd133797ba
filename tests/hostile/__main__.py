"""Read damaged and hostile inputs, and count how each case ends.

python -m tests.hostile --cases 100000 --output benchmarks/results/hostile.json
"""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from commands import COMMANDS
from machine import machine, versions
from readers import READERS
from workers import GOOD, READERS_AND_COMMANDS, run

from catsdogs.base.files import write_json
from catsdogs.base.text import format_duration

CHUNK = 1000  # cases of one process


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="of all readers together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="READER", default=["readers", "commands"])
    parser.add_argument("--number", type=int, help="run only this case, of the reader --only")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file to write the counts to")
    options = parser.parse_args()
    groups = {"readers": list(READERS), "commands": list(COMMANDS)}
    names = [name for one in options.only for name in groups.get(one, [one])]
    shares = {name: READERS_AND_COMMANDS[name].cases for name in names}
    sizes = {name: max(1, options.cases * share // sum(shares.values())) for name, share in shares.items()}
    sizes[max(sizes, key=sizes.__getitem__)] += options.cases - sum(sizes.values())
    tasks = [(name, range(i, min(i + CHUNK, size))) for name, size in sizes.items() for i in range(0, size, CHUNK)]
    tasks.sort(key=lambda task: task[1].start / sizes[task[0]])  # so that a stopped run has cases of every reader
    if options.number is not None:
        tasks = [(names[0], range(options.number, options.number + 1))]
    total, started = sum(len(numbers) for _, numbers in tasks), time.monotonic()
    counts = {name: Counter[str]() for name in names}
    failures = Counter[tuple[str, str, str]]()
    for done, (name, number, ending, details) in enumerate(run(tasks, options.seed, options.processes), 1):
        counts[name][ending] += 1
        if ending not in GOOD:
            failures[name, ending, details[:40]] += 1
            if failures[name, ending, details[:40]] == 1:
                print(f"FAILED {name} --seed {options.seed} --number {number}: {ending}: {details}", flush=True)
        elif options.number is not None:
            print(f"{ending}: {details}")
        if done % max(1, total // 50) == 0:
            left = (time.monotonic() - started) / done * (total - done)
            print(f"{done:,} of {total:,} cases, about {format_duration(left)} left", flush=True)
        if options.output and (done % CHUNK == 0 or done == total):
            result = {"cases": done, "failed": failures.total(), "seed": options.seed, "readers": counts}
            write_json(options.output, {**result, "versions": versions(), "machine": machine()})
    for name, endings in counts.items():
        print(f"{name:12} {dict(endings)}")
    print(f"{total:,} cases, {failures.total()} failed, {format_duration(time.monotonic() - started)}")
    return int(failures.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
