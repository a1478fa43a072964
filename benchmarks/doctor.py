"""How long the doctor looks at VGG-16, beyond start-up: under 20 s on two cores are wanted.

python benchmarks/doctor.py [--smoke]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

from lit_robust.doctor import CHECKS, diagnose
from lit_robust.doctor.command import build

LIMIT = 20.0  # seconds
OPTIONS = ["--config", "vgg16_natural.yaml", "--data", "Digits", "--data.size=32", "--data.channels=3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a network of an eighth of the width, to see that it runs")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    width = ["--model.network.width=0.125"] if asked.smoke else []
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        start = time.perf_counter()
        subject = build([*OPTIONS, *width])
        built = time.perf_counter() - start
        seconds: dict[str, float] = {}
        for check in CHECKS:
            start = time.perf_counter()
            verdicts = [diagnosis.verdict for diagnosis in diagnose(subject, [check])]
            seconds[check.name] = time.perf_counter() - start
            print(f"{check.name:28}{seconds[check.name]:8.2f} s  {', '.join(verdicts)}")
        os.chdir(before)
    total = sum(seconds.values())
    at_start = sum(seconds[check.name] for check in CHECKS if check.at_start)
    print(f"built in {built:.1f} s; all checks {total:.1f} s, those at the start of a run {at_start:.1f} s")
    print(json.dumps({"smoke": asked.smoke, "threads": asked.threads, "built": built, "checks": total, "limit": LIMIT}))
    if not asked.smoke and total > LIMIT:
        raise SystemExit(f"{total:.1f} s, and {LIMIT:g} s are wanted")


if __name__ == "__main__":
    main()
