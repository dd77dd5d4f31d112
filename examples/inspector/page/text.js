// text.js makes elements, and shows text that somebody else wrote.

// These characters show nothing, or change how their neighbours show: control
// and format characters (bidi overrides, zero-width joiners), lone surrogates,
// unassigned code points, and every blank but the plain one.
const unseen = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;
const everyUnseen = new RegExp(unseen, "gu");

// symbol returns what stands for an unseen character: ␊ for a line feed,
// U+202E for an override.
function symbol(char) {
  const code = char.codePointAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return "U+" + code.toString(16).toUpperCase().padStart(4, "0");
}

// visible returns s with a symbol for each unseen character. Titles and labels
// use it, since nothing can be marked in them.
export function visible(s) {
  return String(s).replace(everyUnseen, symbol);
}

// appendText appends s to node. Unseen characters become marked symbols.
export function appendText(node, s) {
  let from = 0;
  for (const match of s.matchAll(everyUnseen)) {
    node.append(s.slice(from, match.index), el("span", { class: "unseen" }, symbol(match[0])));
    from = match.index + match[0].length;
  }
  node.append(s.slice(from));
}

// shown returns an element with s in it. The bdi keeps right-to-left letters
// from moving what stands beside them.
export function shown(s, attributes) {
  const node = el("bdi", attributes);
  appendText(node, String(s));
  return node;
}

// el returns an element. Functions among the attributes listen to events. The
// names of tags and attributes are always this page's own, and strings are
// appended as text, so that nothing becomes markup.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// svg is el for the elements of SVG.
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name.startsWith("aria-")) node.setAttribute(name, value); // "false" is a value there
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== ""));
  return node;
}

// icon returns one of the symbols that index.html defines. It has no label of
// its own: the text beside it says the same.
export function icon(name) {
  return svg("svg", { class: "icon icon-" + name, "aria-hidden": "true" }, svg("use", { href: "#" + name }));
}

// sentence makes a sentence of the text of an error.
export function sentence(s) {
  const text = s.charAt(0).toUpperCase() + s.slice(1);
  return /[.?!)\u2026]$/.test(text) ? text : text + ".";
}

const two = (n) => String(n).padStart(2, "0");

// clock returns the local time of day, as 08:00:00.
export function clock(date) {
  return two(date.getHours()) + ":" + two(date.getMinutes()) + ":" + two(date.getSeconds());
}

// day returns the local date, as 2026-11-26.
export function day(date) {
  return date.getFullYear() + "-" + two(date.getMonth() + 1) + "-" + two(date.getDate());
}

// moment returns the local date and time with the zone, for a heading.
export function moment(date) {
  const zone = -date.getTimezoneOffset();
  const sign = zone < 0 ? "\u2212" : "+";
  const offset = two(Math.floor(Math.abs(zone) / 60)) + ":" + two(Math.abs(zone) % 60);
  return day(date) + " " + clock(date) + "." + String(date.getMilliseconds()).padStart(3, "0") + " UTC" + sign + offset;
}

// took returns a duration with a unit that keeps it short.
export function took(ms) {
  if (ms < 1) return ms.toFixed(2) + " ms";
  if (ms < 100) return ms.toFixed(1) + " ms";
  if (ms < 10000) return Math.round(ms) + " ms";
  return (ms / 1000).toFixed(1) + " s";
}

// size returns a number of bytes with a unit.
export function size(bytes) {
  if (bytes < 1024) return bytes + " B";
  if (bytes < 1024 * 1024) return (bytes / 1024).toFixed(1) + " KiB";
  return (bytes / 1024 / 1024).toFixed(1) + " MiB";
}

const grouped = new Intl.NumberFormat("en");

// count returns "1 event", "1,234 events", "2 deliveries" or "2 matches".
export function count(n, noun) {
  const plural = noun.replace(/y$/, "ie").replace(/ch$/, "che") + "s";
  return grouped.format(n) + " " + (n === 1 ? noun : plural);
}
