// The viewer: one or two pictures on a canvas, with window, zoom, pan, a wipe between them, and marks drawn over them.

const PRESETS = {HU: [["soft", 40, 400], ["lung", -500, 1500], ["bone", 400, 1800]]};
const LETTERS = [["R", "L"], ["A", "P"], ["F", "H"]];  // towards - and +, of the patient's axes (LPS)

export class Viewer {
  /** `over(context, map, frame)` draws over the left picture; `changed()` is told when the picture is another one. */
  constructor(canvas, {over, changed}) {
    Object.assign(this, {canvas, over, changed, mode: "single", wipe: 0.5, zoom: 1, pan: [0, 0], invert: false});
    this.left = this.right = null;  // {frames, frame}
    this.windows = new Map();
    this.preset = new Map();
    this.small = document.createElement("canvas");
    this.context = canvas.getContext("2d");
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(left, right) {
    this.left = left;
    this.right = right;
    this.draw();
  }

  reset() { this.zoom = 1; this.pan = [0, 0]; this.windows.delete(this.#unit(this.left)); this.draw(); }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.#paint(); });
  }

  /** Window (centre, width) of a picture's unit. */
  window(shown) {
    const unit = this.#unit(shown);
    if (this.windows.has(unit)) return this.windows.get(unit);
    if (this.left && unit === this.#unit(this.left)) shown = this.left;  // what is compared has one window
    const named = PRESETS[unit]?.[this.preset.get(unit) ?? 0];
    if (named) return [named[1], named[2]];
    const top = shown.frames.top || 1;
    return shown.frames.kind === "magnitude" ? [top / 2, top] : [0, 2 * top];
  }

  nextPreset() {
    const unit = this.#unit(this.left), list = PRESETS[unit];
    this.windows.delete(unit);
    if (list) this.preset.set(unit, ((this.preset.get(unit) ?? 0) + 1) % list.length);
    this.draw();
  }

  presetName() { return PRESETS[this.#unit(this.left)]?.[this.preset.get(this.#unit(this.left)) ?? 0][0] ?? "auto"; }

  shiftWindow(dx, dy) {
    if (!this.left) return;
    const [centre, width] = this.window(this.left);
    const step = Math.max(width, 1e-9) / 300;
    this.windows.set(this.#unit(this.left), [centre + dy * step, Math.max(width + dx * step, step)]);
    this.draw();
  }

  zoomBy(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const zoom = Math.min(20, Math.max(0.5, this.zoom * factor)), k = zoom / this.zoom;
    const [mx, my] = this.#middle();
    this.pan = [x - mx - k * (x - mx - this.pan[0]), y - my - k * (y - my - this.pan[1])];
    this.zoom = zoom;
    this.draw();
  }

  panBy(dx, dy) { this.pan = [this.pan[0] + dx, this.pan[1] + dy]; this.draw(); }

  /** How pixels of the left frame and points of the canvas belong together. */
  map(frame = this.left?.frame, box = this.#boxes()[0]) {
    const [ny, nx] = frame.shape, [sy, sx] = frame.spacing_mm;
    const k = Math.min(box.w / (nx * sx), box.h / (ny * sy)) * 0.98 * this.zoom;
    const x0 = box.x + box.w / 2 + this.pan[0] - nx * sx * k / 2, y0 = box.y + box.h / 2 + this.pan[1] - ny * sy * k / 2;
    return {
      box, x0, y0, w: nx * sx * k, h: ny * sy * k,
      toScreen: ([px, py]) => [x0 + (px + 0.5) * sx * k, y0 + (py + 0.5) * sy * k],
      toPixel: (x, y) => [(x - x0) / (sx * k) - 0.5, (y - y0) / (sy * k) - 0.5],
      perPixel: [sx * k, sy * k],
    };
  }

  #unit(shown) { return shown?.frames.unit ?? ""; }

  #middle() { const b = this.#boxes()[0]; return [b.x + b.w / 2, b.y + b.h / 2]; }

  #boxes() {
    const w = this.canvas.clientWidth, h = this.canvas.clientHeight;
    if (this.mode !== "side" || !this.right) return [{x: 0, y: 0, w, h}, {x: 0, y: 0, w, h}];
    return [{x: 0, y: 0, w: w / 2 - 2, h}, {x: w / 2 + 2, y: 0, w: w / 2 - 2, h}];
  }

  #paint() {
    const {canvas, context: c} = this, ratio = devicePixelRatio || 1;
    const w = canvas.clientWidth, h = canvas.clientHeight;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = "#000";
    c.fillRect(0, 0, w, h);
    canvas.dataset.drawn = "";
    if (!this.left?.frame) return;
    const boxes = this.#boxes(), cut = this.wipe * w, two = this.right?.frame && this.mode !== "single";
    const wiping = two && this.mode === "wipe";
    const clips = wiping ? [{x: 0, y: 0, w: cut, h}, {x: cut, y: 0, w: w - cut, h}] : boxes;
    let whole = this.#picture(this.left, boxes[0], clips[0]);
    if (two) whole = this.#picture(this.right, boxes[1], clips[1]) && whole;
    this.#letters(this.left.frame, boxes[0]);
    if (two && !wiping) this.#letters(this.right.frame, boxes[1]);
    if (wiping) this.#divider(cut, h);
    this.over(c, this.map(), this.left.frame);
    this.#corner(this.left, boxes[0], "left");
    if (two) this.#corner(this.right, boxes[1], wiping ? "right" : "left");
    canvas.dataset.drawn = whole ? `${this.left.frames.output} ${this.left.frame.number}` : "";
    this.changed();
  }

  /** Draw one picture into a box, cut to `clip`; false when its pixels have not come yet. */
  #picture(shown, box, clip) {
    if (!shown.frame.kept) { this.#gone(shown, box); return true; }
    const pixels = shown.frames.pixels(shown.frame, () => this.draw());
    if (!pixels) return false;
    const grey = this.#grey(pixels, this.window(shown)), m = this.map(shown.frame, box), c = this.context;
    this.small.width = pixels.nx;
    this.small.height = pixels.ny;
    this.small.getContext("2d").putImageData(grey, 0, 0);
    c.save();
    c.beginPath();
    c.rect(clip.x, clip.y, clip.w, clip.h);
    c.clip();
    c.imageSmoothingEnabled = m.perPixel[0] < 6;
    c.imageSmoothingQuality = "high";
    c.drawImage(this.small, m.x0, m.y0, m.w, m.h);
    c.restore();
    return true;
  }

  #grey({codes, nx, ny, slope, intercept}, [centre, width]) {
    const image = new ImageData(nx, ny), out = new Uint32Array(image.data.buffer);
    const gain = 255 * slope / width, base = (intercept - centre + width / 2) * 255 / width + 0.5;
    for (let i = 0; i < codes.length; i++) {
      let g = codes[i] * gain + base;
      g = g < 0 ? 0 : g > 255 ? 255 : g | 0;
      if (this.invert) g = 255 - g;
      out[i] = 0xff000000 | g << 16 | g << 8 | g;
    }
    return image;
  }

  #gone(shown, box) {
    this.context.fillStyle = "#9aa4af";
    this.context.font = this.#font(1);
    this.context.fillText(this.words("viewer.gone"), box.x + 20, box.y + box.h / 2);
  }

  #divider(x, h) {
    const c = this.context;
    c.fillStyle = "#58a6ff";
    c.fillRect(x - 1.5, 0, 3, h);
    c.beginPath();
    c.arc(x, h / 2, 14, 0, 7);
    c.fill();
    c.fillStyle = "#001";
    c.textAlign = "center";
    c.font = this.#font(1);
    c.fillText("⇔", x, h / 2 + 6);
    c.textAlign = "left";
  }

  #letters(frame, clip) {
    const name = v => { const i = v.map(Math.abs).indexOf(Math.max(...v.map(Math.abs))); return LETTERS[i][v[i] > 0 ? 1 : 0]; };
    const back = v => v.map(x => -x), {x, y, w, h} = clip, size = this.#size(1.1);
    this.context.textAlign = "center";
    this.#text(name(back(frame.x_dir)), x + size, y + h / 2);
    this.#text(name(frame.x_dir), x + w - size, y + h / 2);
    this.#text(name(back(frame.y_dir)), x + w / 2, y + size);
    this.#text(name(frame.y_dir), x + w / 2, y + h - 8);
    this.context.textAlign = "left";
  }

