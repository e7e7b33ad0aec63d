// Draws status.json, which it reads every 5 s while the page is visible. All numbers come from there.
"use strict";

const EVERY_MS = 5000, TIMEOUT_MS = 10000;
const STATES = { leading: "Leading", standby: "Standing by", starting: "Starting", stopping: "Stopping" };
const DAYS = { published: "published", unpublished: "not all published", clearing: "being cleared", filled: "has rows", empty: "empty" };
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
let shown = null; // the last document

// Elements: text is never parsed as HTML.
function make(name, attributes = {}, ...children) {
  const svg = /^(svg|g|path|line|polyline|circle|text|title)$/.test(name);
  const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Replaces the content only if it differs. The focus, open details and scrolled tables stay as they are.
const drawn = {};
const stops = (place) => [...place.querySelectorAll("summary, [tabindex]")];
function put(id, ...children) {
  const place = byId(id), made = make("div", {}, ...children);
  if (drawn[id] === made.innerHTML) return;
  drawn[id] = made.innerHTML;
  const before = stops(place), focus = before.indexOf(document.activeElement);
  const open = [...place.querySelectorAll("details[open]")].map((each) => each.id), lefts = before.map((each) => each.scrollLeft);
  place.replaceChildren(...made.childNodes);
  for (const each of open) if (byId(each)) byId(each).open = true;
  stops(place).forEach((each, index) => {
    each.scrollLeft = lefts[index] || 0;
    if (index === focus) each.focus({ preventScroll: true });
  });
}

// Texts.
const known = (value) => value !== null && value !== undefined;
const count = (value) => (known(value) ? Math.round(value).toLocaleString("en-GB") : "unknown");
const time = (at) => new Date(at * 1000).toISOString().slice(11, 19);
const date = (at) => new Date(at * 1000).toISOString().slice(0, 10);
const when = (at) => (date(at) === date(shown.worker.now) ? time(at) : `${date(at)} ${time(at)}`);
function seconds(value) {
  if (!known(value)) return "unknown";
  if (value < 1) return `${Math.round(value * 1000)}\u00a0ms`;
  if (value < 60) return `${value < 10 ? value.toFixed(1) : Math.round(value)}\u00a0s`;
  const [unit, size] = value < 3600 ? ["min", 60] : value < 172800 ? ["h", 3600] : ["days", 86400];
  return `${(value / size).toFixed(value / size < 10 ? 1 : 0)}\u00a0${unit}`;
}
function bytes(value) {
  const power = Math.max(0, Math.min(3, Math.floor(Math.log2(Math.max(value, 1)) / 10)));
  return `${(value / 1024 ** power).toFixed(power && value / 1024 ** power < 10 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB"][power]}`;
}
const since = (at) => `since ${when(at)}, ${seconds(Math.max(0, shown.worker.now - at))} ago`;
const host = (session) => `${session.address ? session.address.replace(/\/\d+$/, "") : "a Unix socket"}, backend ${session.backend}`;
const note = (kind, text) => make("p", { class: `note ${kind}` }, text);

function table(caption, heads, rows, numbers = []) {
  const cell = (content, column) =>
    make(column ? "td" : "th", { ...(column ? {} : { scope: "row" }), ...(numbers.includes(column) ? { class: "number" } : {}) }, ...[content].flat());
  return make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {}, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell))))));
}

