"""A report as a document to put into a pull request. What comes from the script is escaped."""

from __future__ import annotations

import html as html_escape
import re

from milepost.auditing.report import Report, Row, Verdict
from milepost.core.text import safe

_STYLE = """
:root{color-scheme:light dark;--line:#8885;--soft:#8881;--exact:#1a7f37;--not-exact:#cf222e;--incomplete:#9a6700}
@media(prefers-color-scheme:dark){:root{--exact:#3fb950;--not-exact:#f85149;--incomplete:#d29922}}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;border-left:.4rem solid;padding-left:.7rem}h2{font-size:1.1rem;margin-top:2rem}
.exact{color:var(--exact)}.not-exact{color:var(--not-exact)}.incomplete,.left-out{color:var(--incomplete)}
.table{overflow-x:auto}table{border-collapse:collapse}td,th{border:1px solid var(--line);padding:.25rem .6rem;text-align:left}
th{background:var(--soft)}.n{text-align:right}td:last-child{white-space:nowrap}
@media(max-width:40rem){.n{display:none}td:last-child{white-space:normal}}
li,p,h2{overflow-wrap:anywhere}code{font-size:90%;background:var(--soft);padding:.1em .3em;border-radius:.2em}
.cause{background:var(--soft);border-left:.25rem solid var(--not-exact);padding:.4rem .8rem;margin:.5rem 0}
"""
_MEANING = {
    Verdict.EXACT: "From every point below, the resumed script did what the uninterrupted one did, bit for bit.",
    Verdict.NOT_EXACT: "After a restart, the script does something else than without one.",
    Verdict.INCOMPLETE: "Nothing differed, but not everything could be compared, so that this is no proof.",
}
_MARKS = {Verdict.EXACT: "✅", Verdict.NOT_EXACT: "❌"}


def markdown(report: Report) -> str:
    """The report in GitHub's Markdown."""
    lines = [
        f"## {_mark(report.verdict)} milepost audit: {str(report.verdict).upper()}",
        "",
        _MEANING[report.verdict],
        "",
        f"`{_code(' '.join(report.command))}`: {_summary(report)}",
        "",
        "| process | point | moments | result |",
        "|---|---|---:|---|",
        *(f"| {_text(row.name)} | {_text(row.label)} | {row.compared} | {_result(row)} |" for row in report.rows),
    ]
    for one in report.findings():
        lines += ["", f"### {_text(one.title)}", ""]
        lines += [f"> **Likely cause:** {_text(text)}\n>" for text in one.causes()]
        lines[-1] = lines[-1].removesuffix("\n>")
        lines += ["", *(f"- {_text(text)}" for text in one.facts())]
    for title, texts in _rest(report):
        lines += ["", f"### {title}", "", *(f"- {_text(text)}" for text in texts)]
    return "\n".join(lines) + "\n"


def html(report: Report) -> str:
    """The report as one page that loads nothing."""
    verdict = str(report.verdict).upper()
    rows = "".join(
        f"<tr><td>{_html(row.name)}<td>{_html(row.label)}<td class=n>{row.compared}"
        f"<td class={_class(row.verdict)}>{_html(_result(row))}</tr>"
        for row in report.rows
    )
    found = "".join(
        f"<h2>{_html(one.title)}</h2>"
        + "".join(f"<p class=cause><b>Likely cause:</b> {_html(text)}</p>" for text in one.causes())
        + _list(one.facts())
        for one in report.findings()
    )
    rest = "".join(f"<h2>{_html(title)}</h2>{_list(texts)}" for title, texts in _rest(report))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>milepost audit: {verdict}</title><style>{_STYLE}</style>"
        f"<h1 class={_class(report.verdict)}>milepost audit: {verdict}</h1><p>{_MEANING[report.verdict]}</p>"
        f"<p><code>{_html(' '.join(report.command))}</code>: {_html(_summary(report))}</p><div class=table><table>"
        f"<tr><th>process<th>point<th class=n>moments<th>result</tr>{rows}</table></div>{found}{rest}\n"
    )


def _summary(report: Report) -> str:
    return (
        f"{report.seen} leaves compared bit for bit at {report.moments} moments after restarts, in {report.seconds:.0f} s, by "
        f"milepost {report.versions.get('milepost', '')}."
    )


def _result(row: Row) -> str:
    return f"{_mark(row.verdict)} {row.result}"


def _mark(verdict: Verdict) -> str:
    return _MARKS.get(verdict, "⚠️")


def _class(verdict: Verdict) -> str:
    return str(verdict).replace(" ", "-")


def _rest(report: Report) -> list[tuple[str, list[str]]]:
    parts = [
        ("Could not be observed", [*report.unseen]),
        ("Notes", [*(f"{row.name}: {row.note}" for row in report.rows if row.note), *report.remarks]),
        ("Files that the script wrote", [f"`{path}`" for path in report.files]),
    ]
    return [(title, texts) for title, texts in parts if texts]


def _list(texts: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{_html(text)}' for text in texts)}</ul>" if texts else ""


def _html(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html_escape.escape(safe(text)))


def _text(text: str) -> str:
    """Text in which Markdown and HTML mean nothing, but for what stands between backticks."""
    parts = safe(text).replace("\n", " ").split("`")
    if len(parts) % 2 == 0:  # not in pairs
        parts = [" ".join(parts)]
    return "".join(
        f"`{_code(part)}`" if number % 2 else re.sub(r"([\\*_{}\[\]#|<>~&!])", r"\\\1", part)
        for number, part in enumerate(parts)
    )


def _code(text: str) -> str:
    return safe(text).replace("`", "'").replace("\n", " ").replace("|", "\\|")
