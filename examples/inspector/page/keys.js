// keys.js listens to the keyboard.

// setUpKeys calls on[key] for the keys of the page. Keys that are typed into a
// field, or pressed while a dialog is open, belong to these.
export function setUpKeys(on) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest?.("input, select, textarea");
    if (event.key === "Escape") {
      if (typing) typing.blur();
      else on.Escape();
      return;
    }
    // Enter and the arrows belong to whatever has the focus, except in the list.
    const inList = event.target.id === "rows" || event.target === document.body;
    const onlyInList = event.key.length > 1;
    if (typing || !on[event.key] || (onlyInList && !inList)) return;
    event.preventDefault();
    on[event.key]();
  });
}
