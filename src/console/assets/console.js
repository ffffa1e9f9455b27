// Shared by all pages: times in the viewer's zone, copying, and the keyboard.
"use strict";

(() => {
  const format = new Intl.DateTimeFormat(undefined, {
    year: "numeric", month: "2-digit", day: "2-digit",
    hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
  });

  // Shows each time in the viewer's zone. UTC stays in the title.
  const localize = (root) => {
    for (const time of root.querySelectorAll("time[datetime]:not([data-local])")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      time.textContent = format.format(at);
      time.dataset.local = "";
    }
  };
  localize(document);

  // A part with data-part-src is loaded after the page. If that fails, the link in it stays.
  for (const part of document.querySelectorAll("[data-part-src]")) {
    fetch(part.dataset.partSrc)
      .then((answer) => (answer.ok ? answer.text() : Promise.reject(answer.status)))
      .then((html) => {
        part.innerHTML = html;
        localize(part);
      })
      .catch(() => {});
  }

  // A button with data-copy copies the text of that element, or of the one before it.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const source = button.dataset.copy ? document.getElementById(button.dataset.copy) : button.previousElementSibling;
    const text = source?.textContent.trim() ?? "";
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy it by hand";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  });

  // "/" goes to the search field of the page.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || window.polyhook.isTyping(event)) return;
    const search = document.querySelector("input[type=search]");
    if (!search) return;
    event.preventDefault();
    search.focus();
    search.select();
  });

  // In a list, "j" and "k" go to the next and the previous row, and Enter opens it.
  document.addEventListener("keydown", (event) => {
    const step = { j: 1, k: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey || window.polyhook.isTyping(event)) return;
    const links = [...document.querySelectorAll(".rows a.id")];
    if (links.length === 0) return;
    event.preventDefault();
    const row = document.activeElement.closest("tr");
    const current = links.findIndex((link) => link.closest("tr") === row);
    const next = current === -1 ? (step === 1 ? 0 : links.length - 1) : current + step;
    links[Math.min(Math.max(next, 0), links.length - 1)].focus();
  });

  window.polyhook = {
    localize,
    // True while a key press belongs to a field.
    isTyping: (event) => event.target.closest("input, select, textarea, [contenteditable]") !== null,
  };
})();
