// The page of the viewer: one run of a folder, followed while it is written. The server reads the file and works out
// what is shown; this file shows it. The address holds the state: #v=1&run=NAME&step=N&map=signal&against=NAME
import {Heat} from '/static/heat.js';
import {make, table, themed, told as said} from '/static/parts.js';
import {Pictures} from '/static/pictures.js';

const $ = id => document.getElementById(id);
const VERSION = '1';
const TICK = 180; // ms from one question to the next while a run goes on: five answers a second
const REST = 2000; // ms where nothing is to be expected: the run has ended, or nobody looks
const AGAIN = 1000; // ms until a server that did not answer is asked again
const MAPS = ['signal', 'gradient', 'update', 'saturated', 'dead'];

const page = {run: '', step: null, map: 'signal', against: '', runs: [], version: '', shown: null, began: null, compared: '', turn: 0, timer: 0};
const stair = new Pictures($('stair'), true, true);
const figures = new Pictures($('figures'), true, true);
const series = new Pictures($('series'), true, true);
const both = new Pictures($('both'), true, true);
const losses = new Pictures($('losses'), true, true);
const heat = new Heat($('heat'), 'every layer over the steps', step => choose(step));
const gap = new Heat($('gap'), 'one run over the other', step => choose(step));

// --- the address -----------------------------------------------------------------------------------------------------

function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = given.get('v') === VERSION ? given : new URLSearchParams();
  const step = known.get('step') ?? '';
  page.run = known.get('run') ?? '';
  page.step = /^\d{1,15}$/.test(step) ? Number(step) : null;
  page.map = MAPS.includes(known.get('map')) ? known.get('map') : MAPS[0];
  page.against = known.get('against') ?? '';
}

function toAddress() {
  const held = new URLSearchParams({v: VERSION, run: page.run});
  if (page.step !== null) held.set('step', page.step);
  if (page.map !== MAPS[0]) held.set('map', page.map);
  if (page.against) held.set('against', page.against);
  clearTimeout(page.timer);
  page.timer = setTimeout(() => history.replaceState(null, '', `#${held}`), 100);
}

/** How wide pictures can be: alone, and where two stand beside each other. */
const room = () => {
  const wide = stair.width;
  return [['px', String(wide)], ['half', String(wide > 800 ? Math.floor((wide - 26) / 2) : wide)]];
};

// --- asking ----------------------------------------------------------------------------------------------------------

async function ask(path) {
  try {
    const answer = await fetch(path);
    if (answer.status === 403) return {error: 'The server was started again: open the address that it printed.', lost: true};
    return await answer.json();
  } catch {
    return {error: 'The server does not answer; trying again.', lost: true};
  }
}

/** Asks for ever; whoever changes what is asked for calls ``hurry``. */
async function follow() {
  for (;;) {
    const turn = page.turn;
    const start = performance.now();
    const wait = await look();
    const rest = turn === page.turn ? Math.max(wait - (performance.now() - start), 20) : 20;
    await new Promise(done => { page.go = done; setTimeout(done, rest); });
  }
}

function hurry() {
  page.turn += 1;
  page.go?.();
}

async function look() {
  if (document.hidden && page.shown) return REST;
  if (!page.runs.length || page.runsAt === undefined || performance.now() - page.runsAt > REST) {
    const trouble = await list();
    if (trouble) return AGAIN;
  }
  if (!page.run) return REST / 2;
  const turn = page.turn;
  const held = new URLSearchParams([['run', page.run], ['map', page.map], ...room()]);
  if (page.step !== null) held.set('step', page.step);
  if (document.querySelector('#results details[open]')) held.set('tables', '1'); // what nobody reads is not sent
  if (page.version) held.set('seen', page.version);
  const found = await ask(`/api/view/state?${held}`);
  if (turn !== page.turn) return 0;
  if (found.error) { problem(found); page.version = ''; return AGAIN; }
  $('problem').hidden = true;
  if (!found.same) {
    if (anew(found.run)) return 0;
    await show(found);
    page.asOf = new Date();
  }
  if (page.against) await compare();
  return page.shown?.run.state === 'running' ? TICK : REST;
}

// --- the list of runs ------------------------------------------------------------------------------------------------

