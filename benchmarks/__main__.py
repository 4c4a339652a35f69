"""Arguments, and one measure after the other."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import BARE, CONTENDERS, OURS
from benchmarks.environments import CACHE, EnvironmentFailed
from benchmarks.measures import MEASURES, Measure
from benchmarks.process import ContenderFailed
from benchmarks.report import summary, write_docs
from benchmarks.results import Results, Row
from benchmarks.sizes import SMOKE, Sizes
from benchmarks.stage import Stage

_SMOKE_CONTENDERS = (OURS, BARE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = _parser().parse_args(arguments)
    output = options.output or CACHE / ("smoke.json" if options.smoke else "results.json")
    if not options.report:
        # No deeper: Ray keeps sockets there, whose paths may have 107 bytes.
        with Stage(Path(tempfile.mkdtemp(prefix="b-")), options.slots) as stage:
            _measure(stage, options, output)
    results = Results.load(output)
    if options.report:
        write_docs(results)
    print(summary(results))
    return 0


def _measure(stage: Stage, options: argparse.Namespace, output: Path) -> None:
    sizes = SMOKE if options.smoke else Sizes()
    changes = {name: getattr(options, name) for name in ("repeats", "seeds")}
    sizes = dataclasses.replace(sizes, **{key: n for key, n in changes.items() if n is not None})
    for measure in options.measures or _default_measures(options):
        contenders = options.contenders or (_SMOKE_CONTENDERS if options.smoke else CONTENDERS)
        rows = _take_turns(
            stage, measure, [name for name in measure.contenders if name in contenders], sizes
        )
        results = Results.load(output)
        results.add(measure.name, rows, dataclasses.asdict(sizes), stage)
        results.save(output)


def _take_turns(
    stage: Stage, measure: Measure, contenders: Sequence[str], sizes: Sizes
) -> dict[str, Row]:
    """Have each contender do the work in turn, again and again."""
    rows = {name: Row() for name in contenders}
    left = dict(rows)
    for repeat in range(1 if measure.long else sizes.repeats):
        for name, row in list(left.items()):
            print(f"{measure.name} {repeat + 1}: {name} ...", end=" ", file=sys.stderr, flush=True)
            began = time.monotonic()
            try:
                numbers = measure.take(stage, name, sizes)
            except (ContenderFailed, EnvironmentFailed) as error:
                row.error = str(error)
                del left[name]
                print(error, file=sys.stderr)
                continue
            row.taken.append(numbers)
            first = next(iter(numbers))
            took = time.monotonic() - began
            print(f"{first} {numbers[first]:.3g}, took {took:.0f} s", file=sys.stderr)
            if took > sizes.patience:
                del left[name]
    return rows


def _default_measures(options: argparse.Namespace) -> list[Measure]:
    return [each for each in MEASURES.values() if options.full or not each.long]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.sh", description=__doc__)
    parser.add_argument(
        "--smoke", action="store_true", help="little of each, to see that it works"
    )
    parser.add_argument("--full", action="store_true", help="many slots and search quality too")
    parser.add_argument(
        "--measures", type=_measures, metavar="NAME,...", help=f"of {', '.join(MEASURES)}"
    )
    parser.add_argument(
        "--contenders", type=_contenders, metavar="NAME,...", help=f"of {', '.join(CONTENDERS)}"
    )
    parser.add_argument("--repeats", type=int, help="turns of each contender (default 3)")
    parser.add_argument("--seeds", type=int, help="studies of each function (default 20)")
    parser.add_argument(
        "--slots",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="trials at once (default: the cores)",
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file; measures taken anew replace those in it"
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="measure nothing, write docs/benchmarks.md from the file",
    )
    return parser


def _measures(text: str) -> list[Measure]:
    return [MEASURES[name] for name in _names(text, MEASURES)]


def _contenders(text: str) -> list[str]:
    return _names(text, CONTENDERS)


def _names(text: str, known: Sequence[str] | dict[str, object] | object) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:  # type: ignore[operator]
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")  # type: ignore[arg-type]
    return names


if __name__ == "__main__":
    sys.exit(main())
