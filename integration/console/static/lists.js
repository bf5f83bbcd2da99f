// The lists beside the picture: exams by patient, findings with their evidence, deliveries, load.

import {has, number, sentence, t, time} from "./i18n.js";
import {at} from "./api.js";

const MARKS = {PASS: "✓", FLAG: "!", HOLD: "■"};
const BAD = ["FAILED", "INTERRUPTED"];

export function el(tag, {kind, text, ...rest} = {}, ...children) {
  const e = document.createElement(tag);
  if (kind) e.className = kind;
  if (text !== undefined) e.textContent = text;
  for (const [name, value] of Object.entries(rest)) {
    if (name.startsWith("on")) e[name] = value;
    else if (value !== undefined && value !== false) e.setAttribute(name.replace("_", "-"), value);
  }
  e.append(...children);
  return e;
}

export const running = exam => exam.state === "RECEIVING" || exam.state === "OPENING";

export const nameOf = exam => (exam.patient.name ?? "").split("^").filter(Boolean).join(", ") || exam.patient.id || t("exams.unknown");

export const seriesOf = exam => exam.series.name || exam.protocol || exam.job;

/** What an exam comes to, as a class and a word: how it runs, what was found, what a person said. */
export function outcome(exam) {
  if (running(exam)) return {kind: "live", word: t("state.live")};
  if (exam.answer) return {kind: exam.answer.word === "accept" ? "ok" : "bad", word: t(`answer.${exam.answer.word}ed`)};
  if (BAD.includes(exam.state)) return {kind: "bad", word: t(`state.${exam.state}`)};
  return {kind: {PASS: "ok", FLAG: "flag", HOLD: "bad"}[exam.level], word: t(`level.${exam.level}`)};
}

export function drawExams(place, exams, selected, choose) {
  const groups = new Map();
  for (const e of exams) {
    const {id, name, birth_date} = e.patient, key = JSON.stringify([id, name, birth_date, e.series.study_uid]);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(e);
  }
  place.replaceChildren(el("h2", {text: t("exams.title")}),
    ...(exams.length ? [] : [el("p", {kind: "dim", text: t("exams.none")})]),
    ...[...groups.values()].map(rows => el("section", {},
      el("h3", {text: nameOf(rows[0])}, el("small", {text: rows[0].patient.id ?? ""})),
      ...rows.map(row => examButton(row, row.job === selected, choose)))));
}

function examButton(exam, chosen, choose) {
  const {kind, word} = outcome(exam);
  const part = exam.progress?.part;
  const bar = running(exam) && (part === null || part === undefined ? el("progress") : el("progress", {max: 1, value: part}));
  return el("button", {kind: `exam ${kind}`, aria_pressed: String(chosen), onclick: () => choose(exam.job), "data-job": exam.job},
    el("b", {text: `${exam.modality} ${seriesOf(exam)}`}),
    el("span", {kind: "chip", text: word}),
    el("span", {kind: "count", text: [t("exams.images", {n: exam.images}), exam.opened_at && time(exam.opened_at)].filter(Boolean).join(" · ")}),
    ...(bar ? [bar] : []));
}

export function drawFindings(place, exam, findings, show) {
  const order = findings.filter(f => f.level !== "PASS"), passed = findings.filter(f => f.level === "PASS");
  place.replaceChildren(...order.map(f => finding(exam, f, show)));
  if (!passed.length) return;
  const list = el("ul", {}, ...passed.map(f => el("li", {}, el("b", {text: titleOf(f)}), " ", advice(f))));
  place.append(el("li", {kind: "passed"}, el("details", {}, el("summary", {text: t("verdicts.passed", {n: passed.length})}), list)));
}

const titleOf = f => has(`checks.${f.check}`) ? t(`checks.${f.check}`) : f.check;

function advice(f) {
  const {text, lang} = sentence(f.advice);
  return el("span", {text, lang});
}

function finding(exam, f, show) {
  const rows = [el("h3", {}, el("i", {text: MARKS[f.level], aria_hidden: "true"}), titleOf(f), el("small", {text: t(`short.${f.level}`)})),
    el("p", {}, advice(f))];
  if (f.value !== null) {
    const limit = f.limit === null ? "" : ` (${t("verdicts.limit")} ${number(f.limit)})`;
    rows.push(el("p", {kind: "dim", text: `${number(f.value)} ${f.unit === "1" ? "" : f.unit}${limit}`}));
  }
  if (f.pictures.length) {
    const {output, number: n} = f.pictures[Math.floor(f.pictures.length / 2)];
    const picture = el("img", {src: `${at(exam.job, "images", output, String(n))}.png?size=220`, alt: t("verdicts.evidence"), loading: "lazy"});
    rows.push(el("button", {kind: "evidence", title: t("verdicts.look"), onclick: () => show(output, n)}, picture,
      el("span", {text: t("verdicts.on", {n: f.times})})));
  }
  if (f.evidence) rows.push(el("details", {}, el("summary", {text: t("verdicts.details")}), el("p", {kind: "dim", text: `${f.check}: ${f.evidence}`})));
  return el("li", {kind: f.level.toLowerCase()}, ...rows);
}

export function drawDestinations(place, destinations, retry) {
  const rows = destinations.map(d => {
    const n = state => d.counts[state] ?? 0;
    const dead = n("DEAD"), waiting = n("QUEUED"), down = d.down_since !== null;
    const kind = dead || down ? "bad" : waiting ? "flag" : "ok";
    const parts = [t("deliveries.there", {n: n("SENT") + n("COMMITTED")})];
    if (waiting) parts.push(t("deliveries.waiting", {n: waiting}));
    if (dead) parts.push(t("deliveries.dead", {n: dead}));
    if (down) parts.push(t("deliveries.down", {at: time(d.down_since)}));
    const row = el("div", {kind: `destination ${kind}`, title: d.last_error, "data-name": d.name}, el("b", {text: d.name}), el("span", {text: parts.join(" · ")}));
    if (dead) row.append(el("button", {text: t("deliveries.retry"), onclick: () => retry(d.name)}));
    return row;
  });
  place.replaceChildren(...(rows.length ? rows : [el("div", {kind: "destination flag", text: t("deliveries.none")})]));
}

export function drawLoad(place, load) {
  const bars = [["cpu", load.cpu], ["memory", load.memory], ["disk", load.disk], ["gpu", load.gpu_memory]];
  place.replaceChildren(...bars.filter(([, v]) => v !== null).map(([name, value]) =>
    el("label", {}, el("span", {text: t(`load.${name}`)}), el("meter", {min: 0, max: 1, high: 0.9, value}),
      el("span", {kind: "num", text: `${Math.round(100 * value)} %`}))));
}
