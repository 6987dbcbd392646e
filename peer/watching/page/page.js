// The page: takes what the server tells, keeps a position, and shows how things stand there.

import { bytes, seconds, shown } from "./axes.js";
import { Charts } from "./charts.js";
import { Graph } from "./graph.js";
import { Story } from "./story.js";

const FRAME_MS = 50;
const CATCH_UP_S = 0.45;  // the server tells twice a second; what has come is played in that time
const ROUNDS_S = 20;  // rounds a second of a replay at 1x
const MOST_SAID = 300;

const WORDS = {
  absent: "not seen yet", starting: "starting", running: "running", waiting: "waits for others", late: "late",
  done: "done", gone: "gone", failed: "failed", stopped: "interrupted",
};

const $ = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");

let story = null;
let position = null;  // null until something is known
let speed = 0;  // at which what has come is played
let live = true;
let playing = false;
let connected = false;
let failure = "";  // why the server cannot go on
let chosen = null;
let drawnAt = 0;
let changed = false;

const graph = new Graph($("graph"), touch);
const charts = new Charts($("figures"), touch, (at) => go(at));

// ---- what comes -----------------------------------------------------------------------------

const source = new EventSource("events");
source.addEventListener("about", (event) => begin(JSON.parse(event.data)));
source.addEventListener("message", (event) => {
  story.take(JSON.parse(event.data));
  if (charts.ids?.length !== story.ids.length) charts.reset(story);
  else charts.update();
  setSlider();
  const [, high] = story.extent;
  if (live && (position === null || still.matches)) position = high;
  speed = (high - position) / CATCH_UP_S;
  changed = true;
});
source.addEventListener("open", () => { connected = true; changed = true; });
source.addEventListener("error", () => { connected = false; changed = true; });
source.addEventListener("failed", (event) => {
  source.close();  // it would ask again and again
  failure = JSON.parse(event.data);
  connected = false;
  changed = true;
  drawState();
});

function begin(about) {
  const again = story !== null && !live;
  story = new Story(about);
  if (!again) position = null;
  document.title = `${about.name} · next-peer`;
  $("name").textContent = about.name;
  $("facts").textContent = about.facts.map(([name, value]) => `${name} ${value}`).join(" · ");
  graph.reset(about);
  charts.reset(story);
}

// ---- position -------------------------------------------------------------------------------

function setSlider() {
  const [low, high] = story.extent;
  const slider = $("slider");
  slider.min = low;
  slider.max = high;
  slider.step = story.rounds ? 1 : Math.max((high - low) / 1000, 1e-3);
}

function go(at) {
  const [low, high] = story.extent;
  live = false;
  position = Math.min(high, Math.max(low, story.rounds ? Math.round(at) : at));
  changed = true;
}

function advance(passed_s) {
  const [, high] = story.extent;
  if (position === null) return;
  if (live) {
    if (position < high) {
      position = Math.min(high, position + speed * passed_s);
      changed = true;
    }
  } else if (playing) {
    const played = Number($("speed").value) * (story.rounds ? ROUNDS_S : 1);
    position = Math.min(high, position + played * passed_s);
    changed = true;
    if (position >= high && (story.over || !connected)) playing = false;
  }
}

function frame(now) {
  const passed = now - drawnAt;
  if (story && passed >= FRAME_MS) {
    drawnAt = now;
    advance(Math.min(passed, 500) / 1000);
    if (changed && position !== null) {
      changed = false;
      draw();
    }
  }
  requestAnimationFrame(frame);
}

requestAnimationFrame(frame);

// ---- what is shown --------------------------------------------------------------------------

function draw() {
  const at = story.rounds ? Math.floor(position + 1e-9) : position;
  const [, high] = story.extent;
  const now = live && position >= high - 0.5;
  const standing = story.standing(now ? Infinity : story.seconds(at));
  const lit = graph.draw(story, at, standing, (id) => charts.color(id), (id) => words(id, at, standing));
  const possible = graph.links.size;
  $("network-note").textContent = `${lit} of ${possible} links ${story.rounds ? `in round ${at}` : "just now"}`;
  charts.at(at, live);
  drawTiles(at);
  drawState();
  drawKey(standing);
  drawBars(at);
  drawPeers(at, standing);
  drawDrops(at);
  drawLog(now ? Infinity : story.seconds(at));
  const slider = $("slider");
  if (document.activeElement !== slider || live || playing) slider.value = at;
  $("where").textContent = story.rounds ? `${story.unit} ${at} / ${story.about.iterations - 1}` : `${at.toFixed(2)} s`;
  $("play").textContent = playing ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  $("live").setAttribute("aria-pressed", String(live));
  $("live").textContent = story.over || !connected ? "End" : "Live";
  if (chosen !== null) graph.highlight(chosen);
}

