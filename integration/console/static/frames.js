// The slices of one output: where they lie, in which order they are looked at, and their pixels, kept while there is room.

import {at, get, pixels} from "./api.js";

const KEPT = 240;
const cache = new Map();

/** Slices of one output; `places` are sorted along the slice direction, each with its frames in time. */
export class Frames {
  constructor(job, output) {
    Object.assign(this, {job, output, unit: "", kind: "magnitude", network: "", frames: [], places: [], top: 0});
    this.loading = null;
    this.again = false;
  }

  /** Ask for what is new; calls made meanwhile become one more look. */
  load() {
    if (this.loading) { this.again = true; return this.loading; }
    this.loading = this.#more().finally(() => {
      this.loading = null;
      if (this.again) { this.again = false; return this.load(); }
    });
    return this.loading;
  }

  async #more() {
    const after = this.frames.length ? this.frames.at(-1).number + 1 : 0;
    const said = await get(`${at(this.job, "images", this.output)}?after=${after}`);
    Object.assign(this, {unit: said.unit, kind: said.kind, network: said.network});
    this.frames.push(...said.frames);
    this.top = Math.max(this.top, ...said.frames.map(f => f.top));
    this.#sort();
  }

  #sort() {
    const places = new Map();
    for (const f of this.frames) {
      const normal = cross(f.x_dir, f.y_dir).map(v => v.toFixed(2)).join();
      const key = `${normal} ${f.at_mm.toFixed(1)} ${f.shape}`;
      if (!places.has(key)) places.set(key, {key, normal, at_mm: f.at_mm, frames: []});
      places.get(key).frames.push(f);
    }
    this.places = [...places.values()].sort((a, b) => a.normal < b.normal ? -1 : a.normal > b.normal ? 1 : a.at_mm - b.at_mm);
  }

  /** Index of the place of slice `number`, -1 when it is not known. */
  placeOf(number) { return this.places.findIndex(p => p.frames.some(f => f.number === number)); }

  /** The frame here that shows the same place as `frame`; undefined when there is none within a slice. */
  matching(frame, time) {
    const normal = cross(frame.x_dir, frame.y_dir).map(v => v.toFixed(2)).join();
    let best, least = Math.max(1, frame.thickness_mm) / 2;
    for (const p of this.places) {
      const far = Math.abs(p.at_mm - frame.at_mm);
      if (p.normal === normal && far <= least) { best = p; least = far; }
    }
    return best && (best.frames[time] ?? best.frames.at(-1));
  }

  path(number, kind) { return `${at(this.job, "images", this.output, String(number))}.${kind}`; }

  /** Pixels of a frame: at once when they are here, else null, and `arrived` is told later. */
  pixels(frame, arrived) {
    const key = this.path(frame.number, "raw");
    if (cache.has(key)) {
      const found = cache.get(key);
      cache.delete(key);
      cache.set(key, found);  // the last used is the last to go
      return found.codes ? found : null;
    }
    cache.set(key, {});
    pixels(key).then(p => { cache.set(key, p); arrived(); }, () => cache.delete(key));
    for (const old of cache.keys()) { if (cache.size <= KEPT) break; cache.delete(old); }
    return null;
  }
}

export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
