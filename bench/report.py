"""`python -m bench report`: figures of the pages, from results that were kept.

A page marks what is made here with `<!-- bench: NAME -->` and `<!-- end -->`; what stands between
is written anew from bench/results, and left as it is while no run of it was kept. Pictures go to
docs/pictures/bench, where matplotlib is installed. Exit status 0, or with --check 1 when a page
is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from bench import budget as budget_trial
from bench import plots, qr_table, results
from bench.harness import ROOT, UsageError
from bench.tables import of_ns, table

Line = dict[str, Any]
Lines = Mapping[str, Line]

PAGES: Final = (
    "README.md", "docs/benchmarks.md", "docs/performance.md", "docs/scale.md", "docs/decoder.md",
)  # fmt: skip
PICTURES: Final = ROOT / "docs" / "pictures" / "bench"
_BLOCK: Final = re.compile(r"(<!-- bench: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)


def add_parser(actions: Any) -> None:
    words = actions.add_parser("report", help="tables and pictures of the pages, from kept results")
    words.add_argument("--results", type=Path, default=results.FOLDER, metavar="DIR")
    words.add_argument("--check", action="store_true", help="change nothing; 1 if a page would")


def run_words(chosen: argparse.Namespace) -> int:
    newest = read(chosen.results)
    if not chosen.check:
        for told in plots.draw(newest, PICTURES):
            print(told)
    pages = [name for name in PAGES if (ROOT / name).is_file()]
    stale = [name for name in pages if renew(ROOT / name, newest, chosen.check)]
    for name in stale:
        print(f"{name}: {'is not what the results say' if chosen.check else 'written'}")
    return 1 if chosen.check and stale else 0


def read(folder: Path) -> dict[str, Line]:
    """The newest line of each case, of its largest size. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"--results: {folder} is no folder")
    found = {name: results.newest(lines) for name, lines in results.load(folder).items()}
    return {name: line for name, line in found.items() if line is not None}


def renew(page: Path, newest: Lines, is_checked: bool = False) -> bool:
    """Writes the blocks of a page anew; whether that changes it."""
    before = page.read_text(encoding="utf-8")

    def block(match: re.Match[str]) -> str:
        head, name, _, foot = match.groups()
        if name not in BLOCKS:
            raise UsageError(f"{page.name}: there is no block {name!r}: {', '.join(BLOCKS)}")
        made = BLOCKS[name](newest)
        return f"{head}\n{made}\n\n{foot}" if made else match[0]

    after = _BLOCK.sub(block, before)
    if after != before and not is_checked:
        page.write_text(after, encoding="utf-8")
    return after != before


# ---- words --------------------------------------------------------------------------------------


def belongs(line: Line) -> str:
    """What the figures of a line belong to, as a sentence."""
    load = line["load_average"][0]
    return f"{line['date']}, {machine_of(line)}, load {load}, commit {line['commit']}"


def machine_of(line: Line) -> str:
    machine = line["machine"]
    scratch = f", {machine['scratch']}" if "scratch" in machine else ""
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['native']}{scratch}"


def command_of(name: str, line: Line) -> str:
    if name in RUN_ALONE:
        return f"python -m bench {name}"
    return f"python -m bench run {name}" + (" --large" if line.get("size") == "large" else "")


RUN_ALONE: Final = ("verdicts", "backlog", "growth", "receipt", "budget", "qr")


def picture(name: str, said: str, folder: str = "pictures/bench") -> list[str]:
    """The picture of that name as a paragraph, where it was drawn."""
    return [f"![{said}]({folder}/{name}.svg)"] if (PICTURES / f"{name}.svg").exists() else []


# ---- blocks -------------------------------------------------------------------------------------