// Plots.
function plot(name, title, unit, text, ...series) {
  const { at } = shown.worker.history, values = series.flatMap((each) => each.values.filter(known));
  if (!values.length) {
    return make("figure", {}, make("figcaption", {}, title), make("p", { class: "quiet" },
      shown.worker.state === "standby" ? "Not known to this worker: the leader's page shows it." : "No value in this time."));
  }
  const end = at.at(-1), begin = Math.max(end - 3600, Math.min(end - 300, shown.worker.history.begins_at)), highest = Math.max(...values), top = highest || 1;
  const x = (moment) => 8 + 384 * (moment - begin) / (end - begin), y = (value) => 124 - 104 * value / top;
  const lines = series.flatMap((each, number) => runs(at, each.values).map((run) => make("polyline", {
    class: number ? "series two" : "series", points: run.map(([moment, value]) => `${x(moment).toFixed(1)},${y(value).toFixed(1)}`).join(" ") })));
  const last = (each) => text(each.values.at(-1));
  const summary = series.map((each) => `${each.name ? `${each.name}: ` : ""}now ${last(each)}, highest ${text(Math.max(0, ...each.values.filter(known)))}`).join("; ");
  return make("figure", {},
    make("figcaption", {}, `${title} `, make("span", {}, summary)),
    make("svg", { viewBox: "0 0 400 148", role: "img", "aria-label": `${title} in ${unit}: ${summary}.` },
      make("line", { class: "axis", x1: 8, x2: 392, y1: 124, y2: 124 }), make("line", { class: "axis", x1: 8, x2: 392, y1: 20, y2: 20 }),
      make("text", { x: 8, y: 14 }, text(top)), make("text", { x: 8, y: 142 }, time(begin).slice(0, 5)),
      make("text", { x: 392, y: 142, "text-anchor": "end" }, time(end).slice(0, 5)), ...lines),
    make("details", { id: `${name}-table` }, make("summary", {}, `${title} as a table`),
      table(`${title}, the highest of each five minutes`, ["Until", ...series.map((each) => each.name || unit)], fives(at, series, text), [1, 2])));
}

function runs(at, values) { // the parts without unknown values; a single one is drawn as a short line
  const found = [[]];
  values.forEach((value, index) => known(value) ? found.at(-1).push([at[index], value]) : found.push([]));
  return found.filter((run) => run.length).map((run) => run.length > 1 ? run : [[run[0][0] - 5, run[0][1]], run[0]]);
}

function fives(at, series, text) {
  const rows = new Map();
  at.forEach((moment, index) => {
    const key = Math.floor(moment / 300), row = rows.get(key) || series.map(() => []);
    series.forEach((each, number) => known(each.values[index]) && row[number].push(each.values[index]));
    rows.set(key, row);
  });
  return [...rows].map(([key, row]) => [time(key * 300 + 300).slice(0, 5), ...row.map((values) => values.length ? text(Math.max(...values)) : "unknown")]);
}

