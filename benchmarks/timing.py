"""What the benchmarks share: their options, alternating rounds, peak memory, and the record of what was measured.

Contenders take turns within a round, so that a machine that gets slower or busier gets so for all of them, and what is
compared are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

RESULTS = Path(__file__).parent / "results"
Seconds = dict[str, list[float]]


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("LIT_ROBUST_DATA") or "data"
    parser.add_argument("--root", default=root, help="folder of the data sets (default: $LIT_ROBUST_DATA or data)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs; says nothing of speed")
    parser.add_argument("--out", type=Path, help="JSON to write (default: benchmarks/results/, but nothing in a smoke)")
    return parser


def alternate(contenders: Mapping[str, Callable[[], object]], *, rounds: int) -> Seconds:
    """Seconds of each contender in each round, after one round that does not count.

    Every round starts with another contender, so that none is always the one that follows the heaviest.
    """
    seconds: Seconds = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(-1, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            contenders[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes.

    On a CPU, what tensors take is what the process takes: the profiler sees torch's allocations only, not oneDNN's
    scratch space. `ru_maxrss` is no use: on Linux a process starts with the maximum of the one that started it. VmHWM
    belongs to the program that runs, and is the kernel's own high-water mark, so that no peak falls between samples.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        raise SystemExit("peak memory is read from /proc/self/status, which only Linux has")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def fresh_process(module: str, *arguments: str) -> dict[str, float]:
    """Runs a module in a process of its own, and returns the JSON that it prints last."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of ours beside one of somebody else's, and what their ratio is to be."""

    name: str
    ratio: float
    target: float
    bound: Literal["at least", "at most"] = "at least"
    ours: float
    theirs: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the ratio is what it is to be."""
        return self.ratio >= self.target if self.bound == "at least" else self.ratio <= self.target

    def __str__(self) -> str:
        measured = f"ours {self.ours:.4g} {self.unit}, theirs {self.theirs:.4g} {self.unit}"
        return f"{self.name}: ratio {self.ratio:.3f} (target {self.bound} {self.target:g}): {measured}"


def speedup(name: str, ours: list[float], theirs: list[float], *, target: float) -> Comparison:
    """How many times as fast ours is, by the medians of seconds."""
    a, b = median(ours), median(theirs)
    return Comparison(name=name, ratio=b / a, target=target, ours=a, theirs=b, unit="s")


def report(
    module: str | None,
    comparisons: Iterable[Comparison],
    figures: Mapping[str, Any],
    given: argparse.Namespace,
    packages: Iterable[str] = (),
) -> None:
    """Prints a line a comparison, and writes everything to the JSON of the benchmark."""
    comparisons = list(comparisons)
    for comparison in comparisons:
        print(comparison, flush=True)
    name = str(module).removeprefix("benchmarks.")
    out: Path | None = given.out or (None if given.smoke else RESULTS / f"{name}.json")
    if out is None:
        return
    record = {
        "benchmark": name,
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "smoke": given.smoke,
        "comparisons": [{**asdict(comparison), "met": comparison.met} for comparison in comparisons],
        "figures": dict(figures),
        "threads": torch.get_num_threads(),
        "cpu": {"count": os.cpu_count(), "capability": torch.backends.cpu.get_cpu_capability()},
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("lit-robust", "torch", *packages)},
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2) + "\n")
