// curl.js writes a delivery as a command for a shell.

// What curl sets by itself, or what belonged to the way the request came.
const left = new Set([
  "accept-encoding", "connection", "content-length", "expect", "host", "te", "transfer-encoding", "user-agent",
]);

// Other characters do something when they are pasted into a terminal, or are
// not what they look like there. Such a body goes through base64.
const plain = /^[\n\p{L}\p{M}\p{N}\p{P}\p{S} ]*$/u;

// Linux takes 128 KiB in one argument.
const longest = 100 * 1024;

// quoted returns s as one word of a POSIX shell.
const quoted = (s) => "'" + s.replaceAll("'", "'\\''") + "'";

// curl returns a command that sends the body with the headers that it had.
export function curl(url, method, header, bytes) {
  const words = ["curl -sS -i -X " + quoted(method) + " " + quoted(url)];
  for (const [name, value] of header) {
    const safe = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) && /^[ -~]*$/.test(value);
    if (!safe || left.has(name.toLowerCase()) || name.toLowerCase().startsWith("x-forwarded-")) continue;
    // "Name:" would remove the header; curl sends an empty one for "Name;".
    words.push("-H " + quoted(value === "" ? name + ";" : name + ": " + value));
  }
  const text = asText(bytes);
  if (text !== undefined && bytes.length <= longest && plain.test(text)) {
    // --data-raw reads no file for a body that begins with @.
    words.push("--data-raw " + quoted(text));
    return words.join(" \\\n  ") + "\n";
  }
  words.push("--data-binary @-");
  return "base64 -d <<'END' | " + words.join(" \\\n  ") + "\n" + base64(bytes) + "\nEND\n";
}

// asText returns the bytes as text, or undefined if they are not UTF-8.
export function asText(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function base64(bytes) {
  let binary = "";
  for (const b of bytes) binary += String.fromCharCode(b);
  return btoa(binary).replace(/.{76}(?=.)/g, "$&\n");
}
