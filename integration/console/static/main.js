// The console page: puts the service's news, the lists, the viewer and the keyboard together.

import {at, get, send} from "./api.js";
import {Desk, outputName} from "./desk.js";
import {current, other, preferred, speak, t, time} from "./i18n.js";
import {drawDestinations, drawExams, drawFindings, drawLoad, el, nameOf, outcome, running, seriesOf} from "./lists.js";
import {exams, link, onChange, open, told} from "./store.js";

const $ = id => document.getElementById(id);
const desk = new Desk($("canvas"), {changed: what => drawn[what]?.(), failed: error => toast(error)});
const dirty = new Set();
const drawn = {picture: () => drawTools(), outputs: () => drawOutputs(), place: () => drawPlace(), wipe: () => { $("wipe").value = 100 * desk.viewer.wipe; }, plan: () => drawTools()};
let chosen = "", findings = [], latest = "", word = "";

function toast(error) {
  $("toast").textContent = error.action ? `${error.message}` : error.message;
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $("toast").hidden = true; }, 8000);
}

// What is drawn, each part only when what it shows has changed, at most once a frame

function soon(part) {
  if (!dirty.size) requestAnimationFrame(() => { const parts = [...dirty]; dirty.clear(); for (const p of parts) PARTS[p](); });
  dirty.add(part);
}

const PARTS = {
  exams: () => drawExams($("exams"), exams(), chosen, job => choose(job, true)),
  side: drawSide,
  foot: () => {
    drawDestinations($("destinations"), [...told.destination.values()], retry);
    if (told.load.has("")) drawLoad($("load"), told.load.get(""));
  },
  head: drawHead,
  pictures: () => desk.refresh(),
};

function drawHead() {
  const troubles = told.ready.get("") ?? [];
  $("ready").className = !link.up ? "bad" : troubles.length ? "bad" : "ok";
  $("ready").textContent = !link.up ? t("head.lost") : troubles.length ? `${t("head.trouble")}: ${troubles.join("; ")}` : t("head.ready");
  $("clock").textContent = time(Date.now() / 1000);
  $("language").textContent = other().toUpperCase();
}

function drawSide() {
  const exam = told.exam.get(chosen);
  for (const id of ["banner", "answered"]) $(id).textContent = "";
  $("answers").hidden = !exam;
  if (!exam) { $("findings").replaceChildren(); $("patient").textContent = ""; $("series").textContent = ""; return; }
  $("patient").textContent = nameOf(exam);
  $("series").textContent = [exam.modality, seriesOf(exam), exam.series.study, exam.protocol].filter(Boolean).join(" · ");
  const {kind} = outcome(exam), over = !running(exam);
  $("banner").className = kind;
  $("banner").replaceChildren(el("b", {text: headline(exam)}), el("span", {text: subline(exam)}));
  for (const [id, text] of [["accept", "answer.accept"], ["repeat", "answer.repeat"], ["reject", "answer.reject"]]) {
    $(id).textContent = t(text);
    $(id).disabled = !over;
    $(id).setAttribute("aria-pressed", String(exam.answer?.word === id));
  }
  if (exam.answer) $("answered").textContent = t("answer.by", {word: t(`answer.${exam.answer.word}ed`), who: exam.answer.who, at: time(exam.answer.at)}) + (exam.answer.why ? ` – ${exam.answer.why}` : "");
  drawFindings($("findings"), exam, findings, (output, n) => desk.look(output, n));
}

function headline(exam) {
  if (running(exam)) return t("banner.live");
  if (exam.answer) return t(`answer.${exam.answer.word}ed`);
  if (exam.state === "FAILED") return t("banner.failed");
  if (exam.state === "INTERRUPTED") return t("banner.interrupted");
  return t(`banner.${exam.level}`);
}

function subline(exam) {
  const n = t("exams.images", {n: exam.images});
  if (exam.reason) return exam.reason;
  const part = exam.progress?.part;
  return part === null || part === undefined ? n : `${n}, ${Math.round(100 * part)} %`;
}

