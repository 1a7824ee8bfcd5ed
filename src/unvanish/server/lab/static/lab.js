// The page of the lab: an experiment's settings as a form, its outcome as a sentence, pictures and a table.
// The server computes everything; this file shows it. The address holds the state: #name?v=1&setting=value
import {Pictures} from '/static/pictures.js';
import {decimal, parameter, make, refusal, table, themed} from '/static/parts.js';

const $ = id => document.getElementById(id);
const VERSION = '1';
const SELDOM = ['seed', 'rows', 'written', 'target', 'loss', 'samples', 'adaptive_rate', 'momentum', 'stop', 'steps'];
const WAIT = 150; // ms between two changes of the address while a slider moves
const TRIES = 3; // times that a broken connection to a running experiment is taken up again

const catalogue = await (await fetch('/api/experiments')).json();
const pictures = new Pictures($('figures'));
const beside = new Pictures($('beside-figures'), false);
const page = {experiment: null, values: {}, busy: false, again: false, job: null, shown: null, timer: 0, report: null, lent: ''};

const live = () => page.experiment.pace === 'live';
const query = more => {
  const changed = page.experiment.settings.filter(each => String(page.values[each.name]) !== String(each.default));
  return new URLSearchParams([...changed.map(each => [each.name, String(page.values[each.name])]), ...(more ?? [])]);
};
const sized = () => query([['px', String(pictures.width)]]);

// --- which experiment, and with which settings -----------------------------------------------------------------------

function fromAddress() {
  const [name, rest = ''] = location.hash.slice(1).split('?');
  const wanted = catalogue.find(each => each.name === name) ?? catalogue[0];
  const given = new URLSearchParams(rest);
  const values = Object.fromEntries(wanted.settings.map(each => [each.name, each.default]));
  if (wanted.name === name && given.get('v') === VERSION)
    for (const each of wanted.settings) if (given.has(each.name)) values[each.name] = clamped(each, given.get(each.name));
  return [wanted, values];
}

function clamped(setting, text) {
  if (setting.kind === 'bool') return text === 'true';
  if (setting.kind === 'str') return setting.choices.length && !setting.choices.includes(text) ? setting.default : text;
  const numbers = text.split(',').map(each => (each.trim() === '' ? NaN : Number(each)));
  if (!numbers.every(Number.isFinite) || (setting.kind !== 'list' && numbers.length > 1)) return setting.default;
  const inside = numbers.map(each => Math.min(setting.high ?? Infinity, Math.max(setting.low ?? -Infinity, each)));
  if (setting.kind === 'list') return inside.join(',');
  return setting.kind === 'int' ? Math.round(inside[0]) : inside[0];
}

function toAddress() {
  clearTimeout(page.timer);
  page.timer = setTimeout(() => {
    const rest = query(page.lent ? [['from', page.lent]] : []).toString();
    history.replaceState(null, '', `#${page.experiment.name}${rest ? `?v=${VERSION}&${rest}` : ''}`);
  }, WAIT);
}

