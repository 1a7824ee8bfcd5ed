// Pictures that are drawn once and then only get new numbers: the drawing comes compiled from the server.
import {make, table, told} from '/static/parts.js';

const OPTIONS = {mode: 'vega', renderer: 'svg', actions: false, ast: true, defaultStyle: false, tooltip: false, logLevel: 1};
const PAUSE = 120; // ms after which a picture outside the window is drawn, unless another setting came first
const REST = 2000; // ms from one picture out of sight to the next where only newer numbers wait for it
const idly = window.requestIdleCallback ?? (work => setTimeout(work, 50));
const compiled = new Map();

const inView = element => {
  const {top, bottom} = element.getBoundingClientRect();
  return bottom >= 0 && top <= innerHeight;
};

const drawing = name => {
  if (!compiled.has(name)) compiled.set(name, fetch(`/api/vega/${name}`).then(answer => answer.json()));
  return compiled.get(name);
};

// vega.js is a module of its own and may come later than this one
async function embed(...given) {
  for (let waited = 0; !window.vegaEmbed; waited += 1) {
    if (waited > 600) throw new Error('the drawing library did not load');
    await new Promise(done => setTimeout(done, 20));
  }
  return window.vegaEmbed(...given);
}

export class Pictures {
  constructor(home, named = true, gently = false) {
    this.home = home;
    // whether each picture is drawn in a frame of its own, and again only where it can be seen
    this.gently = gently;
    this.waiting = new IntersectionObserver(seen => this.comes(seen), {rootMargin: '100px'});
    if (gently) addEventListener('beforeprint', () => this.slots.forEach(slot => slot.missed && this.draw(slot, slot.missed)));
    this.catching = 0;
    this.named = named; // whether each picture has a heading of its own
    this.slots = [];
    this.turn = 0;
  }

  /** How wide a picture can be here, in pixels. */
  get width() {
    return Math.floor(this.home.getBoundingClientRect().width) || Math.min(innerWidth - 40, 900);
  }

  clear() {
    this.turn += 1;
    this.waiting.disconnect();
    for (const slot of this.slots) slot.view?.finalize();
    this.slots = [];
    this.home.replaceChildren();
  }

  /** What is out of sight shows something else than ``of`` from now on: blank it until it is drawn again. */
  outdate(of) {
    for (const slot of this.slots) if (slot.of !== of && slot.view && !inView(slot.place)) slot.place.ariaBusy = 'true';
    this.of = of;
  }

  /** Draw what is in view now, and the rest when the reader pauses; done when the first part is. */
  async show(pictures) {
    const turn = ++this.turn;
    while (this.slots.length > pictures.length) {
      const slot = this.slots.pop();
      this.waiting.unobserve(slot.place);
      slot.view?.finalize();
      slot.figure.remove();
    }
    for (const [index, picture] of pictures.entries()) {
      const slot = this.slots[index] ?? this.add(index);
      told(slot.title, picture.title);
      told(slot.caption, picture.description);
      told(slot.place, picture.title, 'aria-label');
      told(slot.numbers, `Numbers: ${picture.title}`, 'aria-label');
      slot.data = picture.data;
      if (slot.table.open) this.fill(slot);
    }
    const seen = pictures.filter((_, index) => this.slots[index].seen ?? inView(this.slots[index].place));
    for (const picture of seen) {
      if (this.gently) {
        await new Promise(requestAnimationFrame);
        if (turn !== this.turn) return;
      }
      await this.draw(this.slots[pictures.indexOf(picture)], picture);
    }
    const later = pictures.filter(picture => !seen.includes(picture));
    for (const picture of later) this.slots[pictures.indexOf(picture)].missed = picture;
    setTimeout(() => this.finish(turn), seen.length && later.length ? PAUSE : 0);
  }

  async finish(turn) {
    for (const slot of this.slots) {
      if (this.gently && slot.view) continue; // drawn when it is scrolled to, printed, or in idle time
      if (this.gently && slot.missed) await new Promise(done => setTimeout(done, PAUSE / 4));
      if (turn === this.turn && slot.missed) await this.draw(slot, slot.missed);
    }
    if (turn !== this.turn) return;
    this.home.dataset.whole = turn;
    this.catchUp();
  }

  /** Draw what was missed in idle time, one picture a frame: what is blank at once, the rest by and by. */
  catchUp() {
    const missed = this.slots.filter(slot => slot.missed);
    const blank = missed.some(slot => slot.place.ariaBusy);
    if (!missed.length || (this.catching && !blank)) return;
    clearTimeout(this.catching);
    this.catching = setTimeout(() => idly(async () => {
      this.catching = 0;
      const [slot] = this.slots.filter(each => each.missed).sort((one, other) =>
        Boolean(other.place.ariaBusy) - Boolean(one.place.ariaBusy) || one.at - other.at);
      if (slot) await this.draw(slot, slot.missed);
      this.catchUp();
    }), blank ? PAUSE / 4 : REST);
  }

  /** Pictures have come into sight: draw what they missed. */
  async comes(seen) {
    for (const slot of this.slots) {
      const {missed} = slot;
      slot.seen = seen.findLast(each => each.target === slot.place)?.isIntersecting ?? slot.seen; // to ask would cost a layout
      if (!missed || !slot.seen) continue;
      slot.missed = null;
      await this.draw(slot, missed);
    }
  }

  add(index) {
    const slot = {view: null, name: '', data: [], at: 0};
    slot.title = make('h2');
    slot.caption = make('figcaption');
    slot.place = make('div', {className: 'picture', tabIndex: 0, role: 'group'});
    slot.numbers = make('div', {className: 'scroll', tabIndex: 0, role: 'region'});
    slot.table = make('details', {ontoggle: () => { if (slot.table.open) this.fill(slot); }},
      make('summary', {}, 'Numbers of this picture'), slot.numbers);
    slot.figure = make('figure', {}, ...(this.named ? [slot.title] : []), slot.caption, slot.place, slot.table);
    this.home.append(slot.figure);
    if (this.gently) this.waiting.observe(slot.place);
    return this.slots[index] = slot;
  }

  // a table that nobody reads would cost as much as the picture
  fill(slot) {
    if (!slot.data) return;
    const columns = Object.keys(slot.data[0] ?? {}).map(name => ({name, unit: '', help: ''}));
    slot.numbers.replaceChildren(table('', columns, slot.data));
  }

  async draw(slot, picture) {
    slot.missed = null;
    const {of} = this;
    const known = await drawing(picture.name);
    if (slot.name !== picture.name) {
      slot.view?.finalize();
      slot.place.replaceChildren();
      slot.view = (await embed(slot.place, structuredClone(known), OPTIONS)).view;
      slot.name = picture.name;
      slot.signals = new Set(known.signals.map(each => each.name));
    }
    const {view} = slot;
    const {width, height, padding, parameters} = picture.size;
    if (width) view.width(width);
    if (height) view.height(height);
    if (padding) view.padding(padding);
    for (const [name, value] of Object.entries(parameters)) if (slot.signals.has(name)) view.signal(name, value);
    for (const [name, rows] of Object.entries(picture.tables)) view.data(name, rows);
    await view.runAsync();
    const svg = slot.place.querySelector('svg');
    if (svg) {
      told(svg, 'img', 'role');
      told(svg, picture.description, 'aria-label');
    }
    Object.assign(slot, {of, at: performance.now()});
    if (of === this.of) slot.place.ariaBusy = null;
    slot.place.dataset.drawn = Number(slot.place.dataset.drawn ?? 0) + 1;
  }
}
