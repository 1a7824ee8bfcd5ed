// The parts of the page that repeat: an element, one setting of a form, and a table.

const STEPS = 1000; // positions of a slider that moves by factors
const WIDEST = 5000; // of a slider that moves evenly: beyond, a pixel is too coarse, and a number is written

const shown = number => Number(Number(number).toPrecision(6)).toString();

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element && key !== 'list' && key !== 'form' && key !== 'role') element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Say a text, or an attribute, where it is not said already: to say it again would cost a layout. */
export function told(element, text, attribute = '') {
  if (attribute) { if (element.getAttribute(attribute) !== text) element.setAttribute(attribute, text); }
  else if (element.textContent !== text) element.textContent = text;
}

/** The number a logarithm stands for, whatever its size, as the package writes it: 0.04219, 10^-26.682. */
export function decimal(log) {
  if (typeof log !== 'number') return {'-inf': '0', inf: 'inf', nan: 'nan'}[log] ?? '–';
  const plain = Number((10 ** log).toPrecision(4));
  if (plain >= 0.01 && plain < 1000) return plain.toPrecision(4);
  return `10^${log.toFixed(3).replace(/^-0\.000$/, '0.000')}`;
}

/** One setting: a slider and a field for a number, a list for choices, a box for a truth value, a line for the rest. */
export function parameter(setting, value, changed) {
  const id = `set-${setting.name}`;
  const name = setting.name.replaceAll('_', ' ');
  const label = make('label', {htmlFor: id}, setting.unit ? `${name} (${setting.unit})` : name);
  const head = make('div', {className: 'head'}, label);
  const box = make('div', {className: 'parameter'}, head);
  const help = make('small', {id: `${id}-help`}, setting.help === setting.unit ? '' : setting.help);
  let field;
  if (setting.kind === 'bool') {
    field = make('input', {type: 'checkbox', checked: value === true, onchange: () => changed(field.checked)});
    head.append(field);
  } else if (setting.choices.length) {
    field = make('select', {onchange: () => changed(field.value)}, ...setting.choices.map(each =>
      make('option', {value: each, selected: each === value}, each)));
    box.append(field);
  } else if (slides(setting)) {
    field = slider(setting, value, changed, head);
    box.append(field);
  } else {
    field = make('input', {type: 'text', className: 'line', value: String(value), onchange: () => changed(field.value)});
    box.append(field);
  }
  field.id = id;
  field.setAttribute('aria-describedby', help.id);
  box.append(help);
  return box;
}

/** A number between near bounds has a slider; so has a list whose usual value is one number. */
const slides = ({kind, slide: [low, high], log, default: usual}) => ['int', 'float', 'list'].includes(kind)
  && low !== null && high !== null && (log || high - low <= WIDEST) && !String(usual).includes(',');

function slider(setting, value, changed, head) {
  const [low, high] = setting.slide;
  const logarithmic = setting.log && low > 0;
  const whole = setting.kind === 'int';
  const span = high - low;
  const toNumber = position => {
    const raw = logarithmic ? low * (high / low) ** (position / STEPS) : Number(position);
    return whole ? Math.round(raw) : Number(raw.toPrecision(logarithmic ? 3 : 10));
  };
  const toPosition = number => (logarithmic ? STEPS * Math.log(number / low) / Math.log(high / low) : number);
  const step = logarithmic ? 1 : whole ? 1 : 10 ** Math.floor(Math.log10(span / 500));
  const range = make('input', {type: 'range', min: logarithmic ? 0 : low, max: logarithmic ? STEPS : high, step});
  const isNumber = text => Number.isFinite(Number(text)) && String(text).trim() !== '';
  const inside = now => Math.min(high, Math.max(low, Number(now)));
  const number = make('input', {type: 'text', inputMode: setting.kind === 'list' ? 'text' : 'decimal', className: 'value',
    value: isNumber(value) ? shown(value) : String(value), 'aria-label': `${setting.name.replaceAll('_', ' ')}, as a number`});
  const say = now => range.setAttribute('aria-valuetext', `${isNumber(now) ? shown(now) : now}${setting.unit ? ` ${setting.unit}` : ''}`);
  if (isNumber(value)) range.value = toPosition(inside(value));
  say(value);
  range.oninput = () => {
    const now = toNumber(range.value);
    number.value = shown(now);
    say(now);
    changed(now);
  };
  // a logarithmic slider of whole numbers has positions that mean the same number: a key must still move it
  range.onkeydown = event => {
    const way = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
    if (!way || !logarithmic || !whole) return;
    event.preventDefault();
    const now = inside(toNumber(range.value) + way);
    range.value = toPosition(now);
    number.value = shown(now);
    say(now);
    changed(now);
  };
  number.onchange = () => {
    if (isNumber(number.value)) range.value = toPosition(inside(number.value));
    say(number.value);
    changed(isNumber(number.value) ? Number(number.value) : number.value);
  };
  head.append(number);
  return range;
}

