// The hand on the picture: window, zoom, pan, slices, the wipe and the slice plan by mouse and pointer.

import {cross} from "./frames.js";
import {add, moved, pixel, turned} from "./plan.js";

const NEAR = 18;  // from a handle [CSS pixels]

/** Where the plan can be taken hold of on this frame: its middle, and two ends that turn it (canvas points). */
export function handles(plan, frame, map) {
  const centre = map.toScreen(pixel(frame, plan.centre_mm));
  const d = [0, 1].map(i => (i ? -1 : 1) * plan.fov_mm[1] / 2);
  const ends = d.map(far => map.toScreen(pixel(frame, add(plan.centre_mm, plan.in_plane, far))));
  const y_dir = cross(plan.normal, plan.in_plane), k = plan.fov_mm[0] / plan.fov_mm[1];
  if (Math.hypot(ends[0][0] - ends[1][0], ends[0][1] - ends[1][1]) < 60) {
    const other = d.map(far => map.toScreen(pixel(frame, add(plan.centre_mm, y_dir, far * k))));
    return {centre, ends: other};
  }
  return {centre, ends};
}

export class Hand {
  /** `desk` has: viewer, plan() -> plan or null, setPlan(plan, done), step(slices), setWipe(part). */
  constructor(canvas, desk) {
    Object.assign(this, {canvas, desk, held: null});
    canvas.addEventListener("pointerdown", e => this.#down(e));
    canvas.addEventListener("pointermove", e => this.#move(e));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, e => this.#up(e));
    canvas.addEventListener("wheel", e => this.#wheel(e), {passive: false});
    canvas.addEventListener("dblclick", () => desk.viewer.reset());
    canvas.addEventListener("contextmenu", e => e.preventDefault());
  }

  #down(e) {
    if (!this.desk.viewer.left?.frame) return;
    this.canvas.setPointerCapture(e.pointerId);
    this.held = {what: this.#what(e), x: e.offsetX, y: e.offsetY, plan: this.desk.plan()};
    if (this.held.what === "turn") this.held.angle = this.#angle(e);
    this.canvas.focus();
  }

  #what(e) {
    const {viewer} = this.desk, plan = this.desk.plan();
    if (e.button === 2 || e.button === 1 || e.shiftKey) return "pan";
    const close = ([x, y]) => Math.hypot(x - e.offsetX, y - e.offsetY) < NEAR;
    if (plan) {
      const h = handles(plan, viewer.left.frame, viewer.map());
      if (h.ends.some(close)) return "turn";
      if (close(h.centre)) return "shift";
    }
    if (viewer.mode === "wipe" && viewer.right && Math.abs(e.offsetX - viewer.wipe * this.canvas.clientWidth) < NEAR) return "wipe";
    return "window";
  }

  #angle(e) {
    const {viewer} = this.desk, [x, y] = handles(this.desk.plan(), viewer.left.frame, viewer.map()).centre;
    return Math.atan2(e.offsetY - y, e.offsetX - x);
  }

  #move(e) {
    const {held, desk} = this;
    if (!held) { this.#cursor(e); return; }
    const dx = e.offsetX - held.x, dy = e.offsetY - held.y, {viewer} = desk;
    if (held.what === "window") viewer.shiftWindow(dx, dy);
    if (held.what === "pan") viewer.panBy(dx, dy);
    if (held.what === "wipe") desk.setWipe(e.offsetX / this.canvas.clientWidth);
    if (held.what === "shift" && desk.plan()) {
      const [kx, ky] = viewer.map().perPixel;
      desk.setPlan(moved(desk.plan(), viewer.left.frame, dx / kx, dy / ky), false);
    }
    if (held.what === "turn" && desk.plan()) {
      const angle = this.#angle(e);
      desk.setPlan(turned(desk.plan(), viewer.left.frame, angle - held.angle), false);
      held.angle = angle;
    }
    held.x = e.offsetX;
    held.y = e.offsetY;
  }

  #cursor(e) {
    const shapes = {turn: "grab", shift: "move", wipe: "ew-resize", pan: "all-scroll", window: "crosshair"};
    this.canvas.style.cursor = this.desk.viewer.left?.frame ? shapes[this.#what(e)] : "default";
  }

  #up() {
    const {held} = this;
    this.held = null;
    if (held && (held.what === "shift" || held.what === "turn") && this.desk.plan() !== held.plan) {
      this.desk.setPlan(this.desk.plan(), true);
    }
  }

  #wheel(e) {
    e.preventDefault();
    if (e.ctrlKey) this.desk.viewer.zoomBy(Math.exp(-e.deltaY / 300), e.offsetX, e.offsetY);
    else this.desk.step(Math.sign(e.deltaY));
  }
}