function open() {
  if (location.hash === '#verdict' && page.experiment) { toAddress(); return; } // the link that skips to the result
  const [wanted, values] = fromAddress();
  const other = wanted !== page.experiment;
  leave();
  clearTimeout(page.timer);
  Object.assign(page, {experiment: wanted, values});
  if (other) {
    pictures.clear();
    page.shown = null;
    for (const id of ['notes', 'checks', 'code']) $(id).replaceChildren();
    $('rows').querySelector('.scroll').replaceChildren();
    $('guess').hidden = true;
  }
  document.title = `${wanted.title} · unvanish lab`;
  $('title').textContent = wanted.title;
  $('question').textContent = wanted.question;
  for (const link of $('experiments').querySelectorAll('a')) {
    if (link.hash === `#${wanted.name}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  form();
  ravine();
  if (lent() === page.lent) changed(true);
  else borrow(lent());
}

/** Where this server has a report for the experiment, such as that of a run: /api/…, from no other place. */
function lent() {
  const from = new URLSearchParams(location.hash.split('?')[1] ?? '').get('from') ?? '';
  return page.experiment.report && from.startsWith('/api/') ? from : '';
}

async function borrow(from) {
  page.lent = from;
  page.report = null;
  if (from) {
    const answer = await fetch(from).catch(() => null);
    if (answer?.ok) page.report = await answer.text();
    else problem('The report that this address names is not there any more.');
    form();
  }
  changed(true);
}

/** A setting has another value: live experiments answer at once, others when they are run. */
function changed(opened = false) {
  if (live()) update();
  else recall(opened);
}

// --- the form --------------------------------------------------------------------------------------------------------

function form() {
  const parameters = page.experiment.settings.map(each => parameter(each, page.values[each.name], value => {
    const wrong = refusal(each, value);
    if (wrong) { problem(`lab ${page.experiment.name}: ${wrong}`); return; }
    page.values[each.name] = value;
    toAddress();
    changed();
  }));
  const rare = page.experiment.settings.length > 6 ? SELDOM : ['seed', 'rows'];
  const often = parameters.filter((_, index) => !rare.includes(page.experiment.settings[index].name));
  const seldom = parameters.filter(each => !often.includes(each));
  const parts = [make('fieldset', {}, make('legend', {}, 'Settings'), make('div', {className: 'parameters'}, ...extras(), ...often),
    ...(seldom.length ? [make('details', {}, make('summary', {}, 'More settings'), make('div', {className: 'parameters'}, ...seldom))] : []))];
  if (!live()) {
    const run = make('button', {type: 'button', id: 'run', onclick: () => start()}, 'Run');
    const stop = make('button', {type: 'button', id: 'stop', disabled: true, onclick: () => stopped()}, 'Stop');
    parts.unshift(make('div', {className: 'row'}, run, stop));
  }
  if (page.experiment.presets.length) {
    const buttons = page.experiment.presets.map(each => make('button', {type: 'button', onclick() {
      page.values = Object.fromEntries(page.experiment.settings.map(k => [k.name, each.settings[k.name] ?? k.default]));
      toAddress();
      form();
      changed();
    }}, each.title, ...(each.source ? [make('small', {}, ` ${each.source}`)] : [])));
    parts.push(make('fieldset', {}, make('legend', {}, 'Start from'), make('div', {className: 'column'}, ...buttons)));
  }
  $('settings').replaceChildren(...parts);
  $('settings').onsubmit = event => event.preventDefault();
}

function extras() {
  if (page.experiment.name === 'chain') {
    const box = make('input', {type: 'checkbox', id: 'predict', checked: !$('guess').hidden, onchange: () => predict(box.checked)});
    return [make('div', {className: 'parameter'}, make('div', {className: 'head'}, make('label', {htmlFor: 'predict'}, 'predict first'), box))];
  }
  if (!page.experiment.report) return [];
  const file = make('input', {type: 'file', id: 'report', accept: '.json,application/json', className: 'line', onchange: async () => {
    page.report = file.files.length ? await file.files[0].text() : null;
    update();
  }});
  const help = page.lent && page.report ? `the report of ${new URLSearchParams(page.lent.split('?')[1]).get('run') ?? 'a run'}`
    : 'made with report.save("x.json"); without one: the network sigmoid-20';
  return [make('div', {className: 'parameter'}, make('label', {htmlFor: 'report'}, 'a saved report'), file, make('small', {}, help))];
}

// --- quick experiments: computed while the reader moves a slider; only the latest setting counts --------------------

async function update() {
  if (page.busy) { page.again = true; return; }
  page.busy = true;
  do {
    page.again = false;
    const asked = page.experiment;
    if (!live()) break;
    const options = asked.report && page.report ? {method: 'POST', body: page.report} : {};
    const found = await answer(`/api/run/${asked.name}?${sized()}`, options);
    if (asked !== page.experiment) { page.again = true; continue; }
    if (found.error) problem(found.error); else await show(found);
  } while (page.again);
  page.busy = false;
}

async function answer(address, options = {}) {
  try {
    return await (await fetch(address, options)).json();
  } catch {
    return {error: 'The server does not answer any more; start unvanish lab again.'};
  }
}

// --- experiments that take a while: run on request, followed, stopped -----------------------------------------------

/** What is known of these settings is shown; what is not waits for Run, or is run where that takes some seconds only. */
async function recall(opened) {
  leave();
  const asked = query().toString();
  const experiment = page.experiment;
  const found = await answer(`/api/run/${experiment.name}?${sized()}`);
  if (experiment !== page.experiment || asked !== query().toString() || page.job) return;
  if (found.error) problem(found.error);
  else if (!found.idle) await show(found);
  else if (opened && experiment.pace === 'short') await start();
  else idle();
}

function idle() {
  page.shown = null;
  $('verdict').textContent = 'Not run yet with these settings: press Run.';
  $('problem').hidden = true;
  actions(null);
  document.body.dataset.state = 'idle';
}

async function start() {
  leave();
  running(true);
  $('problem').hidden = true;
  $('verdict').textContent = 'Running.';
  document.body.dataset.state = 'running';
  const job = page.job = {id: null, source: null, broken: 0};
  const found = await answer(`/api/jobs/${page.experiment.name}?${sized()}`, {method: 'POST'});
  if (page.job !== job) { if (found.id) remove(found.id); return; }
  if (found.error) { ended(); problem(found.error); return; }
  job.id = found.id;
  job.source = new EventSource(`/api/jobs/${found.id}`);
  job.source.addEventListener('progress', event => {
    const {share, what} = JSON.parse(event.data);
    job.broken = 0;
    $('bar').value = share;
    $('bar').textContent = $('bar').title = `${Math.round(100 * share)}%, ${what}`;
    $('doing').textContent = `${Math.round(100 * share)}% · ${what}`;
  });
  job.source.addEventListener('result', async event => { ended(); await show(JSON.parse(event.data)); });
  job.source.addEventListener('problem', event => { ended(); problem(JSON.parse(event.data).error); });
  job.source.onerror = () => {
    job.broken += 1;
    if (job.broken > TRIES) { ended(); problem('The server does not answer any more; start unvanish lab again.'); }
  };
}

const remove = id => fetch(`/api/jobs/${id}`, {method: 'DELETE', keepalive: true}).catch(() => {});

/** The reader wants no more of it: the server ends it at its next step and sends what is done. */
function stopped() {
  if (page.job?.id) remove(page.job.id);
}

/** The reader goes on to something else: nobody waits for the result. */
function leave() {
  const job = page.job;
  if (!job) return;
  ended();
  if (job.id) remove(job.id);
}

function ended() {
  page.job?.source?.close();
  page.job = null;
  running(false);
}

function running(on) {
  if ($('run')) $('run').disabled = on;
  if ($('stop')) $('stop').disabled = !on;
  $('bar').hidden = !on;
  $('bar').value = 0;
  $('doing').textContent = '';
}

// --- the outcome -----------------------------------------------------------------------------------------------------

function problem(text) {
  $('problem').textContent = text;
  $('problem').hidden = false;
  document.body.dataset.state = 'problem';
}

async function show(found) {
  page.shown = found;
  $('problem').hidden = true;
  const hidden = !$('guess').hidden;
  $('verdict').textContent = hidden ? 'First your guess.' : found.sentence;
  for (const id of ['figures', 'numbers', 'more']) $(id).hidden = hidden;
  if (!hidden) await pictures.show(found.pictures);
  $('notes').replaceChildren(...found.notes.map(text => make('p', {}, text)));
  $('checks').replaceChildren(...(found.checks.length ? [checks(found.checks)] : []));
  if (!found.pictures.length && found.rows.length) $('rows').open = true; // the table is all there is to see
  if ($('rows').open) rows();
  actions(found);
  document.body.dataset.state = 'ready';
  document.body.dataset.shown = Number(document.body.dataset.shown ?? 0) + 1;
}

function checks(found) {
  const columns = ['what', 'expected', 'found'].map(name => ({name, unit: '', help: ''}));
  const said = each => make('span', {className: each.ok ? 'good' : 'bad'}, each.what, each.ok ? '' : ' (fails)');
  return make('div', {className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': 'Checks'},
    table('Checks', columns, found.map(each => ({...each, what: said(each)}))));
}

function rows() {
  const found = page.shown;
  if (!found) return;
  const some = found.rows.length < found.total ? `${found.rows.length} of ${found.total} rows; the CSV file has them all` : '';
  $('rows').querySelector('.scroll').replaceChildren(table(some, found.columns, found.rows));
}

function actions(found) {
  $('code').textContent = found?.code ?? '';
  $('more').hidden = !found || !$('guess').hidden;
  if (!found) { $('actions').replaceChildren(); return; }
  const copy = (label, text) => make('button', {type: 'button', onclick: async event => {
    await navigator.clipboard.writeText(text()).catch(() => getSelection().selectAllChildren($('code')));
    event.target.textContent = 'copied';
    setTimeout(() => { event.target.textContent = label; }, 1200);
  }}, label);
  const parts = [copy('Copy as Python', () => found.code), copy('Copy the link', () => location.href)];
  if (!(page.experiment.report && page.report))
    for (const format of page.experiment.formats)
      parts.push(make('a', {href: `/api/export/${page.experiment.name}.${format}?${sized()}`, className: 'button',
        download: `${page.experiment.name}.${format}`}, `Download ${format.toUpperCase()}`));
  if (found.check) parts.push(make('a', {href: found.check, target: '_blank', rel: 'noopener', className: 'button'}, 'Open this network in check'));
  $('actions').replaceChildren(make('div', {className: 'row'}, ...parts));
}

/** Beside the chain: that a small gradient does not mean a near minimum, as a picture that does not change. */
async function ravine() {
  $('beside').hidden = page.experiment.name !== 'chain';
  if ($('beside').hidden || beside.slots.length) return;
  const found = await answer(`/api/run/ravine?px=${pictures.width}`);
  if (found.error || beside.slots.length) return;
  $('beside-said').textContent = found.sentence;
  await beside.show(found.pictures);
  document.body.dataset.beside = 'ready';
}

// --- predict first ---------------------------------------------------------------------------------------------------

function predict(on) {
  $('guess').hidden = !on;
  const out = make('output', {id: 'guessed', htmlFor: 'power'}, '10^-3');
  const slider = make('input', {type: 'range', min: -60, max: 20, step: 1, value: -3, id: 'power',
    'aria-valuetext': 'ten to the power of -3', oninput: () => {
      out.textContent = `10^${slider.value}`;
      slider.setAttribute('aria-valuetext', `ten to the power of ${slider.value}`);
    }});
  const reveal = make('button', {type: 'button', onclick: () => revealed(Number(slider.value))}, 'Show');
  $('guess').replaceChildren(make('p', {}, 'How large is the gradient of the first weight? Move the sliders as you like, then guess.'),
    make('label', {htmlFor: 'power'}, 'my guess: ', out), slider, reveal);
  if (page.shown) show(page.shown);
  if (on) slider.focus();
}

async function revealed(guess) {
  const truth = page.shown.rows[0]?.log10_gradient;
  $('guess').hidden = true;
  $('predict').checked = false;
  await show(page.shown);
  const off = typeof truth === 'number' ? Math.round(Math.abs(truth - guess)) : null;
  const said = off === null ? '' : off ? `, ${off} power${off > 1 ? 's' : ''} of ten ${truth < guess ? 'smaller' : 'larger'}` : ': well guessed';
  $('verdict').textContent = `You guessed 10^${guess}; it is ${decimal(truth)}${said}. ${page.shown.sentence}`;
  $('verdict').focus();
}

// --- start -----------------------------------------------------------------------------------------------------------

$('experiments').replaceChildren(...catalogue.map(each =>
  make('li', {}, make('a', {href: `#${each.name}`, title: each.title}, each.name))));
$('bar').after(make('p', {id: 'doing', className: 'quiet'}));
$('rows').ontoggle = rows;
themed($('theme'));
addEventListener('hashchange', open);
addEventListener('pagehide', leave);
let seen = innerWidth;
addEventListener('resize', () => {
  // a picture is drawn for the width it has: what is live is drawn again, once the window is at rest
  clearTimeout(page.resizing);
  page.resizing = setTimeout(() => { if (innerWidth !== seen) { seen = innerWidth; beside.clear(); ravine(); if (live()) update(); } }, WAIT);
});
open();
