// events.js shows the events of a delivery as tables of typed fields.

import { count, el, moment, shown, visible } from "./text.js";
import { family } from "./kinds.js";

// events returns the events of a delivery. Each opens and closes; the fields of
// a closed one are not drawn. goTo(offset) shows a place in the body.
export function events(delivery, goTo) {
  const items = delivery.items || [];
  if (!items.length) {
    const why = delivery.fault && fault(delivery.fault, goTo);
    return el("div", {}, el("p", { class: "muted" }, "No event can be read from the body."), why);
  }
  const odd = items.findIndex((item) => item.error);
  const list = items.map((item, i) => event(item, i, items.length, goTo));
  // A few events are all open, of many the first or the first that is odd.
  if (items.length <= 3) for (const node of list) node.open = true;
  else list[Math.max(odd, 0)].open = true;
  const node = el("div", { class: "events" }, list);
  if (delivery.truncated) node.append(el("p", { class: "muted" }, "The delivery has more events. Download it to see them all."));
  return node;
}

function event(item, i, n, goTo) {
  const time = item.time ? moment(new Date(item.time)) : "no time";
  const node = el(
    "details",
    { class: "event" },
    el(
      "summary",
      {},
      el("span", { class: "dot k-" + family(item.kind) }),
      shown(item.kind || "no name", { class: "kind" }),
      item.error || item.type === "unknown" ? el("span", { class: "tag warn" }, item.type === "unknown" ? "unknown" : "odd") : null,
      el("span", { class: "muted of" }, `${i + 1} of ${n}`),
    ),
  );
  node.addEventListener("toggle", () => {
    if (node.open && node.children.length === 1) node.append(...content(item, time, goTo));
  });
  return node;
}

function content(item, time, goTo) {
  const place = el("button", { type: "button", class: "link", click: () => goTo(item.offset) }, `byte ${item.offset}, ${count(item.length, "byte")}`);
  const rows = [
    row("type", item.type),
    row("time", time),
    row("key", item.key || "none: there is nothing to tell the event by"),
    el("tr", {}, el("th", { scope: "row" }, "place"), el("td", {}, place)),
  ];
  return [
    item.error ? fault(item.error, goTo) : null,
    el("table", { class: "fields about", "aria-label": "About the event" }, el("tbody", {}, rows)),
    el("table", { class: "fields", "aria-label": "Fields" }, el("tbody", {}, (item.fields || []).map(field))),
  ].filter(Boolean);
}

function row(name, value) {
  return el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, shown(value)));
}

// field returns the row of a field, with the reason if it is odd.
function field({ name, value, odd, unknown, cut }) {
  const cell = el("td", {}, value === "" ? el("span", { class: "muted" }, "empty") : shown(value));
  if (cut) cell.append(el("span", { class: "tag" }, "goes on in the body"));
  if (odd) cell.append(el("p", { class: "reason" }, shown(odd)));
  if (unknown) cell.append(el("span", { class: "tag", title: "Mailtrap does not document this field. The package keeps it in RawJSON." }, "unknown field"));
  return el("tr", { class: odd ? "odd" : unknown ? "new" : false }, el("th", { scope: "row", title: visible(name) }, shown(name)), cell);
}

function fault({ offset, line, text }, goTo) {
  return el(
    "p",
    { class: "reason" },
    shown(text),
    " ",
    el("button", { type: "button", class: "link", click: () => goTo(offset) }, `line ${line}, byte ${offset}`),
  );
}
