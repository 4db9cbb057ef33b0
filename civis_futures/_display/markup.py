"""The same as in `panels` as HTML, for notebooks. Pure; all that is a text is escaped."""

from __future__ import annotations

import html as _html
from collections.abc import Sequence

from .._types import TaskState
from .panels import (
    DONE,
    EXPLAINED,
    MOST_ROWS,
    STATES,
    Panel,
    TaskSummary,
    duration,
    legend,
    memory,
    sums,
    visible,
)

#: How many rows are opened at once.
PAGE = 100

# Text has the page's own colour, so it can be read on any theme; the colours of states are of a
# middle lightness, which shows on both. Outside of notebooks that trust it, a style is dropped:
# then this is a plain table.
_STYLE = """
.civis-futures{--ok:#2f9e68;--bad:#d6453d;--run:#3b82d0;--off:#8a8f98;color:inherit;
font:13px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;max-width:72em;margin:.3em 0;
border:1px solid color-mix(in srgb,currentColor 18%,transparent);border-radius:8px;
padding:.7em .9em;box-sizing:border-box}
@media (prefers-color-scheme:dark){
.civis-futures{--ok:#3fb27a;--bad:#f0665e;--run:#5b9ee6;--off:#9aa0aa}}
.civis-futures .cf-title{font-weight:600;overflow-wrap:anywhere}
.civis-futures .cf-bar{display:flex;height:.6em;border-radius:.3em;overflow:hidden;margin:.5em 0;
background:color-mix(in srgb,currentColor 14%,transparent)}
.civis-futures .cf-bar>i{display:block;height:100%}
.civis-futures i.succeeded{background:var(--ok)}.civis-futures i.failed{background:var(--bad)}
.civis-futures i.running{background:var(--run)}.civis-futures i.cancelled{background:var(--off)}
.civis-futures .cf-line>span{margin-right:1.1em;white-space:nowrap}
.civis-futures .cf-line i{display:inline-block;width:.65em;height:.65em;border-radius:50%;
margin-right:.4em;background:color-mix(in srgb,currentColor 30%,transparent)}
.civis-futures .cf-line i.succeeded{background:var(--ok)}
.civis-futures .cf-line i.failed{background:var(--bad)}
.civis-futures .cf-line i.running{background:var(--run)}
.civis-futures .cf-line i.cancelled{background:var(--off)}
.civis-futures .cf-sums,.civis-futures .cf-more{opacity:.75}
.civis-futures table{border-collapse:collapse;width:100%;margin:.5em 0 0;font:inherit;
table-layout:auto;border:0;color:inherit}
.civis-futures th,.civis-futures td{text-align:left!important;padding:.25em .9em .25em 0;border:0;
vertical-align:top;background:none;color:inherit}
.civis-futures th{font-weight:500;opacity:.75}
.civis-futures tr{background:none!important}
.civis-futures tbody tr{border-top:1px solid color-mix(in srgb,currentColor 12%,transparent)}
.civis-futures td.n,.civis-futures th.n{text-align:right!important;white-space:nowrap;
font-variant-numeric:tabular-nums}
.civis-futures td.failed{color:var(--bad);font-weight:600}
.civis-futures td.running{color:var(--run)}.civis-futures td.succeeded{color:var(--ok)}
.civis-futures tbody tr.why{border-top:0}
.civis-futures tr.why>td{overflow-wrap:anywhere;padding:0 .9em .4em 1.2em;opacity:.85}
.civis-futures details{margin:.5em 0 0}.civis-futures summary{cursor:pointer;opacity:.75}
.civis-futures td.task{width:60%}
.civis-futures td.task{white-space:nowrap;max-width:20em;overflow:hidden;text-overflow:ellipsis}
.civis-futures td.state{white-space:nowrap}
.civis-futures .cf-table{overflow-x:auto}
.civis-futures a{color:inherit;text-decoration:underline}
""".strip().replace("\n", "")


