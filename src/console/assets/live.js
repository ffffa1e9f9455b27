// Shows events as they happen. The newest is on top.
"use strict";

(() => {
  const table = document.getElementById("live");
  if (!table) return;
  const rows = document.getElementById("live-rows");
  const form = document.getElementById("live-filter");
  const pause = document.getElementById("live-pause");
  const state = document.getElementById("live-state");
  const counts = document.getElementById("live-counts");
  const news = document.getElementById("live-news");
  // Rows in the document, and events that wait while the page is paused.
  const MAX_ROWS = 500;
  const FLUSH_INTERVAL = 200;
  const NEWS_INTERVAL = 15000;
  const RECONNECT_PATIENCE = 5000;

  // Events that are not shown yet, the newest last.
  let waiting = [];
  let dropped = 0;
  // The time of the pause, while there is one.
  let paused = null;
  let flushTimer = null;
  let unreported = { events: 0, dead: 0 };
  const keys = new Set();

  const cell = (label, ...content) => {
    const td = document.createElement("td");
    td.dataset.label = label;
    td.append(...content);
    return td;
  };

  // Text from outside must not reorder what is around it.
  const isolated = (text) => {
    const bdi = document.createElement("bdi");
    bdi.textContent = text;
    return bdi;
  };

  const TONES = { done: "good", ready: "good", retry: "warn", dead: "bad", delivery: "quiet" };

  const eventRow = (event) => {
    const tr = document.createElement("tr");
    const time = document.createElement("time");
    time.dateTime = event.at;
    time.title = `${event.at.replace("T", " ").replace(/(\.\d+)?Z$/, "")} UTC`;
    time.textContent = time.title;
    const badge = document.createElement("span");
    badge.className = `badge ${TONES[event.what] ?? "quiet"}`;
    badge.textContent = event.what;
    let conversation = isolated(event.conversation_id ?? event.id);
    conversation.className = "mono";
    if (event.conversation_id) {
      const link = document.createElement("a");
      link.href = `/conversations/${encodeURIComponent(event.conversation_id)}`;
      link.append(conversation);
      conversation = link;
    }
    tr.append(cell("Time", time), cell("Conversation", conversation), cell("Event", badge), cell("Details", isolated(event.text)));
    tr.dataset.kind = event.kind;
    tr.dataset.outcome = event.kind === "job" ? event.what : "";
    tr.dataset.text = [event.conversation_id, event.id, event.project_id, event.what, event.event_type, event.environment, event.reason, event.correlation_id, event.text]
      .filter((text) => text !== undefined).join(" ").toLowerCase();
    tr.dataset.key = [event.at, event.what, event.id, event.attempt].join(" ");
    return tr;
  };

  const noteRow = (text) => {
    const tr = document.createElement("tr");
    tr.className = "note";
    const td = document.createElement("td");
    td.colSpan = 4;
    td.append(isolated(text));
    tr.append(td);
    return tr;
  };

  const filter = () => ({
    text: form.elements.text.value.trim().toLowerCase(),
    kind: form.elements.kind.value,
    outcome: form.elements.outcome.value,
  });

  // A note is always shown.
  const matches = (row, { text, kind, outcome }) => row.className === "note"
    || ((text === "" || row.dataset.text.includes(text))
      && (kind === "" || row.dataset.kind === kind)
      && (outcome === "" || row.dataset.outcome === outcome));

  const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

  const showCounts = () => {
    const shown = rows.querySelectorAll("tr:not([hidden]):not(.note)").length;
    const all = rows.querySelectorAll("tr:not(.note)").length;
    const arrived = waiting.length + dropped;
    const pauseText = paused ? `Paused since ${clock.format(paused)}; ${count(arrived, "new event")} ${arrived === 1 ? "waits" : "wait"}. ` : "";
    pause.textContent = paused ? `Continue${arrived > 0 ? ` (${arrived} new)` : ""}` : "Pause";
    counts.textContent = pauseText + (shown === all ? `${count(all, "event")} shown.` : `${shown} of ${count(all, "event")} match the filter.`);
  };

  const applyFilter = () => {
    const current = filter();
    for (const row of rows.children) row.hidden = !matches(row, current);
    showCounts();
    const query = new URLSearchParams(Object.entries({ ...current, text: form.elements.text.value.trim() }).filter(([, value]) => value !== ""));
    history.replaceState(null, "", `${location.pathname}${query.size > 0 ? `?${query}` : ""}`);
  };

  const flush = () => {
    flushTimer = null;
    if (paused) return;
    const current = filter();
    const fragment = document.createDocumentFragment();
    if (dropped > 0) waiting.unshift({ note: `This page was paused, or there were too many at once: ${count(dropped, "event")} missing here.` });
    for (const item of waiting) {
      const row = "note" in item ? noteRow(item.note) : eventRow(item.event);
      if (row.dataset.key !== undefined) {
        if (keys.has(row.dataset.key)) continue;
        keys.add(row.dataset.key);
      }
      row.hidden = !matches(row, current);
      window.polyhook.localize(row);
      fragment.prepend(row);
    }
    waiting = [];
    dropped = 0;
    rows.prepend(fragment);
    while (rows.children.length > MAX_ROWS) {
      keys.delete(rows.lastElementChild.dataset.key);
      rows.lastElementChild.remove();
    }
    showCounts();
  };

  const add = (item) => {
    waiting.push(item);
    if (waiting.length > MAX_ROWS) {
      waiting.shift();
      dropped += 1;
    }
    if (paused) showCounts();
    else flushTimer ??= setTimeout(flush, FLUSH_INTERVAL);
  };

  const togglePause = () => {
    paused = paused ? null : new Date();
    showCounts();
    if (!paused) flush();
  };

  const connect = () => {
    const source = new EventSource(table.dataset.source);
    let stateTimer = null;
    source.addEventListener("open", () => {
      clearTimeout(stateTimer);
      stateTimer = null;
      state.textContent = "Connected.";
    });
    source.addEventListener("message", (message) => {
      const event = JSON.parse(message.data);
      unreported.events += 1;
      if (event.what === "dead") unreported.dead += 1;
      add({ event });
    });
    source.addEventListener("note", (message) => add({ note: JSON.parse(message.data) }));
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(stateTimer);
        state.textContent = "The live view has ended: load the page again.";
        return;
      }
      // The server ends each stream after some minutes, and the browser connects again at once. Each failed attempt is an error.
      stateTimer ??= setTimeout(() => { state.textContent = "polyhook does not answer. Connecting again …"; }, RECONNECT_PATIENCE);
    });
  };

  // For those who hear the page: a summary now and then, not each event.
  setInterval(() => {
    const { events, dead } = unreported;
    if (events === 0 || paused) return;
    news.textContent = `${count(events, "new event")}${dead > 0 ? `, ${count(dead, "dead letter")}` : ""}.`;
    unreported = { events: 0, dead: 0 };
  }, NEWS_INTERVAL);

  pause.addEventListener("click", togglePause);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "p" || event.ctrlKey || event.metaKey || event.altKey || window.polyhook.isTyping(event)) return;
    event.preventDefault();
    togglePause();
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); applyFilter(); });
  form.addEventListener("input", applyFilter);
  showCounts();
  connect();
})();
