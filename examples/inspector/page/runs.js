// runs.js shows what the inspector sends: each attempt as it happens, and how
// the run ends.

import { el, sentence, shown, took } from "./text.js";
import { update } from "./state.js";

const runs = new Map(); // number of the run: {attempts, end, views}
const replays = new Map(); // id of the delivery: views

// The stream may tell of a run before the answer that names it is here, so a
// run begins to exist with whatever comes first.
function find(id) {
  if (!runs.has(id)) runs.set(id, { attempts: [], views: new Set() });
  if (runs.size > 100) runs.delete(runs.keys().next().value);
  return runs.get(id);
}

// attempt and end take what the stream tells.
export function attempt(data) {
  const run = find(data.run);
  run.attempts.push(data);
  for (const view of run.views) view(run);
}

export function end(data) {
  const run = find(data.run);
  run.end = data;
  for (const view of run.views) view(run);
}

// forget drops all runs.
export function forget() {
  runs.clear();
  replays.clear();
}

// replaysOf returns the views of a delivery's replays, newest first.
export const replaysOf = (delivery) => replays.get(delivery) || [];

// addReplay keeps the view of a replay for when the delivery is opened again.
export function addReplay(delivery, node) {
  replays.set(delivery, [node, ...replaysOf(delivery)].slice(0, 5));
}

// view returns an element that shows a run while it goes on.
export function view(id, title) {
  const run = find(id);
  const rows = el("tbody");
  const outcome = el("p", { class: "outcome", role: "status" });
  const node = el(
    "section",
    { class: "run", "aria-label": title },
    el("h3", {}, title),
    outcome,
    el(
      "table",
      { class: "attempts" },
      el("thead", {}, el("tr", {}, ["Attempt", "Answer", "Took", "Delivery"].map((name) => el("th", { scope: "col" }, name)))),
      rows,
    ),
  );
  let drawn = 0;
  const draw = () => {
    for (; drawn < run.attempts.length; drawn++) rows.append(attemptRow(run.attempts[drawn]));
    outcome.className = "outcome " + (!run.end ? "waiting" : run.end.error ? "bad" : "good");
    outcome.replaceChildren(shown(conclusion(run)));
  };
  run.views.add(draw);
  draw();
  return node;
}

function attemptRow({ number, copy, status, durationMs, error, delivery }) {
  const name = copy > 1 ? number + " (copy " + copy + ")" : number;
  const open = delivery && el("button", { type: "button", class: "link", click: () => update({ id: delivery }) }, "#" + delivery);
  return el(
    "tr",
    {},
    el("td", {}, name),
    el("td", { class: status === 200 ? "" : "bad" }, status || shown(error || "no answer")),
    el("td", {}, took(durationMs)),
    el("td", {}, open || ""),
  );
}

function conclusion({ attempts, end }) {
  if (!end) return attempts.length ? "Waiting for the next attempt\u2026" : "Sending\u2026";
  if (end.error) return sentence(end.error);
  if (end.acknowledged) return "The receiver acknowledged it.";
  return end.paused ? "Mailtrap would now pause the webhook." : "The receiver refused it, as it should.";
}
