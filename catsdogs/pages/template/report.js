// Behavior of the report in addition to `page.js`: figures, sorting, filtering, and restoring its state when it reloads.
"use strict";
(() => {
  const watching = document.body.hasAttribute("data-watching");
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  let printing = false;

  // Plotly's template, from the colors of report.css
  function template(scheme = printing ? "light" : theme()) {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.colorScheme = scheme;
    const color = (name) => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    const small = (name) => ({ color: color(name), size: 12 });
    const font = { color: color("text"), family: getComputedStyle(probe).fontFamily, size: 13 };
    const line = color("strong-line");
    const axis = {
      automargin: true, gridcolor: color("line"), linecolor: line, tickfont: small("quiet"), ticks: "",
      title: { font: small("quiet"), standoff: 8 }, zeroline: false,
    };
    const made = {
      layout: {
        annotationdefaults: { bgcolor: color("veil"), font: small("text"), showarrow: false },
        font,
        hoverlabel: { align: "left", bgcolor: color("raised"), bordercolor: line, font },
        legend: { bgcolor: "rgba(0,0,0,0)", font: small("text") },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        shapedefaults: { line: { color: line, width: 1 } },
        xaxis: axis,
        yaxis: { ...axis, ticklabelstandoff: 6 },  // the lowest label would touch the first one of the x axis
      },
      data: {
        bar: [{ marker: { line: { color: color("paper"), width: 1 } } }],
      },
    };
    probe.remove();
    return made;
  }

  // Figures, drawn shortly before they scroll into view
  const plots = all(".plot");
  const loadedPlots = () => plots.filter((plot) => plot.dataset.loaded);
  const coarse = window.matchMedia("(pointer: coarse)").matches;
  const config = { responsive: true, displayModeBar: false, displaylogo: false, showTips: false };

  function draw(plot) {
    if (plot.dataset.loaded) return;
    plot.dataset.loaded = "yes";
    const figure = json(plot.dataset.figure);
    figure.layout.template = template();
    // On a touch screen, dragging scrolls the page.
    if (coarse) figure.layout.dragmode = false;
    Plotly.newPlot(plot, figure.data, figure.layout, config);
    highlightOnHover(plot);
    selectTrials(plot);
  }
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((entry) => entry.isIntersecting)) {
        near.unobserve(entry.target);
        draw(entry.target);
      }
    },
    { rootMargin: "600px 0px" },
  );
  for (const plot of plots) near.observe(plot);
  document.addEventListener("themechange", () => {
    for (const plot of loadedPlots()) Plotly.relayout(plot, { template: template() });
  });

  // Parallel coordinates: draw the trial under the pointer over the others.
  function highlightOnHover(plot) {
    const highlight = plot.data.findIndex((trace) => trace.meta && trace.meta.role === "highlight");
    if (highlight < 0) return;
    plot.on("plotly_hover", (event) => {
      const { curveNumber, pointNumber } = event.points[0];
      const { x, y } = plot.data[curveNumber];
      // A trace contains the lines of many trials, with gaps between them.
      let [first, last] = [pointNumber, pointNumber];
      while (first > 0 && x[first - 1] !== null) first -= 1;
      while (last < x.length - 1 && x[last + 1] !== null) last += 1;
      const line = { x: [x.slice(first, last + 1)], y: [y.slice(first, last + 1)], visible: true };
      Plotly.restyle(plot, line, [highlight]);
    });
    plot.on("plotly_unhover", () => Plotly.restyle(plot, { visible: false }, [highlight]));
  }

  // Parallel coordinates: hide the trials outside of the selected ranges. Axes are at integers of y.
  function selectTrials(plot) {
    if (plot.id !== "plot-coordinates" || coarse) return;
    const lines = plot.data.filter((trace) => !(trace.meta && trace.meta.role === "highlight"));
    const complete = lines.map((trace) => ({ x: [...trace.x], y: [...trace.y] }));
    const axes = new Set(complete.flatMap(({ y }) => y.filter((at) => at !== null)));
    const reach = 0.3; // tolerance, as a fraction of the distance between axes
    const selectedRanges = () => (plot.layout.selections || []).flatMap(({ x0, x1, y0, y1 }) => [...axes]
      .filter((axis) => Math.min(y0, y1) - reach <= axis && axis <= Math.max(y0, y1) + reach)
      .map((axis) => ({ axis, low: Math.min(x0, x1), high: Math.max(x0, x1) })));
    let applied = "[]";
    function filterTrials(ranges) {
      // Plotly repeats the event of a selection when it redraws.
      if (JSON.stringify(ranges) === applied) return;
      applied = JSON.stringify(ranges);
      let [selected, total] = [0, 0];
      const shown = complete.map(({ x, y }) => {
        const visible = [...x];
        for (let first = 0; first < x.length; first += 1) {
          let last = first;
          while (last < x.length && x[last] !== null) last += 1;
          const passes = ({ axis, low, high }) => {
            const at = y.indexOf(axis, first);
            return first <= at && at < last && low <= x[at] && x[at] <= high;
          };
          const inRanges = ranges.every(passes);
          if (!inRanges) visible.fill(null, first, last);
          if (last > first) total += 1;
          if (last > first && inRanges) selected += 1;
          first = last;
        }
        return visible;
      });
      Plotly.restyle(plot, { x: shown }, lines.map((trace) => plot.data.indexOf(trace)));
      find("#brushed").textContent = ranges.length ? `${selected} of ${total} trials.` : "";
    }
    plot.on("plotly_selected", () => filterTrials(selectedRanges()));
    // The layout still contains the selection during this event.
    plot.on("plotly_deselect", () => filterTrials([]));
  }

  for (const button of all("[data-png]")) {
    button.addEventListener("click", () => {
      const plot = document.getElementById(button.dataset.png);
      const figure = json(plot.dataset.figure);
      const layout = { ...figure.layout, template: template("light"), paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff" };
      const size = { width: Math.max(640, plot.clientWidth), height: plot.clientHeight };
      Plotly.downloadImage({ data: figure.data, layout }, { format: "png", scale: 2, ...size, filename: plot.id });
    });
  }

  // Printing: light theme, all figures drawn at the width of the paper (with the zoom of report.css), all details open
  const closed = [];
  function beforePrint() {
    if (printing) return;
    printing = true;
    for (const details of all("details:not([open])")) {
      closed.push(details);
      details.open = true;
    }
    for (const plot of plots) {
      draw(plot);
      Plotly.relayout(plot, { autosize: false, width: plot.closest(".plots") ? 470 : 970, template: template() });
    }
  }
  function afterPrint() {
    if (!printing) return;
    printing = false;
    for (const details of closed.splice(0)) details.open = false;
    for (const plot of plots) Plotly.relayout(plot, { autosize: true, width: null, template: template() });
  }
  window.addEventListener("beforeprint", beforePrint);
  window.addEventListener("afterprint", afterPrint);

  // Tables that are sorted by the buttons in their headers
  const tables = all("table.sortable");
  const headersOf = (table) => all("thead th", table);
  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  function sort(table, column, direction) {
    const headers = headersOf(table);
    headers.forEach((header, index) => header.setAttribute("aria-sort", index === column ? direction : "none"));
    const sign = direction === "ascending" ? 1 : -1;
    const cells = [...table.tBodies[0].rows].map((row) => key(row, column));
    const numeric = headers[column].classList.contains("numeric") && cells.some((text) => !Number.isNaN(parseFloat(text)));
    const rows = [...table.tBodies[0].rows].sort((one, other) => {
      const [a, b] = [key(one, column), key(other, column)];
      if (!numeric) return sign * a.localeCompare(b, "en", { numeric: true });
      // Rows without a number are last in both directions.
      const [x, y] = [parseFloat(a), parseFloat(b)];
      return Number.isNaN(x) - Number.isNaN(y) || (Number.isNaN(x) ? 0 : sign * (x - y));
    });
    table.tBodies[0].append(...rows);
  }
  for (const table of tables) {
    headersOf(table).forEach((header, column) => {
      find("button", header).addEventListener("click", () => {
        sort(table, column, header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
      });
    });
  }

  // Leaderboard
  const body = find("#jobs").tBodies[0];
  const filter = find("#filter");
  const status = find("#status");
  function filterRows() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      const matches = !status || !status.value || row.dataset.status === status.value;
      row.hidden = !(matches && words.every((word) => text.includes(word)));
      shown += !row.hidden;
    }
    const total = body.rows.length;
    find("#filtered").textContent = shown === total ? `${total} ${total === 1 ? "job" : "jobs"}` : `${shown} of ${total} jobs`;
  }
  filter.addEventListener("input", filterRows);
  if (status) status.addEventListener("change", filterRows);

  // A live page reloads itself; restore scroll position, filters, sorting and selected images.
  const storageKey = `catsdogs-report:${location.pathname}`;
  function saveState() {
    const state = {
      scroll: window.scrollY,
      filter: filter.value,
      status: status ? status.value : "",
      sorted: tables.map((table) => headersOf(table).map((header) => header.getAttribute("aria-sort"))),
      open: all("details").map((details) => details.open),
      ignored: boxes.filter((box) => box.checked).map((box) => box.dataset.id),
    };
    try {
      sessionStorage.setItem(storageKey, JSON.stringify(state));
    } catch (error) { /* no storage */ }
  }
  function restoreState() {
    let state = null;
    try {
      state = JSON.parse(sessionStorage.getItem(storageKey));
    } catch (error) { /* no stored state */ }
    if (!state) return;
    filter.value = state.filter;
    if (status && [...status.options].some((option) => option.value === state.status)) status.value = state.status;
    state.sorted.forEach((directions, number) => {
      const column = directions.findIndex((direction) => direction !== "none");
      const table = tables[number];
      if (table && column >= 0 && column < headersOf(table).length) sort(table, column, directions[column]);
    });
    const details = all("details");
    if (details.length === state.open.length) details.forEach((part, number) => { part.open = state.open[number]; });
    for (const box of boxes) box.checked = state.ignored.includes(box.dataset.id);
    // Scroll last, because these change the height of the page.
    filterRows();
    listIgnored();
    window.scrollTo({ top: state.scroll, behavior: "instant" });
  }
  if (watching) {
    if ("scrollRestoration" in history) history.scrollRestoration = "manual";
    restoreState();
    window.addEventListener("pagehide", saveState);
  }

  filterRows();
  mark();
})();
