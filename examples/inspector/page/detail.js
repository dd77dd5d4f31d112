// detail.js shows one delivery: the verdict, its events, body, headers and the
// answer.

import * as api from "./api.js";
import { appendText, count, el, icon, moment, sentence, shown, size, took } from "./text.js";
import { Actions } from "./actions.js";
import { BodyView } from "./body.js";
import { isAnswered } from "./deliveries.js";
import { events } from "./events.js";
import { state, update } from "./state.js";

export class Detail {
  constructor(node, info) {
    this.node = node;
    this.info = info;
    this.tab = "Events";
    this.turn = 0;
  }

  // show opens the delivery with an id, or none.
  async show(id) {
    const turn = ++this.turn;
    this.id = id;
    this.node.classList.toggle("open", Boolean(id));
    if (this.delivery?.id !== id) this.forget();
    if (!id) return this.nothing();
    try {
      const delivery = await api.one(id);
      if (turn === this.turn) this.draw(delivery);
    } catch (error) {
      if (turn !== this.turn) return;
      const text = error.status === 404 ? "Delivery " + id + " is not kept any more, or never was." : error.message;
      this.node.replaceChildren(this.heading("Delivery"), el("p", { class: "verdict-line bad" }, shown(text)));
    }
  }

  // forget drops what belongs to the delivery that was open.
  forget() {
    this.delivery = this.body = this.actions = undefined;
  }

  // reload shows a delivery as if nothing was known of it: after a restart its id
  // may be another delivery's.
  reload(id) {
    this.forget();
    return this.show(id);
  }

  nothing() {
    this.node.replaceChildren(
      el("p", { class: "placeholder" }, "Choose a delivery to see what is in it."),
    );
  }

  // again shows the open delivery anew when it was answered.
  again(summary) {
    if (summary.id === this.id) this.show(this.id);
  }

  heading(text) {
    return el(
      "header",
      { class: "detail-head" },
      el("h2", { tabindex: -1 }, text),
      el("button", { type: "button", class: "quiet close", "aria-label": "Close the delivery", title: "Close (Esc)", click: () => update({ id: "" }) }, icon("close")),
    );
  }

  draw(delivery) {
    const first = !this.delivery;
    this.delivery = delivery;
    // The body never changes, so that it is fetched once. The buttons of the
    // delivery that was open before may still ask for theirs.
    const getBody = () => {
      if (this.body?.id !== delivery.id) this.body = { id: delivery.id, bytes: api.body(delivery.id) };
      return this.body.bytes;
    };
    this.actions = new Actions(delivery, this.info, getBody);
    const scrolled = first ? 0 : this.panel.scrollTop;
    this.node.replaceChildren(
      this.heading("Delivery " + delivery.id),
      el("div", { class: "verdict" }, verdict(delivery), facts(delivery)),
      this.actions.node,
      this.tabs(delivery, getBody),
    );
    this.panel.scrollTop = scrolled;
    if (first && document.body.classList.contains("narrow")) this.node.querySelector("h2").focus();
  }

  tabs(delivery, getBody) {
    const panels = {
      Events: () => events(delivery, (offset) => this.goTo(offset)),
      Body: () => this.bodyPanel(delivery, getBody),
      Headers: () => headers(delivery.header),
      Answer: () => answer(delivery),
    };
    const numbers = { Events: delivery.events, Headers: (delivery.header || []).length };
    this.panel = el("div", { class: "panel", role: "tabpanel", id: "panel", tabindex: 0 });
    const list = el("div", { class: "tabs", role: "tablist", "aria-label": "Parts of the delivery" });
    for (const name of Object.keys(panels)) {
      list.append(
        el(
          "button",
          { type: "button", role: "tab", id: "tab-" + name, "aria-controls": "panel", click: () => this.choose(name) },
          name,
          name in numbers ? el("span", { class: "number" }, numbers[name]) : null,
        ),
      );
    }
    list.addEventListener("keydown", (event) => this.turnTab(event, Object.keys(panels)));
    this.choose = (name) => {
      this.tab = name;
      for (const tab of list.children) {
        const chosen = tab.id === "tab-" + name;
        tab.setAttribute("aria-selected", chosen);
        tab.setAttribute("tabindex", chosen ? 0 : -1);
      }
      this.panel.setAttribute("aria-labelledby", "tab-" + name);
      this.panel.replaceChildren(panels[name]());
    };
    this.choose(this.tab);
    return el("div", { class: "tabbed" }, list, this.panel);
  }