function drawOutputs() {
  const names = [...desk.outputs.keys()].filter(n => desk.outputs.get(n).frames.length);
  const option = (name, selected) => el("option", {value: name, text: name ? outputName(desk.outputs.get(name)) : t("viewer.none"), selected: selected && "selected"});
  $("left").replaceChildren(...names.map(n => option(n, n === desk.left)));
  $("right").replaceChildren(option("", !desk.right), ...names.filter(n => n !== desk.left).map(n => option(n, n === desk.right)));
  $("nothing").textContent = names.length ? "" : !chosen ? t("viewer.choose") : running(told.exam.get(chosen) ?? {}) ? t("viewer.wait") : t("viewer.gone");
  drawTools();
}

function drawTools() {
  const {viewer} = desk, planned = told.plan.has(chosen);
  $("compare").textContent = t(`viewer.${viewer.mode}`);
  $("compare").hidden = !desk.right;
  $("preset").textContent = t(`preset.${viewer.presetName()}`);
  $("follow").textContent = t("viewer.follow");
  $("follow").hidden = !running(told.exam.get(chosen) ?? {});
  $("follow").setAttribute("aria-pressed", String(desk.following));
  $("plan").hidden = !planned;
  $("plan").textContent = t("plan.show");
  $("plan").setAttribute("aria-pressed", String(desk.planning));
  $("unplan").hidden = !planned;
  $("unplan").style.visibility = planned && desk.plan() !== told.plan.get(chosen).automatic ? "" : "hidden";  // nothing moves
  $("wipe").parentElement.hidden = viewer.mode !== "wipe" || !viewer.right;
}

function drawPlace() {
  const places = desk.places(), times = places[desk.place]?.frames.length ?? 1;
  for (const [id, value, max] of [["slice", desk.place, places.length - 1], ["time", desk.time, times - 1]]) {
    $(id).max = Math.max(0, max);
    $(id).value = value;
  }
  $("slice").parentElement.hidden = places.length < 2;
  $("time").parentElement.hidden = times < 2;
  drawTools();
}

// What people do

function choose(job, byHand) {
  if (byHand) latest = exams()[0]?.job ?? "";  // a scan that begins later is shown by itself again
  chosen = job;
  findings = [];
  desk.choose(job);
  for (const part of ["exams", "side"]) soon(part);
  look();
}

async function look() {
  const job = chosen;
  if (!job) return;
  try {
    const said = await get(at(job, "verdicts"));
    if (job === chosen) { findings = said.verdicts; soon("side"); }
  } catch (error) { toast(error); }
}

async function retry(name) {
  try {
    const {resent} = await send("POST", `/api/destinations/${encodeURIComponent(name)}/retry`);
    toast({message: t("deliveries.resent", {n: resent, name})});
  } catch (error) { toast(error); }
}

function ask(which) {
  if ($(which).disabled || $("answers").hidden) return;
  word = which;
  $("ask-title").textContent = `${t(`answer.${which}`)} – ${nameOf(told.exam.get(chosen))}, ${seriesOf(told.exam.get(chosen))}`;
  $("ask-who").value = localStorage.getItem("who") ?? "";
  $("ask-why").value = "";
  $("ask-ok").textContent = t(`answer.${which}`);
  $("ask-ok").className = which === "accept" ? "big ok" : "big bad";
  const reasons = which === "accept" ? [] : ["moved", "position", "artefact", "cut"];
  $("reasons").replaceChildren(...reasons.map(r => el("button", {type: "button", text: t(`reason.${r}`), onclick: () => { $("ask-why").value = t(`reason.${r}`); }})));
  $("ask").showModal();
  $($("ask-who").value ? "ask-ok" : "ask-who").focus();
}

async function answer() {
  const who = $("ask-who").value.trim();
  localStorage.setItem("who", who);
  try {
    const said = await send("POST", at(chosen, "answers"), {word, who, why: $("ask-why").value});
    if (said.note) toast({message: said.note});
    const exam = told.exam.get(said.job);
    if (exam) told.exam.set(said.job, {...exam, answer: said});
    for (const part of ["exams", "side"]) soon(part);
  } catch (error) { toast(error); }
}

function neighbour(n) {
  const all = exams(), i = all.findIndex(e => e.job === chosen);
  if (all.length) choose(all[Math.min(all.length - 1, Math.max(0, i + n))].job, true);
}

