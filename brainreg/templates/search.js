"use strict";
(() => {
  // Every trial is a row of the table; a mark of a plot names its row.
  const main = document.querySelector("main");
  const table = document.getElementById("trials");
  if (!table) return;
  document.documentElement.classList.add("js");
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent);
  const NARROW = "(max-width: 36rem)";
  const NEAR = 18; // CSS pixels around a mark that count as on it

  // -------------------------------------------------------------------------------------------
  // The card of one trial
  // -------------------------------------------------------------------------------------------

  const card = document.getElementById("card");
  const title = card.querySelector("h3");
  const list = card.querySelector("dl");
  const command = card.querySelector("code");
  const copy = card.querySelector(".copy");
  let shown = null; // key of the trial
  let pinned = false;
  let opener = null; // where the keyboard was

  const marksOf = (key) => main.querySelectorAll(`use[data-t="${key}"]`);

  // A trial, and less strongly the other runs of its setting.
  function highlight(key, on) {
    if (key === null) return;
    const row = document.getElementById(`t${key}`);
    highlightSetting(row.dataset.s, on, "same");
    for (const mark of marksOf(key)) mark.classList.toggle("on", on);
    row.classList.toggle("on", on);
  }

  function highlightSetting(setting, on, name) {
    for (const row of main.querySelectorAll(`tr[data-s="${setting}"]`)) {
      row.classList.toggle("same", on);
      if (row.id) for (const mark of marksOf(row.id.slice(1))) mark.classList.toggle(name, on);
    }
  }

  function fill(key) {
    const cells = [...document.getElementById(`t${key}`).cells];
    const value = Object.fromEntries(names.map((name, i) => [name, cells[i].textContent]));
    const search = value.search ? `, ${value.search}` : "";
    title.textContent = `Trial ${value.trial}: ${value.state}${search}`;
    list.replaceChildren();
    names.forEach((name, i) => {
      if (["trial", "state", "search", "command"].includes(name) || !cells[i].textContent.trim()) return;
      if (cells[i].textContent === "\u2013") return;
      const term = document.createElement("dt");
      const said = document.createElement("dd");
      term.textContent = name;
      said.textContent = cells[i].textContent;
      if (name === "why") said.className = "why";
      list.append(term, said);
    });
    const own = cells[names.indexOf("command")].querySelector("code");
    command.textContent = own ? own.textContent : "";
    card.querySelector(".command").hidden = !own;
    copy.textContent = "Copy";
  }

  function place(mark) {
    card.style.left = card.style.top = "";
    if (matchMedia(NARROW).matches) return;
    const at = mark.getBoundingClientRect();
    const own = card.getBoundingClientRect();
    const right = at.right + 14;
    const left = right + own.width < innerWidth ? right : Math.max(at.left - own.width - 14, 8);
    const top = Math.min(Math.max(at.top - 24, 8), Math.max(innerHeight - own.height - 8, 8));
    card.style.left = `${left}px`;
    card.style.top = `${top}px`;
  }

  function show(mark, pin) {
    const key = mark.dataset.t;
    if (key !== shown) {
      highlight(shown, false);
      fill(key);
      highlight(key, true);
      shown = key;
    }
    pinned = pin;
    card.classList.toggle("pinned", pin);
    card.hidden = false;
    place(mark);
  }

  function hide() {
    highlight(shown, false);
    shown = null;
    pinned = false;
    card.hidden = true;
  }

  card.querySelector(".close").addEventListener("click", () => {
    hide();
    if (opener) opener.focus();
  });

  async function copyText(text, button) {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      // A page that is a file may not write the clipboard so; selecting and copying still works.
      const area = document.createElement("textarea");
      area.value = text;
      area.className = "aside";
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = done ? "Copied" : "Select and copy it";
  }
  copy.addEventListener("click", () => copyText(command.textContent, copy));

  // -------------------------------------------------------------------------------------------
  // Plots
  // -------------------------------------------------------------------------------------------

  const seen = (mark) => mark.getClientRects().length > 0;

  function described(key) {
    const cells = [...document.getElementById(`t${key}`).cells];
    const said = names.map((name, i) => [name, cells[i].textContent]);
    return said
      .filter(([name, text]) => name !== "command" && text.trim() && text !== "\u2013")
      .map(([name, text]) => `${name} ${text}`)
      .join(", ");
  }

  for (const plot of document.querySelectorAll("svg.plot")) {
    const marks = [...plot.querySelectorAll("use[data-t]")];
    if (!marks.length) continue;
    const places = marks.map((mark) => [Number(mark.getAttribute("x")), Number(mark.getAttribute("y"))]);
    const order = marks.map((_, i) => i).sort((a, b) => places[a][0] - places[b][0] || places[b][1] - places[a][1]);
    let current = order[0];
    plot.dataset.count = marks.length;

    function reach(i) {
      marks[current].removeAttribute("tabindex");
      current = i;
      marks[i].setAttribute("tabindex", "0");
      marks[i].setAttribute("role", "button");
      marks[i].setAttribute("aria-label", described(marks[i].dataset.t));
    }
    reach(current);

    function nearest(event) {
      const matrix = plot.getScreenCTM();
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
      const most = NEAR / matrix.a;
      let best = -1;
      let least = most * most;
      // The later marks lie above the earlier ones.
      for (let i = 0; i < marks.length; i++) {
        const distance = (places[i][0] - at.x) ** 2 + (places[i][1] - at.y) ** 2;
        if (distance <= least && seen(marks[i])) [best, least] = [i, distance];
      }
      return best;
    }

    plot.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch" || pinned) return;
      const i = nearest(event);
      if (i < 0) hide();
      else show(marks[i], false);
    });
    plot.addEventListener("pointerleave", () => {
      if (!pinned && !plot.contains(document.activeElement)) hide();
    });
    plot.addEventListener("click", (event) => {
      const i = nearest(event);
      if (i < 0) return hide();
      opener = null;
      reach(i);
      show(marks[i], true);
    });
    plot.addEventListener("focusin", (event) => {
      const i = marks.indexOf(event.target);
      if (i >= 0 && !pinned && event.target.matches(":focus-visible")) show(marks[i], false);
    });
    plot.addEventListener("focusout", () => {
      if (!pinned) hide();
    });
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      const visible = order.filter((i) => seen(marks[i]));
      if (!visible.length) return;
      let to = null;
      if (step) to = visible[(visible.indexOf(current) + step + visible.length) % visible.length];
      else if (event.key === "Home") to = visible[0];
      else if (event.key === "End") to = visible[visible.length - 1];
      else if (event.key === "Enter" || event.key === " ") {
        opener = marks[current];
        show(marks[current], true);
        copy.focus();
      } else return;
      event.preventDefault();
      if (to !== null) {
        hide();
        reach(to);
        marks[to].focus();
      }
    });
  }

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || card.hidden) return;
    hide();
    if (opener) opener.focus();
    opener = null;
  });
  addEventListener("scroll", () => {
    if (!pinned && !document.activeElement.matches("use")) hide();
  });

  // -------------------------------------------------------------------------------------------
  // Which trials are shown, and in what order
  // -------------------------------------------------------------------------------------------

  const count = document.getElementById("count");
  const rows = [...table.tBodies[0].rows];

  function recount() {
    const left = rows.filter((row) => row.getClientRects().length > 0).length;
    count.textContent = left === rows.length ? `${rows.length} trials` : `${left} of ${rows.length} trials`;
  }
  for (const box of document.querySelectorAll("input[data-hide]")) {
    const apply = () => main.classList.toggle(`hide-${box.dataset.hide}`, !box.checked);
    box.addEventListener("change", () => {
      apply();
      hide();
      recount();
    });
    apply(); // some browsers keep boxes when a page is loaded again
  }

  const valueOf = (row, i) => {
    const cell = row.cells[i];
    const text = cell.dataset.v ?? cell.textContent.trim();
    if (text === "" || text === "\u2013") return null;
    const number = Number(text);
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));

  heads.forEach((head, i) => {
    if (names[i] === "command") return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      // What is measured is looked at from its best end first.
      const first = names[i].endsWith("(%)") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const one of heads) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const keyed = rows.map((row, at) => [valueOf(row, i), at, row]);
      keyed.sort(([a, at], [b, bt]) => {
        if (a === null || b === null) return (a === null) - (b === null) || at - bt; // what is missing comes last
        return (order === "ascending" ? compare(a, b) : compare(b, a)) || at - bt;
      });
      table.tBodies[0].append(...keyed.map(([, , row]) => row));
    });
  });

  // All runs of the setting under the pointer are seen in the plots.
  for (const row of document.querySelectorAll(".settings tr[data-s]")) {
    row.addEventListener("pointerenter", () => {
      if (pinned) return;
      hide();
      highlightSetting(row.dataset.s, true, "on");
    });
    row.addEventListener("pointerleave", () => highlightSetting(row.dataset.s, false, "on"));
  }

  // The row under the pointer is seen in the plots, and its command can be copied.
  table.tBodies[0].addEventListener("pointerover", (event) => {
    const row = event.target.closest("tr");
    if (pinned || !row) return;
    hide();
    shown = row.id.slice(1);
    highlight(shown, true);
  });
  table.addEventListener("pointerleave", () => {
    if (!pinned) hide();
  });
  table.addEventListener(
    "toggle",
    (event) => {
      const details = event.target;
      if (!details.open || details.querySelector("button")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", () => copyText(details.querySelector("code").textContent, button));
      details.append(button);
    },
    true,
  );
})();
