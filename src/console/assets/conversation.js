// The page of a conversation: player, waveforms, and the turn that is heard.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const turns = [...document.querySelectorAll("#turns > li[data-at]")].map((row) => ({ row, at: Number(row.dataset.at) }));
  // Turns may overlap, so they are searched in the order in which they are heard.
  const heard = [...turns].sort((one, other) => one.at - other.at);

  const audio = byId("audio");
  if (!audio) return;
  byId("controls").hidden = false;
  for (const button of document.querySelectorAll("button.seek")) button.disabled = false;

  const format = (seconds) => {
    const whole = Math.max(0, Math.floor(seconds));
    const minutes = Math.floor(whole / 60);
    const rest = String(whole % 60).padStart(2, "0");
    if (minutes < 60) return `${minutes}:${rest}`;
    return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
  };

  // Seeking before the length is known takes effect when it is.
  let wanted = null;
  const seek = (seconds) => {
    const at = Math.max(0, seconds);
    if (audio.readyState === 0) {
      wanted = at;
      audio.preload = "auto";
      return;
    }
    audio.currentTime = Number.isFinite(audio.duration) ? Math.min(at, audio.duration) : at;
    showPosition();
  };
  const position = () => wanted ?? audio.currentTime;
  audio.addEventListener("loadedmetadata", () => {
    if (wanted !== null) audio.currentTime = wanted;
    wanted = null;
    showPosition();
  });

  const error = byId("audio-error");
  const fail = () => {
    error.textContent = "The recording cannot be played. It may be missing or damaged in the archive, or its encoding is unknown to this browser: verify it below, or download it.";
    error.hidden = false;
  };
  audio.addEventListener("error", fail);
  audio.addEventListener("loadeddata", () => { error.hidden = true; });
  // The error may have come before this script.
  if (audio.error) fail();

  // Another recording of the same call continues at the same position.
  byId("recording")?.addEventListener("change", (event) => {
    const isPlaying = !audio.paused;
    wanted = position();
    audio.src = event.target.value;
    audio.playbackRate = Number(byId("rate").value);
    if (isPlaying) play();
  });
  byId("rate").addEventListener("change", (event) => {
    audio.defaultPlaybackRate = Number(event.target.value);
    audio.playbackRate = Number(event.target.value);
  });
  // A browser may refuse; the controls of the player still work.
  const play = () => { audio.play().catch(() => {}); };

  // The transcript follows the recording until the reader scrolls elsewhere, and again when the heard turn is in sight.
  const follow = byId("follow");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let readsElsewhere = false;
  let current = null;
  const isInSight = (row) => {
    const box = row.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  };
  for (const name of ["wheel", "touchmove"]) {
    addEventListener(name, () => { readsElsewhere = true; }, { passive: true });
  }
  addEventListener("keydown", (event) => {
    if (["PageUp", "PageDown", "Home", "End", "ArrowUp", "ArrowDown"].includes(event.key)) readsElsewhere = true;
  });
  follow.addEventListener("change", () => {
    readsElsewhere = false;
    if (current) reveal(current.row);
  });
  const reveal = (row) => {
    if (follow.checked) row.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  };

  // Returns the last turn that began at or before this time.
  const turnAt = (seconds) => {
    let low = 0;
    let high = heard.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (heard[middle].at <= seconds + 0.05) low = middle + 1; else high = middle;
    }
    return heard[low - 1] ?? null;
  };
  const highlight = () => {
    const hasBegun = !audio.paused || audio.currentTime > 0 || wanted !== null;
    const next = hasBegun ? turnAt(position()) : null;
    if (next === current) return;
    const wasInSight = current ? isInSight(current.row) : true;
    current?.row.removeAttribute("aria-current");
    next?.row.setAttribute("aria-current", "true");
    if (wasInSight || (next && isInSight(next.row))) readsElsewhere = false;
    current = next;
    if (next && !readsElsewhere) reveal(next.row);
  };

  const waveforms = byId("waveforms");
  const playhead = byId("playhead");
  let drawnSeconds = 0;
  const length = () => (Number.isFinite(audio.duration) && audio.duration > 0 ? audio.duration : drawnSeconds);
  const showPosition = () => {
    const seconds = position();
    const all = Math.max(length(), drawnSeconds);
    if (all > 0) playhead.style.left = `${Math.min(100, (100 * seconds) / all)}%`;
    waveforms.setAttribute("aria-valuemax", String(Math.round(all)));
    waveforms.setAttribute("aria-valuenow", String(Math.round(seconds)));
    waveforms.setAttribute("aria-valuetext", `${format(seconds)} of ${format(all)}`);
    highlight();
  };
  for (const name of ["timeupdate", "seeking", "seeked", "play", "durationchange"]) audio.addEventListener(name, showPosition);
  // The event comes four times a second; a frame while playing is exact.
  const frame = () => {
    showPosition();
    if (!audio.paused) requestAnimationFrame(frame);
  };
  audio.addEventListener("play", () => requestAnimationFrame(frame));

  waveforms.addEventListener("click", (event) => {
    const box = waveforms.getBoundingClientRect();
    const all = Math.max(length(), drawnSeconds);
    if (box.width > 0) seek((all * (event.clientX - box.left)) / box.width);
  });

  // A click on a turn seeks, unless it selects text or follows a link.
  byId("turns").addEventListener("click", (event) => {
    const row = event.target.closest("li[data-at]");
    if (!row || event.target.closest("a") || String(getSelection()) !== "") return;
    readsElsewhere = false;
    seek(Number(row.dataset.at));
    if (event.target.closest("button.seek")) play();
  });

  const step = (direction) => {
    const index = current ? heard.indexOf(current) : -1;
    const next = heard[Math.min(heard.length - 1, Math.max(0, index + direction))];
    if (!next) return;
    readsElsewhere = false;
    seek(next.at);
  };
  // The address may lead to a turn. Playing and the keys start there.
  const linked = turns.find(({ row }) => `#${row.id}` === location.hash);
  if (linked) {
    if (audio.readyState > 0) seek(linked.at); else wanted = linked.at;
    showPosition();
  }
  const toggle = () => { if (audio.paused) play(); else audio.pause(); };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || window.polyhook.isTyping(event)) return;
    const isOnControl = event.target.closest("button, a, summary, audio") !== null;
    const actions = { " ": toggle, j: () => step(1), k: () => step(-1), ArrowLeft: () => seek(position() - 5), ArrowRight: () => seek(position() + 5) };
    const action = actions[event.key];
    // Space presses a focused button, and the player has arrow keys of its own.
    if (!action || (isOnControl && !/^[jk]$/.test(event.key))) return;
    event.preventDefault();
    action();
  });

  // Draws each channel. All have the same scale in time and in loudness.
  const draw = (holder, peaks, all, loudest) => {
    const names = peaks.channels.length > 1 ? peaks.channels.map((_, index) => `Channel ${index + 1}`) : [holder.dataset.name];
    peaks.channels.forEach((channel, index) => {
      const step = (1000 * peaks.bucket_seconds) / all;
      const y = (sample) => (50 - (48 * sample) / loudest).toFixed(1);
      const path = channel.max.map((max, at) => {
        const left = (at * step).toFixed(2);
        const right = ((at + 1) * step).toFixed(2);
        return `M${left} ${y(Math.max(max, channel.min[at] + loudest / 200))}H${right}V${y(channel.min[at])}H${left}Z`;
      });
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("viewBox", "0 0 1000 100");
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("aria-hidden", "true");
      const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
      shape.setAttribute("d", path.join(""));
      svg.append(shape);
      const lane = document.createElement("div");
      const kind = peaks.channels.length > 1 ? ` channel-${index + 1}` : holder.dataset.name === "Agent" ? " agent" : "";
      lane.className = `waveform${kind}`;
      const voice = document.createElement("span");
      voice.className = "voice";
      voice.textContent = names[index];
      lane.append(voice, svg);
      holder.before(lane);
    });
    holder.remove();
  };
  const loadWaveforms = async () => {
    const state = byId("waveform-state");
    const holders = [...waveforms.querySelectorAll(".waveform[data-src]")];
    state.textContent = "The waveform is being computed.";
    const answers = await Promise.all(holders.map(async (holder) => {
      try {
        const answer = await fetch(holder.dataset.src);
        const found = await answer.json();
        return answer.ok ? { holder, peaks: found } : { error: found.error };
      } catch {
        return { error: "The waveform cannot be loaded." };
      }
    }));
    const drawable = answers.filter(({ peaks }) => peaks);
    drawnSeconds = Math.max(0, ...drawable.map(({ peaks }) => peaks.seconds));
    const samples = drawable.flatMap(({ peaks }) => peaks.channels).flatMap(({ min, max }) => [...min, ...max]);
    const loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 1000);
    for (const { holder, peaks } of drawable) draw(holder, peaks, Math.max(drawnSeconds, length()), loudest);
    waveforms.hidden = drawable.length === 0;
    const notes = answers.map((answer) => answer.error).filter(Boolean);
    if (drawable.some(({ peaks }) => peaks.channels.length > 1)) notes.push("PolyAI does not say which channel is the caller.");
    state.textContent = notes.join(" ");
    showPosition();
  };
  // Playing comes first.
  requestAnimationFrame(() => setTimeout(loadWaveforms, 0));
})();
