// Figures, a line a peer. A click goes to that position.

import { logTicks, median, shown, tick } from "./axes.js";

const uPlot = window.uPlot;
const MOST_POINTS = 800;
const DASHES = [[], [7, 3], [2, 2], [9, 3, 2, 3]];
const MANY = 32;  // peers beyond which all lines have one color, and pointing at one brings it out

export const FIGURES = [
  { name: "objective_estimate", title: "Objective", note: "as each agent estimates it", unit: "", log: true },
  { name: "residual", title: "Residual", note: "of stationarity, each agent", untracked: "change over step size, each agent", unit: "", log: true },
  { name: "disagreement", title: "Disagreement", note: "with neighbors, squared", unit: "", log: true },
  { name: "bytes_sent", title: "Sent", note: "by each peer so far", unit: "MB", log: false, scale: 1e-6 },
  { name: "alpha", title: "Step α", note: "of each agent", unit: "", log: true },
  { name: "tau", title: "Proximal weight τ", note: "of each agent", unit: "", log: true },
];

export function colors() {
  const style = getComputedStyle(document.documentElement);
  const at = (name) => style.getPropertyValue(name).trim();
  return {
    lines: Array.from({ length: 8 }, (_, k) => at(`--line-${k}`)),
    ink: at("--ink"), pale: at("--pale"), grid: at("--grid"), many: at("--line-0"),
  };
}

export class Charts {
  constructor(parent, touched, seek) {
    this.parent = parent;
    this.touched = touched;
    this.seek = seek;
    this.figures = [];
  }

  reset(story) {
    this.story = story;
    for (const figure of this.figures) figure.plot?.destroy();
    this.parent.replaceChildren();
    this.palette = colors();
    this.ids = [...story.ids];
    this.figures = FIGURES.map((about) => this.figure(about));
    this.update();
  }

  color(id) {
    const k = this.ids.indexOf(id);
    if (this.ids.length > MANY) return this.palette.many;
    return this.palette.lines[(k < 0 ? id : k) % 8];
  }

  dash(id) {
    const k = this.ids.indexOf(id);
    return this.ids.length > MANY ? [] : DASHES[Math.floor(k / 8) % DASHES.length];
  }

  figure(about) {
    const box = document.createElement("figure");
    box.className = "card";
    box.dataset.name = about.name;
    const head = document.createElement("figcaption");
    const title = document.createElement("h2");
    title.textContent = about.title + (about.unit ? ` (${about.unit})` : "");
    const note = document.createElement("small");
    note.textContent = !this.story.about.tracks && about.untracked || about.note;
    title.append(" ", note);
    const readout = document.createElement("output");
    readout.setAttribute("aria-live", "off");  // it changes all the time
    head.append(title, readout);
    const place = document.createElement("div");
    place.className = "plot";
    const empty = document.createElement("p");
    empty.className = "none";
    box.append(head, place, empty);
    this.parent.append(box);
    const found = { about, box, place, readout, empty, plot: null, mark: null };
    found.plot = this.plot(found);
    return found;
  }