def html(panel: Panel, most: int = MOST_ROWS) -> str:
    """The panel as HTML, for light and dark pages; of the tasks `most` at the most, and those after
    the first of them to be opened.
    """
    totals, listed = panel.totals, panel.listed(most)
    bar = "".join(
        f'<i class="{state}" style="width:{100 * count / totals.tasks:.2f}%"></i>'
        for state in (*DONE, TaskState.RUNNING)
        if (count := totals.counts[state])
    )
    counts = "".join(
        f'<span{_hint(state)}><i class="{state}"></i>{count:,} {state}</span>'
        for state in STATES
        if (count := totals.counts[state])
    )
    summed = "".join(f"<span>{escaped(f'{name} {value}')}</span>" for name, value in sums(panel))
    more = panel.unlisted(len(listed))
    return (
        f'<div class="civis-futures"><style>{_STYLE}</style>'
        f'<div class="cf-title">{escaped(panel.title)}{_page(panel)}</div>'
        f'<div class="cf-bar" role="progressbar" aria-valuemin="0" aria-valuemax="{totals.tasks}" '
        f'aria-valuenow="{totals.done}">{bar}</div>'
        f'<div class="cf-line"><span>{totals.done:,} of {totals.tasks:,} done</span>{counts}</div>'
        f'<div class="cf-line cf-sums">{summed}</div>'
        + (f'<div class="cf-waiting">waiting: {escaped(panel.waiting)}</div>' * bool(panel.waiting))
        + (f'<div class="cf-line">{escaped(panel.forecast)}</div>' * bool(panel.forecast))
        + _table(listed[:MOST_ROWS])
        + _pages(listed)
        + (f'<div class="cf-more">and {more:,} more</div>' if more and listed else "")
        + "".join(f'<div class="cf-more">{escaped(said)}</div>' for said in legend(totals))
        + "</div>"
    )


def _pages(listed: Sequence[TaskSummary]) -> str:
    """Those after the first ones, to be opened."""
    pages = ((begin, listed[begin : begin + PAGE]) for begin in range(MOST_ROWS, len(listed), PAGE))
    return "".join(
        f"<details><summary>{begin + 1} to {begin + len(page)}</summary>{_table(page)}</details>"
        for begin, page in pages
    )


def _table(listed: Sequence[TaskSummary]) -> str:
    if not listed:
        return ""
    numbers = ("elapsed", "queue", "compute", "memory")
    head = "".join(f"<th>{name}</th>" for name in ("task", "state"))
    head += "".join(f'<th class="n">{name}</th>' for name in numbers)
    head += "<th>run</th>"
    rows = "".join(map(_row, listed))
    return (
        f'<div class="cf-table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(summary: TaskSummary) -> str:
    numbers = (
        duration(summary.elapsed),
        duration(summary.queue),
        duration(summary.compute),
        memory(summary.peak_memory),
    )
    attempts = f" (attempt {summary.attempts})" if summary.attempts > 1 else ""
    if summary.running is not None:
        attempts = f" for {duration(summary.running)}{attempts}"
    why = f'<tr class="why"><td colspan="7">{escaped(summary.reason)}</td></tr>'
    return (
        f'<tr><td class="task" title="{escaped(summary.task)}">{escaped(summary.task)}</td>'
        f'<td class="state {summary.state}">{summary.state}{escaped(attempts)}</td>'
        + "".join(f'<td class="n">{escaped(number)}</td>' for number in numbers)
        + f"<td>{_link(summary)}</td></tr>{why if summary.reason else ''}"
    )


def page_with(title: str, parts: Sequence[str | Sequence[Sequence[str]]]) -> str:
    """Lines, and tables whose first rows are their heads, in the same style."""
    blocks = [
        f"<div>{escaped(part)}</div>" if isinstance(part, str) else _grid(part) for part in parts
    ]
    head = f'<div class="cf-title">{escaped(title)}</div>'
    return f'<div class="civis-futures"><style>{_STYLE}</style>{head}{"".join(blocks)}</div>'


def _grid(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (
        "".join(
            f"<{tag}{' class=n' if place else ''}>{escaped(cell)}</{tag}>"
            for place, cell in enumerate(row)
        )
        for tag, row in zip(("th", *["td"] * (len(rows) - 1)), rows, strict=True)
    )
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return (
        f'<div class="cf-table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _hint(state: TaskState) -> str:
    return f' title="{escaped(EXPLAINED[state])}"' if state in EXPLAINED else ""


def _link(summary: TaskSummary) -> str:
    if summary.run_id is None:
        return "-"
    url = summary.job_url or ""
    if not url.startswith(("https://", "http://")):
        return f"{summary.run_id}"
    return f'<a href="{escaped(url)}" target="_blank" rel="noopener">{summary.run_id}</a>'


def _page(panel: Panel) -> str:
    if not panel.page:
        return ""
    return f' <a href="{escaped(panel.page)}" target="_blank" rel="noopener">runs and logs</a>'


def escaped(value: str) -> str:
    """A text for HTML, its control characters shown."""
    return _html.escape(visible(value))