// Parts of the page.
function drawState() {
  const { worker, leader, problems, standbys, paused } = shown;
  const failing = worker.state === "standby" ? "Standing by, but unable to lead," : "Unable to publish";
  const state = worker.problem ? failing : STATES[worker.state];
  const leads = !leader && known(standbys) ? " No worker leads." : leader && worker.state === "standby" ? ` Leader: ${host(leader)}.` : "";
  const [now, at] = paused && !worker.problem && worker.state === "leading" ? ["Paused", paused.since] : [state, worker.problem_since || worker.state_since];
  const say = `${now} since ${when(at)}.${leads}`;
  if (byId("headline").textContent !== say) byId("headline").textContent = say; // read aloud when it changes
  byId("headline").className = worker.problem || paused ? "bad" : "good";
  document.title = `${worker.problem ? "Failing" : worker.state} – Outbox worker`;
  byId("about").textContent = `Version ${worker.version}${shown.topic ? `, topic ${shown.topic.name}` : ""}, process started ${when(worker.started_at)}.`;
  put("notes",
    worker.problem ? note("bad", `${worker.problem}: ${worker.detail || "no text"} (${since(worker.problem_since)})`) : null,
    ...Object.entries(problems).map(([system, problem]) => note("bad", `${system === "kafka" ? "Kafka" : "Postgres"} cannot be read: ${problem}`)),
    paused ? note("bad", `${paused.by} has paused the relay (${since(paused.since)}). To go on: python -m outbox_worker resume`) : null,
    standbys && !standbys.length ? note("bad", "No worker stands by.") : null);
  const numbers = {
    "Lag, events": count(shown.lag_events), "Lag, oldest": seconds(shown.lag_seconds), "Events a second": known(shown.rate) ? shown.rate.toLocaleString("en-GB") : "unknown",
    "Age at publication, median / p99": known(worker.history.hour_p50) ? `${seconds(worker.history.hour_p50)} / ${seconds(worker.history.hour_p99)}` : "unknown",
    "Last batch": known(shown.last_batch_age_s) ? `${seconds(shown.last_batch_age_s)} ago` : "none here", "Published, all time": count(shown.published),
  };
  put("numbers", ...Object.entries(numbers).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function drawWorkers() {
  const { leader, standbys, worker } = shown;
  const row = (role, session) => [role, when(session.connected_at), host(session)];
  const rows = [...(leader ? [row("leader", leader)] : []), ...(standbys || []).map((each) => row("standby", each))];
  put("workers", rows.length ? table("Sessions of the workers in Postgres", ["Role", "Connected since", "Worker"], rows)
    : make("p", {}, known(standbys) ? "No worker is connected." : "Unknown."));
  put("tasks", ...(shown.tasks || []).map((task) => make("div", {},
    make("p", {}, `${task.kind}: ${count(task.events)} of ${known(task.total) ? count(task.total) : "an unknown number of"} events, ${since(task.started_at)}`),
    make("progress", { "aria-label": `Progress of the ${task.kind}`, ...(task.total ? { max: task.total, value: task.events } : {}) }))),
    (shown.tasks || []).length ? null : make("p", {}, known(shown.tasks) ? "None runs." : "Unknown."));
}

function drawHour() {
  const { history } = shown.worker;
  byId("hour").textContent = `A sample every ${history.every_s} s, in this process' memory: the curves begin with its start, ${when(history.begins_at)}.`;
  put("plots",
    plot("lag", "Lag", "events", count, { values: history.lag_events }),
    plot("age", "Age of the oldest unpublished event", "seconds", seconds, { values: history.lag_seconds }),
    plot("publication", "Age at publication", "seconds", seconds, { name: "median", values: history.age_p50 }, { name: "99th percentile (dashed)", values: history.age_p99 }),
    plot("rate", "Events a second", "events a second", count, { values: history.events_per_second }));
}

function drawRing() {
  const slots = shown.slots;
  if (!slots) return put("ring", make("p", {}, "Unknown."));
  const today = Math.floor(shown.worker.now / 86400) % 16, largest = Math.max(1, ...slots.map((slot) => slot.bytes));
  const state = (slot) => slot.state || (known(slot.age_days) ? "filled" : "empty");
  const point = (radius, turn) => `${(radius * Math.sin(turn)).toFixed(2)},${(-radius * Math.cos(turn)).toFixed(2)}`;
  const days = slots.map((slot, number) => {
    const [from, to] = [number + 0.04, number + 0.96].map((each) => each * Math.PI / 8), inner = 58;
    const outer = (share) => inner + 6 + 44 * share, arc = (radius, back) => back
      ? `L${point(radius, to)}A${radius},${radius} 0 0 0 ${point(radius, from)}Z` : `M${point(radius, from)}A${radius},${radius} 0 0 1 ${point(radius, to)}`;
    const kind = state(slot), full = kind === "empty" ? 0 : slot.bytes / largest;
    return make("g", {}, make("path", { class: "day", d: arc(inner) + arc(outer(1), true) }),
      kind === "empty" ? null : make("path", { class: `day ${kind}`, d: arc(inner) + arc(outer(full), true) }),
      make("text", { class: number === today ? "today" : "", "text-anchor": "middle", "dominant-baseline": "central",
        ...Object.fromEntries(point(44, (from + to) / 2).split(",").map((each, axis) => ["xy"[axis], each])) }, String(number)));
  });
  const total = bytes(slots.reduce((sum, slot) => sum + slot.bytes, 0));
  const kinds = new Set(slots.map(state));
  put("ring",
    make("figure", {}, make("svg", { viewBox: "-112 -112 224 224", role: "img", "aria-label": `The sixteen days of the ring, ${total} in all; the table has each day.` },
      ...days, make("text", { class: "today", "text-anchor": "middle" }, total), make("text", { y: 16, "text-anchor": "middle" }, `today: ${today}`)),
      make("figcaption", { class: "legend" }, "Length: size. ", ...Object.entries(DAYS).filter(([kind]) => kinds.has(kind)).map(([kind, text]) =>
        make("span", { class: kind }, text)))),
    table("Days of the ring", ["Slot", "State", "Size", "Rows, about", "Oldest"], slots.map((slot, number) =>
      [String(number), number === today ? `${DAYS[state(slot)]}, today` : DAYS[state(slot)], bytes(slot.bytes), count(slot.rows), known(slot.age_days) ? `${slot.age_days} days` : "–"]), [2, 3, 4]));
}

function drawTopic() {
  const topic = shown.topic;
  if (!topic) return put("topic", make("p", {}, "Unknown."));
  const brokers = `${topic.brokers} ${topic.brokers === 1 ? "broker" : "brokers"}`;
  if (!topic.exists) return put("topic", note("bad", `The topic ${topic.name} does not exist; ${brokers}.`));
  const columns = topic.details.some((each) => known(each.offset)) ? 4 : 3; // only the leader knows offsets
  put("topic", make("p", {}, `${topic.partitions} partitions, ${brokers}, configured here: ${shown.configured_delivery}, compression ${shown.compression || "unknown"}.`),
    table(`Partitions of ${topic.name}`, ["Partition", "Leader", "In sync", "Highest offset"].slice(0, columns), topic.details.map((each) =>
      [String(each.number), each.leader < 0 ? make("strong", { class: "bad" }, "none") : `broker ${each.leader}`, `${each.in_sync} of ${each.replicas}`, known(each.offset) ? count(each.offset) : "none yet"].slice(0, columns)), [3]));
}

function drawChanges() {
  const { changes, doctor } = shown.worker;
  const field = ([name, value]) => [make("code", {}, `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`), " "];
  const eventName = (each) => make("code", { class: "event" }, ...each.event.split(/(?<=[._])/).flatMap((part) => [part, make("wbr")]));
  const result = (each) => each.warning ? make("span", { class: "warn" }, "warn") : make("span", { class: each.passed ? "good" : "bad" }, each.passed ? "pass" : "fail");
  put("changes", table("The last twenty log lines of this process, the newest first", ["Time", "Event", "Fields"], changes.map((each) =>
    [when(each.at), [eventName(each), each.level === "info" ? null : make("div", { class: "bad" }, each.level)].filter(known), Object.entries(each.fields).flatMap(field)])));
  put("doctor", doctor ? table(`${doctor.passed ? "All checks passed" : "Some checks failed"} at ${when(doctor.at)}`, ["Check", "Result", "Found"], doctor.checks.map((each) =>
    [each.name, result(each), each.passed && !each.warning ? each.found : [each.found, make("br"), make("code", {}, `mend: ${each.mend}`)]]))
    : make("p", {}, "The checks run a few seconds after the start."));
}

// Reading.
async function read() {
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    shown = await answer.json();
    byId("stale").hidden = true;
    delete document.body.dataset.stale;
    for (const draw of [drawState, drawWorkers, drawHour, drawRing, drawTopic, drawChanges]) draw();
  } catch (error) {
    stale(error);
  }
}

function stale(error) {
  if (!(error instanceof TypeError || error.name === "TimeoutError" || error.message.startsWith("status"))) console.error(error);
  document.body.dataset.stale = "";
  document.title = "No answer – Outbox worker";
  const say = shown ? `The worker does not answer. This is its last state, of ${when(shown.worker.now)}.` : "The worker does not answer.";
  if (byId("stale").hidden || byId("stale").textContent !== say) byId("stale").textContent = say;
  byId("stale").hidden = false;
}

let wake = () => {};
document.addEventListener("visibilitychange", () => wake());
async function readRepeatedly() {
  for (;;) {
    if (!document.hidden) await read();
    await new Promise((go) => {
      wake = go;
      setTimeout(go, EVERY_MS);
    });
  }
}
readRepeatedly();
