// What is looked at now: an exam, its outputs, a place, a time, the plan; and how it follows a scan that runs.

import {Frames} from "./frames.js";
import {Hand, handles} from "./hand.js";
import {has, number, t} from "./i18n.js";
import {at, send} from "./api.js";
import {body, difference, lines, moved, turned} from "./plan.js";
import {told} from "./store.js";
import {Viewer} from "./viewer.js";

const MODES = ["single", "wipe", "side"];

export const outputName = f => {
  const network = f.network ? ` (${f.network})` : "";
  return (has(`outputs.${f.output}`) ? t(`outputs.${f.output}`) : f.output) + network;
};

export class Desk {
  constructor(canvas, {changed, failed}) {
    Object.assign(this, {job: "", outputs: new Map(), left: "", right: "", place: 0, time: 0, following: true, planning: false});
    Object.assign(this, {draft: null, changed, failed});
    this.viewer = new Viewer(canvas, {over: (...a) => this.#marks(...a), changed: () => changed("picture")});
    this.viewer.name = f => outputName(f);
    this.viewer.words = t;
    this.viewer.number = number;
    this.hand = new Hand(canvas, {
      viewer: this.viewer,
      plan: () => this.planning ? this.plan() : null,
      setPlan: (plan, done) => this.setPlan(plan, done),
      step: n => this.step(n),
      setWipe: part => this.setWipe(part),
    });
  }

  choose(job) {
    if (job === this.job) return;
    Object.assign(this, {job, outputs: new Map(), left: "", right: "", place: 0, time: 0, following: true, draft: null});
    Object.assign(this.viewer, {zoom: 1, pan: [0, 0], mode: "single", invert: told.exam.get(job)?.modality === "PT"});
    this.viewer.windows.clear();
    this.planning = this.metPlan = told.plan.has(job);
    this.refresh();
  }

  /** Look for new slices of the exam; cheap when there are none. */
  async refresh() {
    const job = this.job, counts = told.images.get(job) ?? {};
    const loads = [];
    for (const [output, n] of Object.entries(counts)) {
      if (!this.outputs.has(output)) this.outputs.set(output, new Frames(job, output));
      const f = this.outputs.get(output);
      if (f.frames.length < n) loads.push(f.load());
    }
    try { await Promise.all(loads); } catch (error) { this.failed(error); }
    if (job !== this.job) return;
    this.#choices();
    if (this.following) this.#newest();
    this.draw();
    this.changed("outputs");
  }

  /** The conventional image is on the left; beside it what was made of it, if anything was. */
  #choices() {
    const names = [...this.outputs.keys()].filter(n => this.outputs.get(n).frames.length);
    if (!names.includes(this.left)) this.left = names.includes("conventional") ? "conventional" : names[0] ?? "";
    const base = this.outputs.get(this.left);
    if (this.right && names.includes(this.right)) return;
    const like = names.filter(n => n !== this.left && this.outputs.get(n).unit === base?.unit && n !== "preview");
    this.right = like.find(n => this.outputs.get(n).network) ?? like[0] ?? "";
    if (this.right && this.viewer.mode === "single") this.viewer.mode = "wipe";
  }

  #newest() {
    const f = this.outputs.get(this.left);
    if (!f?.frames.length) return;
    const exam = told.exam.get(this.job), last = f.frames.at(-1);
    const live = exam?.state === "RECEIVING" && f.places.length === f.frames.length;
    this.place = live ? f.placeOf(last.number) : this.touched ?? Math.floor(f.places.length / 2);
    this.time = f.places[this.place].frames.length - 1;
  }

  draw() {
    const f = this.outputs.get(this.left), place = f?.places[this.place];
    const frame = place?.frames[Math.min(this.time, place.frames.length - 1)];
    const r = this.outputs.get(this.right), matching = frame && r?.matching(frame, this.time);
    this.viewer.show(frame ? {frames: f, frame} : null, matching ? {frames: r, frame: matching} : null);
    this.changed("place");
  }

  places() { return this.outputs.get(this.left)?.places ?? []; }

  goto(place, time = this.time) {
    this.following = false;
    this.place = Math.min(Math.max(0, place), Math.max(0, this.places().length - 1));
    this.time = Math.min(Math.max(0, time), Math.max(0, (this.places()[this.place]?.frames.length ?? 1) - 1));
    this.draw();
  }

  step(n) { this.goto(this.place + n); }