  plot(figure) {
    const { about, place } = figure;
    const { ink, pale, grid } = this.palette;
    const many = this.ids.length > MANY;
    const font = '12px system-ui, "DejaVu Sans", sans-serif';
    const axis = { stroke: pale, font, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    const options = {
      width: place.clientWidth || 320,
      height: 208,
      padding: [8, 12, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, focus: { prox: 30 }, points: { size: 6 }, y: false },
      focus: { alpha: this.ids.length > 1 ? 0.15 : 1 },
      scales: {
        x: { time: false, range: (_, low, high) => this.story.rounds ? [0, Math.max(1, high)] : [low, high > low ? high : low + 1] },
        y: about.log ? { distr: 3, range: (_, low, high) => around(low, high) } : { range: (_, low, high) => [0, high > 0 ? high * 1.05 : 1] },
      },
      axes: [
        {
          ...axis, size: 22, space: 64, gap: 4, labelSize: 16, labelGap: 0, labelFont: font,
          label: this.story.rounds ? "round" : "time (s)",
          values: (_, ticks) => ticks.map((value) => this.story.rounds && value % 1 ? "" : tick(value)),
        },
        {
          ...axis, size: 48, gap: 5,
          values: (_, ticks) => ticks.map((value) => value === null ? "" : tick(value)),
          ...(about.log ? { splits: (u) => logTicks(u.scales.y.min, u.scales.y.max, 5), filter: (_, ticks) => ticks } : { space: 36 }),
        },
      ],
      series: [{}, ...this.ids.map((id) => ({
        label: `peer ${id}`, stroke: this.color(id), dash: this.dash(id), width: many ? 0.8 : this.ids.length > 8 ? 1.2 : 1.5, points: { show: false },
        spanGaps: true,
      }))],
      hooks: {
        setSeries: [(u, k) => { if (!this.quiet && u.cursor.event) this.touched(k ? this.ids[k - 1] : null); }],
        setCursor: [(u) => this.say(figure, u.cursor.idx)],
        ready: [(u) => {
          figure.mark = document.createElement("div");
          figure.mark.className = "mark";
          u.over.append(figure.mark);
          u.over.addEventListener("click", () => {
            if (u.cursor.left >= 0) this.seek(u.posToVal(u.cursor.left, "x"));
          });
          u.over.addEventListener("pointerleave", () => this.touched(null));
        }],
      },
    };
    place.style.color = ink;
    return new uPlot(options, [[0], ...this.ids.map(() => [null])], place);
  }

  update() {
    const grid = this.story.grid(MOST_POINTS);
    this.grid = grid;
    for (const { about, box, plot, empty } of this.figures) {
      const scale = about.scale ?? 1;
      const lines = this.ids.map((id) => this.story.along(id, about.name, grid).map((value) => {
        if (value === null || (about.log && value <= 0)) return null;
        return value * scale;
      }));
      box.classList.toggle("empty", !lines.some((line) => line.some((value) => value !== null)));
      const zero = this.story.values(about.name, Infinity).includes(0);  // which no logarithm shows
      empty.textContent = zero ? `0 in every ${this.story.unit}.` : "No number yet.";
      plot.setData([grid, ...lines]);
    }
  }

  resize() {
    for (const { plot, place } of this.figures) {
      if (place.clientWidth && place.clientWidth !== plot.width) plot.setSize({ width: place.clientWidth, height: plot.height });
    }
  }

  // Show a position: a line across, and the numbers there.
  at(position, isLive) {
    this.position = position;
    for (const figure of this.figures) {
      const { plot, mark } = figure;
      if (!mark) continue;
      mark.hidden = isLive;
      mark.style.transform = `translateX(${plot.valToPos(position, "x")}px)`;
      if (plot.cursor.left < 0 || plot.cursor.idx == null) this.say(figure, null);
    }
  }

  say(figure, index) {
    const { about, readout } = figure;
    const position = index === null || index === undefined ? this.position : this.grid[index];
    if (position === undefined) return;
    const scale = about.scale ?? 1;
    const where = index === null || index === undefined ? "" : ` at ${this.story.rounds ? "round " + position : position.toFixed(2) + " s"}`;
    if (this.chosen !== null && this.chosen !== undefined) {
      const value = this.story.value(this.chosen, about.name, position);
      readout.textContent = `peer ${this.chosen}${where}: ${shown(value === null ? null : value * scale)}`;
      return;
    }
    const values = this.story.values(about.name, position, this.story.members(position));
    const least = Math.min(...values) * scale, most = Math.max(...values) * scale;
    const range = least === most ? "" : `, ${shown(least, 3)} to ${shown(most, 3)}`;
    readout.textContent = values.length ? `median${where} ${shown(median(values) * scale, 3)}${range}` : "";
  }

  highlight(id) {
    this.chosen = id;
    this.quiet = true;
    const k = id === null ? null : this.ids.indexOf(id) + 1;
    for (const figure of this.figures) {
      figure.plot.setSeries(k || null, { focus: true }, false);
      this.say(figure, figure.plot.cursor.left >= 0 ? figure.plot.cursor.idx : null);
    }
    this.quiet = false;
  }
}

// A range of a logarithmic axis with some air; at least a factor of two.
function around(low, high) {
  if (!(low > 0)) return [0.1, 1];
  const factor = Math.max((high / low) ** 0.06, high / low < 1.5 ? 1.4 : 1.02);
  return [low / factor, high * factor];
}