  // turnTab moves between the tabs with the arrow keys.
  turnTab(event, names) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    this.choose(names.at((names.indexOf(this.tab) + by) % names.length));
    document.getElementById("tab-" + this.tab).focus();
  }

  bodyPanel(delivery, getBody) {
    const node = el("div", { class: "body-panel" }, el("p", { class: "muted" }, "Loading\u2026"));
    this.bodyView = getBody().then(
      (bytes) => {
        const view = new BodyView(bytes, delivery);
        node.replaceChildren(view.node);
        return view;
      },
      (error) => {
        this.body = undefined; // so that the next look tries again
        node.replaceChildren(el("p", { class: "bad" }, shown(error.message)));
      },
    );
    return node;
  }

  // goTo shows a place of the body.
  async goTo(offset) {
    if (this.tab !== "Body") this.choose("Body");
    (await this.bodyView)?.goTo(offset);
  }
}

function verdict(delivery) {
  const line = el("p", { class: "verdict-line " + delivery.verified }, icon(delivery.verified), shown(delivery.verdict));
  const fix = delivery.fix ? el("p", { class: "fix" }, shown(delivery.fix)) : null;
  return el("div", {}, line, fix);
}

// facts returns what is known of the request in one line.
function facts(delivery) {
  const source = { received: "from " + delivery.remote, sent: "sent by the inspector", replayed: "a replay of " };
  const parts = [
    moment(new Date(delivery.receivedAt)),
    delivery.format || "unreadable",
    size(delivery.bytes),
    count(delivery.events, "event"),
    delivery.secret > 1 ? "secret " + delivery.secret : "",
    source[delivery.source],
  ];
  const node = el("p", { class: "facts" }, parts.filter(Boolean).map((part) => el("span", {}, shown(part))));
  if (delivery.replayOf) {
    const open = () => update({ id: delivery.replayOf });
    node.lastChild.append(el("button", { type: "button", class: "link", click: open }, "delivery " + delivery.replayOf));
  }
  return node;
}

function headers(header) {
  if (!header?.length) return el("p", { class: "muted" }, "No headers.");
  const rows = header.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, shown(name)), el("td", {}, shown(value))));
  return el("table", { class: "fields", "aria-label": "Headers" }, el("tbody", {}, rows));
}

function answer(delivery) {
  const { answer } = delivery;
  if (!isAnswered(answer)) return el("p", { class: "muted" }, "It is not answered yet.");
  const by = delivery.forwarded ? "Your app" : "The inspector";
  const body = el("pre", { class: "code", tabindex: 0, "aria-label": "Body of the answer" });
  // Line feeds stay: this is text of several lines.
  for (const line of (answer.body || "").split(/(?<=\n)/)) {
    appendText(body, line.replace(/\r?\n$/, ""));
    if (line.endsWith("\n")) body.append("\n");
  }
  return el(
    "div",
    {},
    el(
      "p",
      { class: "verdict-line " + (answer.status === 200 ? "yes" : "no") },
      icon(answer.status === 200 ? "yes" : "no"),
      answer.status ? `${by} answered ${answer.status} in ${took(answer.durationMs)}.` : "There was no answer.",
      answer.status === 200 ? "" : " Mailtrap would send it again.",
    ),
    answer.error ? el("p", { class: "fix" }, shown(sentence(answer.error))) : null,
    headers(answer.header),
    answer.body ? body : null,
    answer.cut ? el("p", { class: "muted" }, "The body goes on. The inspector keeps its beginning.") : null,
  );
}
