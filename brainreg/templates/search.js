// Every trial is a row of the table, a mark in charts, and a row of their data.
const table = document.getElementById("trials");
if (table) start();

function start() {
  const main = document.querySelector("main");
  document.documentElement.classList.add("js");
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent);
  const rows = [...table.tBodies[0].rows];
  const keyOf = (row) => row.id.slice(1);
  const rowOf = (key) => document.getElementById(`t${key}`);
  const setOf = (keys) => Object.fromEntries(keys.map((key) => [key, true]));

  // -------------------------------------------------------------------------------------------
  // The charts: what is selected, under the pointer or hidden is so in all of them
  // -------------------------------------------------------------------------------------------

  const data = JSON.parse(document.getElementById("trials-data").textContent);
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const views = {};
  let picked = null; // keys of trials, or null for all of them

  async function signal(name, value) {
    await Promise.all(Object.values(views).map((view) => view.signal(name, value).runAsync()));
  }

  function pick(keys) {
    picked = keys;
    signal("picked", keys === null ? null : setOf(keys));
    for (const row of rows) row.classList.toggle("left-out", keys !== null && !keys.includes(keyOf(row)));
    document.getElementById("all").hidden = keys === null;
    recount();
  }

  function point(keys) {
    signal("over", keys === null ? null : setOf(keys));
    for (const row of rows) row.classList.toggle("on", keys !== null && keys.includes(keyOf(row)));
  }

  // The points of a trial in a chart, each with the fields that a brush may bound.
  function points(chart, trial) {
    if (chart === "parallel") {
      const axes = views.parallel.data("axes").map((one) => one.axis);
      return (trial.places ?? []).map((place, i) => ({ axis: axes[i], place }));
    }
    if (chart === "curves") return (trial.curve ?? []).map(([epoch, accuracy]) => ({ epoch, accuracy }));
    return [trial];
  }

  function inBrush(bounds, at) {
    return Object.entries(bounds).every(([name, bound]) => {
      const value = at[name];
      if (value === null || value === undefined) return false;
      if (typeof bound[0] === "string") return bound.includes(value);
      return Math.min(...bound) <= value && value <= Math.max(...bound);
    });
  }

  function brushed(chart, bounds) {
    if (!Object.keys(bounds).length) {
      if (picked !== null) pick(null);
      return;
    }
    for (const [name, view] of Object.entries(views)) {
      if (name !== chart) view.data("brush_store", []); // one box at a time
    }
    const inside = data.filter((trial) => points(chart, trial).some((at) => inBrush(bounds, at)));
    pick(inside.map((trial) => trial.key));
  }

  async function draw(chart, spec) {
    const place = document.getElementById(`chart-${chart}`);
    const options = { actions: false, renderer: "svg", logLevel: 1 };
    const { view } = await vegaEmbed(place, { ...spec, datasets: { ...spec.datasets, trials: data } }, options);
    views[chart] = view;
    view.addSignalListener("brush", (_, bounds) => brushed(chart, bounds));
    view.addEventListener("click", (_, item) => {
      if (item?.datum?.key) openCard(item.datum.key, null);
    });
    view.addEventListener("mouseover", (_, item) => point(item?.datum?.key ? [item.datum.key] : null));
    view.addEventListener("mouseout", () => point(null));
  }

  Promise.all(Object.entries(specs).map(([chart, spec]) => draw(chart, spec))).then(() => {
    main.dataset.charts = Object.keys(views).length;
    hideGroups();
  });
  document.getElementById("all").addEventListener("click", () => pick(null));
  for (const link of document.querySelectorAll("a[data-t]")) link.addEventListener("click", () => pick(null));

  // -------------------------------------------------------------------------------------------
  // The card of one trial
  // -------------------------------------------------------------------------------------------

  const card = document.getElementById("card");
  const command = card.querySelector("code");
  const copy = card.querySelector(".copy");
  let opener = null; // where the keyboard was

  function fill(key) {
    const cells = [...rowOf(key).cells];
    const value = Object.fromEntries(names.map((name, i) => [name, cells[i].textContent]));
    const search = value.search ? `, ${value.search}` : "";
    card.querySelector("h3").textContent = `Trial ${value.trial}: ${value.state}${search}`;
    const list = card.querySelector("dl");
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

  // Shows a trial, and in the charts the runs of its setting alone.
  function openCard(key, from) {
    const setting = rowOf(key).dataset.s;
    opener = from;
    fill(key);
    card.hidden = false;
    pick(data.filter((trial) => trial.setting === setting).map((trial) => trial.key));
    point([key]);
    if (from) card.querySelector(".close").focus();
  }

  function closeCard() {
    if (card.hidden) return;
    card.hidden = true;
    pick(null);
    point(null);
    if (opener) opener.focus();
    opener = null;
  }
  card.querySelector(".close").addEventListener("click", closeCard);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (card.hidden) pick(null);
    closeCard();
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
  // The table: which trials are shown, in what order, and which one the keyboard is at
  // -------------------------------------------------------------------------------------------

  const count = document.getElementById("count");
  const seen = (row) => row.getClientRects().length > 0;

  function recount() {
    const left = rows.filter(seen).length;
    count.textContent = left === rows.length ? `${rows.length} trials` : `${left} of ${rows.length} trials`;
  }

  const boxes = [...document.querySelectorAll("input[data-hide]")];
  function hideGroups() {
    const hidden = boxes.filter((box) => !box.checked).map((box) => box.dataset.hide);
    for (const box of boxes) main.classList.toggle(`hide-${box.dataset.hide}`, !box.checked);
    signal("hidden", setOf(hidden));
    recount();
  }
  for (const box of boxes) box.addEventListener("change", hideGroups);

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

  table.tBodies[0].addEventListener("keydown", (event) => {
    const row = event.target;
    if (row.tagName !== "TR") return;
    const visible = [...table.tBodies[0].rows].filter(seen);
    const at = visible.indexOf(row);
    const to = {
      ArrowDown: visible[at + 1], ArrowUp: visible[at - 1], Home: visible[0], End: visible[visible.length - 1],
    }[event.key];
    if (event.key === "Enter") openCard(keyOf(row), row);
    else if (to) {
      row.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    } else return;
    event.preventDefault();
  });
  table.tBodies[0].addEventListener("focusin", (event) => {
    if (event.target.tagName === "TR" && event.target.matches(":focus-visible")) point([keyOf(event.target)]);
  });
  table.tBodies[0].addEventListener("focusout", () => point(null));

  // The trial under the pointer, or all runs of the setting under it, are seen in the charts.
  table.tBodies[0].addEventListener("pointerover", (event) => {
    const row = event.target.closest("tr");
    if (row) point([keyOf(row)]);
  });
  table.addEventListener("pointerleave", () => point(null));
  for (const row of document.querySelectorAll(".settings tr[data-s]")) {
    const runs = data.filter((trial) => trial.setting === row.dataset.s).map((trial) => trial.key);
    row.addEventListener("pointerenter", () => point(runs));
    row.addEventListener("pointerleave", () => point(null));
  }

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
}