def cases(newest: Lines) -> str:
    """Every case with peers: ours, theirs, how many times longer they take."""
    rows = []
    for name, line in newest.items():
        for peer, theirs in line.get("peers", {}).items():
            rows.append(
                [f"`{name}`", line["unit"], of_ns(line["median_ns"]), peer,
                 of_ns(theirs["median_ns"]), f"{line['ratios'][peer]:.3g}",
                 f"{line['cpu_ratios'][peer]:.3g}" if peer in line["cpu_ratios"] else "",
                 str(theirs.get("missed", ""))]
            )  # fmt: skip
    columns = ["case", "unit", "ours, median", "peer", "peer, median", "ratio", "CPU", "missed"]
    made = table(columns, rows)
    return "\n\n".join([made, *picture("ratios", "Times longer")]) if made else ""


def runs(newest: Lines) -> str:
    """Which run each figure is from."""
    rows = [
        [f"`{command_of(name, line)}`", line["date"], line["commit"],
         str(line["load_average"][0]), machine_of(line),
         ", ".join(f"{k} {v}" for k, v in line["versions"].items() if k != "chot")]
        for name, line in newest.items()
    ]  # fmt: skip
    return table(["command", "date", "commit", "load", "machine", "versions"], rows)


def headline(newest: Lines) -> str:
    """One row a thing measured: ours, and how many times longer each peer takes."""
    rows = []
    if "core_lanes" in newest:
        lanes = newest["core_lanes"]["figures"]
        rows.append(
            [f"**lanes of 15 frames/s, 720p JPEG, on one core**, verdict p99"
             f" {lanes['verdict_p99_ms']:.0f} ms", f"**{lanes['lanes']}**", ""]
        )  # fmt: skip
    for name, what, peers in plots.HEADLINES:
        found = newest.get(name)
        if found is None:
            continue
        floors = found.get("over_floor", {})
        longer = [
            f"{peer}{' (the floor)' if peer in floors else ''} {found['ratios'][peer]:.3g}"
            for peer in peers
            if peer in found["ratios"]
        ]
        rows.append([what, of_ns(found["median_ns"]), ", ".join(longer)])
    made = table(["what", "chot", "peers: times longer"], rows)
    if not made:
        return ""
    told = newest.get("core_lanes") or next(
        newest[name] for name, _, _ in plots.HEADLINES if name in newest
    )
    drawn = picture("ratios", "How many times longer peers take", "docs/pictures/bench")
    return "\n\n".join([f"{belongs(told)}.", made, *drawn])


def engine(newest: Lines) -> str:
    """What a real engine did under load, in a sentence or two."""
    said = []
    if (v := newest.get("verdicts")) is not None:
        said.append(
            f"{v['lanes']} lanes of {v['fps']:.0f} frames a second had 99 of 100 verdicts within"
            f" {v['verdict_p99_ms']} ms while {v['checkins_s']:,} check-ins a second came in, on"
            f" {v['engine_cores']} of a core (`python -m bench verdicts`)"
        )
    if (b := newest.get("backlog")) is not None:
        said.append(
            f"{b['scans']:,} ID cards from seven gateways after an outage were judged and durable"
            f" in {b['took_s']} s, and live lanes had theirs within {b['verdict_p99_ms']} ms"
            " meanwhile (`python -m bench backlog`)"
        )
    if (g := newest.get("growth")) is not None:
        said.append(
            f"with {g['visits']:,} visits a contact question takes {g['contacts_us'][0] / 1000:.2g}"
            " ms at the median (`python -m bench growth`)"
        )
    if (d := newest.get("day")) is not None:
        f = d["figures"]
        said.append(
            f"a day pressed into {d['params']['seconds']} seconds, with two outages and a kill,"
            f" lost {f['lost']} and doubled {f['doubled']} of {f['checkins']:,} check-ins"
            " (`python -m bench run day`)"
        )
    return f"A real engine: {'; '.join(said)}." if said else ""