  follow() { this.following = !this.following; if (this.following) this.#newest(); this.draw(); }

  /** Show slice `number` of `output`: the evidence of a finding. */
  look(output, number) {
    if (output !== this.right) this.left = this.outputs.has(output) ? output : this.left;
    const f = this.outputs.get(output), place = f?.placeOf(number) ?? -1;
    if (place < 0) return;
    if (output === this.right) {
      const frame = f.places[place].frames[0], same = this.outputs.get(this.left).matching(frame, 0);
      if (same) this.goto(this.outputs.get(this.left).placeOf(same.number));
    } else this.goto(place, f.places[place].frames.findIndex(x => x.number === number));
    this.changed("outputs");
  }

  nextMode() {
    if (!this.right) return;
    this.viewer.mode = MODES[(MODES.indexOf(this.viewer.mode) + 1) % MODES.length];
    this.draw();
  }

  setWipe(part) { this.viewer.wipe = Math.min(1, Math.max(0, part)); this.viewer.draw(); this.changed("wipe"); }

  // The plan

  /** A plan is shown when it comes first; later it is as the person wants it. */
  meetPlan() { if (!this.metPlan) this.planning = this.metPlan = true; }

  plan() { const p = told.plan.get(this.job); return this.draft ?? p?.adjusted ?? p?.automatic ?? null; }

  async setPlan(plan, done) {
    this.draft = plan;
    this.viewer.draw();
    this.changed("plan");
    if (done) await this.#keep(() => send("PUT", at(this.job, "plan"), body(plan)));
  }

  async resetPlan() { this.draft = null; await this.#keep(() => send("DELETE", at(this.job, "plan"))); }

  async #keep(work) {
    const job = this.job;
    try { told.plan.set(job, await work()); } catch (error) { this.failed(error); }
    if (job === this.job) this.draft = null;
    this.viewer.draw();
    this.changed("plan");
  }

  /** Move by mm along the picture, or turn by degrees, from the keyboard. */
  nudge(x_mm, y_mm, degrees) {
    const frame = this.viewer.left?.frame, plan = this.plan();
    if (!frame || !plan) return;
    const next = degrees ? turned(plan, frame, degrees * Math.PI / 180)
      : moved(plan, frame, x_mm / frame.spacing_mm[1], y_mm / frame.spacing_mm[0]);
    this.setPlan(next, false);
    clearTimeout(this.later);
    this.later = setTimeout(() => this.setPlan(this.draft ?? next, true), 400);
  }

  #marks(c, map, frame) {
    const plan = this.plan();
    if (!plan || !this.planning) return;
    const p = told.plan.get(this.job), byHand = this.draft !== null || p?.adjusted;
    const stroke = (kind, colour, wide) => {
      c.strokeStyle = colour;
      c.lineWidth = wide;
      for (const {index, ends} of lines(kind, frame)) {
        const outer = index === 0 || index === kind.n_slices - 1;
        c.globalAlpha = outer ? 1 : 0.65;
        c.setLineDash(outer ? [] : [6, 5]);
        c.beginPath();
        c.moveTo(...map.toScreen(ends[0]));
        c.lineTo(...map.toScreen(ends[1]));
        c.stroke();
      }
      c.globalAlpha = 1;
      c.setLineDash([]);
    };
    c.save();
    c.beginPath();
    c.rect(map.box.x, map.box.y, map.box.w, map.box.h);
    c.clip();
    if (byHand) stroke(p.automatic, "#6e7681", 1);
    stroke(plan, byHand ? "#f0b429" : "#3fb950", 2);
    const h = handles(plan, frame, map);
    c.fillStyle = byHand ? "#f0b429" : "#3fb950";
    for (const [x, y] of [h.centre, ...h.ends]) { c.beginPath(); c.arc(x, y, 8, 0, 7); c.fill(); }
    c.restore();
    this.viewer.foot(this.planWords(), map.box);
  }

  /** The plan in words, line by line. */
  planWords() {
    const p = told.plan.get(this.job), plan = this.plan();
    const words = t("plan.words", {name: plan.name, n: plan.n_slices, mm: plan.slice_distance_mm, part: Math.round(100 * p.automatic.confidence)});
    if (plan === p.automatic) return [words];
    const d = difference(plan, p.automatic);
    return [words, t("plan.moved", {mm: number(d.mm, 2), degrees: number(d.degrees, 2)})];
  }
}