async function list() {
  const found = await ask('/api/view/runs');
  if (found.error) { problem(found); return true; }
  page.runsAt = performance.now();
  $('folder').textContent = found.folder;
  const said = JSON.stringify(found.runs);
  if (said !== page.saidRuns) {
    page.saidRuns = said;
    page.runs = found.runs;
    runs();
  }
  if (!page.run && page.runs.length) { page.run = page.runs[0].name; runs(); toAddress(); }
  if (!page.runs.length && !page.run) {
    $('verdict').textContent = 'There is no run in this folder yet; the first one is shown as soon as it is there.';
    $('verdict').dataset.tone = 'quiet';
    document.body.dataset.state = 'empty';
  }
  return false;
}

const STATES = {running: 'running', ended: 'ended', lost: 'its process is gone', unreadable: 'cannot be read'};

function runs() {
  $('runs').replaceChildren(...page.runs.map(each => {
    const errors = each.errors ? `, ${each.errors} ${each.errors > 1 ? 'errors' : 'error'}` : '';
    const step = each.step === null || each.step === undefined ? '' : `, step ${each.step.toLocaleString('en')}`;
    const link = make('a', {href: `#${new URLSearchParams({v: VERSION, run: each.name})}`, title: each.fault ?? each.title}, make('span', {}, each.title),
      make('small', {}, `${STATES[each.state]}${step}${errors}`));
    if (each.name === page.run) link.setAttribute('aria-current', 'page');
    return make('li', {}, link);
  }));
  // where the runs stand in a row, the one that is shown may be out of sight
  const current = $('runs').querySelector('[aria-current]');
  if (current && page.inSight !== page.run) {
    page.inSight = page.run;
    $('runs').scrollLeft = Math.max(current.offsetLeft - $('runs').offsetLeft - 20, 0);
  }
  const others = page.runs.filter(each => each.name !== page.run && each.state !== 'unreadable');
  $('other').replaceChildren(make('option', {value: ''}, 'no other run'),
    ...others.map(each => make('option', {value: each.name, selected: each.name === page.against}, each.title)));
}

// --- one run ---------------------------------------------------------------------------------------------------------

/** Say what is wrong. What was shown stays where only the server is away; of a file that has gone nothing is shown. */
function problem({error, lost}) {
  told('problem', lost && page.shown ? `${error} What stands here is of ${page.asOf.toLocaleTimeString()}.` : error);
  $('problem').hidden = false;
  if (!lost) {
    $('results').hidden = $('news').hidden = true;
    told('title', page.run);
    told('status', '');
    told('verdict', 'Nothing is shown of a run that cannot be read.');
    $('verdict').dataset.tone = 'quiet';
    Object.assign(page, {shown: null, saidFindings: ''});
  }
  document.body.dataset.state = 'problem';
}

const told = (id, ...given) => said($(id), ...given);

async function show(found) {
  page.shown = found;
  page.version = found.version;
  document.title = `${found.run.title} · unvanish view`;
  told('title', found.run.title);
  told('status', found.status);
  told('verdict', found.sentence); // said again only where it changes
  $('verdict').dataset.tone = found.tone;
  const of = `${page.run} ${found.run.started}`;
  stair.outdate(`${of} ${page.step}`);
  for (const each of [figures, series]) each.outdate(of);
  const empty = found.step === undefined;
  $('results').hidden = empty;
  if (!empty) {
    steps(found);
    findings(found);
    layers(found);
    actions(found);
    await stair.show(found.pictures.filter(each => each.name === 'staircase'));
    await new Promise(requestAnimationFrame);
    heat.show(found.heat, found.step);
    const over = found.pictures.filter(each => each.name !== 'staircase');
    await figures.show(over.slice(0, -found.small || undefined));
    await series.show(found.small ? over.slice(-found.small) : []);
  }
  document.body.dataset.state = empty ? 'waiting' : 'ready';
  document.body.dataset.shown = Number(document.body.dataset.shown ?? 0) + 1;
}

/** Whether the file holds another run than before; then it is said, and its newest step is asked for, not a held one. */
function anew({started, began}) {
  const known = page.began?.run === page.run && page.began.started !== started;
  page.began = {run: page.run, started};
  if (!known) return false;
  told('news', `Another run was begun in this file${began ? ` at ${began}` : ''}. It is followed now; the one that was shown before is gone.`);
  $('news').hidden = false;
  page.step = null;
  uncompared();
  toAddress();
  hurry();
  return true;
}

