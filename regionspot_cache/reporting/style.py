"""The style sheet of reports: light and dark, from phone to wide screen, and on paper."""

REPORT_CSS = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --ink: #1b1f27; --soft: #565e6c; --rule: #d4d8df; --grid: #e4e7ec;
  --s0: #0072b2; --s1: #d55e00; --s2: #00795a; --s3: #a8497f; --s4: #8a6000; --s5: #4b5563;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171d; --ink: #e9ecf1; --soft: #a5adba; --rule: #3a414d; --grid: #2a303a;
    --s0: #56b4e9; --s1: #ff9a57; --s2: #3ecf9f; --s3: #e59ac5; --s4: #f0e442; --s5: #c3cad5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: clamp(1rem, 4vw, 3rem) clamp(0.8rem, 4vw, 2.5rem) 4rem; max-width: 80rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  overflow-wrap: break-word;
}
h1 { font-size: clamp(1.5rem, 5vw, 2.1rem); line-height: 1.2; margin: 0; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.6rem 0 0.5rem; }
p { max-width: 46rem; margin: 0.5rem 0; white-space: pre-line; }
.subtitle { color: var(--soft); font-size: 1.05rem; margin-bottom: 2rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible { outline: 2px solid var(--s0); outline-offset: 2px; }
.block { margin: 1.4rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption, figcaption, .chart-title { text-align: left; font-weight: 600; padding-bottom: 0.45rem; }
th, td {
  padding: 0.38rem 0.9rem; text-align: left; border-bottom: 1px solid var(--grid); vertical-align: top;
}
th:first-child, td:first-child { padding-left: 0.4rem; }
thead th { border-bottom: 2px solid var(--rule); vertical-align: bottom; }
tbody th { font-weight: 400; min-width: 7rem; }
.number { text-align: right; white-space: nowrap; }
.note { color: var(--soft); font-size: 0.9rem; margin: 0.4rem 0; }
dl {
  display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: 0.25rem 1.4rem; margin: 0.6rem 0;
}
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
figure { margin: 0; }
figure img { display: block; height: auto; max-width: 100%; border-radius: 4px; }
figcaption { max-width: 46rem; }
.figures {
  display: grid; gap: 1.6rem 1.2rem; align-items: start; margin: 1.4rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
}
.figures .wide { grid-column: 1 / -1; }
.chart { display: block; width: 100%; height: auto; max-width: 60rem; }
.chart text { font-size: 13px; fill: var(--soft); }
.chart .label { fill: var(--ink); }
.grid { stroke: var(--grid); }
.axis { stroke: var(--soft); fill: none; }
.line, .raw { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.line { stroke-width: 2.5; }
.raw { stroke-width: 1; opacity: 0.35; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); stroke-dasharray: 9 6; }
.s2 { stroke: var(--s2); stroke-dasharray: 2 6; } .s3 { stroke: var(--s3); stroke-dasharray: 12 5 2 5; }
.s4 { stroke: var(--s4); stroke-dasharray: 5 4; } .s5 { stroke: var(--s5); stroke-dasharray: 16 4; }
.raw { stroke-dasharray: none; }
.legend {
  display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; list-style: none; margin: 0.2rem 0; padding: 0;
}
.legend svg { width: 42px; height: 10px; vertical-align: middle; margin-right: 0.5rem; }
.small-screen { display: none; }
@media (max-width: 40rem) {
  .small-screen { display: block; } .large-screen { display: none; }
  .wide img { max-width: none; width: 62rem; }
  .medium img { max-width: none; width: 40rem; }
  th, td { padding: 0.35rem 0.55rem; }
  tr > :first-child { position: sticky; left: 0; background: var(--ground); }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.5rem; }
}
@media print { .scroll { overflow: visible; } .block, figure { break-inside: avoid; } }
"""
