"""A report as a document to put into a pull request. What comes from the script is escaped."""

from __future__ import annotations

import html as html_escape
import re

from milepost.auditing.report import Report, Row
from milepost.core.text import safe

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #8886;padding:.2rem .6rem;text-align:left}"
    "code{font-size:90%}"
)


def markdown(report: Report) -> str:
    """The report in GitHub's Markdown."""
    lines = [
        f"## milepost audit: {str(report.verdict).upper()}",
        "",
        f"`{_code(' '.join(report.command))}`: {report.seen} leaves compared at every moment in {report.seconds:.0f} s, "
        f"milepost {report.versions.get('milepost', '')}.",
        "",
        "| compared | point | moments | result |",
        "|---|---|---:|---|",
        *(f"| {_text(row.name)} | {_text(row.label)} | {row.compared} | {row.verdict} |" for row in report.rows),
    ]
    for row in report.rows:
        if row.verdict in ("incomplete", "left out"):
            lines += ["", f"**{_text(row.name)}** is not answered: {_text(row.note)}"]
        if row.where is not None and (row.causes or row.differences):
            lines += ["", f"**{_text(row.name)}** differs at {_text(str(row.where))} ({row.aspect}).", ""]
            if row.expected or row.found:
                lines.append(f"- expected {_text(str(row.expected))}, found {_text(str(row.found))}")
            lines += [f"- `{_code(one.path)}`: {_text(one.how_much or 'differs')}" for one in row.differences]
            lines += [f"- likely cause: {_text(cause.text)}" for cause in row.causes]
    for title, texts in _rest(report):
        lines += ["", f"{title}:", "", *(f"- {_text(text)}" for text in texts)]
    return "\n".join(lines) + "\n"


def html(report: Report) -> str:
    """The report as one page that loads nothing."""
    rows = "".join(
        f"<tr><td>{_html(row.name)}<td>{_html(row.label)}<td>{row.compared}<td>{row.verdict}</tr>"
        for row in report.rows
    )
    parts = "".join(_part(row) for row in report.rows)
    rest = "".join(
        f"<h3>{_html(title)}</h3><ul>{''.join(f'<li>{_html(text)}' for text in texts)}</ul>"
        for title, texts in _rest(report)
    )
    verdict = str(report.verdict).upper()
    return (
        f"<!doctype html><meta charset=utf-8><title>milepost audit: {verdict}</title><style>{_STYLE}</style>"
        f"<h1>milepost audit: {verdict}</h1><p><code>{_html(' '.join(report.command))}</code>: {report.seen} leaves compared at "
        f"every moment in {report.seconds:.0f} s, milepost {_html(report.versions.get('milepost', ''))}.</p>"
        f"<table><tr><th>compared<th>point<th>moments<th>result</tr>{rows}</table>{parts}{rest}\n"
    )


def _part(row: Row) -> str:
    if row.verdict in ("incomplete", "left out"):
        return f"<h3>{_html(row.name)} is not answered</h3><p>{_html(row.note)}</p>"
    if row.where is None or not (row.causes or row.differences):
        return ""
    told = [f"<li><code>{_html(one.path)}</code>: {_html(one.how_much or 'differs')}" for one in row.differences]
    if row.expected or row.found:
        told.insert(0, f"<li>expected {_html(str(row.expected))}, found {_html(str(row.found))}")
    told += [f"<li>likely cause: {_html(cause.text)}" for cause in row.causes]
    return f"<h3>{_html(row.name)} differs at {_html(str(row.where))} ({row.aspect})</h3><ul>{''.join(told)}</ul>"


def _rest(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    parts = [
        ("Notes", report.remarks),
        ("Could not be observed", report.unseen),
        ("Files that the script wrote", report.files),
    ]
    return [(title, texts) for title, texts in parts if texts]


def _html(text: str) -> str:
    return html_escape.escape(safe(text))


def _text(text: str) -> str:
    """Text in which Markdown and HTML mean nothing."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&-])", r"\\\1", safe(text).replace("\n", " "))


def _code(text: str) -> str:
    return safe(text).replace("`", "'").replace("\n", " ").replace("|", "\\|")
