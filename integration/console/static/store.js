// What the service tells: kept here as it comes, so that the page only draws.

export const told = {exam: new Map(), images: new Map(), plan: new Map(), destination: new Map(), load: new Map(),
  ready: new Map()};
const listeners = [];
export const link = {up: false};

export function onChange(listener) { listeners.push(listener); }

function tell(kind, key) { for (const listener of listeners) listener(kind, key); }

export function open() {
  const source = new EventSource("/api/events");
  for (const kind of Object.keys(told)) {
    source.addEventListener(kind, event => {
      const {key, value} = JSON.parse(event.data);
      if (value === null) told[kind].delete(key); else told[kind].set(key, value);
      tell(kind, key);
    });
  }
  source.onopen = () => { for (const known of Object.values(told)) known.clear(); link.up = true; tell("link", ""); };
  source.onerror = () => { link.up = false; tell("link", ""); };
  addEventListener("pagehide", () => source.close());
}

/** All exams, newest first. */
export function exams() {
  const begun = e => e.opened_at ?? Infinity;
  return [...told.exam.values()].sort((a, b) => begun(b) - begun(a));
}
