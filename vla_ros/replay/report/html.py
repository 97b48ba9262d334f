"""The page around the report's charts: no script, nothing from elsewhere; for light, dark, narrow and paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

POLICY_LETTERS = "AB"

# Told apart by people who see fewer colours, too (after Okabe and Ito), and never by colour alone.
STYLE = """
:root{--ink:#1a1f26;--soft:#5a6672;--grid:#e3e7eb;--edge:#cfd6dd;--paper:#fff;--panel:#f7f9fa;--policy0:#0072b2;
--policy1:#b8338a;--recorded:#1a1f26;--measured:#8b96a1;--drive:#9ccbea;--teleop:#f0b429;--hold:#c9d0d7;
--estop:#d1495b;--unknown:#eceff2;--on-mode:#1a1f26;--limit:#d55e00;--watchdog:#b5121b;--processor:#6a4c93;
--pass:#14703f;--pass-bg:#e5f4ea;--fail:#a8161d;--fail-bg:#fbe9e9;--other:#7d5700;--other-bg:#fdf3dc}
@media (prefers-color-scheme:dark){:root{--ink:#e7ebef;--soft:#a3aeb9;--grid:#2b323a;--edge:#3b444e;--paper:#14181d;
--panel:#1a1f25;--policy0:#4fb0ea;--policy1:#ee82c6;--recorded:#f2f4f6;--measured:#77838f;--drive:#24587a;
--teleop:#a87405;--hold:#4a545e;--estop:#9c2f40;--unknown:#262c33;--on-mode:#fff;--limit:#ff8c3b;--watchdog:#ff6b6b;
--processor:#b79be0;--pass:#6fd39b;--pass-bg:#12301f;--fail:#ff8f8f;--fail-bg:#3a1618;--other:#f0c15a;
--other-bg:#34290f}}*{box-sizing:border-box}html{-webkit-text-size-adjust:100%;text-size-adjust:100%}body{margin:0;
background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",
sans-serif}main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}h1{font-size:1.75rem;line-height:1.2;
margin:0 0 6px}h2{font-size:1.3rem;margin:44px 0 4px}h3{font-size:1.05rem;margin:28px 0 2px}h1,h2,h3,p,li,dd{
overflow-wrap:anywhere}td,th{overflow-wrap:break-word}p{margin:4px 0 12px;max-width:76ch}.lead,.note,.none{
color:var(--soft)}.note{font-size:.94rem}.none{font-style:italic}.verdict{border-left:8px solid;border-radius:6px;
padding:14px 20px;margin:20px 0 18px}.verdict b{font-size:1.5rem;letter-spacing:.02em;display:block}.verdict ul{
margin:6px 0 2px;padding-left:20px;color:var(--ink)}.pass{color:var(--pass);background:var(--pass-bg)}.fail{
color:var(--fail);background:var(--fail-bg)}.other{color:var(--other);background:var(--other-bg)}dl{display:flex;
flex-wrap:wrap;gap:4px 28px;margin:0 0 8px}dl div{display:flex;gap:8px}dt{color:var(--soft)}dd{margin:0;
font-weight:600}.wide{overflow-x:auto;margin:8px 0 4px}table{border-collapse:collapse;font-size:.94rem;
min-width:55%;font-variant-numeric:tabular-nums}th,td{text-align:left;padding:7px 18px 7px 0;
border-bottom:1px solid var(--grid);vertical-align:top}thead th{border-bottom:2px solid var(--edge);font-weight:600;
vertical-align:bottom}tbody th{font-weight:400}td.num,th.num{text-align:right;white-space:nowrap}.bar{
white-space:nowrap}td .unit{color:var(--soft)}td .small{vertical-align:-1px}.key{display:inline-flex;
align-items:center;gap:7px;margin:0 20px 4px 0;}.legend{font-size:.9rem;margin:2px 0 6px;color:var(--soft)}.swatch{
width:26px;height:14px;flex:none}.name0{color:var(--policy0);fill:var(--policy0)}.name1{color:var(--policy1);
fill:var(--policy1)}th .name0,th .name1{font-weight:700}code{font-family:ui-monospace,"DejaVu Sans Mono",monospace;
font-size:.86em}.pair{display:flex;flex-wrap:wrap;gap:0 40px}.pair>div{flex:1 1 400px;min-width:0}.moment{
border-top:1px solid var(--edge);padding-top:14px;margin-top:18px}.moment h3{margin:0}.seen{display:flex;
flex-wrap:wrap;gap:12px 26px}.images{display:flex;flex-wrap:wrap;gap:10px;flex:0 1 226px;align-content:start}
.seen>.wide{flex:1 1 500px;max-width:780px;min-width:0;margin:0}figure{margin:0;flex:1 1 150px;max-width:300px}
figure img{width:100%;display:block;border-radius:4px;background:var(--panel)}figcaption{font-size:.85rem;
color:var(--soft)}svg{display:block;width:100%;height:auto}svg.small,svg.swatch{display:inline-block;width:auto;
min-width:0}svg text{font-size:12px;fill:var(--ink);font-family:inherit}svg a{cursor:pointer}text.tick,text.soft{
fill:var(--soft);font-size:11.5px}text.row{font-size:12.5px}text.name0{fill:var(--policy0)}text.name1{
fill:var(--policy1)}text.joint{font-size:13px;font-weight:600}text.worst{text-decoration:underline}.grid{
stroke:var(--grid);stroke-width:1}.zero{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}.panel{fill:none;
stroke:var(--edge)}.episode{fill:var(--panel);stroke:var(--edge)}.mode{stroke:var(--paper);stroke-width:1}
.mode-POLICY{fill:var(--drive)}.mode-TELEOP{fill:var(--teleop)}.mode-HOLD{fill:var(--hold)}.mode-ESTOP{
fill:var(--estop)}.mode-none{fill:var(--unknown)}svg text.mode{fill:var(--on-mode);stroke:none;font-weight:600;
font-size:11.5px}.tint{opacity:.2}.event-limit{fill:var(--limit)}.event-watchdog{fill:var(--watchdog)}
.event-processor{fill:var(--processor)}.event-limit,.event-watchdog,.event-processor{stroke:var(--paper);
stroke-width:1}.curve{fill:none;stroke-width:1.5;stroke-linejoin:round;stroke-linecap:round}.curve.thin{
stroke-width:1.1}.curve.broad{stroke-width:3;opacity:.8}.curve.wide{stroke-width:2.2}.curve.recorded{
stroke:var(--recorded);stroke-width:1.2}.curve.measured{stroke:var(--measured);stroke-width:1.3;
stroke-dasharray:4 3}.policy0{stroke:var(--policy0)}.policy1{stroke:var(--policy1)}.dashed{stroke-dasharray:5 4}
.fan{fill:none;stroke-width:1.1;opacity:.75}.dots{stroke-width:4.5;stroke-linecap:round;fill:none}.dot0,.bar0{
fill:var(--policy0)}.dot1,.bar1{fill:var(--policy1)}.faint{opacity:.3}.quantile{stroke-width:1.5;
stroke-dasharray:4 3}.mark{stroke:var(--ink);stroke-width:1;stroke-dasharray:1 3}.mark-disc{fill:var(--ink)}
svg text.mark-text{fill:var(--paper);font-size:11px;font-weight:700}.interval{stroke:var(--ink);stroke-width:2}
.estimate{fill:var(--ink)}
@media (max-width:640px){main{padding:18px 14px 40px}h1{font-size:1.4rem}}
@media print,(max-width:860px){.images{flex-basis:100%}}
@media print{:root{color-scheme:light}main{max-width:none;padding:0}body{font-size:11pt}h2,h3,.note,.legend{
break-after:avoid}svg,.moment,tr,.verdict{break-inside:avoid}.wide{overflow:visible}svg{min-width:0!important}*{
print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole file."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def section(title: str, note: str, *parts: str, level: int = 2) -> str:
    """A heading, one sentence on how to read what follows (empty: none), and that."""
    explained = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<h{level}>{escape(title)}</h{level}>{explained}" + "".join(parts)


def none(words: str) -> str:
    """In a chart's place."""
    return f'<p class="none">{escape(words)}</p>'


def wide(inside: str) -> str:
    """Scrolls by itself where the page is narrower."""
    return f'<div class="wide">{inside}</div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """``heads`` and cells are HTML; columns with an index in ``numbers`` are aligned to the right."""
    right = set(numbers)
    style = [' class="num"' if i in right else "" for i in range(len(heads))]
    head = "".join(f'<th scope="col"{style[i]}>{cell}</th>' for i, cell in enumerate(heads))
    body = "".join(
        "<tr>"
        + f'<th scope="row"{style[0]}>{row[0]}</th>'
        + "".join(f"<td{style[i]}>{cell}</td>" for i, cell in enumerate(row) if i)
        + "</tr>"
        for row in rows
    )
    return wide(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def policy_name(names: Sequence[str], i: int) -> str:
    """In its colour, with its letter where there are two."""
    letter = f"{POLICY_LETTERS[i]}: " if len(names) > 1 else ""
    return f'<span class="name{i}">{letter}{escape(names[i])}</span>'


def policy_letter(i: int) -> str:
    """Where two policies stand side by side, in a colour each."""
    return f'<span class="name{i}">{POLICY_LETTERS[i]}</span>'


def legend(keys: Iterable[tuple[str, str]]) -> str:
    """Pairs of what is drawn (SVG, 26 by 14 pixels) and what it stands for."""
    shown = "".join(
        '<span class="key"><svg class="swatch" viewBox="0 0 26 14" width="26" height="14" aria-hidden="true">'
        f"{drawn}</svg>{escape(words)}</span>"
        for drawn, words in keys
    )
    return f'<div class="legend">{shown}</div>'


def line_key(style: str) -> str:
    """A line of this style, for a legend."""
    return f'<path class="{style}" d="M1 7H25"/>'


def box_key(style: str) -> str:
    """A box of this style, for a legend."""
    return f'<rect class="{style}" x="1" y="1" width="24" height="12"/>'
