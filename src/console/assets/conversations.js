// The keyboard in the list: "j" and "k" go to the next and the previous conversation, Enter opens it.
"use strict";

document.addEventListener("keydown", (event) => {
  const step = { j: 1, k: -1 }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey || window.polyhook.isTyping(event)) return;
  const links = [...document.querySelectorAll(".found a.id")];
  if (links.length === 0) return;
  event.preventDefault();
  const row = document.activeElement.closest("tr");
  const current = links.findIndex((link) => link.closest("tr") === row);
  const next = current === -1 ? (step === 1 ? 0 : links.length - 1) : current + step;
  links[Math.min(Math.max(next, 0), links.length - 1)].focus();
});
