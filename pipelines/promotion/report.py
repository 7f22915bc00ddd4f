"""The report of a decision: one page of HTML that needs nothing else, and the same as Markdown.

Knows a backtest's result, the decision and pictures; knows nothing of MLflow.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape

from pipelines.backtest.result import BacktestResult, utc_text
from pipelines.promotion.decision import Decision

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --quiet: #59636e; --line: #d9dee3; --good: #00694c; --bad: #a63c00; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.5rem 3rem; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; }
.quiet, figcaption, footer { color: var(--quiet); font-size: .87rem; }
.verdict { display: inline-block; border-radius: .3rem; padding: .05rem .6rem; margin-right: .5rem; color: #fff; }
.good { background: var(--good); } .bad { background: var(--bad); }
td.good, td.bad { background: none; font-weight: 600; white-space: nowrap; }
td.good { color: var(--good); } td.bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-size: .87rem; font-weight: 600; color: var(--quiet); vertical-align: bottom; }
table.numbers th:not(:first-child), table.numbers td:not(:first-child) { text-align: right; }
table.numbers td { white-space: nowrap; }
table.numbers tbody tr:first-child td { font-weight: 600; }
figure { margin: 1rem 0 0; }
figure img { display: block; width: 100%; height: auto; }
ul { padding-left: 1.2rem; margin: .4rem 0; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; overflow-wrap: anywhere; }
"""


def html_report(decision: Decision, result: BacktestResult, figures: Mapping[str, bytes]) -> str:
    """Return the page; the figures, PNG files by title, become a part of it."""
    title = f"{decision.model} version {decision.version}: {decision.outcome}"
    sections = [
        _heading(decision, title),
        _section("The backtest", f"<p>{escape(result.summary())}.</p>", _table(*result.rows(), kind="numbers")),
        _section("The rule", "<p>All of it has to hold.</p>", _rule(decision)),
        *([_section("Notes", _list(result.remarks()))] if result.remarks() else []),
        _section("Figures", *(_figure(name, picture) for name, picture in figures.items())),
        _footer(decision),
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style></head>",
            "<body>",
            *sections,
            "</body>",
            "</html>",
            "",
        ]
    )


def markdown_report(decision: Decision, result: BacktestResult) -> str:
    """Return the same without the pictures."""
    heads, rows = result.rows()
    table = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(
        [
            f"# {decision.model} version {decision.version}: {decision.outcome}",
            "",
            decision.markdown(),
            f"Backtest: {result.summary()}.",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
            *(f"- {remark}" for remark in result.remarks()),
            *([""] if result.remarks() else []),
            *(f"{name}: {value}  " for name, value in _facts(decision).items()),
            "",
        ]
    )


def _heading(decision: Decision, title: str) -> str:
    kind = "good" if decision.promoted else "bad"
    pill = f'<span class="verdict {kind}">{escape(decision.outcome)}</span>'
    name = escape(title.partition(":")[0])
    return f"<header><h1>{pill}{name}</h1>\n<p>{escape(decision.line())}.</p></header>"


def _section(title: str, *parts: str) -> str:
    return "\n".join(["<section>", f"<h2>{escape(title)}</h2>", *parts, "</section>"])


def _rule(decision: Decision) -> str:
    rows = []
    for clause in decision.clauses:
        kind, word = ("good", "✓ pass") if clause.passed else ("bad", "✗ fail")
        cells = f"<td>{escape(clause.name)}</td><td>{escape(clause.numbers)}</td>"
        rows.append(f'<tr>{cells}<td class="{kind}">{word}</td></tr>')
    head = "<tr><th>the challenger …</th><th>measured, and asked for</th><th></th></tr>"
    return _scrolling(f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str) -> str:
    head = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return _scrolling(f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def _scrolling(table: str) -> str:
    return f'<div class="scroll">{table}</div>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(_sentence(line))}</li>' for line in lines)}</ul>"


def _figure(title: str, picture: bytes) -> str:
    data = base64.b64encode(picture).decode()
    return f'<figure><img alt="{escape(title)}" src="data:image/png;base64,{data}"></figure>'


def _footer(decision: Decision) -> str:
    facts = "<br>\n".join(f"{escape(name)}: {escape(value)}" for name, value in _facts(decision).items())
    return f"<footer>{facts}</footer>"


def _facts(decision: Decision) -> dict[str, str]:
    rule = ", ".join(f"{name} {value}" for name, value in decision.rule.items())
    return {
        "Decided": utc_text(decision.time),
        "Rule (section promotion)": rule,
        "Backtest's run": decision.run_id,
        "Data set's hash": decision.data,
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
