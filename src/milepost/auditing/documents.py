"""A report as a document to put into a pull request. What comes from the script is escaped."""

from __future__ import annotations

import html as html_escape
import re

from milepost.auditing.report import Report, Row
from milepost.core.text import safe

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #8886;padding:.2rem .6rem;text-align:left}.n{text-align:right}"
    "code{font-size:90%}"
)


def markdown(report: Report) -> str:
    """The report in GitHub's Markdown."""
    lines = [
        f"## milepost audit: {str(report.verdict).upper()}",
        "",
        f"`{_code(' '.join(report.command))}`: {_summary(report)}",
        "",
        "| process | point | moments | result |",
        "|---|---|---:|---|",
        *(
            f"| {_text(row.name)} | {_text(row.label)} | {row.compared} | {_mark(row)}{row.result} |"
            for row in report.rows
        ),
    ]
    for one in report.findings():
        lines += ["", f"**{_text(one.title)}**", "", *(f"- {_text(text)}" for text in one.details())]
    for title, texts in _rest(report):
        lines += ["", f"**{title}**", "", *(f"- {_text(text)}" for text in texts)]
    return "\n".join(lines) + "\n"


def html(report: Report) -> str:
    """The report as one page that loads nothing."""
    rows = "".join(
        f"<tr><td>{_html(row.name)}<td>{_html(row.label)}<td class=n>{row.compared}<td>{_mark(row)}{_html(row.result)}</tr>"
        for row in report.rows
    )
    parts = [(one.title, one.details()) for one in report.findings()] + _rest(report)
    rest = "".join(
        f"<h3>{_html(title)}</h3><ul>{''.join(f'<li>{_html(text)}' for text in texts)}</ul>" for title, texts in parts
    )
    verdict = str(report.verdict).upper()
    return (
        f"<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><title>milepost audit: {verdict}"
        f"</title><style>{_STYLE}</style><h1>milepost audit: {verdict}</h1><p><code>{_html(' '.join(report.command))}</code>: "
        f"{_html(_summary(report))}</p><table><tr><th>process<th>point<th>moments<th>result</tr>{rows}</table>{rest}\n"
    )


def _summary(report: Report) -> str:
    return (
        f"{report.seen} leaves compared bit for bit at {report.moments} moments after restarts, in {report.seconds:.0f} s, by "
        f"milepost {report.versions.get('milepost', '')}."
    )


def _mark(row: Row) -> str:
    return {"exact": "✅ ", "not exact": "❌ "}.get(str(row.verdict), "⚠️ ")


def _rest(report: Report) -> list[tuple[str, list[str]]]:
    parts = [
        ("Notes", [*(f"{row.name}: {row.note}" for row in report.rows if row.note), *report.remarks]),
        ("Could not be observed", [*report.unseen]),
        ("Files that the script wrote", [*report.files]),
    ]
    return [(title, texts) for title, texts in parts if texts]


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