function words(id, at, standing) {
  const { is, late, joined } = standing.get(id);
  const by = is === "late" ? `, peer ${[...late].join(", ")} wait${late.size > 1 ? "" : "s"}` : "";
  return WORDS[is] + by + (joined ? ", joined" : "");
}

function drawState() {
  const [kind, text] = failure ? ["lost", failure]
    : !connected ? ["lost", "no connection; what was read is here"]
    : story.over ? ["over", "the run is over"]
    : live ? ["live", "live"] : ["replay", "replay; the run goes on"];
  $("state").dataset.kind = kind;
  const unread = story?.unreadable ? `, ${story.unreadable} lines unreadable` : "";
  $("state-text").textContent = text + unread;
}

function drawTiles(at) {
  const members = story.members(at);
  const mean = (name) => {
    const values = story.values(name, at, members);
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
  };
  const sum = (name) => story.values(name, at).reduce((a, b) => a + b, 0);
  const residuals = story.values("residual", at, members);
  const [solve, wait] = [sum("solve_s"), sum("wait_s")];
  const progress = story.rounds
    ? ["Round", `${at} / ${story.about.iterations - 1}`]
    : ["Wakings", String(Math.min(...members.map((id) => (story.value(id, "n", at) ?? -1) + 1))) + " or more each"];
  fill($("tiles"), [
    progress,
    ["Time", seconds(story.seconds(at))],
    ["Objective, mean", shown(mean("objective_estimate"))],
    ["Residual, largest", residuals.length ? shown(Math.max(...residuals), 3) : "–"],
    ["Disagreement, mean", shown(mean("disagreement"), 3)],
    ["Sent in all", bytes(sum("bytes_sent"))],
    ["Waiting", solve + wait > 0 ? `${Math.round(100 * wait / (solve + wait))} %` : "–"],
  ], "div", (box, [label, value]) => {
    cells(box, ["dt", "dd"]);
    set(box.children[0], label);
    set(box.children[1], value);
  });
}

function drawKey(standing) {
  const counts = new Map();
  for (const { is, joined } of standing.values()) {
    counts.set(is, (counts.get(is) ?? 0) + 1);
    if (joined) counts.set("joined", (counts.get("joined") ?? 0) + 1);
  }
  fill($("key"), [...counts], "li", (item, [is, n]) => {
    item.dataset.is = is;
    set(item, `${n} ${WORDS[is] ?? is}`);
  });
}

function drawBars(at) {
  const rows = story.ids.map((id) => [id, story.value(id, "solve_s", at) ?? 0, story.value(id, "wait_s", at) ?? 0]);
  const most = Math.max(1e-9, ...rows.map(([, solve, wait]) => solve + wait));
  fill($("bars"), rows, "div", (row, [id, solve, wait]) => {
    if (!row.children.length) {
      const bar = document.createElement("span");
      bar.className = "bar";
      cells(bar, ["i", "i"]);
      bar.children[0].className = "solve";
      bar.children[1].className = "wait";
      row.append(document.createElement("b"), bar, document.createElement("em"));
      point(row, id);
    }
    set(row.children[0], String(id));
    row.children[1].children[0].style.width = `${100 * solve / most}%`;
    row.children[1].children[1].style.width = `${100 * wait / most}%`;
    set(row.children[2], `${solve.toFixed(2)} + ${wait.toFixed(2)} s`);
  });
}

function drawPeers(at, standing) {
  const head = ["peer", "", story.unit, "objective", "residual", "disagreement", "sent", "received", "wait", "dropped"];
  const table = $("peers").querySelector("table");
  heading(table, head);
  const rows = story.ids.map((id) => {
    const value = (name) => story.value(id, name, at);
    const [solve, wait] = [value("solve_s") ?? 0, value("wait_s") ?? 0];
    return [
      id, words(id, at, standing), value("n") ?? "–", shown(value("objective_estimate")), shown(value("residual"), 3),
      shown(value("disagreement"), 3), bytes(value("bytes_sent")), bytes(value("bytes_received")),
      solve + wait > 0 ? `${Math.round(100 * wait / (solve + wait))} %` : "–", dropped(id, at),
    ];
  });
  fill(table.tBodies[0], rows, "tr", (row, values) => {
    cells(row, ["th", ...values.slice(1).map(() => "td")]);
    if (!row.dataset.peer) point(row, values[0]);
    row.dataset.is = standing.get(values[0]).is;
    values.forEach((value, k) => set(row.children[k], String(value)));
    row.children[0].style.borderLeftColor = charts.color(values[0]);
  });
}

