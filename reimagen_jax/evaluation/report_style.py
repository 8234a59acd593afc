"""The style sheet of the HTML report: light and dark, pixels kept sharp, readable on a telephone and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f5f6f8; --card: #ffffff; --ink: #1b1e24; --soft: #5a6270; --rule: #e1e4ea; --well: #eef0f4;
  --series-0: #2563c9; --series-1: #b4540a; --accent: #2563c9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121419; --card: #1b1e25; --ink: #e7e9ee; --soft: #a0a8b6; --rule: #2d323c; --well: #252932;
    --series-0: #7fb0ff; --series-1: #ffb074; --accent: #7fb0ff;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main, header, footer { max-width: 1080px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 44px; padding-bottom: 8px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 6px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 44px 0 14px; }
h3 { font-size: 16px; margin: 0; font-weight: 650; overflow-wrap: anywhere; }
p { margin: 0 0 10px; max-width: 76ch; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { display: flex; gap: 20px; flex-wrap: wrap; margin-top: 14px; font-weight: 600; }
.soft, figcaption { color: var(--soft); }
.small { font-size: 13px; margin: 12px 0 0; }
.card {
  background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 18px 20px; margin: 0 0 16px;
}
.scroll { overflow-x: auto; }
img { display: block; border-radius: 5px; background: var(--well); }
img.pixels { image-rendering: pixelated; }

.neighbours { display: flex; flex-wrap: wrap; gap: 10px 28px; margin: 12px 0 14px; padding: 0; list-style: none; }
.neighbours li { display: flex; gap: 11px; align-items: center; flex: 0 1 380px; min-width: 240px; }
.neighbours img { width: 64px; height: 64px; flex: none; }
.neighbours span { font-size: 13px; line-height: 1.4; overflow-wrap: anywhere; }
.neighbours small { display: block; color: var(--soft); font-size: 12px; }

table.strip { border-collapse: separate; border-spacing: 6px 4px; margin: 0 -6px; }
table.strip th {
  font-size: 12px; line-height: 1.25; font-weight: 500; color: var(--soft); padding: 0 0 2px; vertical-align: bottom;
}
table.strip th span { display: block; width: var(--cell); }
table.strip td { padding: 0; vertical-align: top; }
table.strip img { width: var(--cell); height: var(--cell); }
table.strip .apart { padding-right: 14px; }
table.strip .before { padding-left: 14px; }
.marks { display: flex; gap: 5px; justify-content: center; height: 15px; padding-top: 5px; }
.mark { width: 9px; height: 9px; border: 1.5px solid var(--series); opacity: 0.55; }
.mark.yes { background: var(--series); opacity: 1; }
.mark.series-0 { border-radius: 50%; }
.key { display: inline-flex; align-items: center; gap: 6px; margin-right: 16px; white-space: nowrap; }
.series-0 { --series: var(--series-0); }
.series-1 { --series: var(--series-1); }

table.numbers { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.numbers th, table.numbers td { text-align: left; padding: 7px 22px 7px 0; border-bottom: 1px solid var(--rule); }
table.numbers thead th { color: var(--soft); font-weight: 500; font-size: 13px; }
table.numbers tbody th { font-weight: 500; }
table.numbers td b { font-size: 17px; font-weight: 650; }
table.numbers td small { color: var(--soft); font-size: 13px; margin-left: 6px; white-space: nowrap; }
table.numbers tr:last-child th, table.numbers tr:last-child td { border-bottom: 0; }

figure { margin: 0; }
svg.curves { display: block; width: 100%; min-width: 620px; height: auto; font-size: 13px; }
svg.curves .grid { stroke: var(--rule); stroke-width: 1; }
svg.curves .tick { fill: var(--soft); }
svg.curves .name { fill: var(--series); font-weight: 650; font-size: 14px; }
svg.curves .band { fill: var(--series); opacity: 0.15; }
svg.curves polyline { fill: none; stroke: var(--series); stroke-width: 2.5; stroke-linejoin: round; }
svg.curves .interval { stroke: var(--series); stroke-width: 2.5; stroke-linecap: round; opacity: 0.5; }
svg.curves .ceiling { stroke: var(--series); stroke-width: 1.5; stroke-dasharray: 2 5; stroke-linecap: round; }
svg.curves circle, svg.curves rect { fill: var(--series); stroke: var(--card); stroke-width: 1.5; }

details { margin-top: 12px; }
summary { cursor: pointer; color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 8px 40px; }
.facts h3 { margin: 10px 0 6px; }
dl { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 3px 18px; margin: 0; font-size: 14px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre {
  background: var(--well); border-radius: 8px; padding: 13px 16px; margin: 0; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
footer { padding-top: 26px; padding-bottom: 46px; font-size: 13px; color: var(--soft); }
@media print { .card { break-inside: avoid; } nav { display: none; } body { background: none; } }
"""
