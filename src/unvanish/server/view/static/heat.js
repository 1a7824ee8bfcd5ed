// The map of steps and layers: shades come from the server, one byte a cell; here they get their colours.
import {make, table, told} from '/static/parts.js';

const COLOURS = ['cold4', 'cold3', 'cold2', 'cold1', 'even', 'warm1', 'warm2', 'warm3', 'warm4'];
const NOTHING = 255;
const FONT = '11px "DejaVu Sans", system-ui, sans-serif';
const NAMED = 13; // pixels that a row needs for its name
const HATCHED = 5; // pixels that a row needs for hatching
const TALL = [14, 420]; // pixels of a row at most, of the map at most
const TOP = 34, BOTTOM = 38, RIGHT = 12;

let tokens = new Map(); // the colours of the theme
const token = name => {
  if (!tokens.has(name)) tokens.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--uv-${name}`).trim());
  return tokens.get(name);
};
const unpacked = Uint8Array.fromBase64?.bind(Uint8Array) ?? (text => Uint8Array.from(atob(text), each => each.charCodeAt(0)));
const rgb = hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
const shorten = (text, most) => (text.length > most ? `${text.slice(0, most / 2 - 1)}…${text.slice(1 - most / 2)}` : text);

export class Heat {
  /** ``name``: what it is called; ``pick(step)`` is called when the reader clicks or drags. */
  constructor(home, name, pick) {
    this.canvas = make('canvas', {role: 'img'});
    this.caption = make('figcaption');
    this.numbers = make('div', {className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': `Numbers: ${name}`});
    this.details = make('details', {ontoggle: () => this.fill()}, make('summary', {}, 'Numbers of this map'), this.numbers);
    home.replaceChildren(make('figure', {className: 'map'}, this.caption, this.canvas, this.details));
    this.image = document.createElement('canvas');
    this.data = null;
    this.mark = null;
    this.brush(pick);
  }

  brush(pick) {
    const at = event => {
      const step = this.stepAt(event.clientX - this.canvas.getBoundingClientRect().left);
      if (step !== null) pick(step);
    };
    this.canvas.onpointerdown = event => { this.canvas.setPointerCapture(event.pointerId); at(event); };
    this.canvas.onpointermove = event => { if (event.buttons) at(event); };
  }

  /** The sampled step under a pixel; null beside the map. */
  stepAt(x) {
    const {data, box} = this;
    if (!data?.columns) return null;
    const column = Math.floor((x - box.left) / box.width * data.columns);
    return column < 0 || column >= data.columns ? null : data.steps[column];
  }

  /** Show other numbers, and mark a step; null marks none. */
  show(data, mark) {
    if (data !== this.data) {
      this.data = data;
      this.colour();
    }
    this.mark = mark;
    this.draw();
    told(this.caption, `The ${data.words}.`);
    told(this.canvas, `A map of ${data.layers} layers over ${data.columns} stretches of steps up to step ${data.end}: the ${data.words}.`, 'aria-label');
    if (this.details.open) this.fill();
  }

  /** The theme has changed. */
  again() {
    tokens = new Map();
    if (!this.data) return;
    this.colour();
    this.draw();
  }

  colour() {
    const {rows, columns, cells} = this.data;
    if (!rows || !columns) return;
    const shades = this.shades = unpacked(cells);
    Object.assign(this.image, {width: columns, height: rows});
    const context = this.image.getContext('2d');
    const pixels = context.createImageData(columns, rows);
    const colours = new Uint32Array(256);
    for (const [at, name] of COLOURS.entries()) {
      const [r, g, b] = rgb(token(name));
      colours[at] = (255 << 24 | b << 16 | g << 8 | r) >>> 0;
    }
    const target = new Uint32Array(pixels.data.buffer);
    for (let at = 0; at < shades.length; at += 1) target[at] = colours[shades[at]];
    context.putImageData(pixels, 0, 0);
  }

  draw() {
    const {data, canvas} = this;
    const wide = Math.max(canvas.parentElement.clientWidth, 200);
    const tall = Math.max(Math.min(TALL[0] * data.rows, TALL[1]), 60);
    const slot = tall / Math.max(data.rows, 1);
    const ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round((tall + TOP + BOTTOM) * ratio)) {
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round((tall + TOP + BOTTOM) * ratio);
      canvas.style.height = `${tall + TOP + BOTTOM}px`;
    }
    const pen = canvas.getContext('2d');
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, wide, tall + TOP + BOTTOM);
    pen.font = FONT;
    pen.fillStyle = token('mut');
    const named = slot >= NAMED ? data.names.map(each => shorten(each, wide < 500 ? 16 : 30)) : [];
    const left = 10 + Math.max(...(named.length ? named : [String(data.layers)]).map(each => pen.measureText(each).width), 20);
    const box = this.box = {left, width: wide - left - RIGHT, top: TOP, height: tall};
    pen.imageSmoothingEnabled = false;
    if (data.columns) pen.drawImage(this.image, box.left, box.top, box.width, box.height);
    if (slot >= HATCHED) this.hatch(pen, slot);
    this.axes(pen, named, slot, wide);
    this.key(pen, wide);
    this.marked(pen);
    canvas.dataset.drawn = Number(canvas.dataset.drawn ?? 0) + 1;
  }

  /** Lines through what lies above ×1, which so differs from what lies below it without colour. */
  hatch(pen, slot) {
    const {box, data, shades} = this;
    pen.fillStyle = token('bg');
    const unit = box.width / data.columns;
    for (let row = 0; row < data.rows; row += 1) {
      const y = Math.round(box.top + (row + 0.5) * slot);
      for (let from = 0; from < data.columns; from += 1) {
        let to = from;
        while (to < data.columns && shades[row * data.columns + to] > 4 && shades[row * data.columns + to] !== NOTHING) to += 1;
        if (to > from) {
          pen.fillRect(box.left + from * unit, y, (to - from) * unit, 1);
          from = to;
        }
      }
    }
  }

  axes(pen, named, slot, wide) {
    const {box, data} = this;
    pen.fillStyle = token('mut');
    pen.textBaseline = 'middle';
    pen.textAlign = 'right';
    if (named.length) for (const [at, name] of named.entries()) pen.fillText(name, box.left - 6, box.top + (at + 0.5) * slot);
    else {
      const every = Math.max(Math.ceil(22 / slot), 1);
      for (let at = 0; at < data.rows; at += every) pen.fillText(data.numbers[at].toLocaleString('en'), box.left - 6, box.top + (at + 0.5) * slot);
    }
    pen.textAlign = 'center';
    const ticks = Math.max(Math.min(Math.floor(box.width / 90), data.columns - 1), data.end > (data.steps[0] ?? 0) ? 1 : 0);
    for (let at = 0; at <= ticks; at += 1) {
      const column = Math.min(Math.round(at / Math.max(ticks, 1) * data.columns), data.columns - 1);
      const step = at && at === ticks ? data.end : data.steps[column];
      const text = (step ?? 0).toLocaleString('en');
      const half = pen.measureText(text).width / 2;
      const x = Math.min(Math.max(box.left + at / Math.max(ticks, 1) * box.width, box.left + half), wide - half - 2);
      pen.fillText(text, x, box.top + box.height + 12);
    }
    pen.fillText('training step', box.left + box.width / 2, box.top + box.height + 28);
  }

  key(pen, wide) {
    const {data} = this;
    const shown = data.share ? COLOURS.slice(4) : COLOURS;
    pen.textAlign = 'right';
    const end = wide - RIGHT - pen.measureText(data.high).width - 6;
    const start = end - shown.length * 14;
    for (const [at, name] of shown.entries()) {
      pen.fillStyle = token(name);
      pen.fillRect(start + at * 14, 6, 14, 10);
      if (at + 9 - shown.length > 4) { pen.fillStyle = token('bg'); pen.fillRect(start + at * 14, 11, 14, 1); }
    }
    pen.fillStyle = token('mut');
    pen.textBaseline = 'middle';
    pen.fillText(data.low, start - 6, 11);
    if (data.blank) pen.fillText('blank: not measured', start - 6, 25);
    pen.textAlign = 'left';
    pen.fillText(data.high, end + 6, 11);
    pen.textAlign = 'center';
    if (!data.share) pen.fillText(data.middle, (start + end) / 2, 24);
  }

  /** A line at the step that is shown. */
  marked(pen) {
    const {box, data, mark} = this;
    if (mark === null || mark === undefined || !data.columns) return;
    let column = data.steps.findIndex(each => each > mark);
    column = (column < 0 ? data.columns : column) - 1;
    const x = box.left + (Math.max(column, 0) + 0.5) / data.columns * box.width;
    pen.fillStyle = token('bg');
    pen.fillRect(x - 2, box.top - 4, 4, box.height + 8);
    pen.fillStyle = token('fg');
    pen.fillRect(x - 1, box.top - 4, 2, box.height + 8);
  }

  // a table that nobody reads would cost as much as the map
  fill() {
    const {data} = this;
    if (!this.details.open || !data?.table) return;
    const columns = [{name: 'layer', unit: '', help: ''}, ...data.table.steps.map(step => ({name: `step ${step}`, unit: '', help: ''}))];
    const rows = data.table.rows.map((line, at) => ({layer: data.names[at], ...Object.fromEntries(line.map((text, of) => [`step ${data.table.steps[of]}`, text]))}));
    this.numbers.replaceChildren(table('', columns, rows));
  }
}