function arrow(x, y, shift) {
  if (desk.planning && desk.plan()) desk.nudge(x, y, shift ? x + y : 0);
  else if (y) desk.step(y);
  else if (desk.viewer.mode === "wipe" && desk.right) desk.setWipe(desk.viewer.wipe + x / 40);
  else desk.goto(desk.place, desk.time + x);
}

const KEYS = {
  j: () => neighbour(1), k: () => neighbour(-1), PageDown: () => desk.step(1), PageUp: () => desk.step(-1),
  Home: () => desk.goto(0), End: () => desk.goto(1e9),
  "+": () => desk.viewer.zoomBy(1.25), "-": () => desk.viewer.zoomBy(0.8), "0": () => desk.viewer.reset(),
  w: () => { desk.viewer.nextPreset(); drawTools(); }, i: () => { desk.viewer.invert = !desk.viewer.invert; desk.viewer.draw(); },
  "[": () => desk.viewer.shiftWindow(-15, 0), "]": () => desk.viewer.shiftWindow(15, 0),
  c: () => desk.nextMode(), f: () => desk.follow(), a: () => ask("accept"), r: () => ask("repeat"), x: () => ask("reject"),
  p: () => { desk.planning = !desk.planning; desk.viewer.draw(); drawTools(); }, l: () => say(other()), "?": () => $("help").showModal(),
};
const ARROWS = {ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]};

addEventListener("keydown", event => {
  const inside = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
  if (["INPUT", "SELECT"].includes(inside.tagName) && !(inside.type === "range" && event.key.length === 1)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (ARROWS[key]) arrow(...ARROWS[key], event.shiftKey);
  else if (KEYS[key]) KEYS[key]();
  else return;
  event.preventDefault();
});

const CLICKS = {
  language: () => say(other()), "help-button": KEYS["?"], compare: KEYS.c, preset: KEYS.w, follow: KEYS.f, plan: KEYS.p,
  unplan: () => desk.resetPlan(), "ask-cancel": () => $("ask").close(""), accept: KEYS.a, repeat: KEYS.r, reject: KEYS.x,
};
for (const [id, work] of Object.entries(CLICKS)) $(id).onclick = work;
$("left").onchange = () => { desk.left = $("left").value; if (desk.right === desk.left) desk.right = ""; desk.goto(desk.place); drawOutputs(); };
$("right").onchange = () => { desk.right = $("right").value; desk.viewer.mode = desk.right ? "wipe" : "single"; desk.draw(); drawOutputs(); };
$("slice").oninput = () => desk.goto(Number($("slice").value));
$("time").oninput = () => desk.goto(desk.place, Number($("time").value));
$("wipe").oninput = () => desk.setWipe($("wipe").value / 100);
$("ask").onclose = () => { if ($("ask").returnValue === "ok") answer(); $("ask").returnValue = ""; };

async function say(name) {
  await speak(name);
  $("keys").replaceChildren(...["exam", "slice", "side", "zoom", "window", "preset", "invert", "compare", "follow", "answer", "plan", "language", "help"]
    .flatMap(k => [el("dt", {text: t(`keyname.${k}`)}), el("dd", {text: t(`keys.${k}`)})]));
  for (const part of Object.keys(PARTS)) soon(part);
  drawOutputs();
  desk.viewer.draw();
}

onChange((kind, key) => {
  if (kind === "exam") {
    soon("exams");
    const newest = exams()[0];
    if (newest && newest.job !== latest && (!chosen || running(newest))) { latest = newest.job; choose(newest.job, false); }
    if (key === chosen) { soon("side"); look(); }
  }
  if (kind === "images" && key === chosen) soon("pictures");
  if (kind === "plan" && key === chosen) { desk.meetPlan(); desk.viewer.draw(); drawTools(); }
  if (kind === "destination" || kind === "load") soon("foot");
  if (kind === "ready" || kind === "link") soon("head");
});

await say(preferred());
open();
setInterval(() => soon("head"), 10000);
document.documentElement.dataset.language = current();
globalThis.isocenter = desk;  // for the browser's own console, and for tests