def core_lanes(newest: Lines) -> str:
    line = newest.get("core_lanes")
    if line is None:
        return ""
    figures = line["figures"]
    steps = sorted(figures["steps"], key=lambda step: step["lanes"])
    rows = [
        [str(s["lanes"]), str(s["frames"]), str(s["dropped"]), f"{s['verdict_p50_ms']:.1f}",
         f"{s['verdict_p99_ms']:.1f}", f"{s['frame_settled_p99_ms']:.1f}", f"{s['core']:.2f}"]
        for s in steps
    ]  # fmt: skip
    columns = ["lanes", "frames", "left out", "verdict p50 ms", "p99 ms", "settled p99 ms", "core"]
    said = (
        f"**{figures['lanes']} lanes** ({figures['frames_s']} frames/s) on one core, verdicts p50"
        f" {figures['verdict_p50_ms']:.1f} ms, p99 {figures['verdict_p99_ms']:.1f} ms."
        f" {belongs(line)}."
    )
    drawn = picture("core_lanes", "Verdicts by the number of lanes")
    return "\n\n".join([said, table(columns, rows), *drawn])


def day(newest: Lines) -> str:
    line = newest.get("day")
    if line is None:
        return ""
    f = line["figures"]
    rows = [
        ["lost, doubled", f"**{f['lost']}, {f['doubled']}** of {f['checkins']:,} check-ins"],
        ["answers compared with the truth", f"{f['answers_checked']}, all right"],
        ["frames", f"{f['frames']:,}, {f['frames_decoded_s']}/s decoded,"
         f" {f['frames_dropped']} dropped"],
        ["passages read", f"{f['passages_read']} of {f['passages_shown']}; codes held up"
         f" {f['holds_read']} of {f['holds_shown']}, {f['holds_told_again']} told again"],
        ["check-ins, busiest second", f"{f['peak_checkins_s']:,}"],
        ["links, messages sent again", f"{f['links']}, {f['resent']}"],
        ["engine down", f"{f['engine_down_s']} s"],
        ["backlog of the venues", f"{f['venues_backlog_s']} s"],
        ["CPU", ", ".join(f"{name} {s} s" for name, s in f["cpu_s"].items())
         + f"; the engine {f['engine_cores']} cores"],
        ["stages", "; ".join(f"{name} {s['seconds']} s, {s['each_us']:.0f} µs each"
                             for name, s in f["stages"].items())],
        ["memory, most", ", ".join(f"{name} {mb} MB" for name, mb in f["peak_mb"].items())],
        ["on disk", f"{f['disk_mb']:.0f} MB, {f['journal_bytes_a_row']:.0f} bytes a row"
         " in the journal"],
    ]  # fmt: skip
    waited = [
        [what, f"{f[name + 's']:,}", f"{f[name + '_p50_ms']:.1f}", f"{f[name + '_p99_ms']:.1f}",
         f"{f[name + '_p100_ms']:.1f}"]
        for name, what in WAITS if name + "s" in f
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"{belongs(line)}; to the last receipt {f['took_s']} s.",
            table(["what", "measured"], rows),
            table(["wait", "how many", "p50 ms", "p99 ms", "worst ms"], waited),
            *picture("day", "Check-ins that came and that had a receipt, by the second"),
        ]
    )


WAITS: Final = (
    ("verdict", "verdict of a live frame"),
    ("verdict_of_backlog", "verdict of a frame that waited for a link"),
    ("frame_settled", "a live frame settled"),
    ("receipt", "receipt of a message of 64 check-ins"),
    ("receipt_of_backlog", "receipt, where no link stood"),
    ("whoami_question", "whose token it is: what any answer takes"),
    ("venue_question", "who was there (Q1)"),
    ("person_question", "where somebody was (Q2)"),
    ("contacts_question", "whom they met (Q3)"),
    ("notice_question", "a notice of three places"),
)