/** Show another step; null is the newest, whatever comes. */
function choose(step) {
  if (step === page.step) return;
  page.step = step;
  if (step !== null) {
    $('number').value = step;
    if (page.shown?.heat) { heat.mark = step; heat.draw(); }
  }
  toAddress();
  hurry();
}

function steps(found) {
  const range = $('step');
  const known = found.heat.steps;
  range.max = Math.max(known.length - 1, 0);
  const at = known.findLastIndex(each => each <= found.step);
  if (document.activeElement !== range || page.step === null) range.value = page.step === null ? range.max : at;
  told('step', `step ${found.step}`, 'aria-valuetext');
  if (document.activeElement !== $('number')) $('number').value = found.step;
  told('follow', String(page.step === null), 'aria-pressed');
  const numbers = $('values').querySelectorAll('dt, dd');
  const texts = found.values.flatMap(({name, value}) => [name, value]);
  if (numbers.length === texts.length) texts.forEach((text, at) => said(numbers[at], text));
  else $('values').replaceChildren(...found.values.map(({name, value}) => make('div', {}, make('dt', {}, name), make('dd', {}, value))));
}

function findings(found) {
  const said = JSON.stringify([found.findings, found.run.step, found.run.state]);
  if (said === page.saidFindings) return;
  page.saidFindings = said;
  const end = Math.max(found.run.step, 1);
  $('findings').replaceChildren(...found.findings.map(each => {
    const until = each.until ?? end;
    const bar = make('span');
    bar.style.left = `${100 * Math.min(each.from / end, 0.99)}%`;
    bar.style.width = `${100 * Math.max(until - each.from, 0) / end}%`;
    const from = `step ${each.from.toLocaleString('en')}`;
    const over = each.until === null ? ' on, and still' : each.until > each.from ? ` to ${each.until.toLocaleString('en')}` : '';
    const parts = [make('button', {type: 'button', 'aria-label': `Show ${from}`, onclick: () => choose(each.from)}, from)];
    if (each.report !== null && each.report !== undefined) parts.push(make('a', {className: 'button', target: '_blank', rel: 'noopener',
      href: `/api/view/report.html?${new URLSearchParams({run: page.run, made: each.report})}`}, each.level === 'check' ? 'Full check' : 'This step run again'));
    const head = make('p', {}, make('span', {className: 'code'}, each.code ? `${each.code} ` : ''), each.text,
      make('small', {className: 'quiet'}, ` (${each.level}, ${from}${over})`));
    return make('li', {className: each.level}, head, make('div', {className: 'row'}, ...parts), make('div', {className: 'line'}, bar));
  }));
  if (!found.findings.length) $('findings').replaceChildren(make('li', {}, make('p', {}, found.run.state === 'running' ? 'Nothing so far.' : 'Nothing was found.')));
}

function layers(found = page.shown) {
  told('numbers-title', `Every layer at step ${found.step.toLocaleString('en')}`);
  const notes = found.notes.join('\n');
  if (notes !== page.saidNotes) $('notes').replaceChildren(...found.notes.map(text => make('p', {className: 'quiet'}, text)));
  page.saidNotes = notes;
  if (!$('layers').open || !found.layers) return;
  const {columns, rows, unseen} = found.layers;
  const named = columns.map(name => ({name, unit: '', help: ''}));
  const records = rows.map(line => Object.fromEntries(line.map((text, at) => [columns[at], text])));
  const caption = unseen.length ? `Not measured at this step: ${unseen.slice(0, 20).join(', ')}${unseen.length > 20 ? ', …' : ''}` : '';
  $('layers').querySelector('.scroll').replaceChildren(table(caption, named, records));
}

