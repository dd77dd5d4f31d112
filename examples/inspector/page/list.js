// list.js draws the list of deliveries.

import { clock, count, day, el, icon, shown, took, visible } from "./text.js";
import { family, inOrder } from "./kinds.js";
import { Deliveries, isAnswered } from "./deliveries.js";
import { Windowed } from "./windowed.js";
import { filtered, state, update } from "./state.js";

const verdicts = { yes: "verified", no: "not verified", unknown: "not checked" };

export class List {
  constructor(nodes) {
    this.nodes = nodes; // rows, total, nothing, none
    this.cursor = "";
    this.drawn = new WeakMap(); // summary: its row
    this.added = []; // the indexes of rows that came since the last frame, in turn
    this.deliveries = new Deliveries((at) => this.changed(at));
    this.window = new Windowed(nodes.rows, (i) => this.row(i));
    this.window.onRender = (first, end) => {
      this.deliveries.need(end - 1);
      this.mark();
    };
  }

  // load asks for the deliveries that pass the filter, and shows the open one.
  async load(filter) {
    await this.deliveries.setFilter(filter);
    // What a person has scrolled away from does not come back by itself.
    if (state.id !== this.cursor) this.follow(state.id);
  }

  changed(at) {
    const { rows, total, nothing, none } = this.nodes;
    const { total: n, ready, error } = this.deliveries;
    if (at !== undefined) this.added.push(at);
    // A hundred deliveries in one frame are laid out once.
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.window.resize(this.deliveries.total, this.added);
      this.added = [];
    });
    total.textContent = error || (ready ? count(n, filtered() ? "match" : "delivery") : "Loading\u2026");
    total.classList.toggle("bad", Boolean(error));
    rows.hidden = n === 0;
    nothing.hidden = !ready || n > 0 || filtered();
    none.hidden = !ready || n > 0 || !filtered();
  }

  // row returns the element of row i, or a blank while its page is loading.
  row(i) {
    const summary = this.deliveries.rows[i];
    if (!summary) return el("div", { class: "row blank", role: "presentation" }, "Loading\u2026");
    let row = this.drawn.get(summary);
    if (!row) {
      row = drawRow(summary);
      row.addEventListener("click", () => this.open(summary.id));
      this.drawn.set(summary, row);
    }
    row.setAttribute("aria-posinset", i + 1);
    row.setAttribute("aria-setsize", this.deliveries.total);
    return row;
  }

  // mark shows the cursor and what is open. It must not name a row that is not
  // drawn.
  mark() {
    const { rows } = this.nodes;
    rows.removeAttribute("aria-activedescendant");
    for (const row of this.window.drawn) {
      const id = row.dataset.id;
      const here = id !== undefined && id === this.cursor;
      row.classList.toggle("cursor", here);
      if (id !== undefined) row.setAttribute("aria-selected", id === state.id);
      if (here) rows.setAttribute("aria-activedescendant", row.id);
    }
  }

  // move takes the cursor down or up. What is open follows it.
  move(by) {
    const { rows } = this.deliveries;
    if (!rows.length) return;
    const at = this.deliveries.indexOf(this.cursor || state.id);
    const i = at < 0 ? 0 : Math.min(Math.max(at + by, 0), rows.length - 1);
    this.cursor = rows[i].id;
    this.window.show(i);
    this.deliveries.need(i + 1);
    if (state.id) update({ id: this.cursor });
  }

  open(id = this.cursor) {
    if (!id) return;
    this.cursor = id;
    update({ id });
    this.mark();
  }

  // follow takes the cursor to the delivery that the URL opens.
  follow(id) {
    if (id) this.cursor = id;
    const i = this.deliveries.indexOf(this.cursor);
    if (id && i >= 0) this.window.show(i);
    else this.mark();
  }
}

// drawRow returns the element of a summary. A screen reader reads its text, so
// that what only colour and shape say stands there as hidden words.
function drawRow(summary) {
  const received = new Date(summary.receivedAt);
  const today = day(received) === day(new Date());
  const kinds = inOrder(Object.entries(summary.kinds));
  const crowded = summary.odd || summary.source !== "received";
  const status = summary.status === 200 ? "" : isAnswered(summary) ? " bad" : " waiting";
  const answered = isAnswered(summary) ? "answered" : "not answered yet";
  const part = (name, title, ...children) => el("span", { class: name, title: title && visible(title) }, ...children);
  return el(
    "div",
    { class: "row", role: "option", id: "row-" + Number(summary.id), "data-id": summary.id },
    part("mark", summary.verdict, icon(summary.verified), hidden(verdicts[summary.verified])),
    part("time", received.toISOString(), today ? clock(received) : day(received).slice(5) + " " + clock(received).slice(0, 5)),
    part("kinds", kinds.map(([kind, n]) => n + " " + kind).join(", "), chips(kinds, crowded)),
    part(
      "notes",
      "",
      summary.odd ? el("span", { class: "tag warn" }, summary.odd + " odd") : null,
      summary.source === "received" ? null : el("span", { class: "tag" }, summary.source === "sent" ? "sent" : "replay"),
    ),
    part("format", "", summary.format || "unreadable"),
    part("status" + status, summary.error, hidden(answered), summary.status || (isAnswered(summary) ? "none" : "\u2026")),
    part("took", "", summary.status ? took(summary.durationMs) : ""),
  );
}

const hidden = (words) => el("span", { class: "hidden" }, words + " ");

// chips names one or two kinds. Where there are more, or no room for the names,
// each has a dot.
function chips(kinds, crowded) {
  if (!kinds.length) return [el("span", { class: "muted" }, "no events")];
  const dot = (kind) => el("span", { class: "dot k-" + family(kind) });
  if (kinds.length > (crowded ? 1 : 2)) {
    const events = kinds.reduce((sum, [, n]) => sum + n, 0);
    const families = new Map(kinds.map(([kind]) => [family(kind), kind]));
    const names = kinds.map(([kind, n]) => n + " " + visible(kind)).join(", ");
    return [el("span", { class: "dots" }, [...families.values()].map(dot)), el("span", {}, count(events, "event")), hidden(": " + names)];
  }
  return kinds.map(([kind, n]) =>
    el("span", { class: "chip" }, dot(kind), shown(kind, { class: "cut" }), n > 1 ? el("b", {}, n) : null),
  );
}
