// The list of dead letters: select all of a table, and the number of selected ones. Everything works without it.
"use strict";

(() => {
  const form = document.getElementById("selected");
  if (!form) return;
  const boxesIn = (root) => [...root.querySelectorAll('input[form="selected"][name="id"]')];
  const count = document.getElementById("selected-count");
  const updates = [];

  const update = () => {
    const selected = boxesIn(document).filter((box) => box.checked).length;
    count.textContent = selected === 0 ? "Nothing is selected." : `${selected} selected. A preview comes first.`;
    for (const button of form.querySelectorAll("button")) button.disabled = selected === 0;
    for (const updateTable of updates) updateTable();
  };

  for (const table of document.querySelectorAll("table.letters")) {
    const boxes = boxesIn(table);
    if (boxes.length < 2) continue;
    const all = document.createElement("input");
    all.type = "checkbox";
    const label = document.createElement("label");
    label.className = "inline";
    label.append(all, "Select all shown");
    table.parentElement.before(label);
    all.addEventListener("change", () => {
      for (const box of boxes) box.checked = all.checked;
      update();
    });
    updates.push(() => {
      const selected = boxes.filter((box) => box.checked).length;
      all.checked = selected === boxes.length;
      all.indeterminate = selected > 0 && selected < boxes.length;
    });
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches('input[name="id"]')) update();
  });
  // A browser that goes back restores the boxes after the script has run.
  window.addEventListener("pageshow", update);
  update();
})();
