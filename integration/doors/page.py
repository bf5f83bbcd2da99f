"""The status page for people: one HTML text without anything from elsewhere; it asks `/exams` every second."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Isocenter</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8884; --dim: #888; --ok: #2a8f4c; --flag: #c27c00; --bad: #c9302c; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0 0 .2rem; } h2 { font-size: 1rem; margin: 2rem 0 .4rem; }
p, .dim { color: var(--dim); } .ok { color: var(--ok); } .flag { color: var(--flag); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top;
 padding: .35rem .8rem .35rem 0; border-top: 1px solid var(--line); } th { border: 0; font-weight: 600;
 color: var(--dim); font-size: .85em; } td small { display: block; color: var(--dim); overflow-wrap: anywhere; }
button { font: inherit; } .num { font-variant-numeric: tabular-nums; white-space: nowrap; }
</style></head><body>
<h1>Isocenter</h1><p id="line">...</p>
<h2>Exams</h2>
<table><thead><tr><th>begun</th><th>protocol</th><th>state</th><th>images</th><th>delivered</th><th>findings</th></tr>
</thead><tbody id="exams"></tbody></table>
<h2>Archives</h2>
<table><thead><tr><th>name</th><th>queued</th><th>sent</th><th>committed</th><th>dead</th><th></th></tr></thead>
<tbody id="archives"></tbody></table>
<script>
"use strict";
const STATES = {COMPLETE: "ok", RECEIVING: "flag", OPENING: "flag", INTERRUPTED: "bad", FAILED: "bad"};
const LEVELS = {PASS: "ok", FLAG: "flag", HOLD: "bad"};
function el(tag, text, kind) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind;
  return e;
}
function row(...cells) { const r = el("tr"); r.append(...cells); return r; }
function cell(text, small, kind) {
  const c = el("td", text, kind);
  if (small) c.append(el("small", small));
  return c;
}
function exam(e) {
  const found = el("td");
  for (const v of (e.verdicts || []).filter(v => v.level !== "PASS")) {
    found.append(el("span", v.level + " " + v.check, LEVELS[v.level]), el("small", v.advice));
  }
  const delivered = Object.entries(e.delivered || {}).map(([name, n]) => name + ": " +
    Object.entries(n).map(([s, k]) => k + " " + s.toLowerCase()).join(", ")).join("; ");
  const begun = e.opened_at ? new Date(1000 * e.opened_at).toLocaleTimeString() : "now";
  const progress = e.readouts === undefined ? "" : e.readouts + " readouts";
  return row(cell(begun, e.source, "num"), cell(e.protocol || "?", e.scan), cell(e.state, e.reason, STATES[e.state]),
    cell(String(e.images || e.made || 0), progress, "num"), cell(delivered), found);
}
function archive(a) {
  const n = a.counts, last = el("td"), name = cell(a.name, a.down_since ? "down: " + a.last_error : "",
    a.down_since ? "bad" : "");
  if (n.DEAD) {
    const b = el("button", "resend");
    b.onclick = () => fetch("deliveries/" + encodeURIComponent(a.name) + "/resend", {method: "POST"}).then(show);
    last.append(b);
  }
  return row(name, ...["QUEUED", "SENT", "COMMITTED", "DEAD"].map(s => cell(String(n[s]), "", "num" +
    (s === "DEAD" && n[s] ? " bad" : ""))), last);
}
async function show() {
  const line = document.getElementById("line");
  try {
    const [data, ready] = await Promise.all([fetch("exams").then(r => r.json()), fetch("readyz").then(r => r.json())]);
    document.getElementById("exams").replaceChildren(...data.exams.map(exam));
    document.getElementById("archives").replaceChildren(...Object.values(data.destinations).map(archive));
    line.textContent = (ready.ready ? "ready for scans" : "not ready: " + ready.troubles.join("; ")) + ", " +
      Math.round(data.free_bytes / 1e9) + " GB free, " + new Date(1000 * data.now).toLocaleTimeString();
    line.className = ready.ready ? "" : "bad";
  } catch (error) { line.textContent = "the service does not answer"; line.className = "bad"; }
}
show(); setInterval(show, 1000);
</script></body></html>
"""