function causes() {
  const found = new Set();
  for (const track of story.peers.values()) {
    for (const name of Object.keys(track)) if (name.startsWith("dropped.")) found.add(name);
  }
  return [...found].sort();
}

function dropped(id, at) {
  return causes().reduce((sum, name) => sum + (story.value(id, name, at) ?? 0), 0);
}

function drawDrops(at) {
  const names = causes().filter((name) => story.values(name, at).some((n) => n > 0));
  const ids = story.ids.filter((id) => dropped(id, at) > 0);
  $("drops").classList.toggle("empty", !ids.length);
  const table = $("drops").querySelector("table");
  heading(table, ["peer", ...names.map((name) => name.slice("dropped.".length))]);
  fill(table.tBodies[0], ids, "tr", (row, id) => {
    const values = [id, ...names.map((name) => story.value(id, name, at) ?? 0)];
    cells(row, ["th", ...names.map(() => "td")]);
    values.forEach((value, k) => set(row.children[k], String(value)));
  });
}

function drawLog(until) {
  const notes = (story.sorted ?? []).filter((note) => note.t <= until).slice(-MOST_SAID).reverse();
  fill($("log").querySelector("ol"), notes, "li", (item, note) => {
    cells(item, ["time", "b", "span"]);
    item.dataset.kind = note.kind === "end" && note.code ? "failed" : note.kind;
    set(item.children[0], seconds(note.t));
    set(item.children[1], `peer ${note.peer}`);
    set(item.children[2], note.text);
  });
}

// ---- parts of the page ----------------------------------------------------------------------

// As many children as there are items, each shown by `show`; those that are there are used again.
function fill(parent, items, kind, show) {
  while (parent.children.length > items.length) parent.lastChild.remove();
  while (parent.children.length < items.length) parent.append(document.createElement(kind));
  items.forEach((item, k) => show(parent.children[k], item));
}

function cells(row, kinds) {
  while (row.children.length > kinds.length) row.lastChild.remove();
  while (row.children.length < kinds.length) row.append(document.createElement(kinds[row.children.length]));
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function heading(table, names) {
  fill(table.tHead, [names], "tr", (row) => {
    cells(row, names.map(() => "th"));
    names.forEach((name, k) => set(row.children[k], name));
  });
}

function point(row, id) {
  row.dataset.peer = id;
  row.addEventListener("pointerenter", () => touch(Number(row.dataset.peer)));
  row.addEventListener("pointerleave", () => touch(null));
}

function touch(id) {
  if (id === chosen) return;
  chosen = id;
  charts.highlight(id);
  graph.highlight(id);
  for (const row of document.querySelectorAll("#bars > div, #peers tbody tr")) {
    row.classList.toggle("chosen", Number(row.dataset.peer) === id);
  }
}

// ---- controls -------------------------------------------------------------------------------

$("slider").addEventListener("input", (event) => {
  playing = false;
  go(Number(event.target.value));
});
$("play").addEventListener("click", () => {
  playing = !playing;
  if (playing) {
    const [low, high] = story.extent;
    if (position >= high) position = low;
    live = false;
  }
  changed = true;
});
$("live").addEventListener("click", () => {
  live = true;
  playing = false;
  position = story.extent[1];
  changed = true;
});
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;  // the browser's own: Alt and ← goes back
  if (!story || event.target.closest("input, select, button, [tabindex]")) return;
  if (event.key === " ") $("play").click();
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") go(position + (event.key === "ArrowLeft" ? -1 : 1));
  else return;
  event.preventDefault();
});

const dark = matchMedia("(prefers-color-scheme: dark)");

function setScheme(scheme) {
  document.documentElement.dataset.scheme = scheme === "auto" ? (dark.matches ? "dark" : "light") : scheme;
  for (const button of document.querySelectorAll("[data-scheme]:is(button)")) {
    button.setAttribute("aria-pressed", String(button.dataset.scheme === scheme));
  }
  if (story) charts.reset(story);
  changed = true;
}

let scheme = localStorage.getItem("scheme") ?? "auto";
for (const button of document.querySelectorAll("button[data-scheme]")) {
  button.addEventListener("click", () => {
    scheme = button.dataset.scheme;
    localStorage.setItem("scheme", scheme);
    setScheme(scheme);
  });
}
dark.addEventListener("change", () => setScheme(scheme));
setScheme(scheme);
new ResizeObserver(() => { charts.resize(); changed = true; }).observe($("figures"));
