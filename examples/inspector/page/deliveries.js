// deliveries.js holds the deliveries that pass the filter, newest first. They
// come from two sides: in pages from the API, and one by one from the stream.

import * as api from "./api.js";

export class Deliveries {
  // changed(at) is called after each change. at is the index of the row that is
  // new, if one is.
  constructor(changed) {
    this.changed = changed;
    this.rows = [];
    this.ids = new Map(); // number of the id: summary
    this.total = 0;
    this.more = false;
    this.ready = false;
    this.error = "";
    this.turn = 0;
    this.came = [];
  }

  setFilter(filter) {
    this.filter = filter;
    return this.refresh();
  }

  // refresh asks for the first page anew. The stream goes on meanwhile: came
  // keeps what it brings, which the page may not have yet.
  async refresh() {
    const turn = ++this.turn;
    this.came = [];
    this.waiting = undefined;
    try {
      const page = await api.page(this.filter);
      if (turn !== this.turn) return; // a later filter is on its way
      this.error = "";
      this.ready = true;
      this.rows = [];
      this.ids.clear();
      this.append(page);
      for (const summary of this.came) this.take(summary);
    } catch (error) {
      if (turn !== this.turn) return;
      this.error = error.message;
    }
    this.changed();
  }

  append(page) {
    for (const summary of page.deliveries) {
      if (this.ids.has(Number(summary.id))) continue;
      this.ids.set(Number(summary.id), summary);
      this.rows.push(summary);
    }
    this.more = page.more;
    // The inspector drops its oldest captures, so the last page knows best.
    this.total = page.more ? Math.max(page.total, this.rows.length) : this.rows.length;
  }

  // need loads pages until row i is there.
  async need(i) {
    if (this.waiting || !this.more || i < this.rows.length) return;
    const turn = this.turn;
    this.waiting = api.page(this.filter, this.rows.at(-1)?.id);
    try {
      const page = await this.waiting;
      if (turn !== this.turn) return;
      this.append(page);
    } catch (error) {
      if (turn !== this.turn) return;
      this.error = error.message;
      this.more = false;
    }
    this.waiting = undefined;
    this.changed();
  }

  // stream takes a summary from the stream: a new delivery, or one that was
  // answered now.
  stream(summary) {
    // A summary has no addresses, so only the inspector can tell whether it
    // passes a search.
    if (this.filter.q) {
      this.later ??= setTimeout(() => {
        this.later = undefined;
        this.refresh();
      }, 500);
      return;
    }
    this.came.push(summary);
    this.changed(this.take(summary));
  }

  // take puts a summary in its place. It returns the index if the row is new.
  take(summary) {
    const id = Number(summary.id);
    const known = this.ids.get(id);
    const at = known ? this.rows.indexOf(known) : this.place(id);
    if (!passes(summary, this.filter)) {
      if (known) {
        this.rows.splice(at, 1);
        this.ids.delete(id);
        this.total--;
      }
      return undefined;
    }
    this.ids.set(id, summary);
    if (known) {
      this.rows[at] = summary;
      return undefined;
    }
    // Behind the rows that are loaded there may be others: a page brings them.
    if (at === this.rows.length && this.more) {
      this.ids.delete(id);
      return undefined;
    }
    this.rows.splice(at, 0, summary);
    this.total++;
    return at;
  }

  // place returns where a new id belongs. It is near the top nearly always.
  place(id) {
    const at = this.rows.findIndex((row) => Number(row.id) < id);
    return at < 0 ? this.rows.length : at;
  }

  indexOf(id) {
    const summary = this.ids.get(Number(id));
    return summary ? this.rows.indexOf(summary) : -1;
  }
}

function passes(summary, filter) {
  const received = Date.parse(summary.receivedAt);
  return (
    (!filter.kinds.length || filter.kinds.some((kind) => Object.hasOwn(summary.kinds, kind))) &&
    (!filter.verified || summary.verified === filter.verified) &&
    (!filter.status || passesStatus(summary, filter.status)) &&
    (!filter.minute || (received >= filter.minute && received < filter.minute + 60000))
  );
}

function passesStatus(summary, wanted) {
  if (wanted === "not200") return isAnswered(summary) && summary.status !== 200;
  return String(summary.status) === wanted;
}

// isAnswered reports whether the sender waits no longer: it was answered, or
// hung up before.
export const isAnswered = ({ status, error }) => status !== 0 || error !== "";
