"use strict";
// Draws the page's figures with Plotly and ties them together: a galaxy or rank that is chosen in
// one place shows in all. Without this script the page shows drawings and tables.
(() => {
  const root = document.documentElement;
  const main = document.getElementById("content");
  let data = JSON.parse(document.getElementById("data").textContent);
  let chosen = null; // galaxies selected, as positions in the sample; null: all

  // ---- colours ------------------------------------------------------------------------------

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);

  function coloured(value, colours) {
    if (typeof value === "string" && value.startsWith("@")) {
      const [, name, alpha] = /^@([a-z-]+)(\d\d)?$/.exec(value) || [];
      if (!name) return value; // a text of the user's
      return colours.getPropertyValue(`--${name}`).trim() + (alpha || "");
    }
    if (Array.isArray(value)) {
      // Long columns of numbers hold no colours.
      return value.length > 2 && typeof value[0] === "number" ? value : value.map((each) => coloured(each, colours));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, each]) => [key, coloured(each, colours)]),
      );
    }
    return value;
  }

  // ---- figures ------------------------------------------------------------------------------

  const CONFIG = {
    displaylogo: false,
    responsive: true,
    // Named one by one: others would offer to send the figure to a service.
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "select2d", "lasso2d"], ["resetScale2d"]],
  };

  function layoutOf(figure, colours, width) {
    const colour = (name) => colours.getPropertyValue(`--${name}`).trim();
    const narrow = width < 520;
    const axis = {
      gridcolor: colour("line"),
      linecolor: colour("soft"),
      zeroline: false,
      ticks: "outside",
      tickcolor: colour("soft"),
      exponentformat: "none",
      nticks: narrow ? 5 : 8,
    };
    const layout = coloured(figure.layout, colours);
    const margin = marginOf(figure, width);
    const room = width - margin.l - margin.r;
    const inside = layout.yaxis.scaleanchor ? Math.min(room, layout.height - 58) : layout.height - 58;
    return {
      ...layout,
      height: inside + margin.t + margin.b,
      xaxis: { ...axis, ...layout.xaxis, title: { ...layout.xaxis.title, standoff: 8 } },
      yaxis: { ...axis, tickformat: isLarge(figure) ? "~s" : undefined, ...layout.yaxis, title: { ...layout.yaxis.title, standoff: 6 } },
      margin,
      legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", font: { size: 12 } },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
      hoverlabel: {
        bgcolor: colour("paper"), bordercolor: colour("grey"), font: { color: colour("ink") }, align: "left",
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("grey"), activecolor: colour("accent") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hovermode: "closest",
      dragmode: figure.data.some((trace) => trace.meta === "galaxies") && !narrow ? "select" : false,
      uirevision: "kept",
    };
  }

  const isLarge = (figure) => figure.data.some((trace) => trace.y?.some((y) => y > 9999));

  // Plotly's own margins may go on growing for ever where there is little room: these are reckoned.
  function marginOf(figure, width) {
    const names = figure.data.filter((trace) => trace.showlegend !== false).map((trace) => trace.name);
    const labels = figure.data.flatMap((trace) => (typeof trace.y?.[0] === "string" ? trace.y : []));
    const longest = (texts) => Math.max(0, ...texts.map((text) => text.length));
    const left = Math.max(62, 26 + 7 * longest(labels));
    const right = Math.max(
      14,
      14 + 7 * longest(figure.layout.annotations.map((note) => note.text)),
      figure.data.some((trace) => trace.colorbar) ? 78 : 0,
    );
    const room = width - left - right;
    const widths = names.map((name) => 46 + 6.8 * name.length);
    const inOneRow = widths.reduce((sum, each) => sum + each, 0) <= room;
    const columns = Math.max(1, Math.floor(room / Math.max(1, ...widths)));
    const rows = inOneRow ? 1 : Math.ceil(names.length / columns);
    // Above the legend lie the buttons.
    return { l: left, r: right, t: figure.layout.showlegend ? 30 + 19 * rows : 30, b: 44, autoexpand: false };
  }

  function tracesOf(figure, colours) {
    return figure.data.map((trace) => {
      const drawn = coloured(trace, colours);
      if (trace.meta === "galaxies" && data.galaxies) {
        drawn.text = trace.customdata.map(galaxyText);
        drawn.hovertemplate = "%{text}<extra></extra>";
        if (chosen) drawn.selectedpoints = selectedPoints(trace);
      }
      return drawn;
    });
  }

  function selectedPoints(trace) {
    const points = [];
    trace.customdata.forEach((galaxy, point) => chosen.has(galaxy) && points.push(point));
    return points;
  }

  function draw(element) {
    const figure = data.figures[element.dataset.plot];
    const colours = getComputedStyle(root);
    const fresh = !element.classList.contains("js-plotly-plot");
    const layout = layoutOf(figure, colours, element.clientWidth);
    Plotly.react(element, tracesOf(figure, colours), layout, CONFIG).then(() => {
      element.style.minHeight = "";
    });
    if (fresh) listen(element);
  }

  function listen(element) {
    element.on("plotly_click", (event) => {
      const point = event.points[0];
      if (point.data.meta === "galaxies") showGalaxies(new Set([point.customdata]));
      if (point.data.meta === "ranks") showRank(String(point.customdata));
    });
    element.on("plotly_selected", (event) => {
      if (!event) return showGalaxies(null);
      const points = event.points.filter((point) => point.data.meta === "galaxies");
      if (points.length) showGalaxies(new Set(points.map((point) => point.customdata)));
    });
    element.on("plotly_deselect", () => showGalaxies(null));
  }

  const plots = () => [...main.querySelectorAll(".plot")];

  // One after the other: the page stays responsive meanwhile.
  function drawAll() {
    const next = plots().find((plot) => !plot.classList.contains("js-plotly-plot"));
    if (!next) return;
    draw(next);
    setTimeout(drawAll);
  }

  function redraw() {
    plots().forEach((element) => {
      if (element.classList.contains("js-plotly-plot")) draw(element);
    });
  }

  // ---- galaxies -----------------------------------------------------------------------------

  const NAMES = { redshift: "redshift", true_redshift: "true redshift", index: "index in partition" };
  const named = (name) => NAMES[name] || name.replaceAll("_", " ");
  const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const shown = (value) =>
    typeof value !== "number" || Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));

  function galaxyText(galaxy) {
    const lines = [`<b>${escaped(data.galaxies.id[galaxy])}</b>`];
    for (const name of ["redshift", "true_redshift", "magnitude_r", "flags", "rank"]) {
      const value = data.galaxies[name] && data.galaxies[name][galaxy];
      if (value !== undefined && value !== null) lines.push(`${named(name)} ${escaped(shown(value))}`);
    }
    if (data.galaxies.z_lo68) {
      const [low, high] = [data.galaxies.z_lo68[galaxy], data.galaxies.z_hi68[galaxy]];
      if (low !== null) lines.push(`68 %: ${shown(low)} to ${shown(high)}`);
    }
    return lines.join("<br>");
  }

  function element(tag, text, parent, className) {
    const made = document.createElement(tag);
    if (text !== undefined && text !== null) made.textContent = text;
    if (className) made.className = className;
    if (parent) parent.append(made);
    return made;
  }

  function facts(pairs, parent) {
    const list = element("dl", null, parent);
    for (const [label, value] of pairs) {
      const row = element("div", null, list);
      element("dt", label, row);
      element("dd", value, row);
    }
  }

  function picture(galaxy, parent) {
    const button = main.querySelector(`.cutouts [data-galaxy="${galaxy}"]`);
    if (!button) return;
    const image = button.querySelector("img").cloneNode();
    image.style.imageRendering = "pixelated";
    parent.append(image);
  }

  function showGalaxies(selection) {
    chosen = selection && selection.size ? selection : null;
    for (const plot of plots()) {
      const figure = data.figures[plot.dataset.plot];
      if (!plot.classList.contains("js-plotly-plot") || !figure) continue;
      figure.data.forEach((trace, i) => {
        if (trace.meta !== "galaxies") return;
        Plotly.restyle(plot, { selectedpoints: [chosen ? selectedPoints(trace) : null] }, [i]);
      });
      if (!chosen && plot.layout.selections && plot.layout.selections.length) {
        Plotly.relayout(plot, { selections: [] });
      }
    }
    for (const button of main.querySelectorAll(".cutouts button")) {
      const galaxy = Number(button.dataset.galaxy);
      button.classList.toggle("chosen", Boolean(chosen) && chosen.has(galaxy));
      button.classList.toggle("other", Boolean(chosen) && !chosen.has(galaxy));
    }
    for (const explorer of main.querySelectorAll("[data-explorer=galaxies]")) describe(explorer);
  }

  function describe(explorer) {
    const part = (name) => explorer.querySelector(`[data-part=${name}]`);
    const details = part("details");
    details.replaceChildren();
    part("clear").hidden = !chosen;
    part("status").textContent = chosen
      ? `${chosen.size} of ${data.galaxies.id.length} sampled galaxies selected.`
      : "";
    if (!chosen) return;
    if (chosen.size > 1) return list(details);
    const [galaxy] = chosen;
    const box = element("div", null, details, "details");
    element("h3", `Galaxy ${data.galaxies.id[galaxy]}`, box);
    picture(galaxy, box);
    facts(
      Object.entries(data.galaxies)
        .filter(([name, values]) => name !== "id" && values[galaxy] !== null)
        .map(([name, values]) => [named(name), shown(values[galaxy])]),
      box,
    );
  }

  const LISTED = 12;

  function list(parent) {
    const columns = ["id", "redshift", "true_redshift", "magnitude_r", "flags", "rank"].filter(
      (name) => data.galaxies[name] && data.galaxies[name].some((value) => value !== null),
    );
    const box = element("div", null, parent, "scroll");
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Selected galaxies");
    const table = element("table", null, box);
    element("caption", chosen.size > LISTED ? `The first ${LISTED} of them` : "They are", table);
    const head = element("tr", null, element("thead", null, table));
    columns.forEach((name) => { element("th", named(name), head).scope = "col"; });
    const body = element("tbody", null, table);
    for (const galaxy of [...chosen].slice(0, LISTED)) {
      const row = element("tr", null, body);
      columns.forEach((name, i) => {
        const value = data.galaxies[name][galaxy];
        const cell = element(i ? "td" : "th", value === null ? "–" : shown(value), row);
        if (!i) cell.scope = "row";
      });
    }
  }

  // ---- ranks --------------------------------------------------------------------------------

  function showRank(rank) {
    for (const explorer of main.querySelectorAll("[data-explorer=ranks]")) {
      const choice = explorer.querySelector("[data-part=choice]");
      choice.value = rank;
      const details = explorer.querySelector("[data-part=details]");
      details.replaceChildren();
      if (rank) rankDetails(rank, details);
    }
    if (!data.galaxies) return;
    const galaxies = new Set();
    data.galaxies.rank.forEach((each, i) => String(each) === rank && galaxies.add(i));
    showGalaxies(galaxies);
  }

  function rankDetails(rank, parent) {
    const { ranks, failed, logs, fields, slow } = data.ranks;
    const box = element("div", null, parent, "details");
    const record = ranks[rank];
    const why = failed[rank];
    const how = why ? "failed" : slow.includes(Number(rank)) ? "slow" : "done";
    element("h3", `Rank ${rank}: ${how}`, box);
    if (why) element("p", why[1], box, "why");
    const pairs = [["partition", record ? record[0] : why ? why[0] : "unknown"]];
    if (record) {
      fields.forEach(([label, unit], i) => {
        const value = record[i + 1];
        if (value !== null && value !== "") pairs.push([label, `${shown(value)}${unit ? ` ${unit}` : ""}`]);
      });
    }
    facts(pairs, box);
    const shownPictures = galaxiesOf(rank).filter((galaxy) =>
      main.querySelector(`.cutouts [data-galaxy="${galaxy}"]`));
    if (shownPictures.length) {
      element("h3", "Its galaxies with pictures", box).style.marginTop = "0.8rem";
      shownPictures.slice(0, LISTED).forEach((galaxy) => picture(galaxy, box));
    }
    const lines = logs && logs[rank];
    if (lines) {
      element("h3", "Its log", box).style.marginTop = "0.8rem";
      const text = element("pre", lines.join("\n"), box);
      text.tabIndex = 0;
    } else {
      element("p", `Its log: cosmicai logs --rank ${rank} (of a run on AWS, with --stack)`, box);
    }
  }

  function galaxiesOf(rank) {
    const found = [];
    if (data.galaxies) data.galaxies.rank.forEach((each, i) => String(each) === rank && found.push(i));
    return found;
  }

  function fillRanks() {
    if (!data.ranks) return;
    const { ranks, failed, slow } = data.ranks;
    const numbers = [...new Set([...Object.keys(failed), ...Object.keys(ranks)])].map(Number);
    const urgency = (rank) => (failed[rank] ? 0 : slow.includes(rank) ? 1 : 2);
    numbers.sort((a, b) => urgency(a) - urgency(b) || a - b);
    for (const choice of main.querySelectorAll("[data-part=choice]")) {
      const before = choice.value;
      choice.replaceChildren(new Option("choose", ""));
      for (const rank of numbers) {
        const note = [" (failed)", " (slow)", ""][urgency(rank)];
        choice.append(new Option(`${rank}${note}`, rank));
      }
      choice.value = before;
      choice.addEventListener("change", () => showRank(choice.value));
    }
  }

  // ---- theme --------------------------------------------------------------------------------

  const toggle = document.getElementById("theme");

  function label() {
    toggle.textContent = isDark() ? "Light theme" : "Dark theme";
  }

  function remembered(theme) {
    try {
      if (theme) localStorage.setItem("cosmicai-theme", theme);
      return localStorage.getItem("cosmicai-theme");
    } catch {
      return null; // where pages may store nothing
    }
  }

  const earlier = remembered();
  if (earlier === "dark" || earlier === "light") root.dataset.theme = earlier;
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    label();
    redraw();
  });
  dark.addEventListener("change", () => {
    label();
    redraw();
  });
  label();

  // ---- start --------------------------------------------------------------------------------

  function begin() {
    root.classList.add("interactive");
    fillRanks();
    drawAll();
    for (const explorer of main.querySelectorAll("[data-explorer=galaxies]")) {
      explorer.querySelector("[data-part=clear]").addEventListener("click", () => showGalaxies(null));
    }
    for (const button of main.querySelectorAll(".cutouts button")) {
      button.addEventListener("click", () => {
        const galaxy = Number(button.dataset.galaxy);
        showGalaxies(chosen && chosen.has(galaxy) && chosen.size === 1 ? null : new Set([galaxy]));
      });
    }
  }

  begin();

  // ---- while a run goes on ------------------------------------------------------------------

  const SOON = 1500;
  const PATIENCE = 8;
  let version = "";
  let silent = 0;

  async function ask() {
    const said = document.getElementById("live");
    let news;
    try {
      const answer = await fetch(`state?seen=${version}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      news = await answer.json();
      silent = 0;
    } catch {
      silent += 1;
      if (silent < PATIENCE) return setTimeout(ask, SOON);
      said.textContent = "The command that showed this page has ended; this is what it showed last.";
      return undefined;
    }
    const status = news.done ? "Finished: this is the final report." : `Live: ${news.status}`;
    if (said.textContent !== status) said.textContent = status;
    if (news.main !== undefined && String(news.version) !== version) renew(news);
    version = String(news.version);
    return news.done ? undefined : setTimeout(ask, SOON);
  }

  // Figures stay where they are and get new numbers, so that zoom, selection and scrolling last.
  function renew(news) {
    const before = new Map(plots().map((plot) => [plot.dataset.plot, plot]));
    const open = new Set(plots().filter((plot) => plot.parentElement.querySelector("details[open]"))
      .map((plot) => plot.dataset.plot));
    const rank = main.querySelector("[data-part=choice]")?.value;
    const { scrollX, scrollY } = window;
    data = news.data;
    document.getElementById("subtitle").textContent = news.subtitle;
    main.innerHTML = news.main;
    const kept = [];
    for (const plot of plots()) {
      const earlier = before.get(plot.dataset.plot);
      if (open.has(plot.dataset.plot)) plot.parentElement.querySelector("details")?.setAttribute("open", "");
      if (!earlier) continue;
      earlier.setAttribute("aria-label", plot.getAttribute("aria-label"));
      plot.replaceWith(earlier);
      if (earlier.classList.contains("js-plotly-plot")) kept.push(earlier);
    }
    if (chosen && data.galaxies) chosen = null; // another sample
    begin();
    kept.forEach(draw);
    if (rank) {
      const choice = main.querySelector("[data-part=choice]");
      if (choice) choice.value = rank;
      for (const explorer of main.querySelectorAll("[data-explorer=ranks] [data-part=details]")) {
        rankDetails(rank, explorer);
      }
    }
    window.scrollTo({ left: scrollX, top: scrollY, behavior: "instant" });
  }

  if ("live" in document.body.dataset) ask();
})();