def live(newest: Lines) -> str:
    """The runs of a real engine under load, against their goals."""
    rows = []
    if (v := newest.get("verdicts")) is not None:
        rows.append(
            [f"verdict, {v['lanes']} lanes of {v['fps']:.0f} frames/s beside {v['checkins_s']:,}"
             " check-ins/s", "p99 ≤ 100 ms, stretch 50",
             f"p50 {v['verdict_p50_ms']}, **p99 {v['verdict_p99_ms']} ms** of {v['verdicts']};"
             f" receipts p50 {v['receipt_p50_ms']}, p99 {v['receipt_p99_ms']} ms;"
             f" the engine takes {v['engine_cores']} of a core"]
        )  # fmt: skip
    if (b := newest.get("backlog")) is not None:
        rows.append(
            [f"a backlog of {b['scans']:,} scans from 7 gateways beside live lanes",
             "1 M in ≤ 15 s, live verdicts p99 ≤ 100 ms",
             f"**{b['took_s']} s** ({b['scans_s']:,}/s); live verdicts p50 {b['verdict_p50_ms']},"
             f" **p99 {b['verdict_p99_ms']} ms**; {b['frames_dropped']} frames given up"]
        )  # fmt: skip
    if (g := newest.get("growth")) is not None:
        rows.append(
            [f"{g['visits']:,} visits of {g['people']:,} people into journal and index, last tenth"
             " against first", "≥ 0.9",
             f"**{g['last_to_first']}** by the clock, {g['last_to_first_cpu']} by CPU;"
             f" contacts of 14 days p50 {g['contacts_us'][0] / 1000:.2g},"
             f" p99 {g['contacts_us'][1] / 1000:.2g} ms; wrong {g['wrong']}; {g['rss_mb']:,} MB"]
        )  # fmt: skip
    if (r := newest.get("restart")) is not None:
        rows.append(
            [f"{r['visits']:,} visits of {r['people']:,} people: an engine starts on them",
             "memory beyond the page cache ≤ 1.2 GB; restart ≤ 15 s; first question ≤ 5 ms;"
             " ≤ 28 bytes a visit",
             f"**{r['anonymous_mb']:,} MB**"
             + (f" ({r['load_anonymous_peak_mb']:,} at most while it loaded"
                f" {r['scans_s']:,}/s)" if "scans_s" in r else "")
             + f"; **{r['open_s'] + r['replay_s']:.1f} s**; **{r['first_question_ms']} ms**;"
             f" **{r['index_bytes_a_visit']}**; contacts p50 {r['contacts_us'][0] / 1000:.2g},"
             f" p99 {r['contacts_us'][1] / 1000:.2g} ms; wrong {r['wrong']}"]
        )  # fmt: skip
    if (a := newest.get("answers")) is not None:
        over_ms = a["contacts_question_p99_ms"] - a["floor_p99_ms"]
        rows.append(
            [f"Q3 over HTTP beside {a['checkins_s']:,} check-ins/s, audit included",
             "p99 ≤ 5 ms + the run's fdatasync p99",
             f"p50 {a['contacts_question_p50_ms']}, **p99 {a['contacts_question_p99_ms']} ms**"
             f" of {a['contacts_questions']}, {over_ms:.1f} above fdatasync, with"
             f" {a['contacts_p99']:.0f} contacts; those with up to 20 p99"
             f" {a['few_contacts_question_p99_ms']} ms; Q1 p99 {a['venue_question_p99_ms']}, Q2"
             f" {a['person_question_p99_ms']} ms; whose token it is, without persons or record,"
             f" p50 {a['whoami_question_p50_ms']}, p99 {a['whoami_question_p99_ms']} ms"]
        )  # fmt: skip
    if (i := newest.get("ingest")) is not None and (c := newest.get("ingest_cards")) is not None:
        rows.append(
            ["CPU a scan, wire to durable (`run ingest`)", "check-in ≤ 2 µs, raw ID card ≤ 12 µs",
             f"**{of_ns(i['process_cpu_ns'])}** and **{of_ns(c['process_cpu_ns'])}**; opening a"
             f" sealed one {of_ns(i['facts']['opening_if_sealed_ns'])} and"
             f" {of_ns(c['facts']['opening_if_sealed_ns'])} more"]
        )  # fmt: skip
    if (r := newest.get("records")) is not None:
        rows.append(
            ["records from bytes (`run records`)", "≥ 7x msgspec",
             f"**{r['ratios']['msgspec']}x**, {of_ns(r['median_ns'])} a record"]
        )  # fmt: skip
    if (c := newest.get("commit")) is not None:
        over = c["facts"]["commit_ns"] / c["facts"]["floor_ns"]
        rows.append(
            ["commit of 1,000 rows against raw pwrite + fdatasync (`commit_ns` / `floor_ns`)",
             "≤ 3x", f"**{over:.1f}x**"]
        )  # fmt: skip
    return table(["what", "goal", "measured"], rows)


