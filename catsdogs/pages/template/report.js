// What the report does beyond `page.js`: it draws the figures, sorts, filters, and keeps its place while it is watched.
"use strict";
(() => {
  const watching = document.body.hasAttribute("data-watching");
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const templates = json("themes");
  let printing = false;
  const template = () => templates[printing ? "light" : theme()];

  // Figures, drawn when they come near
  const plots = all(".plot");
  const drawn = () => plots.filter((plot) => plot.dataset.drawn);
  const coarse = window.matchMedia("(pointer: coarse)").matches;
  const config = { responsive: true, displayModeBar: false, displaylogo: false, showTips: false };

  function draw(plot) {
    if (plot.dataset.drawn) return;
    plot.dataset.drawn = "yes";
    const figure = json(plot.dataset.figure);
    figure.layout.template = template();
    // On a phone a finger that moves over a figure scrolls the page.
    if (coarse) figure.layout.dragmode = false;
    Plotly.newPlot(plot, figure.data, figure.layout, config);
    light(plot);
    brush(plot);
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
    for (const plot of drawn()) Plotly.relayout(plot, { template: template() });
  });

  // In the parallel coordinates the trial under the pointer is drawn over the others.
  function light(plot) {
    const over = plot.data.findIndex((trace) => trace.meta && trace.meta.role === "highlight");
    if (over < 0) return;
    plot.on("plotly_hover", (event) => {
      const { curveNumber, pointNumber } = event.points[0];
      const { x, y } = plot.data[curveNumber];
      // The lines of many trials are one trace, with gaps between them.
      let [first, last] = [pointNumber, pointNumber];
      while (first > 0 && x[first - 1] !== null) first -= 1;
      while (last < x.length - 1 && x[last + 1] !== null) last += 1;
      const line = { x: [x.slice(first, last + 1)], y: [y.slice(first, last + 1)], visible: true };
      Plotly.restyle(plot, line, [over]);
    });
    plot.on("plotly_unhover", () => Plotly.restyle(plot, { visible: false }, [over]));
  }

  // There, what is selected on an axis keeps the trials that pass there; axes lie at whole numbers of y.
  function brush(plot) {
    if (plot.id !== "plot-coordinates" || coarse) return;
    const lines = plot.data.filter((trace) => !(trace.meta && trace.meta.role === "highlight"));
    const whole = lines.map((trace) => ({ x: [...trace.x], y: [...trace.y] }));
    const axes = new Set(whole.flatMap(({ y }) => y.filter((at) => at !== null)));
    const reach = 0.3; // of the way to the next axis: a selection may begin and end beside its axis
    const wanted = () => (plot.layout.selections || []).flatMap(({ x0, x1, y0, y1 }) => [...axes]
      .filter((axis) => Math.min(y0, y1) - reach <= axis && axis <= Math.max(y0, y1) + reach)
      .map((axis) => ({ axis, low: Math.min(x0, x1), high: Math.max(x0, x1) })));
    let before = "[]";
    function keep(parts) {
      // Drawing anew tells of the same selection again.
      if (JSON.stringify(parts) === before) return;
      before = JSON.stringify(parts);
      let [kept, total] = [0, 0];
      const shown = whole.map(({ x, y }) => {
        const left = [...x];
        for (let first = 0; first < x.length; first += 1) {
          let last = first;
          while (last < x.length && x[last] !== null) last += 1;
          const passes = ({ axis, low, high }) => {
            const at = y.indexOf(axis, first);
            return first <= at && at < last && low <= x[at] && x[at] <= high;
          };
          const stays = parts.every(passes);
          if (!stays) left.fill(null, first, last);
          if (last > first) total += 1;
          if (last > first && stays) kept += 1;
          first = last;
        }
        return left;
      });
      Plotly.restyle(plot, { x: shown }, lines.map((trace) => plot.data.indexOf(trace)));
      find("#brushed").textContent = parts.length ? `${kept} of ${total} trials.` : "";
    }
    plot.on("plotly_selected", () => keep(wanted()));
    // What was selected is still there when this is told.
    plot.on("plotly_deselect", () => keep([]));
  }

  for (const button of all("[data-picture]")) {
    button.addEventListener("click", () => {
      const plot = document.getElementById(button.dataset.picture);
      const figure = json(plot.dataset.figure);
      const layout = { ...figure.layout, template: templates.light, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff" };
      const size = { width: Math.max(640, plot.clientWidth), height: plot.clientHeight };
      Plotly.downloadImage({ data: figure.data, layout }, { format: "png", scale: 2, ...size, filename: plot.id });
    });
  }

  // Paper: light, everything drawn and open, figures as wide as the page
  const closed = [];
  function toPaper() {
    if (printing) return;
    printing = true;
    for (const details of all("details:not([open])")) {
      closed.push(details);
      details.open = true;
    }
    for (const plot of plots) {
      draw(plot);
      Plotly.relayout(plot, { autosize: false, width: plot.closest(".plots") ? 330 : 680, template: template() });
    }
  }
  function fromPaper() {
    if (!printing) return;
    printing = false;
    for (const details of closed.splice(0)) details.open = false;
    for (const plot of plots) Plotly.relayout(plot, { autosize: true, width: null, template: template() });
  }
  window.addEventListener("beforeprint", toPaper);
  window.addEventListener("afterprint", fromPaper);

  // Leaderboard
  const table = find("#jobs");
  const body = table.tBodies[0];
  const headers = all("thead th", table);

  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  function sort(column, direction) {
    headers.forEach((header, place) => header.setAttribute("aria-sort", place === column ? direction : "none"));
    const numeric = headers[column].classList.contains("numeric");
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [key(one, column), key(other, column)];
      if (!numeric) return sign * a.localeCompare(b, "en", { numeric: true });
      // What has no number comes last, in both directions.
      const [x, y] = [parseFloat(a), parseFloat(b)];
      return Number.isNaN(x) - Number.isNaN(y) || (Number.isNaN(x) ? 0 : sign * (x - y));
    });
    body.append(...rows);
  }
  headers.forEach((header, column) => {
    find("button", header).addEventListener("click", () => {
      sort(column, header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
    });
  });

  const filter = find("#filter");
  const status = find("#status");
  function filterRows() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      const wanted = !status || !status.value || row.dataset.status === status.value;
      row.hidden = !(wanted && words.every((word) => text.includes(word)));
      shown += !row.hidden;
    }
    const total = body.rows.length;
    find("#filtered").textContent = shown === total ? `${total} ${total === 1 ? "job" : "jobs"}` : `${shown} of ${total} jobs`;
  }
  filter.addEventListener("input", filterRows);
  if (status) status.addEventListener("change", filterRows);

  // While a study is watched the page loads itself anew; what the reader did to it stays.
  const place = `catsdogs-report:${location.pathname}`;
  function remember() {
    const sorted = headers.findIndex((header) => header.getAttribute("aria-sort") !== "none");
    const state = {
      scroll: window.scrollY,
      filter: filter.value,
      status: status ? status.value : "",
      sorted: [sorted, sorted < 0 ? "none" : headers[sorted].getAttribute("aria-sort")],
      open: all("details").map((details) => details.open),
      ignored: boxes.filter((box) => box.checked).map((box) => box.dataset.id),
    };
    try {
      sessionStorage.setItem(place, JSON.stringify(state));
    } catch (error) { /* not remembered */ }
  }
  function recall() {
    let state = null;
    try {
      state = JSON.parse(sessionStorage.getItem(place));
    } catch (error) { /* nothing to recall */ }
    if (!state) return;
    filter.value = state.filter;
    if (status && [...status.options].some((option) => option.value === state.status)) status.value = state.status;
    if (state.sorted[0] >= 0 && state.sorted[0] < headers.length) sort(...state.sorted);
    const details = all("details");
    if (details.length === state.open.length) details.forEach((part, number) => { part.open = state.open[number]; });
    for (const box of boxes) box.checked = state.ignored.includes(box.dataset.id);
    // What these hide or show moves what lies below.
    filterRows();
    listIgnored();
    window.scrollTo({ top: state.scroll, behavior: "instant" });
  }
  if (watching) {
    if ("scrollRestoration" in history) history.scrollRestoration = "manual";
    recall();
    window.addEventListener("pagehide", remember);
  }

  filterRows();
  mark();
})();