  #corner(shown, box, side) {
    const [centre, width] = this.window(shown), f = shown.frames, size = this.#size(1.1);
    const place = f.places.findIndex(p => p.frames.includes(shown.frame));
    const lines = [this.name(f), `${place + 1} / ${f.places.length}   ${shown.frame.at_mm.toFixed(1)} mm`,
      `C ${this.number(centre, 3)}  W ${this.number(width, 3)} ${f.unit === "1" ? "" : f.unit}`];
    lines.forEach((text, i) => {
      const x = side === "left" ? box.x + 10 : box.x + box.w - 10;
      this.context.textAlign = side === "left" ? "left" : "right";
      this.#text(text, x, box.y + 1.3 * size * (i + 1), i === 0 ? "#79c0ff" : "#f0f3f6");
    });
    this.context.textAlign = "left";
  }

  #text(text, x, y, colour = "#f0f3f6") {
    const c = this.context, size = this.#size(1.1);
    c.font = this.#font(1.1);
    const wide = c.measureText(text).width, from = {left: 0, center: wide / 2, right: wide}[c.textAlign] ?? 0;
    c.fillStyle = "#000a";
    c.fillRect(x - from - 4, y - 0.95 * size, wide + 8, 1.25 * size);
    c.fillStyle = colour;
    c.fillText(text, x, y);
  }

  /** Write lines at the foot of the picture. */
  foot(lines, box) {
    const size = this.#size(1.1);
    lines.forEach((text, i) => this.#text(text, box.x + 10, box.y + box.h - (0.6 + 1.3 * (lines.length - i)) * size));
  }

  #size(rem) { return rem * parseFloat(getComputedStyle(document.documentElement).fontSize); }

  #font(rem) { return `600 ${this.#size(rem)}px system-ui, "DejaVu Sans", sans-serif`; }
}
