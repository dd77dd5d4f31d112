// chart.js draws the events of the last hour: a column for each minute, stacked
// by kind. A column narrows the list to its minute, a legend entry to its kind.

import { clock, count, el, svg, visible } from "./text.js";
import { family, familyName, inOrder } from "./kinds.js";
import { state, update } from "./state.js";

const columns = 60;
const step = 10; // the width of a column, in units of the viewBox
const height = 100;

export class Chart {
  constructor(minutes, nodes) {
    this.minutes = minutes;
    this.nodes = nodes; // plot, legend, top, from, to
    this.focused = columns - 1;
    this.groups = Array.from({ length: columns }, (_, i) => this.column(i));
    this.plot = svg(
      "svg",
      { viewBox: `0 0 ${columns * step} ${height}`, preserveAspectRatio: "none", role: "group", keydown: (e) => this.move(e) },
      this.groups.map((group) => group.node),
    );
    nodes.plot.append(this.plot);
    this.draw();
    // The hour moves on although nothing happens.
    setInterval(() => this.update(), 15000);
  }

  column(i) {
    const stack = svg("g");
    const hit = svg("rect", { x: i * step, y: 0, width: step, height, class: "hit" });
    const title = svg("title");
    const node = svg("g", { click: () => this.choose(i), focus: () => (this.focused = i) }, title, hit, stack);
    return { node, stack, title };
  }

  choose(i) {
    const { at } = this.data[i];
    update({ minute: state.minute === at ? 0 : at });
  }

  // move is for the keyboard: arrows go from one minute with events to the
  // next, Enter and the blank choose it.
  move(event) {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (direction) {
      let i = this.focused + direction;
      while (i >= 0 && i < columns && !this.data[i].total) i += direction;
      if (this.groups[i]) this.groups[i].node.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      this.choose(this.focused);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  // update draws in the next frame, once for many deliveries.
  update() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  draw() {
    this.data = this.minutes.columns();
    for (const column of this.data) column.total = [...column.kinds.values()].reduce((a, b) => a + b, 0);
    const top = Math.max(1, ...this.data.map((column) => column.total));
    // Tab reaches one column; the arrows go on from it.
    if (!this.data[this.focused]?.total) this.focused = this.data.findLastIndex((column) => column.total);
    this.groups.forEach((group, i) => this.drawColumn(group, i, top));
    const notes = this.focused < 0 ? [] : ["max. " + top + "/min"];
    const leftOut = this.minutes.leftOut();
    if (leftOut) notes.push(count(leftOut, "unverified delivery") + " left out");
    this.nodes.top.textContent = notes.join(", ");
    this.nodes.from.textContent = clock(new Date(this.data[0].at)).slice(0, 5);
    this.nodes.to.textContent = clock(new Date(this.data.at(-1).at)).slice(0, 5);
    this.drawLegend();
    this.nodes.plot.setAttribute("aria-busy", !this.minutes.loaded);
  }

  drawColumn({ node, stack, title }, i, top) {
    const { at, kinds, total } = this.data[i];
    const label = clock(new Date(at)).slice(0, 5) + ": " + (total ? describe(kinds) : "no events");
    title.textContent = label;
    node.setAttribute("class", "column" + (state.minute === at ? " chosen" : ""));
    if (total) {
      node.setAttribute("role", "button");
      node.setAttribute("aria-label", label);
      node.setAttribute("aria-pressed", state.minute === at);
      node.setAttribute("tabindex", i === this.focused ? 0 : -1);
    } else {
      for (const name of ["role", "aria-label", "aria-pressed", "tabindex"]) node.removeAttribute(name);
    }
    let y = height;
    stack.replaceChildren(
      ...inOrder([...kinds]).map(([kind, n]) => {
        // One event among thousands still shows as a line.
        const h = Math.max((n / top) * height, 1.5);
        y -= h;
        const faded = state.kinds.length && !state.kinds.includes(kind) ? " faded" : "";
        return svg("rect", { x: i * step + 1, width: step - 2, y, height: h, class: "bar k-" + family(kind) + faded });
      }),
    );
  }

  drawLegend() {
    const totals = this.minutes.totals();
    this.plot.setAttribute(
      "aria-label",
      "Events of the last hour: " + (totals.size ? describe(totals) : "none") + ". Arrow keys move between minutes.",
    );
    for (const kind of state.kinds) if (!totals.has(kind)) totals.set(kind, 0);
    const families = new Map(); // name: {n, kinds}
    for (const [kind, n] of inOrder([...totals])) {
      const family = families.get(familyName(kind)) || { n: 0, kinds: [] };
      families.set(familyName(kind), { n: family.n + n, kinds: [...family.kinds, kind] });
    }
    // Replacing buttons would take the focus from them: change them in place.
    const { legend } = this.nodes;
    const names = [...families.keys()].join();
    if (names !== this.names) {
      this.names = names;
      legend.replaceChildren(...[...families].map(([name, { kinds }]) => el("li", {}, legendButton(name, kinds[0]))));
    }
    [...families.values()].forEach(({ n, kinds }, i) => {
      const button = legend.children[i].firstChild;
      button.setAttribute("aria-pressed", kinds.every((kind) => state.kinds.includes(kind)));
      button.title = "Show only " + kinds.map(visible).join(", ");
      button.onclick = () => toggle(kinds);
      button.lastChild.textContent = n;
    });
  }
}

function legendButton(name, kind) {
  return el("button", { type: "button", class: "key" }, el("span", { class: "dot k-" + family(kind) }), name, el("span", { class: "number" }));
}

function toggle(kinds) {
  const others = state.kinds.filter((kind) => !kinds.includes(kind));
  const all = others.length + kinds.length === state.kinds.length;
  update({ kinds: all ? others : [...others, ...kinds] });
}

function describe(kinds) {
  return inOrder([...kinds])
    .map(([kind, n]) => count(n, visible(kind) + " event"))
    .join(", ");
}
