// The graph of the peers: links that light up when something goes over them.

const SVG = "http://www.w3.org/2000/svg";

export class Graph {
  constructor(svg, touched) {
    this.svg = svg;
    this.touched = touched;  // is told which peer is pointed at, or null
    this.links = new Map();
    this.nodes = new Map();
  }

  reset(about) {
    this.about = about;
    this.links.clear();
    this.nodes.clear();
    this.svg.replaceChildren(element("g", { class: "links" }), element("g", { class: "nodes" }));
    for (const [i, j] of about.links) this.link(`${i}-${j}`);
  }

  place(id) {
    const known = this.about.places[id];
    if (known) return [known[0], -known[1]];
    const angle = id * 2.399963;  // who has come later: around the others, by the golden angle
    return [1.14 * Math.sin(angle), -1.14 * Math.cos(angle)];
  }

  // The least box around all.
  frame(ids) {
    const points = ids.map((id) => this.place(id));
    const margin = 3.2 * this.radius(ids.length);
    const [xs, ys] = [points.map((point) => point[0]), points.map((point) => point[1])];
    const [left, top] = [Math.min(-0.6, ...xs) - margin, Math.min(-0.5, ...ys) - margin];
    const [right, bottom] = [Math.max(0.6, ...xs) + margin, Math.max(0.5, ...ys) + margin];
    this.svg.setAttribute("viewBox", `${left} ${top} ${right - left} ${bottom - top}`);
  }

  radius(count) {
    return Math.max(0.018, Math.min(0.085, 0.42 / Math.sqrt(count * 1.6)));
  }

  link(key) {
    if (this.links.has(key)) return this.links.get(key);
    const [i, j] = key.split("-").map(Number);
    const [[x1, y1], [x2, y2]] = [this.place(i), this.place(j)];
    const idle = element("line", { x1, y1, x2, y2, class: "idle" });
    const lit = element("line", { x1, y1, x2, y2, class: "lit" });
    this.svg.querySelector(".links").append(idle, lit);
    const link = { lit, ends: [i, j], bright: -1 };
    this.links.set(key, link);
    return link;
  }

  node(id, radius) {
    if (this.nodes.has(id)) return this.nodes.get(id);
    const group = element("g", { class: "node", tabindex: "0", "data-peer": id });
    const title = element("title", {});
    const ring = element("circle", { class: "ring", r: radius * 1.42 });
    const disk = element("circle", { class: "disk", r: radius });
    const text = element("text", { "text-anchor": "middle", dy: "0.355em", "font-size": radius * 1.02 });
    text.textContent = id;
    group.append(title, ring, disk, text);
    const [x, y] = this.place(id);
    group.setAttribute("transform", `translate(${x} ${y})`);
    for (const kind of ["pointerenter", "focus"]) group.addEventListener(kind, () => this.touched(id));
    for (const kind of ["pointerleave", "blur"]) group.addEventListener(kind, () => this.touched(null));
    this.svg.querySelector(".nodes").append(group);
    const node = { group, disk, title, radius };
    this.nodes.set(id, node);
    return node;
  }

  draw(story, position, standing, color, words) {
    const radius = this.radius(story.ids.length);
    if ([...this.nodes.values()].some((node) => node.radius !== radius)) {
      this.nodes.clear();
      this.svg.querySelector(".nodes").replaceChildren();
    }
    const glow = story.glow(position);
    for (const key of glow.keys()) this.link(key);
    let lit = 0;
    for (const [key, link] of this.links) {
      const bright = glow.get(key) ?? 0;
      if (bright > 0.99) lit++;
      if (bright === link.bright) continue;
      link.bright = bright;
      link.lit.style.strokeOpacity = bright < 0.02 ? 0 : bright;
    }
    if (this.drawn !== story.ids.length) {
      this.drawn = story.ids.length;
      this.frame(story.ids);
    }
    for (const id of story.ids) {
      const node = this.node(id, radius);
      const { is, joined } = standing.get(id);
      node.group.dataset.is = is;
      node.group.classList.toggle("joined", joined);
      node.disk.style.stroke = color(id);
      const said = `peer ${id}: ${words(id)}`;
      if (node.title.textContent !== said) node.title.textContent = said;
    }
    return lit;
  }

  highlight(id) {
    this.svg.classList.toggle("focused", id !== null);
    for (const [other, node] of this.nodes) node.group.classList.toggle("chosen", other === id);
    for (const link of this.links.values()) {
      link.lit.classList.toggle("chosen", link.ends.includes(id));
    }
  }
}

function element(name, attributes) {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  return found;
}
