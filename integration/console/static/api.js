// Talking to the service: JSON there and back, errors with what to do.

export class ServiceError extends Error {
  constructor(said) { super(said.error); Object.assign(this, said); }
}

async function ask(path, options) {
  let reply;
  try { reply = await fetch(path, options); } catch { throw new ServiceError({error: "the service does not answer"}); }
  if (reply.ok) return reply;
  throw new ServiceError(await reply.json().catch(() => ({error: `${reply.status} ${reply.statusText}`})));
}

export const get = path => ask(path).then(r => r.json());

export const send = (method, path, body) => ask(path, body === undefined ? {method} :
  {method, headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)}).then(r => r.json());

/** Stored integers of one slice and how they stand for values. */
export async function pixels(path) {
  const reply = await ask(path), head = name => reply.headers.get(name);
  const buffer = await reply.arrayBuffer();
  const [ny, nx] = head("X-Shape").split(",").map(Number);
  const codes = head("X-Type") === "int16" ? new Int16Array(buffer) : new Uint16Array(buffer);
  return {codes, nx, ny, slope: Number(head("X-Slope")), intercept: Number(head("X-Intercept"))};
}

export const at = (job, ...parts) => ["/api/exams", job, ...parts].map((p, i) => i ? encodeURIComponent(p) : p).join("/");
