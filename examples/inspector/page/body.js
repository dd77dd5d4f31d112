// body.js shows the body of a delivery, pretty or as bytes, with the places of
// its faults marked.

import { appendText, count, el, shown, size } from "./text.js";
import { Windowed } from "./windowed.js";
import { lineAt, looksLikeJSON, most, plainLines, prettyLines, tokens, wrapped } from "./pretty.js";

// Up to a thousand lines are all drawn, so that the browser's own search finds
// what is in them.
const allDrawn = 1000;

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const hex = (n, digits) => n.toString(16).padStart(digits, "0");

export class BodyView {
  constructor(bytes, delivery) {
    this.bytes = bytes;
    this.delivery = delivery;
    this.faults = faultsOf(delivery);
    this.way = "pretty";
    this.box = el("div", { class: "code", tabindex: 0, role: "region", "aria-label": "Body" });
    this.window = new Windowed(this.box, (i) => this.line(i));
    this.rest = el("p", { class: "muted", hidden: true }, "The body goes on. Download it to see the rest, or look at its bytes.");
    this.ways = ["pretty", "bytes"].map((way) =>
      el("button", { type: "button", "aria-pressed": way === this.way, click: () => this.choose(way) }, way === "pretty" ? "Pretty" : "Bytes"),
    );
    this.node = el(
      "div",
      { class: "body" },
      el(
        "div",
        { class: "bar" },
        el("div", { class: "segmented", role: "group", "aria-label": "Show the body" }, this.ways),
        el("span", { class: "muted" }, bytes.length === 0 ? "The body is empty." : size(bytes.length)),
      ),
      this.faults.length ? el("ul", { class: "faults" }, this.faults.slice(0, 20).map((fault) => this.faultEntry(fault))) : null,
      this.faults.length > 20 ? el("p", { class: "muted" }, "and " + count(this.faults.length - 20, "other")) : null,
      this.box,
      this.rest,
    );
    // The width is known when the box is on the page, and changes with it.
    new ResizeObserver(() => this.layOut()).observe(this.box);
  }

  faultEntry(fault) {
    const place = `line ${fault.line}, byte ${fault.offset}`;
    return el("li", {}, el("button", { type: "button", class: "link", click: () => this.goTo(fault.offset) }, place), " ", shown(fault.text));
  }

  choose(way) {
    this.way = way;
    for (const button of this.ways) button.setAttribute("aria-pressed", button.textContent.toLowerCase() === way);
    this.width = 0;
    this.layOut();
  }

  // layOut breaks the body into lines that fit the box.
  layOut() {
    const columns = Math.floor(this.box.clientWidth / this.charWidth()) - 8;
    const width = this.way === "bytes" ? (columns < 70 ? 8 : 16) : Math.max(20, columns);
    if (width === this.width) return;
    this.width = width;
    this.drawn = new Map();
    this.lines = this.way === "bytes" ? [] : this.split(width);
    this.count = this.way === "bytes" ? Math.ceil(this.bytes.length / width) : this.lines.length;
    this.rest.hidden = this.lines.length < most;
    this.marks = new Map();
    if (this.count) for (const fault of this.faults) this.marks.set(this.lineAt(fault.offset), fault.offset);
    this.window.margin = this.count <= allDrawn ? allDrawn : 40;
    this.window.resize(this.count);
    if (this.wanted !== undefined) this.goTo(this.wanted);
  }

  split(width) {
    const lines = looksLikeJSON(this.bytes)
      ? prettyLines(this.bytes, this.delivery.format !== "JSON")
      : plainLines(this.bytes);
    return wrapped(this.bytes, lines, width);
  }

  lineAt(offset) {
    if (this.way === "bytes") return Math.min(Math.floor(offset / this.width), this.count - 1);
    return lineAt(this.lines, offset);
  }

  charWidth() {
    const probe = el("span", { class: "probe" }, "0".repeat(100));
    this.box.append(probe);
    const { width } = probe.getBoundingClientRect();
    probe.remove();
    return width / 100 || 8;
  }

  // goTo scrolls to a byte, at once or when the body is on the page.
  goTo(offset) {
    this.wanted = offset;
    if (!this.count || !this.box.clientHeight) return;
    this.wanted = undefined;
    const i = this.lineAt(offset);
    this.window.show(Math.min(i + 3, this.count - 1)); // what follows shows too
    this.window.show(i);
    const row = this.drawn.get(i);
    row?.classList.remove("here");
    void row?.offsetWidth; // starts the animation anew
    row?.classList.add("here");
  }

  line(i) {
    if (this.drawn.size > 10 * allDrawn) this.drawn.clear();
    if (!this.drawn.has(i)) this.drawn.set(i, this.way === "bytes" ? this.hexLine(i) : this.textLine(i));
    return this.drawn.get(i);
  }

  textLine(i) {
    const { start, end, depth, source, continued } = this.lines[i];
    const text = el("span", { class: "text" });
    const before = this.lines[i - 1];
    text.style.paddingInlineStart = 2 * depth + "ch";
    if (this.marks.has(i)) this.markedText(text, start, end, this.marks.get(i));
    else if (continued) appendText(text, this.text(start, end));
    else for (const [name, token] of tokens(this.text(start, end))) text.append(shown(token, { class: name || false }));
    const number = continued || before?.source === source ? "" : source;
    return el("div", { class: "line" }, el("span", { class: "gutter" }, number), text);
  }

  text(start, end) {
    return decoder.decode(this.bytes.subarray(start, end));
  }

  markedText(text, start, end, offset) {
    const at = Math.min(Math.max(offset, start), end);
    let next = Math.min(at + 1, end);
    while (next < end && (this.bytes[next] & 0xc0) === 0x80) next++;
    appendText(text, this.text(start, at));
    // A body that breaks off has its fault behind the last byte.
    text.append(at < next ? el("mark", {}, shown(this.text(at, next))) : el("mark", {}, "end of body"));
    appendText(text, this.text(next, end));
  }

  hexLine(i) {
    const start = i * this.width;
    const end = Math.min(start + this.width, this.bytes.length);
    const fault = this.marks.get(i);
    const digits = el("span", { class: "text" });
    const letters = el("span", { class: "letters" });
    for (let at = start; at < start + this.width; at++) {
      const gap = at > start && (at - start) % 8 === 0 ? "  " : " ";
      if (at >= end) {
        digits.append(gap + "  ");
        continue;
      }
      const b = this.bytes[at];
      const letter = b >= 0x20 && b < 0x7f ? String.fromCharCode(b) : "\u00b7";
      digits.append(gap, at === fault ? el("mark", {}, hex(b, 2)) : hex(b, 2));
      letters.append(at === fault ? el("mark", {}, letter) : letter);
    }
    if (fault === end) letters.append(el("mark", {}, "end of body"));
    return el("div", { class: "line hex" }, el("span", { class: "gutter" }, hex(start, 6)), digits, letters);
  }
}

// faultsOf returns what cannot be read in a delivery, in the body's order.
function faultsOf(delivery) {
  const faults = (delivery.items || []).map((item) => item.error).filter(Boolean);
  if (delivery.fault) faults.push(delivery.fault);
  return faults.sort((a, b) => a.offset - b.offset);
}