function actions(found) {
  const held = {run: page.run, ...(page.step === null ? {} : {step: page.step})};
  const at = more => new URLSearchParams({...held, ...more});
  const links = [
    [`/api/view/page.html?${at({map: page.map, ...(page.against ? {against: page.against} : {})})}`, 'This page as one HTML file', `${page.run}.html`],
    [`/api/view/report.html?${at({})}`, 'Report of this step', ''],
    [`/api/view/report.json?${at({})}`, 'Report as JSON', `${page.run}.json`],
    [`/api/view/table.csv?${at({})}`, 'All numbers as CSV', `${page.run}.csv`],
  ];
  if (found.idealised) links.push([`/lab#whatif?v=1&activation=tanh&from=${encodeURIComponent(`/api/view/report.json?${at({})}`)}`, 'Open in the lab: what if these were tanh?', '']);
  const said = JSON.stringify(links);
  if (said === page.saidActions) return;
  page.saidActions = said;
  $('actions').replaceChildren(make('div', {className: 'row'}, ...links.map(([href, text, download]) => {
    const link = make('a', {href, className: 'button'}, text);
    if (download) link.download = download;
    else { link.target = '_blank'; link.rel = 'noopener'; }
    return link;
  })));
}

// --- two runs --------------------------------------------------------------------------------------------------------

async function compare() {
  const wanted = new URLSearchParams([['run', page.run], ['other', page.against], ['map', page.map], ...room()]);
  if (page.step !== null) wanted.set('step', page.step);
  const key = String(wanted);
  if (key !== page.comparedKey) page.compared = '';
  if (page.compared) wanted.set('seen', page.compared);
  const turn = page.turn;
  const found = await ask(`/api/view/against?${wanted}`);
  if (turn !== page.turn || found.same) return;
  if (found.error) { uncompared(); told('parted', found.error); return; }
  page.compared = found.version;
  page.comparedKey = key;
  told('parted', found.sentence);
  $('sides').replaceChildren(...found.sides.map(({run, verdict}) => make('div', {}, make('dt', {}, run), make('dd', {}, verdict))));
  $('differences').replaceChildren(...found.notes.map(text => make('li', {}, text)));
  const of = found.sides.map(each => `${each.run} ${each.of}`).join(' ');
  both.outdate(`${of} ${page.step}`);
  losses.outdate(of);
  await both.show(found.pictures.slice(0, -found.small || undefined));
  await losses.show(found.small ? found.pictures.slice(-found.small) : []);
  $('gap').hidden = !found.heat; // before it is drawn: what is hidden has no width
  if (found.heat) gap.show(found.heat, found.step ?? null);
  document.body.dataset.compared = Number(document.body.dataset.compared ?? 0) + 1;
}

function uncompared() {
  page.compared = '';
  told('parted', '');
  $('sides').replaceChildren();
  $('differences').replaceChildren();
  both.clear();
  losses.clear();
  $('gap').hidden = true;
}

// --- start -----------------------------------------------------------------------------------------------------------

function open() {
  if (location.hash === '#verdict') { toAddress(); return; } // the link that skips to the verdict
  const before = page.run;
  fromAddress();
  if (!page.run && page.runs.length) page.run = page.runs[0].name;
  if (before !== page.run) {
    Object.assign(page, {shown: null, began: null, saidFindings: ''});
    $('news').hidden = true;
  }
  page.version = '';
  $('quantity').value = page.map;
  uncompared();
  runs();
  hurry();
}

$('step').oninput = () => choose(page.shown.heat.steps[Number($('step').value)] ?? null);
$('number').onchange = () => {
  const step = Number($('number').value.replaceAll(',', ''));
  if (Number.isInteger(step) && step >= 0) choose(step);
  else $('number').value = page.shown.step;
};
$('follow').onclick = () => choose(null);
$('quantity').onchange = () => { page.map = $('quantity').value; toAddress(); hurry(); };
$('other').onchange = () => {
  page.against = $('other').value;
  page.saidActions = '';
  uncompared();
  toAddress();
  if (page.shown) actions(page.shown);
  hurry();
};
$('layers').ontoggle = () => { if (page.shown) layers(); };
$('results').addEventListener('toggle', ({target}) => {
  if (!target.open) target.querySelector('.scroll').replaceChildren();
  else if (page.shown && !page.shown.layers) { page.version = ''; hurry(); }
}, true);
themed($('theme'), () => { heat.again(); gap.again(); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { heat.again(); gap.again(); });
addEventListener('hashchange', open);
document.addEventListener('visibilitychange', hurry);
let seen = innerWidth;
addEventListener('resize', () => {
  clearTimeout(page.resizing);
  page.resizing = setTimeout(() => { if (innerWidth !== seen) { seen = innerWidth; page.version = ''; page.compared = ''; hurry(); } }, 150);
});
open();
follow();
