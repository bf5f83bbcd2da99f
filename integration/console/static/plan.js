// Geometry of a slice plan on a picture, in patient coordinates (LPS, mm). Pure functions: tested by themselves.

import {cross, dot} from "./frames.js";

export const add = (a, b, k = 1) => [a[0] + k * b[0], a[1] + k * b[1], a[2] + k * b[2]];
const minus = (a, b) => add(a, b, -1);
const unit = v => { const n = Math.hypot(...v); return v.map(c => c / n); };

/** Place in the patient of a (fractional) pixel of a frame. */
export function world(frame, px, py) {
  return add(add(frame.origin_mm, frame.x_dir, px * frame.spacing_mm[1]), frame.y_dir, py * frame.spacing_mm[0]);
}

/** Pixel (x, y) of a frame above or below which a place lies. */
export function pixel(frame, place) {
  const d = minus(place, frame.origin_mm);
  return [dot(d, frame.x_dir) / frame.spacing_mm[1], dot(d, frame.y_dir) / frame.spacing_mm[0]];
}

/** Corners of slice `index` of a plan. */
export function corners(plan, index) {
  const y_dir = cross(plan.normal, plan.in_plane);
  const middle = add(plan.centre_mm, plan.normal, (index - (plan.n_slices - 1) / 2) * plan.slice_distance_mm);
  const [fy, fx] = plan.fov_mm;
  return [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([x, y]) =>
    add(add(middle, plan.in_plane, x * fx / 2), y_dir, y * fy / 2));
}

/** Lines (pixels) in which the slices of a plan meet a frame; where a slice lies in the frame, its outline. */
export function lines(plan, frame) {
  const normal = cross(frame.x_dir, frame.y_dir), found = [];
  const parallel = Math.abs(dot(normal, plan.normal)) > 0.995;
  for (let i = 0; i < plan.n_slices; i++) {
    const around = corners(plan, i), height = around.map(c => dot(minus(c, frame.origin_mm), normal));
    if (parallel) {
      const far = height.reduce((a, b) => a + b) / 4;
      if (Math.abs(far) <= plan.slice_distance_mm / 2) {
        around.forEach((c, k) => found.push({index: i, ends: [pixel(frame, c), pixel(frame, around[(k + 1) % 4])]}));
      }
      continue;
    }
    const ends = [];
    for (let k = 0; k < 4; k++) {
      const [a, b] = [height[k], height[(k + 1) % 4]];
      if ((a < 0) !== (b < 0)) ends.push(pixel(frame, add(around[k], minus(around[(k + 1) % 4], around[k]), a / (a - b))));
    }
    if (ends.length === 2) found.push({index: i, ends});
  }
  return found;
}

/** The plan moved by some pixels of a frame. */
export function moved(plan, frame, dx, dy) {
  return {...plan, centre_mm: minus(add(plan.centre_mm, world(frame, dx, dy)), frame.origin_mm)};
}

/** The plan turned about its centre and the frame's normal, seen clockwise for growing angles [rad]. */
export function turned(plan, frame, angle) {
  const axis = unit(cross(frame.x_dir, frame.y_dir)), c = Math.cos(angle), s = Math.sin(angle);
  const turn = v => {  // Rodrigues
    const along = dot(axis, v) * (1 - c);
    return add(add(v.map(x => x * c), cross(axis, v), s), axis, along);
  };
  const normal = unit(turn(plan.normal)), x = turn(plan.in_plane);
  return {...plan, normal, in_plane: unit(minus(x, normal.map(n => n * dot(x, normal))))};
}

/** What the service takes. */
export function body(plan) {
  const {centre_mm, normal, in_plane, fov_mm, n_slices, slice_distance_mm} = plan;
  return {centre_mm, normal, in_plane, fov_mm, n_slices, slice_distance_mm};
}

/** Angle between two plans' normals [degrees] and distance of their centres [mm]. */
export function difference(a, b) {
  const cosine = Math.min(1, Math.abs(dot(a.normal, b.normal)));
  return {degrees: Math.acos(cosine) * 180 / Math.PI, mm: Math.hypot(...minus(a.centre_mm, b.centre_mm))};
}
