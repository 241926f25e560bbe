"use strict";
/* What every page does: decodes its data, draws its figures in the theme's colours, prints.

   ual.json(name), ual.arrays(name)   packed data of the page
   ual.record(block, place)           one record of the packed blocks
   ual.onFilter(function)             called with the filter of a point or table row that is chosen
   ual.showFilters(filters)           marks the points of the filters that are in force
   ual.drawAfter(promise)             draws no chart before the promise is kept
   ual.make(tag, attributes, ...children)   an element; texts are never read as HTML */
const ual = (() => {
  const root = document.documentElement;
  const figures = new Map();
  const drawn = new Map();
  const blocks = [];
  let filterHandler = null;
  let held = Promise.resolve();
  let inForce = [];
  let loading = null;

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  function fail(error) {
    const notice = document.getElementById("problem");
    notice.textContent = `This page could not be shown whole: ${error.message}. It needs a browser of 2024 or later.`;
    notice.hidden = false;
    root.dataset.failed = "true";
    throw error;
  }

  /* Data */
  async function unpack(text) {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function text(name) {
    const element = document.getElementById(`packed-${name}`);
    return new TextDecoder().decode(await unpack(element.textContent));
  }

  async function json(name) {
    return JSON.parse(await text(name));
  }

  async function arrays(name) {
    const buffer = await unpack(document.getElementById(`packed-${name}`).textContent);
    const bytes = new Uint8Array(buffer);
    let at = bytes.indexOf(10) + 1;
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(0, at)));
    const kinds = { f4: Float32Array, u4: Uint32Array, u2: Uint16Array, u1: Uint8Array };
    const found = {};
    for (const [key, kind, length] of header) {
      found[key] = new kinds[kind](buffer, at, length);
      at += Math.ceil((length * kinds[kind].BYTES_PER_ELEMENT) / 4) * 4;
    }
    return found;
  }

  let blockElements = null;
  function block(number) {
    blockElements = blockElements || document.querySelectorAll("script.block");
    if (!blocks[number]) {
      blocks[number] = unpack(blockElements[number].textContent).then((buffer) =>
        JSON.parse(new TextDecoder().decode(buffer)),
      );
    }
    return blocks[number];
  }

  async function record(number, place) {
    return (await block(number))[place];
  }

  /* Numbers */
  function number(value, digits) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    return value.toLocaleString("en-US", {
      minimumFractionDigits: digits,
      maximumFractionDigits: digits,
    });
  }

  /* Theme */
  function stored() {
    try {
      return localStorage.getItem("ual-theme");
    } catch {
      return null;
    }
  }

  function setTheme(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    for (const button of document.querySelectorAll("[data-set-theme]")) {
      button.setAttribute("aria-pressed", String(button.dataset.setTheme === theme));
    }
    redraw();
  }

  function chooseTheme(theme) {
    try {
      localStorage.setItem("ual-theme", theme);
    } catch {
      /* A browser may keep nothing for local files. */
    }
    setTheme(theme);
  }

  const probe = make("span", { hidden: true });
  const colours = new Map();
  function colour(name) {
    if (!colours.has(name)) {
      probe.style.color = `var(${name})`;
      colours.set(name, getComputedStyle(probe).color);
    }
    return colours.get(name);
  }

  const plainKeys = new Set(["x", "y", "z", "customdata", "hovertext", "text", "base", "width"]);
  function coloured(value, key) {
    if (typeof value === "string") return value.startsWith("--") ? colour(value) : value;
    if (plainKeys.has(key) || value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return value.map((item) => coloured(item, null));
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, k)]));
  }

  /* Figures */
  function loadPlotly() {
    loading =
      loading ||
      text("plotly").then((source) => {
        const script = document.createElement("script");
        script.textContent = source;
        document.head.append(script);
        if (!window.Plotly) throw new Error("Plotly did not start");
      });
    return loading;
  }

  function axis(own) {
    const title = own && own.title ? { standoff: 8, ...own.title } : undefined;
    return {
      gridcolor: colour("--line"),
      linecolor: colour("--line"),
      zerolinecolor: colour("--line"),
      tickcolor: "rgba(0,0,0,0)",
      fixedrange: true,
      automargin: true,
      ...own,
      ...(title ? { title } : {}),
    };
  }

  function layoutOf(figure, width) {
    const own = coloured(figure.layout, "layout");
    if (width < 420 && own.xaxis && own.xaxis.tickvals && own.xaxis.tickvals.length > 6) {
      const some = (list) => list.filter((_, i) => i % 2 === 0);
      own.xaxis = { ...own.xaxis, tickvals: some(own.xaxis.tickvals), ticktext: some(own.xaxis.ticktext) };
    }
    return {
      autosize: true,
      height: figure.height,
      margin: { l: 44, r: 12, t: 6, b: 40, pad: 2 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: width < 420 ? 11 : 12, color: colour("--quiet") },
      hoverlabel: {
        bgcolor: colour("--card"),
        bordercolor: colour("--band"),
        font: { color: colour("--ink"), size: 12.5, family: getComputedStyle(document.body).fontFamily },
        align: "left",
      },
      hovermode: "closest",
      dragmode: false,
      bargap: 0.08,
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", itemclick: false, itemdoubleclick: false, traceorder: "normal" },
      ...own,
      xaxis: axis(own.xaxis),
      yaxis: axis(own.yaxis),
    };
  }

  function sameFilter(one, other) {
    return JSON.stringify(one) === JSON.stringify(other);
  }

  function chosenPlaces(figure) {
    const places = new Set();
    figure.filters.forEach((filter, place) => {
      if (inForce.some((other) => sameFilter(filter, other))) places.add(place);
    });
    return places;
  }

  function tracesOf(figure) {
    const places = chosenPlaces(figure);
    return figure.traces.map((trace) => {
      const flat = Array.isArray(trace.customdata) && !Array.isArray(trace.customdata[0]);
      if (!flat || !places.size) return { ...coloured(trace, "trace"), selectedpoints: null };
      const points = trace.customdata.flatMap((place, i) => (places.has(place) ? [i] : []));
      return {
        ...coloured(trace, "trace"),
        selectedpoints: points,
        unselected: { marker: { opacity: (trace.marker && trace.marker.opacity === 0) ? 0 : 0.28 } },
      };
    });
  }

  async function draw(element) {
    const figure = figures.get(element.dataset.figure);
    if (!figure) return;
    const first = !drawn.has(figure.id);
    drawn.set(figure.id, element);
    await loadPlotly();
    const config = { displayModeBar: false, responsive: true };
    await Plotly.react(element, tracesOf(figure), layoutOf(figure, element.clientWidth), config);
    element.dataset.drawn = "true";
    if (first && figure.filters.length) {
      element.classList.add("clickable");
      element.on("plotly_click", (event) => {
        const place = event.points.map((point) => point.customdata).find(Number.isInteger);
        if (place >= 0) choose(figure.id, place);
      });
    }
  }

  function redraw() {
    colours.clear();
    return Promise.all([...drawn.values()].map(draw));
  }

  function choose(id, place) {
    if (filterHandler) filterHandler(figures.get(id).filters[place]);
  }

  function showFilters(filters) {
    const before = new Map([...figures.values()].map((f) => [f.id, chosenPlaces(f).size]));
    inForce = filters;
    for (const [id, element] of drawn) {
      if (before.get(id) || chosenPlaces(figures.get(id)).size) draw(element);
    }
  }

  /* Start */
  function watchSections() {
    const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          for (const [id, link] of links) link.setAttribute("aria-current", String(id === entry.target.id));
        }
      },
      { rootMargin: "-80px 0px -70% 0px" },
    );
    for (const id of links.keys()) {
      const section = document.getElementById(id);
      if (section) observer.observe(section);
    }
  }

  async function start() {
    document.body.append(probe);
    for (const button of document.querySelectorAll("[data-set-theme]")) {
      button.addEventListener("click", () => chooseTheme(button.dataset.setTheme));
    }
    setTheme(stored() || "auto");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    for (const figure of await json("figures")) figures.set(figure.id, figure);
    for (const button of document.querySelectorAll("[data-filter-of]")) {
      button.addEventListener("click", () => choose(button.dataset.filterOf, Number(button.dataset.place)));
    }
    await held;
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          observer.unobserve(entry.target);
          draw(entry.target).catch(fail);
        }
      },
      { rootMargin: "400px 0px" },
    );
    for (const element of document.querySelectorAll("[data-figure]")) observer.observe(element);
    watchSections();
    root.dataset.ready = String(Math.round(performance.now()));
  }

  /* Paper is light, and has no view that charts could come into. */
  let before = null;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme || "auto";
    setTheme("light");
    for (const element of document.querySelectorAll("[data-figure]")) draw(element);
  });
  addEventListener("afterprint", () => setTheme(before || "auto"));

  const started = start().catch(fail);
  return {
    make,
    fail,
    json,
    arrays,
    record,
    block,
    number,
    sameFilter,
    showFilters,
    started,
    /* Charts wait for what is needed sooner. */
    drawAfter(promise) {
      held = promise;
    },
    onFilter(handler) {
      filterHandler = handler;
    },
  };
})();
