// pretty.js splits a body into lines to show. It works on the bytes, so that an
// offset that the inspector reports is a place on the page. It parses no JSON:
// a broken body must show as well as a whole one, digit for digit.

const codes = (chars) => new Set([...chars].map((c) => c.charCodeAt(0)));
const opening = codes("{[");
const closing = codes("}]");
const blanks = codes(" \t\r\n");
const [quote, backslash, comma, lineFeed] = codes('"\\,\n');

function skipBlanks(bytes, i) {
  while (blanks.has(bytes[i])) i++;
  return i;
}

// endOfString returns where the string that begins at i ends. No JSON string
// holds a line feed, so one that is not closed ends with its line.
function endOfString(bytes, i) {
  for (i++; i < bytes.length && bytes[i] !== lineFeed; i++) {
    if (bytes[i] === backslash) i++;
    else if (bytes[i] === quote) return i + 1;
  }
  return Math.min(i, bytes.length);
}

// looksLikeJSON reports whether a bracket begins the body, behind blanks and a
// byte-order mark.
export function looksLikeJSON(bytes) {
  const marked = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
  return opening.has(bytes[skipBlanks(bytes, marked ? 3 : 0)]);
}

// most bounds the lines: a body of 8 MiB may be brackets alone, and a browser
// has no memory for as many lines.
export const most = 200_000;

// deepest bounds how far a line is indented.
const deepest = 40;

// prettyLines breaks JSON behind commas and around brackets. A line is
// {start, end, depth, source}: the bytes that it shows, how far it is indented,
// and on which line of the body it stands, from 1. In JSON Lines a line feed
// ends an event, even a broken one.
export function prettyLines(bytes, jsonLines) {
  const lines = [];
  let [line, depth, source] = [undefined, 0, 1];
  const add = (start, end) => {
    line ??= { start, depth: Math.min(depth, deepest), source };
    line.end = end;
    return end;
  };
  const finish = () => {
    if (line) lines.push(line);
    line = undefined;
  };
  for (let i = 0; i < bytes.length && lines.length < most; ) {
    const b = bytes[i];
    if (b === lineFeed) {
      if (jsonLines) {
        finish();
        depth = 0;
      }
      source++;
      i++;
    } else if (blanks.has(b)) {
      i++;
    } else if (opening.has(b)) {
      const next = skipBlanks(bytes, i + 1);
      if (closing.has(bytes[next]) && !bytes.subarray(i, next).includes(lineFeed)) {
        i = add(i, next + 1); // {} stays in its line
        continue;
      }
      i = add(i, i + 1);
      finish();
      depth++;
    } else if (closing.has(b)) {
      finish();
      depth = Math.max(0, depth - 1);
      i = add(i, i + 1);
    } else if (b === comma) {
      i = add(i, i + 1);
      finish();
    } else {
      i = add(i, b === quote ? endOfString(bytes, i) : i + 1);
    }
  }
  finish();
  return lines;
}

// plainLines breaks a body that is no JSON at its line feeds.
export function plainLines(bytes) {
  const lines = [];
  for (let start = 0, source = 1; start < bytes.length && source <= most; source++) {
    let end = bytes.indexOf(lineFeed, start);
    if (end < 0) end = bytes.length;
    lines.push({ start, end, depth: 0, source });
    start = end + 1;
  }
  return lines;
}

// wrapped breaks the lines that are longer than width. It breaks no character
// of UTF-8: its later bytes begin with the bits 10.
export function wrapped(bytes, lines, width) {
  const short = [];
  for (const line of lines) {
    if (short.length >= most) break;
    let { start } = line;
    const room = Math.max(width - 2 * line.depth, 20);
    while (line.end - start > room && short.length < most) {
      let end = start + room;
      while (end > start + room - 3 && (bytes[end] & 0xc0) === 0x80) end--;
      short.push({ ...line, start, end, continued: start > line.start });
      start = end;
    }
    short.push({ ...line, start, continued: start > line.start });
  }
  return short;
}

// lineAt returns the index of the line that shows the byte at offset, or the
// nearest one behind it.
export function lineAt(lines, offset) {
  const i = lines.findIndex((line) => line.end > offset);
  return i < 0 ? lines.length - 1 : i;
}

// tokens splits the text of a line into [class, text] pairs, to colour them.
// Blanks outside strings go; one stands behind each colon.
export function tokens(text) {
  const pairs = [];
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"?|[{}[\],:]|[^\s"{}[\],:]+/gs)) {
    if (token === ":") {
      if (pairs.at(-1)?.[0] === "string") pairs.at(-1)[0] = "name";
      pairs.push(["", ": "]);
    } else if (token[0] === '"') {
      pairs.push(["string", token]);
    } else {
      pairs.push([/[{}[\],]/.test(token) ? "" : "value", token]);
    }
  }
  return pairs;
}
