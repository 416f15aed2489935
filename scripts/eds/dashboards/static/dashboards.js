"use strict";
// Draws the page from the data in it. It formats and arranges; every figure is one that the database answered.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const LOCALE = "en-GB";
  const MINUTE = 60000;
  const NARROW = 480;
  const PALETTE = ["c1", "c2", "c3", "c4", "c5", "c6"];

  // --- text ---------------------------------------------------------------------------------------------------------
  const money = new Intl.NumberFormat(LOCALE, { style: "currency", currency: data.currency, currencyDisplay: "code" });
  const compact = new Intl.NumberFormat(LOCALE, { notation: "compact", maximumFractionDigits: 1 });
  const headline = new Intl.NumberFormat(LOCALE, { notation: "compact", minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const integer = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
  const decimal = new Intl.NumberFormat(LOCALE, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const tenth = new Intl.NumberFormat(LOCALE, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const month = new Intl.DateTimeFormat(LOCALE, { month: "short", year: "numeric", timeZone: "UTC" });
  const day = new Intl.DateTimeFormat(LOCALE, { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  const clock = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });

  const numeric = (format) => ["money", "percent", "integer", "seconds"].includes(format);

  function words(value) {
    // Codes such as written_off read better as words; names stay as they are.
    if (typeof value !== "string" || !/^[a-z]+(_[a-z]+)*$/.test(value)) return String(value);
    if (value.length <= 3) return value.toUpperCase();
    const text = value.replaceAll("_", " ");
    return text[0].toUpperCase() + text.slice(1);
  }

  function write(value, format) {
    if (value === null || value === undefined) return "–";
    switch (format) {
      case "money": return money.format(value);
      case "percent": return `${decimal.format(value)} %`;
      case "integer": return integer.format(value);
      case "seconds": return `${tenth.format(value)} s`;
      case "month": return month.format(new Date(value));
      case "datetime": return `${day.format(new Date(value))}, ${clock.format(new Date(value))} UTC`;
      default: return words(value);
    }
  }

  function writeShort(value, format) {
    if (value === null || value === undefined) return "–";
    if (format === "money") return compact.format(value);
    if (format === "integer") return Math.abs(value) >= 100000 ? compact.format(value) : integer.format(value);
    if (format === "percent") return `${tenth.format(value)} %`;
    return write(value, format);
  }

  function age(time) {
    const minutes = Math.max(0, Math.round((Date.now() - new Date(time)) / MINUTE));
    if (minutes < 1) return "just now";
    if (minutes < 120) return `${minutes} min ago`;
    if (minutes < 48 * 60) return `${Math.round(minutes / 60)} h ago`;
    return `${Math.round(minutes / 60 / 24)} days ago`;
  }

  // --- parts --------------------------------------------------------------------------------------------------------
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function table(question, rows, name) {
    const columns = Object.entries(question.columns);
    const head = make("tr", {}, ...columns.map(([, column]) =>
      make("th", { scope: "col", className: numeric(column.format) ? "right" : "", textContent: column.label })));
    const body = rows.map((row) => make("tr", {}, ...columns.map(([key, column]) => {
      const cell = make("td", { className: numeric(column.format) ? "right" : "" });
      if (column.format === "status") cell.append(make("span", { className: `status ${row[key]}`, textContent: words(row[key]) }));
      else cell.textContent = write(row[key], column.format);
      return cell;
    })));
    const scroll = make("div", { className: "scroll", tabIndex: 0 },
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `${name}, table`);
    return scroll;
  }

  // What a chart says, for those who do not see it; the table beneath has every figure.
  function summary(question, rows, name) {
    if (!question.x) return name;
    const [y] = question.y;
    const format = question.columns[y].format;
    const place = (row) => [question.x, question.series].filter(Boolean)
      .map((key) => write(row[key], question.columns[key].format)).join(", ");
    const sorted = [...rows].sort((one, other) => other[y] - one[y]);
    const greatest = sorted[0], least = sorted[sorted.length - 1];
    return `${name}: ${rows.length} values of ${question.columns[y].label}. ` +
      `Greatest: ${place(greatest)} with ${write(greatest[y], format)}. ` +
      `Least: ${place(least)} with ${write(least[y], format)}.`;
  }

  // --- charts -------------------------------------------------------------------------------------------------------
  function colourOf(question, key, index) {
    return variable(question.colours[key] ?? PALETTE[index % PALETTE.length]);
  }

  function seriesOf(question, rows) {
    // One series for each y, or for each value of the series column.
    if (!question.series) {
      return question.y.map((y, index) => ({
        name: question.columns[y].label, format: question.columns[y].format, colour: colourOf(question, y, index),
        values: rows.map((row) => row[y]), at: rows.map((row) => row[question.x]),
      }));
    }
    const [y] = question.y;
    const at = [...new Set(rows.map((row) => row[question.x]))];
    return [...new Set(rows.map((row) => row[question.series]))].map((value, index) => ({
      name: words(value), format: question.columns[y].format, colour: colourOf(question, value, index), at,
      values: at.map((place) => rows.find((row) => row[question.x] === place && row[question.series] === value)?.[y] ?? 0),
    }));
  }

  function options(question, rows, width) {
    const text = variable("text"), muted = variable("muted"), line = variable("line"), surface = variable("surface");
    const narrow = width < NARROW;
    const font = { color: muted, fontSize: 12, fontFamily: getComputedStyle(document.body).fontFamily };
    const base = {
      animation: false,
      textStyle: { fontFamily: font.fontFamily },
      tooltip: {
        backgroundColor: surface, borderColor: line, textStyle: { color: text, fontSize: 13 }, confine: true,
        extraCssText: "border-radius: 8px; box-shadow: 0 4px 16px rgb(0 0 0 / 18%); text-align: left",
      },
    };
    const xColumn = question.columns[question.x];
    const escape = (value) => make("i", { textContent: value }).innerHTML;

    if (question.chart === "pie") {
      const [y] = question.y;
      const total = rows.reduce((sum, row) => sum + row[y], 0);
      const slices = rows.map((row, index) => ({
        name: write(row[question.x], xColumn.format), value: row[y],
        itemStyle: { color: colourOf(question, row[question.x], index) },
      }));
      // The middle says the whole; one slice carries it, as each would draw it over the other.
      slices[0].label = {
        show: true, position: "center",
        formatter: () => `{big|${writeShort(total, question.columns[y].format)}}\n{small|${question.columns[y].label}}`,
        rich: { big: { fontSize: 22, fontWeight: 650, color: text, lineHeight: 28 }, small: { fontSize: 12, color: muted } },
      };
      const share = (value) => `${tenth.format(total ? 100 * value / total : 0)} %`;
      const byName = new Map(slices.map((slice) => [slice.name, slice.value]));
      return {
        ...base,
        tooltip: { ...base.tooltip, trigger: "item", formatter: (item) =>
          `${escape(item.name)}<br><b>${escape(write(item.value, question.columns[y].format))}</b> · ${share(item.value)}` },
        legend: {
          icon: "circle", itemGap: 10, itemWidth: 10, itemHeight: 10, selectedMode: false,
          textStyle: { ...font, color: text, fontSize: 13 },
          formatter: (name) => `${name}  ${share(byName.get(name))}`,
          ...(narrow ? { bottom: 0, left: "center" } : { orient: "vertical", right: "2%", top: "middle" }),
        },
        series: [{
          type: "pie", radius: narrow ? ["42%", "64%"] : ["52%", "80%"], center: narrow ? ["50%", "38%"] : ["33%", "50%"],
          data: slices, label: { show: false }, labelLine: { show: false },
          emphasis: { scale: false }, itemStyle: { borderColor: surface, borderWidth: 2 },
        }],
      };
    }

    const series = seriesOf(question, rows);
    const lying = question.chart === "row";
    const categories = series[0].at.map((value) => write(value, xColumn.format));
    const category = {
      type: "category", data: categories, axisTick: { show: false }, axisLine: { lineStyle: { color: line } },
      axisLabel: { ...font, hideOverlap: true }, boundaryGap: question.chart !== "line", inverse: lying,
    };
    const value = {
      type: "value", splitLine: { lineStyle: { color: line } }, splitNumber: narrow ? 3 : 5,
      axisLabel: { ...font, hideOverlap: true, formatter: (number) => writeShort(number, series[0].format) },
    };
    const legend = series.length > 1;
    return {
      ...base,
      tooltip: { ...base.tooltip, trigger: "axis", axisPointer: { type: question.chart === "line" ? "line" : "shadow" },
        formatter: (items) => `${escape(items[0].axisValue)}<br>` + items.map((item) =>
          `${item.marker}${escape(item.seriesName)} <b>${escape(write(item.value, series[item.seriesIndex].format))}</b>`).join("<br>") },
      legend: legend ? { top: 0, left: 0, icon: "roundRect", itemWidth: 12, itemHeight: 8, itemGap: 16,
        textStyle: { ...font, color: text, fontSize: 13 } } : undefined,
      grid: { left: 6, right: lying ? 64 : 16, top: legend ? (narrow && series.length > 3 ? 58 : 36) : 12, bottom: 4, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
      xAxis: lying ? { ...value, axisLabel: { show: false }, splitLine: { show: false } } : category,
      yAxis: lying ? { ...category, axisLabel: { ...font, color: text, interval: 0 } } : value,
      series: series.map((one, index) => ({
        name: one.name, data: one.values, color: one.colour,
        ...(question.chart === "line"
          ? { type: "line", symbol: "circle", symbolSize: 5, showSymbol: one.values.length < 25, lineStyle: { width: 2.5 },
              areaStyle: index === 0 ? { opacity: 0.08 } : undefined }
          : { type: "bar", stack: question.stacked ? "all" : undefined, barMaxWidth: lying ? 20 : 56,
              itemStyle: { borderRadius: question.stacked ? 0 : lying ? [0, 4, 4, 0] : [4, 4, 0, 0] },
              label: lying ? { show: true, position: "right", color: text, fontSize: 12,
                formatter: (item) => writeShort(item.value, one.format) } : undefined }),
      })),
    };
  }

  const drawn = new Map();

  function draw(card, question, rows) {
    const show = card.querySelector(".show");
    const name = card.querySelector("h3").textContent;
    drawn.get(card)?.chart?.dispose();
    drawn.delete(card);
    // A table that was opened stays open when a filter changes.
    const open = show.querySelector("details")?.open ?? false;
    show.replaceChildren();
    card.dataset.rows = rows.length;
    if (question.chart === "number") {
      const key = question.y[0], format = question.columns[key].format, value = rows[0]?.[key] ?? null;
      const missing = value === null;
      const time = format === "datetime" && !missing;
      show.append(make("div", { className: "big", textContent:
        missing ? "–" : time ? day.format(new Date(value)) : format === "money" ? `${data.currency} ${headline.format(value)}` : write(value, format) }));
      show.append(make("div", { className: "exact", textContent:
        missing ? "" : time ? `${clock.format(new Date(value))} UTC · ${age(value)}` : format === "money" ? write(value, format) : "" }));
      card.dataset.value = value;
      return;
    }
    if (!rows.length) {
      show.append(make("p", { className: "empty", textContent: "Nothing to show yet." }));
      return;
    }
    if (question.chart === "table") {
      show.append(table(question, rows, name));
      return;
    }
    const place = make("div", { className: "chart" });
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", summary(question, rows, name));
    show.append(place, make("details", { open }, make("summary", { textContent: "Figures as a table" }), table(question, rows, name)));
    const chart = echarts.init(place, null, { renderer: "svg" });
    const redraw = () => { chart.resize(); chart.setOption(options(question, rows, place.clientWidth), true); };
    redraw();
    drawn.set(card, { chart, redraw });
  }

  // --- dashboards ---------------------------------------------------------------------------------------------------
  // As the page's maker writes the choices: a list of pairs by name.
  const keyOf = (chosen) => JSON.stringify(Object.entries(chosen).sort());

  function drawDashboard(section) {
    const filters = Object.fromEntries([...section.querySelectorAll("[data-filter]")].map((select) => [select.dataset.filter, select.value]));
    for (const card of section.querySelectorAll("[data-question]")) {
      const question = data.questions[card.dataset.question];
      const chosen = Object.fromEntries(Object.keys(question.filters).filter((name) => filters[name]).map((name) => [name, filters[name]]));
      const key = keyOf(chosen);
      if (card.dataset.drawn === key) continue;
      card.dataset.drawn = key;
      draw(card, question, question.results[key] ?? question.results[keyOf({})]);
      const note = card.querySelector(".chosen");
      note.hidden = !Object.keys(chosen).length;
      note.textContent = Object.entries(chosen).map(([name, value]) => `${data.filters[name].label}: ${words(value)}`).join(" · ");
    }
  }

  function drawRuns(section) {
    if (section.dataset.drawn) return;
    section.dataset.drawn = "1";
    const columns = {
      run_id: { label: "Run", format: "integer" }, started: { label: "Started", format: "datetime" },
      seconds: { label: "Duration", format: "seconds" }, status: { label: "Status", format: "status" },
      trigger: { label: "Trigger" }, extraction: { label: "Extraction" }, source: { label: "Source" },
      inserted: { label: "Inserted", format: "integer" }, updated: { label: "Updated", format: "integer" },
      deleted: { label: "Deleted", format: "integer" }, message: { label: "Message" },
    };
    draw(section.querySelector("#runs-history"), { chart: "table", columns }, data.runs);
    const { run_id, seconds, status } = columns;
    draw(section.querySelector("#runs-duration"), {
      chart: "bar", x: "run_id", y: ["seconds"], series: "status", stacked: true,
      columns: { run_id: { ...run_id, format: "text" }, seconds, status: { ...status, format: "text" } },
      colours: { success: "good", failed: "bad", running: "warning" },
    }, data.runs.filter((run) => run.seconds !== null).reverse());
  }

  function drawSection(section) {
    if (section.id === "runs") drawRuns(section);
    else drawDashboard(section);
  }

  const sections = [...document.querySelectorAll("section.dashboard")];

  function open() {
    const wanted = sections.find((section) => `#${section.id}` === location.hash) ?? sections[0];
    for (const section of sections) section.hidden = section !== wanted;
    for (const link of document.querySelectorAll("header nav a")) {
      if (link.hash === `#${wanted.id}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = `${wanted.querySelector("h2").textContent} · ${document.querySelector("h1").textContent}`;
    drawSection(wanted);
    redrawVisible();
    scrollTo(0, 0);
  }

  function redrawVisible() {
    for (const [card, { redraw }] of drawn) if (card.offsetParent) redraw();
  }

  function freshness() {
    const line = document.getElementById("freshness");
    if (!data.data_as_of) { line.textContent = "No data yet"; return; }
    // How current the data is follows from the last success: a run that found nothing new keeps the data's time.
    const old = !data.last_success || Date.now() - new Date(data.last_success) > data.fresh_minutes * MINUTE;
    line.classList.toggle("old", old);
    const since = document.getElementById("age");
    if (since) since.textContent = `, ${age(data.data_as_of)}`;
    line.replaceChildren(make("span", {}, "Data as of ", make("b", { textContent: write(data.data_as_of, "datetime") }),
      old ? ` · last successful run ${data.last_success ? age(data.last_success) : "never"}` : ` · ${age(data.data_as_of)}`));
  }

  // --- colours ------------------------------------------------------------------------------------------------------
  const THEMES = { "": ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };
  const button = document.getElementById("theme");

  function setTheme(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    button.textContent = THEMES[theme][0];
    button.setAttribute("aria-label", `Colours: ${THEMES[theme][1]}`);
    try { localStorage.setItem("theme", theme); } catch { /* a file that was opened may have no storage */ }
    redrawVisible();
  }

  button.addEventListener("click", () => {
    const order = Object.keys(THEMES);
    setTheme(order[(order.indexOf(document.documentElement.dataset.theme ?? "") + 1) % order.length]);
  });
  let stored = "";
  try { stored = localStorage.getItem("theme") ?? ""; } catch { /* as above */ }
  setTheme(stored in THEMES ? stored : "");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawVisible);

  // --- start --------------------------------------------------------------------------------------------------------
  for (const select of document.querySelectorAll("[data-filter]")) {
    for (const option of select.options) option.textContent = words(option.textContent);
    select.addEventListener("change", () => drawDashboard(select.closest("section")));
  }
  addEventListener("hashchange", open);
  addEventListener("beforeprint", redrawVisible);
  let pending;
  addEventListener("resize", () => { clearTimeout(pending); pending = setTimeout(redrawVisible, 100); });
  document.getElementById("generated").textContent = write(data.generated_at, "datetime");
  freshness();
  setInterval(freshness, MINUTE);
  open();
})();
