"use strict";
// Draws the tables, charts, trials and anomaly maps of the page from its JSON. Texts from results are set as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C"]; // after Okabe and Ito
  const PAGE = 50, SVG_LIMIT = 1500, LONG = 60, LINE = 38, ABSENT = "\u2013";

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // Tables ------------------------------------------------------------------------------------------------------------

  // A cell is a text, the number of a variant, [text] for a best value, or an object for a trial.
  const cellText = (cell) => (typeof cell === "string" ? cell : typeof cell === "number" ? data.names[cell] : Array.isArray(cell) ? cell[0] : cell.t);

  // As whole_numbers() does for sentences: no line ends between a number and its unit, or within an interval.
  const whole = (text) => text.replace(/(\d) (?=(?:%|more|seeds?|px)(?![\w-]))/g, "$1\u00a0").replace(/ (to|\u00b1) (?=[-+]?\d)/g, "\u00a0$1\u00a0");

  function sortKey(cell, numeric) {
    const text = cellText(cell);
    if (!numeric) return text;
    const value = parseFloat(text.replace(/,/g, ""));
    return Number.isNaN(value) ? null : value;
  }

  function compare(a, b, numeric, direction) {
    if (numeric && (a === null || b === null)) return (a === null) - (b === null); // Rows without a value stay at the end.
    const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
    return direction * order;
  }

  function caveatSigns(caveats) {
    const signs = new Set(caveats.map((caveat) => (caveat.startsWith("\u2020") ? "\u2020" : "\u2205")));
    const label = signs.has("\u2020") ? "confounded" : "identical";
    return make("sup", { title: caveats.join("\n"), role: "note", "aria-label": label }, [...signs].join(""));
  }

  function caveatList(caveats) {
    const shown = caveats.slice(0, 3).map((caveat) => make("span", { class: "caveat" }, (caveat.startsWith("\u2020") ? "" : "\u2205 ") + caveat));
    if (caveats.length > 3) shown.push(make("span", { class: "caveat", title: caveats.slice(3).join("\n") }, `and ${caveats.length - 3} more, listed below`));
    return shown;
  }

  function drawTable(host, content) {
    const order = content.rows.map((_, k) => k);
    const state = { order, shown: PAGE, column: -1, direction: 1, filter: "" };
    const body = make("tbody");
    const more = make("div", { class: "bar" });
    const heads = content.head.map((name, column) => {
      const button = make("button", { type: "button", onclick: () => sort(column) }, name || "Name");
      const caveats = content.columnCaveats[column] || [];
      return make("th", { scope: "col", class: content.right[column] ? "right" : "left", "aria-sort": "none" }, button, ...caveatList(caveats));
    });

    function sort(column) {
      const numeric = Boolean(content.right[column]);
      const again = state.column === column;
      state.direction = again ? -state.direction : numeric ? -1 : 1;
      state.column = column;
      const keys = content.rows.map((row) => sortKey(row[column], numeric));
      state.order = [...order].sort((a, b) => compare(keys[a], keys[b], numeric, state.direction) || a - b);
      heads.forEach((head, k) => head.setAttribute("aria-sort", k !== column ? "none" : state.direction > 0 ? "ascending" : "descending"));
      fill();
    }

    function drawRow(k) {
      const ofRow = content.rowCaveats[k] || [];
      const cells = content.rows[k].map((cell, column) => {
        const text = cellText(cell);
        const caveats = [...ofRow, ...(content.columnCaveats[column] || [])];
        const opens = typeof cell === "object" && !Array.isArray(cell);
        const inner = opens ? make("button", { type: "button", class: "link", onclick: () => openTrial(cell.trial) }, text) : whole(text);
        if (column === 0) return make("th", { scope: "row", class: content.right[0] ? "right" : text.length > LONG ? "left long" : text.length > 12 ? "left words" : "left" }, inner, ...caveatList(ofRow));
        const best = Array.isArray(cell);
        const classes = [content.right[column] ? "right" : "left", text.length > LONG ? "long" : text.length > 12 ? "words" : "", best ? "best" : ""].filter(Boolean).join(" ");
        const drawn = make("td", { class: classes }, inner);
        if (best) drawn.title = "highlighted: the notes under the table say why";
        if (caveats.length && text !== ABSENT && (content.right[column] || best)) drawn.append(caveatSigns(caveats));
        return drawn;
      });
      return make("tr", {}, ...cells);
    }

    function fill() {
      const filter = state.filter.toLowerCase();
      const matching = filter ? state.order.filter((k) => content.rows[k].some((cell) => cellText(cell).toLowerCase().includes(filter))) : state.order;
      body.replaceChildren(...matching.slice(0, state.shown).map(drawRow));
      const left = matching.length - state.shown;
      more.replaceChildren();
      if (left > 0) {
        const step = Math.min(left, 100);
        more.append(`${state.shown} of ${matching.length} rows`,
          make("button", { type: "button", onclick: () => { state.shown += step; fill(); } }, `Show ${step} more`),
          make("button", { type: "button", onclick: () => { state.shown = matching.length; fill(); } }, "Show all"));
      } else if (filter) more.append(`${matching.length} of ${content.rows.length} rows`);
    }

    const table = make("table", {}, make("caption", { class: "aside" }, content.title), make("thead", {}, make("tr", {}, ...heads)), body);
    const scroll = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": content.title }, table);
    const frame = make("div", {}, scroll);
    const parts = [frame, make("p", { class: "hint", "aria-hidden": "true" }, "more columns \u2192"), more];
    const watchEdges = () => {
      frame.classList.toggle("more-right", scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft > 2);
      frame.classList.toggle("more-left", scroll.scrollLeft > 2);
    };
    scroll.addEventListener("scroll", watchEdges, { passive: true });
    new ResizeObserver(watchEdges).observe(scroll);
    if (content.rows.length > 20) {
      const box = make("input", { type: "search", placeholder: "Filter rows", "aria-label": `Filter the rows of ${content.title}` });
      box.addEventListener("input", () => { state.filter = box.value.trim(); state.shown = PAGE; fill(); });
      parts.unshift(make("div", { class: "bar" }, box));
    }
    fill();
    host.replaceChildren(...parts);
  }

  const plainTable = (title, head, rows, right) => ({ title, head, rows, right, columnCaveats: {}, rowCaveats: {} });

  // Rows hold the numbers of variants; readers see their names.
  function namedRows(chart) {
    const column = chart.fields.indexOf("variant");
    const named = (value, k) => (k === column && typeof value === "number" ? data.names[value] : value);
    return column < 0 ? chart.rows : chart.rows.map((row) => row.map(named));
  }

  function numbersTable(chart) {
    const named = namedRows(chart);
    const filled = chart.fields.map((_, k) => k).filter((k) => named.some((row) => row[k] !== ""));
    const all = named.map((row) => filled.map((k) => row[k]));
    const right = filled.map((_, k) => all.some((row) => typeof row[k] === "number"));
    const rows = all.map((row) => row.map((value) => (value === null || value === "" ? ABSENT : String(value))));
    return plainTable(`Numbers of ${chart.title}`, filled.map((k) => chart.heads[k]), rows, right);
  }

  // Charts ------------------------------------------------------------------------------------------------------------

  const drawn = new Map();

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return { paper: of("--paper"), ink: of("--ink"), soft: of("--soft"), line: of("--line"), strong: of("--strong") };
  }

  function dark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function look(width, longest) {
    const { paper, ink, soft, line, strong } = colours();
    const columns = Math.max(1, Math.min(4, Math.floor((width - 90) / (Math.min(longest, LINE) * 6 + 32))));
    const blue = dark() ? "#56B4E9" : "#0072B2";
    return {
      background: "transparent",
      lineBreak: "\n",
      font: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif",
      axis: { labelColor: soft, titleColor: ink, gridColor: line, domainColor: strong, tickColor: strong, titleFontWeight: 500, labelFontSize: 11, titlePadding: 8, labelSeparation: 8, tickCount: width < 460 ? 4 : 6 },
      legend: { orient: "bottom", columns, labelColor: ink, titleColor: soft, titleFontWeight: 500, labelLimit: Math.max(120, (width - 90) / columns - 20), symbolSize: 60, symbolOpacity: 1, gradientOpacity: 1 },
      header: { labelColor: ink, titleColor: ink },
      view: { stroke: null },
      mark: { color: blue },
      text: { color: ink },
      rule: { color: blue },
      style: { halo: { stroke: paper, strokeWidth: 4, strokeJoin: "round" } },
      range: { ramp: { scheme: "viridis", extent: dark() ? [0.3, 1] : [0, 0.82] }, category: dark() ? ["#56B4E9", ...PALETTE.slice(1, 5), "#0072B2", PALETTE[6], ink] : [...PALETTE, ink] },
    };
  }

  // Pixels between parallel axes, so that all are in sight, the last one above all; if they do not fit, the chart scrolls.
  function axisStep(width, count) {
    const matching = (width - 70) / (count + 0.25);
    return matching < 50 ? 92 : Math.min(140, matching);
  }

  async function drawChart(plot, chart) {
    const values = namedRows(chart).map((row) => Object.fromEntries(chart.fields.map((field, k) => [field, row[k]])));
    const spec = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", description: chart.title, data: { values }, ...chart.spec };
    if (spec.width === "container") spec.autosize = { type: "fit-x", contains: "padding" };
    const column = chart.fields.indexOf("series");
    const longest = column < 0 ? 0 : Math.max(0, ...chart.rows.map((row) => row[column].length));
    const config = look(plot.clientWidth, longest);
    if (spec.width.step) {
      spec.width = { step: axisStep(plot.clientWidth, new Set(values.map((row) => row.axis)).size) };
      config.text.limit = spec.width.step - 8;
    }
    const items = values.length * (chart.spec.layer || [1]).length; // A canvas draws many items faster than SVG.
    const before = drawn.get(plot);
    const view = await window.vegaEmbed(plot, spec, {
      actions: false, ast: true, config, tooltip: { theme: dark() ? "dark" : "light" }, renderer: items > SVG_LIMIT ? "canvas" : "svg",
    });
    if (before) before.finalize();
    drawn.set(plot, view);
    plot.classList.add("drawn");
  }

  function chartOf(plot) {
    return plot.chart || data.charts[Number(plot.closest("[data-chart]").dataset.chart)];
  }

  function watchCharts() {
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        drawChart(entry.target, chartOf(entry.target));
      }
    }, { rootMargin: "300px" });
    for (const plot of document.querySelectorAll(".plot")) near.observe(plot);
  }

  function changeTheme() {
    const button = document.getElementById("theme");
    const next = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    nameTheme(button);
    for (const plot of [...drawn.keys()]) {
      if (plot.isConnected) drawChart(plot, chartOf(plot));
    }
  }

  function nameTheme(button) {
    button.setAttribute("aria-pressed", String(dark()));
    button.textContent = dark() ? "Light colours" : "Dark colours";
  }

  // Trials ------------------------------------------------------------------------------------------------------------

  function settingsTable(title, head, rows) {
    const host = make("div");
    drawTable(host, plainTable(title, head, rows, head.map(() => false)));
    return host;
  }

  function curveChart(trial) {
    const longest = Math.max(...trial.curves.map((curve) => curve.nll.length));
    const rows = trial.curves.flatMap((curve) => curve.nll.map((nll, k) => [k + 1, curve.task, nll]));
    return {
      title: "Learning curves of this trial",
      fields: ["epoch", "task", "nll"],
      heads: ["Epoch", "Task", "NLL per patch, nats"],
      rows,
      spec: {
        width: "container", height: 200, mark: { type: "line", strokeWidth: 1.5 },
        encoding: {
          x: { field: "epoch", type: "quantitative", title: "epoch", scale: { zero: false, nice: false }, axis: { format: "d", ...(longest <= 6 ? { values: Array.from({ length: longest }, (_, k) => k + 1) } : {}) } },
          y: { field: "nll", type: "quantitative", title: "NLL per patch, nats", scale: { zero: false } },
          color: { field: "task", type: "nominal", title: null, sort: null },
          strokeDash: { field: "task", type: "nominal", title: null, sort: null },
        },
      },
    };
  }

  function openTrial(id) {
    const { trials, baselines, shared, isLarge, logs } = data.details;
    const trial = trials[id];
    const dialog = document.getElementById("trial");
    const seed = trial.seed === null ? "" : `, seed ${trial.seed}`;
    const label = trial.variant < 0 ? `${trial.label || id}${seed}: ${trial.status}` : data.names[trial.variant] + seed;
    const parts = [make("header", {}, make("h2", { id: "trial-title" }, `Trial ${id}`),
      make("button", { type: "button", onclick: () => dialog.close() }, "Close")), make("p", { class: "intro" }, label)];
    const section = (title, ...content) => parts.push(make("h3", {}, title), ...content);
    if (trial.error) section("Error", make("pre", { tabindex: "0" }, trial.traceback || trial.error));
    const baseline = trial.variant < 0 ? "the baseline" : data.names[baselines[trial.variant]];
    if (trial.differs === null) section("Differences from the baseline", make("p", { class: "empty" }, "There is no finished baseline to compare with, or more than one."));
    else if (!trial.differs.length) section("Differences from the baseline", make("p", { class: "empty" }, "None: this is a trial of the baseline."));
    else section(`Differences from ${baseline}`, settingsTable("Differences from the baseline", ["Setting", "Baseline", "This trial"], trial.differs));
    let plot = null;
    if (trial.curves.length) {
      plot = make("div", { class: "plot" });
      plot.chart = curveChart(trial);
      const numbers = make("details", { class: "numbers" }, make("summary", {}, "Numbers"));
      numbers.addEventListener("toggle", () => openNumbers(numbers, plot.chart));
      section("Learning curves", plot, make("p", { class: "note" }, "One trial, so there is no band."), numbers);
    }
    if (!isLarge) {
      const all = Object.entries({ ...shared, ...trial.settings }).sort(([a], [b]) => a.localeCompare(b));
      const host = make("details", {}, make("summary", {}, `${all.length} settings`));
      host.addEventListener("toggle", () => { if (host.open && host.children.length === 1) host.append(settingsTable("Configuration", ["Setting", "Value"], all)); });
      section("Configuration", host);
      if (trial.facts) {
        const facts = make("details", {}, make("summary", {}, "Code, digests and packages"), settingsTable("Where it ran", ["Name", "Value"], trial.facts));
        section("Where it ran", facts);
      }
      const missing = logs ? "The logs in this folder do not mention the trial." : "This folder holds no logs.";
      section("End of the log", trial.log && trial.log.length ? make("pre", { tabindex: "0" }, trial.log.join("\n")) : make("p", { class: "empty" }, missing));
    }
    dialog.replaceChildren(make("div", {}, ...parts));
    dialog.showModal();
    dialog.scrollTop = 0;
    if (plot) drawChart(plot, plot.chart);
  }

  function openNumbers(details, chart) {
    if (!details.open || details.children.length > 1) return;
    const host = make("div");
    details.append(host);
    drawTable(host, numbersTable(chart));
  }

  // Anomaly maps ------------------------------------------------------------------------------------------------------

  const dataUrl = (kind, content) => `data:image/${kind};base64,${content}`;

  function colouredMap(content, label) {
    const canvas = make("canvas", { width: "64", height: "64", role: "img", "aria-label": label });
    const image = new Image();
    image.addEventListener("load", () => {
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
      for (let k = 0; k < pixels.data.length; k += 4) pixels.data.set(heat(pixels.data[k] / 255), k);
      context.putImageData(pixels, 0, 0);
    });
    image.src = dataUrl("png", content);
    return canvas;
  }

  // Matplotlib's colour map inferno at tenths of its range, interpolated: lighter is more anomalous, also for colour-blind readers.
  const INFERNO = [[0, 0, 4], [22, 11, 57], [66, 10, 104], [106, 23, 110], [147, 38, 103], [188, 55, 84], [221, 81, 58], [243, 120, 25], [252, 165, 10], [246, 215, 70], [252, 255, 164]];

  function heat(share) {
    const at = Math.min(9, Math.floor(share * 10));
    return INFERNO[at].map((low, channel) => low + (share * 10 - at) * (INFERNO[at + 1][channel] - low));
  }

  function drawMap(map) {
    const { thumbnails, masks } = data.maps;
    const mask = masks[map.digest]
      ? make("img", { src: dataUrl("png", masks[map.digest]), alt: `Mask of ${map.image}` })
      : make("div", { class: "none" }, "no mask");
    return make("figure", {},
      make("div", { class: "three" }, make("img", { src: dataUrl("jpeg", thumbnails[map.digest]), alt: `Image ${map.image}` }), mask,
        colouredMap(map.map, `Anomaly map of ${map.image}, from ${map.low} to ${map.high} nats per patch`)),
      make("figcaption", {}, make("strong", {}, `${map.class}, ${map.defect}: score ${map.score}`), make("br"), `${map.image}; map ${map.low} to ${map.high}`));
  }

  function drawGallery(host) {
    const { galleries } = data.maps;
    host.className = "galleries";
    for (const [k, gallery] of galleries.entries()) {
      const details = make("details", {}, make("summary", {}, `${gallery.title}: ${gallery.variant}, seed ${gallery.seed} (${gallery.trial})`));
      details.addEventListener("toggle", () => {
        if (!details.open || details.children.length > 1) return;
        for (const group of gallery.groups) details.append(make("h4", {}, group.title), make("div", { class: "maps" }, ...group.maps.map(drawMap)));
        if (!gallery.groups.length) details.append(make("p", { class: "empty" }, "This trial keeps maps of random images only."));
      });
      host.append(details);
      if (k === 0) details.open = true;
    }
  }

  // The page ----------------------------------------------------------------------------------------------------------

  for (const host of document.querySelectorAll("[data-table]")) drawTable(host, data.tables[Number(host.dataset.table)]);
  for (const details of document.querySelectorAll(".chart .numbers")) {
    details.addEventListener("toggle", () => openNumbers(details, data.charts[Number(details.closest("[data-chart]").dataset.chart)]));
  }
  const theme = document.getElementById("theme");
  nameTheme(theme);
  theme.addEventListener("click", changeTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (!document.documentElement.dataset.theme) { nameTheme(theme); for (const plot of drawn.keys()) drawChart(plot, chartOf(plot)); }
  });
  // The chart library comes after this script, so that the tables appear before the browser has read it.
  document.addEventListener("DOMContentLoaded", () => {
    watchCharts();
    const gallery = document.getElementById("gallery");
    if (gallery) drawGallery(gallery);
  });
})();