/** Why a setting does not take this value, in the words of the server; '' where it does. */
export function refusal({name, kind, low, high, allowed}, value) {
  if (!['int', 'float', 'list'].includes(kind)) return '';
  const numbers = String(value).split(',').map(each => (each.trim() === '' ? NaN : Number(each)));
  const right = number => Number.isFinite(number) && number >= (low ?? -Infinity) && number <= (high ?? Infinity)
    && (kind !== 'int' || Number.isInteger(number));
  const many = kind !== 'list' && numbers.length > 1;
  return !many && numbers.every(right) ? '' : `${name} is ${value}; it takes ${allowed}`;
}

/** A command that runs an experiment is a link to its page with the same settings. */
function linked(value) {
  const [, name, rest] = (typeof value === 'string' && /^unvanish lab ([a-z]+)((?: --\S+ \S+)*)$/.exec(value)) || [];
  if (!name) return value;
  const settings = [...rest.matchAll(/ --(\S+) (\S+)/g)].map(([, key, text]) => [key.replaceAll('-', '_'), text]);
  return make('a', {href: `#${name}?${new URLSearchParams([['v', '1'], ...settings])}`}, value);
}

const heading = ({name, unit}) => name.replace('log10_', '').replaceAll('_', ' ') + (unit && unit !== 'log10' ? ` (${unit})` : '');

/** A table of records; a logarithm in a column of the unit log10 is shown as the number it stands for. */
export function table(caption, columns, rows) {
  const signs = new Set(columns.map(each => each.sign).filter(Boolean));
  const seen = columns.filter(each => !signs.has(each.name));
  const worded = name => rows.some(row => (typeof row[name] === 'string' && !(row[name] in {'-inf': 0, inf: 0, nan: 0})) || row[name] instanceof Node);
  const text = new Set(seen.map(each => each.name).filter(worded));
  const head = seen.map(each => make('th', {scope: 'col', title: each.help, className: text.has(each.name) ? 'text' : ''}, heading(each)));
  const cell = (each, row) => {
    const value = row[each.name];
    if (value === null || value === undefined) return '–';
    if (each.unit === 'log10') return (row[each.sign] < 0 ? '-' : '') + decimal(value);
    if (typeof value === 'boolean') return value ? 'yes' : 'no';
    return typeof value === 'number' ? shown(value) : linked(value);
  };
  const body = rows.map(row => make('tr', {}, ...seen.map(each => make('td', {className: text.has(each.name) ? 'text' : '', 'data-h': heading(each)}, cell(each, row)))));
  const parts = [make('thead', {}, make('tr', {}, ...head)), make('tbody', {}, ...body)];
  return make('table', {}, ...(caption ? [make('caption', {}, caption)] : []), ...parts);
}

const dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
};

/** The button that switches between light and dark; the choice is kept. ``changed`` is called after a switch. */
export function themed(button, changed = () => {}) {
  const pressed = () => button.setAttribute('aria-pressed', String(dark()));
  button.onclick = () => {
    document.documentElement.dataset.theme = dark() ? 'light' : 'dark';
    localStorage.setItem('unvanish-theme', document.documentElement.dataset.theme);
    pressed();
    changed();
  };
  const kept = localStorage.getItem('unvanish-theme');
  if (kept === 'dark' || kept === 'light') document.documentElement.dataset.theme = kept;
  pressed();
}
