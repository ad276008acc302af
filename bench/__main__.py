"""`python -m bench ACTION`: one JSON line a case on standard output.

Exit status 0 when every answer was right, 1 when one was wrong, 2 for an error of use.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

from bench import (
    answers,
    budget,
    case_commit,
    case_contacts,
    case_decode,
    case_dedup,
    case_gateway,
    case_index,
    case_ingest,
    case_jpeg,
    case_lanes,
    case_parse,
    case_receive,
    case_records,
    case_trace,
    day,
    gates,
    growth,
    lane_ramp,
    live,
    qr,
    questions,
    receipt,
    report,
    restart,
    results,
    scale,
)
from bench.gauge import GaugeError
from bench.harness import Case, Trial, UsageError, run_case, run_trial
from bench.servers import Servers

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        case_jpeg.CASE,
        case_decode.CASE,
        case_lanes.CASE,
        *case_parse.CASES,
        case_records.CASE,
        case_dedup.CASE,
        case_gateway.CASE,
        *case_receive.CASES,
        *case_ingest.CASES,
        *case_commit.CASES,
        case_index.CASE,
        case_trace.CASE,
        case_contacts.CASE,
    )
}

KEEP = "add the line to bench/results"
KEPT = (
    "receipt", "verdicts", "backlog", "answers", "growth", "restart", "questions", "budget", "qr"
)  # fmt: skip

# What is measured as a whole: a module with a TRIAL, added here.
TRIALS: dict[str, Trial] = {
    trial.name: trial for trial in (day.TRIAL, lane_ramp.TRIAL, scale.TRIAL, budget.TRIAL)
}


class Parser(argparse.ArgumentParser):
    """An error of use is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench: {message}; see python -m bench --help\n")


def build_parser() -> Parser:
    parser = Parser(prog="python -m bench", description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(
        dest="action",
        required=True,
        metavar="list|run|smoke|gate|report|budget|qr|receipt|verdicts|backlog|answers"
        "|growth|restart|questions",
    )
    actions.add_parser("list", help="what there is and what each measures")
    run = actions.add_parser("run", help="measure cases")
    run.add_argument("names", nargs="+", metavar="NAME", help="a case, as `list` prints it")
    run.add_argument("--large", action="store_true", help="large parameters; takes minutes")
    run.add_argument("--keep", action="store_true", help=KEEP)
    run.add_argument(
        "--data", type=Path, metavar="DIR", help="decode: the JPEG images of this folder instead"
    )
    run.add_argument(
        "--servers", action="store_true",
        help="peers PostgreSQL and Redis too, started for the run where they are installed",
    )  # fmt: skip
    smoke = actions.add_parser("smoke", help="tiny parameters; part of the tests")
    smoke.add_argument("names", nargs="*", metavar="NAME", help="every case if none is named")
    gates.add_parser(actions)
    report.add_parser(actions)
    qr.add_parser(actions)
    receipt.add_parser(actions)
    live.add_parsers(actions)
    answers.add_parser(actions)
    growth.add_parser(actions)
    restart.add_parser(actions)
    budget.add_parser(actions)
    questions.add_parser(actions)
    for alone in KEPT:
        actions.choices[alone].add_argument("--keep", action="store_true", help=KEEP)
    return parser


def run(
    names: list[str],
    size: str,
    data: Path | None = None,
    *,
    is_kept: bool = False,
    has_servers: bool = False,
) -> int:
    """Prints a line for each case and trial. Raises UsageError."""
    for name in names:
        if name not in CASES and name not in TRIALS:
            known = ", ".join([*CASES, *TRIALS])
            raise UsageError(f"there is no case {name!r}; there are: {known}")
        if data is not None and (name in TRIALS or not CASES[name].takes_data):
            raise UsageError(f"the case {name!r} takes no --data")
    if data is not None and not data.is_dir():
        raise UsageError(f"--data: {data} is no folder")
    is_wrong = False
    with Servers(has_servers) as servers:
        for name in _with_sizes(names):
            if name in TRIALS:
                line = run_trial(TRIALS[name], size)
            else:
                line = run_case(CASES[name], size, data, servers)
            print(json.dumps(line, ensure_ascii=False), flush=True)
            if is_kept:
                results.keep(line)
            for sentence in line["wrong"]:
                print(f"bench: {name}: WRONG: {sentence}", file=sys.stderr)
            is_wrong = is_wrong or bool(line["wrong"])
    return 1 if is_wrong else 0


def _with_sizes(names: list[str]) -> list[str]:
    """`commit` stands for `commit_100` and `commit_1` too: the same work in other pieces; and
    `ingest` for all of ingest."""
    found = (
        case for name in names for case in (*CASES, *TRIALS) if f"{case}_".startswith(f"{name}_")
    )
    return list(dict.fromkeys(found))


def main(words: list[str] | None = None) -> int:
    parser = build_parser()
    chosen = parser.parse_args(words)
    try:
        if chosen.action == "list":
            for case in CASES.values():
                print(f"{case.name:<15} {case.what}")
            for trial in TRIALS.values():
                print(f"{trial.name:<15} {trial.what}")
            return 0
        if chosen.action == "smoke":
            return run(chosen.names or list(CASES), "smoke")
        if chosen.action == "gate":
            return gates.run_words(chosen, CASES)
        if chosen.action == "report":
            return report.run_words(chosen)
        if chosen.action == "qr":
            return qr.run_words(chosen)
        if chosen.action == "budget":
            return budget.run_words(chosen)
        if chosen.action == "receipt":
            return receipt.run_words(chosen)
        if chosen.action == "growth":
            return growth.run_words(chosen)
        if chosen.action == "questions":
            return questions.run_words(chosen)
        if chosen.action == "answers":
            return answers.run_words(chosen)
        if chosen.action == "restart":
            return restart.run_words(chosen)
        if chosen.action in ("verdicts", "backlog"):
            return live.run_words(chosen)
        size = "large" if chosen.large else "small"
        return run(chosen.names, size, chosen.data, is_kept=chosen.keep, has_servers=chosen.servers)
    except GaugeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
