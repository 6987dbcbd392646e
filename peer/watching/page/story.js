// What the server has told of a run so far, and how things stood at any position in it: a round, or, without rounds,
// a second.

export class Story {
  constructor(about) {
    this.about = about;
    this.rounds = about.mode === "rounds";
    this.unit = this.rounds ? "round" : "waking";
    this.peers = new Map();  // id -> {n, t, ..., links}
    this.notes = [];
    this.ids = Array.from({ length: about.peers }, (_, i) => i);
    this.unreadable = 0;
    this.extent = [0, 0];
  }

  take(message) {
    for (const [id, more] of Object.entries(message.peers)) {
      const peer = Number(id);
      const track = this.peers.get(peer) ?? { links: [], n: [], t: [] };
      this.peers.set(peer, track);
      const { from, ...columns } = more;
      const length = from + columns.links.length;
      for (const name of new Set([...Object.keys(track), ...Object.keys(columns)])) {
        const values = track[name] ?? new Array(from).fill(0);
        values.length = from;
        const added = columns[name] ?? new Array(length - from).fill(0);
        for (const value of added) values.push(value);
        track[name] = values;
      }
    }
    this.notes.length = message.notes.from;
    this.notes.push(...message.notes.more);
    this.unreadable = message.unreadable;
    const known = new Set([...this.ids, ...this.peers.keys()]);
    this.ids = [...known].sort((a, b) => a - b);
    this.sorted = [...this.notes].sort((a, b) => a.t - b.t);
    this.extent = this.measure();
  }

  x(track) {
    return this.rounds ? track.n : track.t;
  }

  // First and last position to be shown: of rounds, the last one that all have done who are still there, for some are
  // a few ahead.
  measure() {
    const standing = this.standing(Infinity);
    const there = ([id]) => !["gone", "failed", "stopped"].includes(standing.get(id).is);
    const tracks = [...this.peers].filter(([, track]) => track.n.length);
    const left = tracks.filter(there);
    const all = (chosen) => chosen.map(([, track]) => this.x(track));
    const ends = all(left.length ? left : tracks).map((x) => x[x.length - 1]);
    if (!tracks.length) return [0, 0];
    if (this.rounds) return [0, left.length ? Math.min(...ends) : Math.max(...ends)];
    return [Math.min(...all(tracks).map((x) => x[0])), Math.max(...all(tracks).map((x) => x[x.length - 1]))];
  }

  // Index of the last entry of a peer at or before a position; -1 if there is none.
  index(id, position) {
    const track = this.peers.get(id);
    if (!track) return -1;
    const x = this.x(track);
    let low = 0, high = x.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (x[middle] <= position) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  value(id, name, position) {
    const k = this.index(id, position);
    return k < 0 ? null : this.peers.get(id)[name]?.[k] ?? null;
  }

  values(name, position, ids = this.ids) {
    return ids.map((id) => this.value(id, name, position)).filter((value) => value !== null);
  }

  // Peers of which the network consists at a position: without rounds, those of the newest epoch.
  members(position) {
    if (this.rounds) return this.ids;
    const epoch = this.sorted?.findLast((note) => note.kind === "epoch" && note.t <= position);
    return epoch?.members ?? this.ids.filter((id) => id < this.about.peers);
  }

  // Seconds since the start at a position.
  seconds(position) {
    if (!this.rounds) return position;
    return Math.max(0, ...this.values("t", position));
  }

  get over() {
    const ended = this.standing(Infinity);
    return this.ids.length > 0 && this.ids.every((id) => ["done", "failed", "gone", "stopped"].includes(ended.get(id).is));
  }

  // How each peer stands after some seconds, by what was logged.
  standing(seconds) {
    const found = new Map(this.ids.map((id) => [id, { is: "absent", late: new Set(), joined: false }]));
    let members = null;
    for (const note of this.sorted ?? []) {
      if (note.t > seconds) break;
      const mine = found.get(note.peer);
      if (!mine) continue;
      if (note.kind === "start") mine.is = "starting";
      else if (note.kind === "ready" || note.kind === "epoch") mine.is = "running";
      else if (note.kind === "waiting") mine.is = "waiting";
      else if (note.kind === "together") mine.is = "running";
      else if (note.kind === "done") mine.is = "done";
      else if (note.kind === "end") mine.is = note.code === 0 ? "done" : note.code === 130 ? "stopped" : "failed";
      if (note.kind === "waiting" || note.kind === "together" || note.kind === "end") {
        for (const other of found.values()) other.late.delete(note.peer);
      }
      if (note.kind === "waiting") for (const id of note.about) found.get(id)?.late.add(note.peer);
      if (note.kind === "lost") for (const id of note.about) if (found.has(id)) found.get(id).is = "gone";
      if (note.kind === "epoch") {
        for (const id of found.keys()) {
          const one = found.get(id);
          const before = members ?? Array.from({ length: this.about.peers }, (_, i) => i);
          if (note.members.includes(id)) {
            if (!before.includes(id)) one.joined = true;
            if (one.is === "gone") one.is = "running";
          } else if (before.includes(id) && !["absent", "starting", "failed", "stopped"].includes(one.is)) one.is = "gone";
        }
        members = note.members;
      }
    }
    for (const [id, one] of found) {  // of one that was not heard from the start, its rounds tell
      if (one.is === "absent" && this.peers.get(id)?.t[0] <= seconds) one.is = "running";
    }
    for (const one of found.values()) {
      if (one.late.size && ["starting", "running", "absent", "waiting"].includes(one.is)) one.is = "late";
    }
    return found;
  }

  // How bright each link is at a position, 0 to 1: those of the newest rounds.
  glow(position) {
    const found = new Map();
    for (const [id, track] of this.peers) {
      const last = this.index(id, position);
      const x = this.x(track);
      const pause = last > 0 ? Math.max((x[last] - x[0]) / last, 1e-9) : 1;
      for (let k = Math.max(0, last - 5); k <= last; k++) {
        const age = (position - x[k]) / (this.rounds ? pause : 1.5 * pause);
        const bright = age < 1 ? 1 : 0.5 ** age;
        for (const j of track.links[k]) {
          const key = id < j ? `${id}-${j}` : `${j}-${id}`;
          found.set(key, Math.max(found.get(key) ?? 0, bright));
        }
      }
    }
    return found;
  }

  // Positions for figures, and the values of each peer there.
  grid(most) {
    const [low, high] = this.extent;
    if (!this.rounds) {
      const n = Math.min(most, Math.max(2, Math.max(...[...this.peers.values()].map((track) => track.n.length), 0)));
      return Array.from({ length: n }, (_, k) => low + (high - low) * k / (n - 1));
    }
    const step = Math.max(1, Math.ceil((high + 1) / most));
    const found = [];
    for (let n = 0; n < high; n += step) found.push(n);
    found.push(high);
    return found;
  }

  along(id, name, grid) {
    const track = this.peers.get(id);
    const values = track?.[name];
    if (!values || !values.length) return grid.map(() => null);
    const x = this.x(track);
    let k = -1;
    return grid.map((position) => {
      while (k + 1 < x.length && x[k + 1] <= position) k++;
      if (k < 0 || (k === x.length - 1 && position > x[k])) return null;
      return values[k];
    });
  }
}
