// Words in the user's language: one JSON file each; what a file lacks is shown in English.

const LANGUAGES = ["en", "fr"];
let words = {}, english = {}, language = "en";

export function current() { return language; }

export function other() { return LANGUAGES[(LANGUAGES.indexOf(language) + 1) % LANGUAGES.length]; }

export async function speak(name) {
  language = LANGUAGES.includes(name) ? name : "en";
  english = await fetch("/console/en.json").then(r => r.json());
  words = language === "en" ? english : await fetch(`/console/${language}.json`).then(r => r.json());
  localStorage.setItem("language", language);
  document.documentElement.lang = language;
  for (const e of document.querySelectorAll("[data-t]")) e.textContent = t(e.dataset.t);
  for (const e of document.querySelectorAll("[data-title]")) e.title = t(e.dataset.title);
  for (const e of document.querySelectorAll("[data-label]")) e.setAttribute("aria-label", t(e.dataset.label));
}

export function preferred() {
  const asked = new URLSearchParams(location.search).get("lang");
  return asked || localStorage.getItem("language") || (navigator.language || "en").slice(0, 2);
}

function find(table, key) {
  const flat = key.indexOf(".");
  return table[key.slice(0, flat)]?.[key.slice(flat + 1)];
}

export function has(key) { return find(words, key) !== undefined; }

/** The words of `section.key`, with {name} filled in. */
export function t(key, values = {}) {
  const text = find(words, key) ?? find(english, key) ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** A sentence of the service in the user's language where it is known: figures in it are kept. */
export function sentence(text) {
  if (language === "en") return {text, lang: "en"};
  const figures = [];
  const pattern = text.replace(/-?\d+(?:\.\d+)?/g, n => { figures.push(n); return "#"; });
  const known = words.sentences?.[pattern];
  if (known === undefined) return {text, lang: "en"};
  return {text: known.replace(/#/g, () => number(figures.shift())), lang: language};
}

export function number(value, digits = 4) {
  const n = Number(value);
  return Number.isFinite(n) ? new Intl.NumberFormat(language, {maximumSignificantDigits: digits}).format(n) : String(value);
}

export function time(seconds) {
  return new Date(1000 * seconds).toLocaleTimeString(language, {hour: "2-digit", minute: "2-digit"});
}
