"""The page's style sheet.

What it is: one constant. What it knows: class names of the sections; colours for light and dark, one per pruner.
What it does not know: figures. It names no font file and no address: the page is whole by itself.

Pruners' colours are muted but for the router's (p0), and each has a marker shape of its own in the plots.
"""

__all__ = ["STYLE"]

STYLE = """
:root {
  --paper:#fdfdfb; --card:#f4f4ef; --ink:#1c1e21; --quiet:#62676f; --line:#dfdfd8; --warn:#9a3b12; --full:72%;
  --p0:#1f5fbf; --p1:#a85c22; --p2:#3f7d4a; --p3:#8a5aa8; --p4:#a63d57;
  --p5:#6f6a2c; --p6:#217a84; --p7:#7b5b48; --p8:#6a6f77; --p9:#b03f8f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper:#15171a; --card:#1e2125; --ink:#e7e7e3; --quiet:#9aa0a8; --line:#33373c; --warn:#f0a070; --full:48%;
    --p0:#78aefb; --p1:#dd9a66; --p2:#86c28f; --p3:#c19be0; --p4:#e58a9f;
    --p5:#c3bc6d; --p6:#74c6cf; --p7:#c5a28c; --p8:#a9aeb6; --p9:#e69bd0;
  }
}
* { box-sizing:border-box; }
body {
  margin:0 auto; padding:2.5rem 1.25rem 4rem; max-width:76rem; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { margin:0; font-size:2.4rem; line-height:1.15; letter-spacing:-.02em; overflow-wrap:anywhere; }
h2 { margin:3rem 0 .6rem; font-size:1.3rem; letter-spacing:-.01em; }
h3 { margin:0; font-size:1.05rem; overflow-wrap:anywhere; }
p { margin:.4rem 0 .8rem; max-width:62rem; overflow-wrap:anywhere; }
small, .quiet { color:var(--quiet); font-size:.82em; font-weight:400; }
code { font:.85em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap:anywhere; }
.kicker {
  margin:0; color:var(--p0); font-weight:600; letter-spacing:.08em; text-transform:uppercase; font-size:.8rem;
}
.label {
  display:inline-block; margin:.7rem 0 1rem; padding:.3rem .8rem; border-left:3px solid var(--warn);
  background:var(--card);
}
.lead { font-size:1.06rem; }
dl { display:grid; grid-template-columns:max-content minmax(0,1fr); gap:.25rem 1.2rem; margin:.6rem 0 1.2rem; }
dt { color:var(--quiet); }
dd { margin:0; overflow-wrap:anywhere; max-width:58rem; }
.tiles { display:grid; grid-template-columns:repeat(auto-fill,minmax(15.5rem,1fr)); gap:.9rem; }
.tiles article { padding:1rem 1.1rem; border:1px solid var(--line); border-radius:8px; background:var(--card); }
.tiles p { margin:.3rem 0 0; font-size:.94rem; }
.glance b { font-size:1.25rem; font-variant-numeric:tabular-nums; }
.chip {
  padding:.05rem .45rem; border:1px solid var(--p0); border-radius:99px; color:var(--p0); font-size:.74rem;
  font-weight:600; white-space:nowrap;
}
.scroll { overflow-x:auto; margin:.6rem 0 1.6rem; }
table { border-collapse:collapse; min-width:100%; font-size:.92rem; font-variant-numeric:tabular-nums; }
caption { padding:.2rem 0 .5rem; text-align:left; color:var(--quiet); font-size:.88rem; }
th, td {
  padding:.42rem .7rem; border-bottom:1px solid var(--line); text-align:right; vertical-align:baseline;
  white-space:nowrap;
}
th:first-child, td:first-child { padding-left:.4rem; text-align:left; }
thead th {
  color:var(--quiet); font-weight:500; font-size:.84rem; border-bottom-color:var(--quiet); vertical-align:bottom;
}
tbody th { font-weight:600; }
td small { display:block; line-height:1.15; }
tr.full td, tr.full th { background:var(--card); }
tr.group th { padding-top:1rem; }
tr.group ~ tr:not(.group) th { font-weight:400; padding-left:1.2rem; }
tr.lost td, tr.lost th { background:var(--card); background:color-mix(in srgb, var(--warn) 8%, transparent); }
td strong { color:var(--warn); font-size:.82rem; letter-spacing:.02em; }
.absent { color:var(--quiet); font-style:italic; font-size:.85rem; }
.dot { display:inline-block; width:.6em; height:.6em; margin-right:.45em; border-radius:50%; }
.p0 { background:var(--p0); } .p1 { background:var(--p1); } .p2 { background:var(--p2); }
.p3 { background:var(--p3); } .p4 { background:var(--p4); } .p5 { background:var(--p5); }
.p6 { background:var(--p6); } .p7 { background:var(--p7); } .p8 { background:var(--p8); }
.p9 { background:var(--p9); }
figure { margin:0; }
figcaption { font-size:.9rem; color:var(--quiet); }
figcaption b { color:var(--ink); }
.plots { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr)); gap:1.6rem; }
.plot { display:block; width:100%; height:auto; stroke-linejoin:round; stroke-linecap:butt; }
.plot text { font-family:inherit; }
.heat td, .heat th { padding:.35rem .25rem; text-align:center; border:0; }
.heat th:first-child { padding-right:.8rem; text-align:left; }
.heat td {
  min-width:1.9rem; border:1px solid var(--paper); font-size:.78rem;
  background:color-mix(in srgb, var(--p0) calc(var(--u) * var(--full)), var(--card));
}
.heat th.below { text-decoration:underline; }
.sample { margin:1.4rem 0 2.2rem; }
.gallery { display:grid; grid-template-columns:repeat(auto-fill,minmax(10.5rem,1fr)); gap:1rem; margin-top:.7rem; }
.gallery figcaption p { margin:.15rem 0; }
.gallery figcaption { color:var(--ink); }
.picture { display:block; width:100%; height:auto; border-radius:4px; }
.veil { fill:var(--paper); opacity:.82; shape-rendering:crispEdges; }
.plan { display:block; width:100%; height:.55rem; margin-top:.35rem; }
.plan .run { fill:var(--p0); }
.plan .skipped { fill:var(--line); }
.right, .wrong { font-size:.8rem; font-weight:600; }
.right { color:var(--p2); }
.wrong { color:var(--warn); }
footer { margin-top:3.5rem; border-top:1px solid var(--line); font-size:.94rem; }
footer h2 { margin-top:1.8rem; font-size:1.05rem; }
@media (max-width:40rem) {
  dl { grid-template-columns:1fr; gap:0; }
  dd { margin-bottom:.5rem; }
  body { padding-top:1.5rem; }
}
@media print { .scroll { overflow:visible; } figure { break-inside:avoid; } }
"""
