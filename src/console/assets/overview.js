// Keeps the overview current: loads its changing part every two seconds while the page is visible.
"use strict";

(() => {
  const root = document.getElementById("overview");
  if (!root) return;
  const offline = document.getElementById("overview-offline");
  const news = document.getElementById("overview-news");
  const INTERVAL = 2000;
  const TIMEOUT = 10000;
  // The markup of each part as the server sent it.
  const shown = new Map();
  for (const part of root.querySelectorAll("[data-part]")) shown.set(part.dataset.part, part.outerHTML);
  let kind = root.querySelector("[data-kind]")?.dataset.kind;
  let timer;

  // Replaces only what has changed, so that the focus and a selection stay where they are.
  const show = (html) => {
    const next = new DOMParser().parseFromString(html, "text/html");
    for (const part of next.querySelectorAll("[data-part]")) {
      const name = part.dataset.part;
      const markup = part.outerHTML;
      const old = root.querySelector(`[data-part="${CSS.escape(name)}"]`);
      if (!old || shown.get(name) === markup) continue;
      shown.set(name, markup);
      const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      window.polyhook.localize(part);
      old.replaceWith(part);
      if (focused !== null) [...part.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
    }
    const headline = root.querySelector("[data-kind]");
    if (headline && headline.dataset.kind !== kind) {
      kind = headline.dataset.kind;
      news.textContent = headline.textContent;
    }
  };

  const update = async () => {
    clearTimeout(timer);
    try {
      const answer = await fetch(root.dataset.source, { cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(TIMEOUT) });
      if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) {
        // The login has ended.
        location.reload();
        return;
      }
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      show(await answer.text());
      offline.hidden = true;
    } catch {
      offline.hidden = false;
    }
    if (!document.hidden) timer = setTimeout(update, INTERVAL);
  };

  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) update();
  });
  if (!document.hidden) timer = setTimeout(update, INTERVAL);
})();
