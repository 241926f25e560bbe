/* The report: binds the table of rows, its filters, the charts, the extremes and addresses. */
const report = (() => {
  const { make, number } = ual;
  const at = (id) => document.getElementById(id);
  const FIRST_COLUMNS = 5;
  let table;
  let views;
  let rows = [];
  let page = 0;
  let shown = [];
  let run = 0;
  const open = new Set();

  function size() {
    return Number(at("size").value);
  }

  /* Columns */
  function columns() {
    return table.about.numbers.filter((column) => shown.includes(column.key));
  }

  function chooseColumns() {
    const preferred = ["ual_uncertainty", "ual_gap", "ual_smoothing", "ual_uncertainty_chosen", "ual_uncertainty_rejected", "ual_spread", "ual_disagreement", "length", "turns"];
    const keys = table.about.numbers.map((column) => column.key);
    shown = preferred.filter((key) => keys.includes(key)).slice(0, FIRST_COLUMNS);
    for (const column of table.about.numbers) {
      const box = make("input", { type: "checkbox", value: column.key });
      box.checked = shown.includes(column.key);
      box.addEventListener("change", () => {
        shown = [...document.querySelectorAll("#columns input:checked")].map((input) => input.value);
        header();
        show();
      });
      at("columns").append(make("label", { title: column.meaning }, box, column.label));
    }
  }

  function header() {
    const { sort, descending } = table.state;
    const cell = (key, text, name, title) => {
      const button = make("button", { type: "button", title: title || null }, text);
      button.addEventListener("click", () => sortBy(key, table.state.sort === key ? !table.state.descending : key !== null));
      const direction = descending ? "descending" : "ascending";
      return make("th", { scope: "col", class: name, "aria-sort": sort === key ? direction : null }, button);
    };
    const cells = [cell(null, table.about.noun === "pairs" ? "pair" : "row", "name")];
    for (const column of columns()) cells.push(cell(column.key, column.label, "number", column.meaning));
    if (table.about.stages.length) cells.push(cell("stage", "stage", "name"));
    cells.push(make("th", { scope: "col", class: "text" }, "prompt → response"));
    document.querySelector("#table thead").replaceChildren(make("tr", {}, ...cells));
  }

  function sortBy(key, descending) {
    table.state.sort = key;
    table.state.descending = descending;
    at("sort").value = key || "";
    at("order").value = descending ? "down" : "up";
    update();
  }

  /* Lines */
  function line(row, record) {
    const address = table.address(row);
    const several = table.about.parts.length > 1;
    const name = several ? address : number(table.value("number", row), 0);
    const isOpen = open.has(row);
    const button = make("button", { type: "button", "aria-expanded": String(isOpen), "aria-label": `row ${address}` }, name);
    const element = make("tr", { class: isOpen ? "row open" : "row", "data-row": row, "data-address": address }, make("th", { scope: "row", class: "name" }, button));
    for (const column of columns()) {
      const value = table.value(column.key, row);
      const cell = make("td", { "data-label": column.label }, number(value, column.digits === 4 ? 3 : column.digits));
      if (column.unit_interval && !Number.isNaN(value)) {
        cell.classList.add("meter");
        cell.style.setProperty("--part", value);
      }
      element.append(cell);
    }
    if (table.about.stages.length) element.append(make("td", { class: "name", "data-label": "stage" }, views.stage(table.value("stage", row))));
    element.append(make("td", { class: "text" }, views.snippet(record, table.state.words)));
    element.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      if (String(getSelection())) return;
      toggle(row);
    });
    return element;
  }

  async function panel(row) {
    const span = columns().length + 2 + (table.about.stages.length ? 1 : 0);
    const cell = make("td", { class: "panel", colspan: span }, await views.full(row, table.state.words));
    return make("tr", { class: "panel-row", "data-panel": row }, cell);
  }

  async function show() {
    const mine = (run += 1);
    const last = Math.max(0, Math.ceil(rows.length / size()) - 1);
    page = Math.min(page, last);
    const part = rows.slice(page * size(), (page + 1) * size());
    const elements = [];
    for (const row of part) {
      elements.push(line(row, await table.record(row)));
      if (open.has(row)) elements.push(await panel(row));
    }
    if (mine !== run) return;
    document.querySelector("#table tbody").replaceChildren(...elements);
    at("previous").disabled = page === 0;
    at("next").disabled = page >= last;
    at("page").textContent = `page ${number(page + 1, 0)} of ${number(last + 1, 0)}`;
  }

  async function toggle(row) {
    const element = document.querySelector(`tr[data-row="${row}"]`);
    const isOpen = open.has(row);
    if (isOpen) open.delete(row);
    else open.add(row);
    element.classList.toggle("open", !isOpen);
    element.querySelector("button").setAttribute("aria-expanded", String(!isOpen));
    const old = document.querySelector(`tr[data-panel="${row}"]`);
    if (old) old.remove();
    if (!isOpen) element.after(await panel(row));
  }

  /* Filters */
  function statusText() {
    const { about, state } = table;
    const whole = about.rows === about.total ? "" : ` (of ${number(about.total, 0)} in the data)`;
    if (!state.filters.length && !state.words.length) return `${number(about.rows, 0)} ${about.noun}${whole}`;
    return `${number(rows.length, 0)} of ${number(about.rows, 0)} ${about.noun} match${whole}`;
  }

  function chips() {
    const items = table.state.filters.map((filter) => {
      const text = table.describe(filter);
      const button = make("button", { type: "button", "aria-label": `Remove filter: ${text}` }, "×");
      button.addEventListener("click", () => toggleFilter(filter));
      return make("li", { class: "chip" }, text, button);
    });
    at("chips").replaceChildren(...items);
    at("filterbar-text").textContent = `${table.state.filters.map(table.describe).join("; ")}: ${number(rows.length, 0)} ${table.about.noun}`;
    showFilterbar();
  }

  let tableInView = false;
  function showFilterbar() {
    at("filterbar").hidden = tableInView || !table.state.filters.length;
  }

  async function update() {
    const query = at("search").value;
    table.state.words = table.words(query);
    if (table.state.words.length) at("status").textContent = "Searching …";
    rows = await table.select();
    page = 0;
    header();
    chips();
    ual.showFilters(table.state.filters);
    at("status").textContent = statusText();
    syncSelects();
    await show();
  }

  function toggleFilter(filter) {
    const { filters } = table.state;
    const place = filters.findIndex((other) => ual.sameFilter(other, filter));
    if (place >= 0) filters.splice(place, 1);
    else {
      /* Another part of the same quantities takes the place of the one before. */
      const key = (f) => f.map((condition) => condition.column).join();
      table.state.filters = filters.filter((other) => key(other) !== key(filter));
      table.state.filters.push(filter);
    }
    return update();
  }

  function clear() {
    table.state.filters = [];
    at("search").value = "";
    return update();
  }

  function syncSelects() {
    for (const name of ["stage", "source"]) {
      const found = table.state.filters.find((filter) => filter.length === 1 && filter[0].column === name);
      at(name).value = found ? String(found[0].is) : "";
    }
  }

  function fillSelects() {
    const { about } = table;
    const option = (value, text) => make("option", { value }, text);
    const fill = (name, labels) => {
      at(name).replaceChildren(option("", "all"), ...labels.map((label, code) => option(String(code), label)));
      at(`${name}-tool`).hidden = labels.length < 2;
      at(name).addEventListener("change", () => {
        const { value } = at(name);
        table.state.filters = table.state.filters.filter((f) => !(f.length === 1 && f[0].column === name));
        if (value !== "") table.state.filters.push([{ column: name, is: Number(value) }]);
        update();
      });
    };
    fill("stage", about.stages);
    fill("source", about.parts.map((part) => part.label));
    at("sort").replaceChildren(option("", "row number"), ...about.numbers.map((c) => option(c.key, c.label)));
    if (about.stages.length) at("sort").append(option("stage", "stage"));
    at("range-column").replaceChildren(...about.numbers.map((c) => option(c.key, c.label)));
  }

  function addRange(event) {
    event.preventDefault();
    const from = at("range-from").value === "" ? -Infinity : Number(at("range-from").value);
    const to = at("range-to").value === "" ? Infinity : Number(at("range-to").value);
    toggleFilter([{ column: at("range-column").value, from, to, last: true }]);
  }

  /* Addresses */
  async function goTo(address) {
    const row = table.find(address);
    if (row < 0) {
      at("status").textContent = `Row ${address} is not among the ${number(table.about.rows, 0)} ${table.about.noun} in this file.`;
      at("rows").scrollIntoView();
      return;
    }
    if (!rows.includes(row)) await clear();
    open.add(row);
    page = Math.floor(rows.indexOf(row) / size());
    await show();
    const element = document.querySelector(`tr[data-row="${row}"]`);
    element.scrollIntoView({ block: "start" });
    element.querySelector("button").focus({ preventScroll: true });
  }

  function followAddress() {
    const match = location.hash.match(/^#row=(.+)$/);
    if (match) goTo(decodeURIComponent(match[1]));
  }

  /* Extremes */
  async function fillExtremes() {
    for (const extreme of table.about.extremes) {
      const list = document.querySelector(`[data-extreme="${extreme.name}"]`);
      if (!list) continue;
      const { column } = list.dataset;
      for (const row of extreme.rows.slice(0, Number(list.dataset.shown))) {
        const record = await table.record(row);
        const value = table.value(column, row);
        list.append(
          make(
            "li",
            {},
            make("a", { href: `#row=${encodeURIComponent(table.address(row))}` }, make("span", { class: "value" }, number(value, 3)), views.snippet(record, [], 90)),
          ),
        );
      }
    }
  }

  function listen() {
    let timer = null;
    at("search").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(update, 180);
    });
    at("tools").addEventListener("submit", (event) => event.preventDefault());
    at("range").addEventListener("submit", addRange);
    at("sort").addEventListener("change", () => sortBy(at("sort").value || null, at("order").value === "down"));
    at("order").addEventListener("change", () => sortBy(at("sort").value || null, at("order").value === "down"));
    at("size").addEventListener("change", () => {
      page = 0;
      show();
    });
    const turn = (by) => {
      page += by;
      show().then(() => at("rows").scrollIntoView());
    };
    at("previous").addEventListener("click", () => turn(-1));
    at("next").addEventListener("click", () => turn(1));
    at("filterbar-clear").addEventListener("click", clear);
    addEventListener("hashchange", followAddress);
    addEventListener("keydown", (event) => {
      const typing = event.target.closest && event.target.closest("input, select, textarea");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        at("search").focus();
      }
      if (event.key === "Escape" && event.target === at("search")) clear();
    });
    new IntersectionObserver((entries) => {
      tableInView = entries.at(-1).isIntersecting;
      showFilterbar();
    }).observe(at("rows"));
  }

  async function start() {
    const [about, arrays] = await Promise.all([ual.json("table"), ual.arrays("arrays")]);
    table = rowTable(about, arrays);
    views = rowViews(table);
    chooseColumns();
    fillSelects();
    listen();
    ual.onFilter(toggleFilter);
    await update();
    followAddress();
    await fillExtremes();
  }

  const started = start().catch(ual.fail);
  ual.drawAfter(started);
  return { started };
})();