def asked(newest: Lines) -> str:
    """Every question of the catalogue, on the index alone."""
    line = newest.get("questions")
    if line is None:
        return ""
    rows = [
        [name, *(f"{ms:.3g}" if (ms := us / 1e3) < 100 else f"{ms:,.0f}" for us in of_question)]
        for name, of_question in line["us"].items()
    ]
    said = (
        f"{belongs(line)}: {line['visits']:,} visits of {line['people']:,} people,"
        f" {line['days']} days in {line['in']}. As CSV: {line['csv_rows_s']:,} rows/s."
    )
    return f"{said}\n\n{table(['question', 'p50 ms', 'p99 ms'], rows)}"


def receipts(newest: Lines) -> str:
    line = newest.get("receipt")
    if line is None:
        return ""
    rows = [["pwrite + fdatasync", *(f"{line['floor'][p]:.2f}" for p in ("p50_ms", "p99_ms")), ""]]
    rows += [
        [name, f"{s['p50_ms']:.2f}", f"{s['p99_ms']:.2f}", str(s["turns_s"] or "")]
        for name, s in line["settings"].items()
    ]
    columns = [f"{line['scans_s']} scans/s", "p50 ms", "p99 ms", "loop turns/s"]
    return f"{belongs(line)}.\n\n{table(columns, rows)}"


def scale(newest: Lines) -> str:
    line = newest.get("scale")
    if line is None:
        return ""
    parts = [f"{belongs(line)}."]
    for curve in line["figures"]["curves"]:
        columns = [curve["by"], *curve["unit_names"]]
        rows = [
            [f"{point['at']:,}" if isinstance(point["at"], int) else str(point["at"]),
             *(f"{value:.4g}" for value in point["values"])]
            for point in curve["points"]
        ]  # fmt: skip
        slope = curve.get("slope")
        said = (
            f" Slope {slope:+.2f} (0: does not grow, 1: grows as {curve['by']} do)."
            if slope is not None
            else ""
        )
        parts.append(f"**{curve['what']}.**{said}\n\n{table(columns, rows)}")
    projection = line["figures"].get("projection")
    if projection:
        parts.append(table(["a country", "on paper"], [[k, v] for k, v in projection.items()]))
    parts += picture("scale", "Cost by what there is more of")
    return "\n\n".join(parts)


def budget(newest: Lines) -> str:
    line = newest.get("budget")
    if line is None:
        return ""
    return f"{belongs(line)}.\n\n{budget_trial.to_markdown(line['figures'])}"


def qr(newest: Lines) -> str:
    """The goals of the QR reader, and its lane clips by condition."""
    line = newest.get("qr")
    if line is None:
        return ""
    rows = [
        qr_table.Row(key, row["what"], row["goal"], row["cells"], row["is_met"])
        for key, row in line["rows"].items()
    ]
    parts = [f"{belongs(line)}.", qr_table.to_markdown(rows)]
    if line["conditions"]:
        parts += ["Passages: read / read by zxing / known."]
        parts += [qr_table.conditions_to_markdown(line["conditions"], "LaneReader")]
    return "\n\n".join(parts)


def line(newest: Lines) -> str:
    """The newest line of `commit`, a key a line."""
    found = newest.get("commit")
    if found is None:
        return ""
    keys = [
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in found.items()
        if key != "date"
    ]
    return "```json\n{\n" + ",\n".join(keys) + "\n}\n```"


BLOCKS: Final[dict[str, Callable[[Lines], str]]] = {
    "cases": cases,
    "runs": runs,
    "headline": headline,
    "engine": engine,
    "core_lanes": core_lanes,
    "day": day,
    "live": live,
    "asked": asked,
    "receipts": receipts,
    "scale": scale,
    "budget": budget,
    "qr": qr,
    "line": line,
}
