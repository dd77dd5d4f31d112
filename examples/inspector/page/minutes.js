// minutes.js counts the events of the last hour, by minute and kind. It leaves
// out deliveries that do not verify: anybody can make up their events.

import * as api from "./api.js";

const minute = 60000;
const everything = { kinds: [], q: "", verified: "", status: "", minute: 0 };

export class Minutes {
  constructor(changed) {
    this.changed = changed;
    this.clear();
  }

  clear() {
    this.counts = new Map(); // start of the minute: {kinds, ids}
  }

  // load counts what was received before the page was opened.
  async load() {
    this.clear();
    const turn = (this.turn = (this.turn ?? 0) + 1);
    let before;
    for (;;) {
      const page = await api.page(everything, before);
      if (turn !== this.turn) return;
      for (const summary of page.deliveries) this.add(summary);
      const last = page.deliveries.at(-1);
      this.loaded = !page.more || !last || Date.parse(last.receivedAt) < this.start();
      this.changed();
      if (this.loaded) return;
      before = last.id;
    }
  }

  add(summary) {
    const received = Date.parse(summary.receivedAt);
    if (received < this.start()) return;
    const at = Math.floor(received / minute) * minute;
    if (!this.counts.has(at)) this.counts.set(at, { kinds: new Map(), ids: new Set(), leftOut: 0 });
    const counted = this.counts.get(at);
    const { kinds, ids } = counted;
    // The stream tells a delivery again when it is answered.
    if (ids.has(summary.id)) return;
    ids.add(summary.id);
    if (summary.verified === "no") {
      counted.leftOut++;
      return;
    }
    for (const [kind, n] of Object.entries(summary.kinds)) kinds.set(kind, (kinds.get(kind) || 0) + n);
  }

  // start returns when the hour begins: 59 minutes before this minute.
  start() {
    return (Math.floor(Date.now() / minute) - 59) * minute;
  }

  // columns returns the 60 minutes, oldest first.
  columns() {
    const start = this.start();
    for (const at of this.counts.keys()) if (at < start) this.counts.delete(at);
    return Array.from({ length: 60 }, (_, i) => {
      const at = start + i * minute;
      return { at, kinds: this.counts.get(at)?.kinds || new Map() };
    });
  }

  // leftOut returns how many deliveries of the hour do not verify.
  leftOut() {
    const start = this.start();
    return [...this.counts].reduce((n, [at, { leftOut }]) => (at < start ? n : n + leftOut), 0);
  }

  // totals returns how often each kind occurs in the hour.
  totals() {
    const totals = new Map();
    for (const { kinds } of this.columns()) {
      for (const [kind, n] of kinds) totals.set(kind, (totals.get(kind) || 0) + n);
    }
    return totals;
  }
}
