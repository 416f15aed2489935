"use strict";
// Draws the page from the data in it. Figures are sums over the rows of a grain that the filters leave, in whole units of
// the last decimal, so that they are exact; a question with SQL of its own comes with the database's answers.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const LOCALE = "en-GB";
  const MINUTE = 60000;
  const NARROW = 480;
  const ROWS_AT_FIRST = 100;
  // On a telephone, where each row is a block of lines.
  const BLOCKS_AT_FIRST = 10;
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
  const calendarMonth = new Intl.DateTimeFormat(LOCALE, { month: "short", timeZone: "UTC" });
  const signed = new Intl.NumberFormat(LOCALE, { minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: "exceptZero" });
  const clock = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });

  const numeric = (format) => ["money", "percent", "change", "integer", "seconds"].includes(format);

  function words(value) {
    // Codes such as written_off read better as words; names stay as they are.
    if (typeof value !== "string" || !/^[a-z]+(_[a-z0-9]+)*$/.test(value)) return String(value);
    if (value.length <= 3) return value.toUpperCase();
    const text = value.replaceAll("_", " ");
    return text[0].toUpperCase() + text.slice(1);
  }

  function write(value, format) {
    if (value === null || value === undefined) return "–";
    switch (format) {
      case "money": return money.format(value);
      case "percent": return `${decimal.format(value)} %`;
      case "change": return `${signed.format(value)} %`;
      case "integer": return integer.format(value);
      case "seconds": return `${tenth.format(value)} s`;
      case "month": return month.format(new Date(value));
      case "calendar_month": return calendarMonth.format(new Date(Date.UTC(2000, value - 1, 1)));
      case "date": return day.format(new Date(value));
      case "datetime": return `${day.format(new Date(value))}, ${clock.format(new Date(value))} UTC`;
      default: return words(value);
    }
  }

  // In a table the currency stands at the top of the column.
  const writeCell = (value, format) => format === "money" && typeof value === "number" ? decimal.format(value) : write(value, format);
  const labelOf = (column) => column.format === "money" ? `${column.label}, ${data.currency}` : column.label;

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

  // --- figures ------------------------------------------------------------------------------------------------------
  // A chosen filter is a list of values; one on months is a pair, first and last, either of which may be null.
  const takes = (question, name) => {
    const column = question.filters[name];
    return Boolean(column) && !(question.view && data.grains[question.view].left_out.includes(column));
  };

  // Which rows of a grain the conditions leave: one by one, as numbers of codes that are allowed.
  const kept = new Map();
  function rowsLeft(view, conditions) {
    const key = JSON.stringify([view, conditions]);
    if (kept.has(key)) return kept.get(key);
    const grain = data.grains[view];
    let rows = Array.from({ length: grain.size }, (_, row) => row);
    for (const [name, test] of conditions) {
      const column = grain.columns[name];
      if (!column) continue;
      const allowed = column.values.map((value) => test.months
        ? (!test.months[0] || value >= test.months[0]) && (!test.months[1] || value <= test.months[1])
        : test.values.includes(String(value)));
      rows = rows.filter((row) => allowed[column.codes[row]] ?? false);
    }
    if (kept.size > 50) kept.clear();
    kept.set(key, rows);
    return rows;
  }

  const conditionsOf = (where) => Object.entries(where).map(([name, values]) => [name, { values: values.map(String) }]);

  // a/b with two decimals, rounded half away from zero, as numeric in the database is.
  function quotient(a, b, factor) {
    if (a === null || b === null || b === 0) return null;
    const above = BigInt(a) * BigInt(factor) * 100n, below = BigInt(b);
    const sign = (above < 0n) !== (below < 0n) ? -1n : 1n;
    const [n, d] = [above < 0n ? -above : above, below < 0n ? -below : below];
    return Number(sign * ((2n * n + d) / (2n * d))) / 100;
  }

  const scaleOf = (grain, column) => Math.max(0, ...column.sum.map((name) => grain.columns[name].scale));

  // One group's columns from the sums of its rows. whole: the sums of all rows.
  function finish(question, grain, group, whole) {
    const row = { ...group.at };
    const units = (name, of = group) => of.sums[name] ?? 0;
    for (const [name, column] of Object.entries(question.columns)) {
      if (column.sum.length) {
        row[name] = units(name) === null ? null : units(name) / 10 ** scaleOf(grain, column);
        continue;
      }
      if (column.share) { row[name] = quotient(units(column.share), units(column.share, whole), 100); continue; }
      const pair = column.percent ?? column.change ?? column.average;
      if (!pair) continue;
      const [a, b] = pair.map((each) => units(each));
      // The scales of a quotient's columns may differ: a rate has four decimals, a number of loans none.
      const [one, other] = pair.map((each) => scaleOf(grain, question.columns[each]));
      const below = b === null ? null : BigInt(b) * 10n ** BigInt(Math.max(0, one - other));
      const above = a === null || b === null ? null : BigInt(column.change ? a - b : a) * 10n ** BigInt(Math.max(0, other - one));
      row[name] = above === null ? null : quotient(above, below === 0n ? 0 : below, column.average ? 1 : 100);
    }
    return row;
  }

  // What is running is added up along x, for each value of series. The groups' sums become those so far.
  function addUp(question, groups) {
    const names = Object.keys(question.columns).filter((name) => question.columns[name].running);
    const reached = new Map();
    if (names.length) groups.sort((one, other) => compare(one.at[question.x], other.at[question.x]));
    for (const group of names.length ? groups : []) {
      const before = reached.get(group.at[question.series]);
      for (const name of names) {
        if (before && (before[name] === null || group.sums[name] === null)) group.sums[name] = null;
        else if (before) group.sums[name] += before[name];
      }
      reached.set(group.at[question.series], group.sums);
    }
    return groups;
  }

  function compare(one, other) {
    if (one === other) return 0;
    if (one === null || one === undefined) return 1;
    if (other === null || other === undefined) return -1;
    return one < other ? -1 : 1;
  }

  function sorter(question) {
    const order = question.sort.length ? question.sort : dimensionsOf(question);
    return (one, other) => {
      for (const name of order) {
        const key = name.replace(/^-/, "");
        const down = name.startsWith("-") && one[key] !== null && other[key] !== null;
        const result = compare(one[key], other[key]);
        if (result) return down ? -result : result;
      }
      return 0;
    };
  }

  const isMeasure = (column) => column.sum?.length || column.percent || column.change || column.average || column.share;
  const isRunning = (question) => Object.values(question.columns).some((column) => column.running);
  const dimensionsOf = (question) => Object.keys(question.columns).filter((name) => !isMeasure(question.columns[name]));

  function valueAt(column, row) {
    if (column.numbers) return column.numbers[row] === null ? null : column.numbers[row] / 10 ** column.scale;
    return column.codes[row] < 0 ? null : column.values[column.codes[row]];
  }

  // The rows of a question for what is chosen, and the row of all of them together.
  function answer(question, chosen) {
    if (!question.view) return { rows: question.results[keyOf(chosen)] ?? question.results[keyOf({})], total: null };
    const grain = data.grains[question.view];
    const dimensions = dimensionsOf(question);
    const missing = dimensions.filter((name) => grain.left_out.includes(name));
    if (missing.length) return { rows: [], total: null, missing };
    const conditions = conditionsOf(question.where);
    for (const [name, values] of Object.entries(chosen)) {
      conditions.push([question.filters[name], data.filters[name].type === "months" ? { months: values } : { values }]);
    }
    const left = rowsLeft(question.view, conditions);
    if (grain.is_list) {
      const columns = Object.keys(question.columns).map((name) => [name, grain.columns[name]]);
      return { rows: left.map((row) => Object.fromEntries(columns.map(([name, column]) => [name, valueAt(column, row)]))), total: null, held: grain };
    }
    const sums = Object.entries(question.columns).filter(([, column]) => column.sum.length).map(([name, column]) => ({
      name, scale: scaleOf(grain, column),
      parts: column.sum.map((part) => [grain.columns[part].numbers, 10 ** (scaleOf(grain, column) - grain.columns[part].scale)]),
      allowed: Object.entries(column.where).map(([place, values]) =>
        [grain.columns[place].codes, grain.columns[place].values.map((value) => values.map(String).includes(String(value)))]),
    }));
    const places = dimensions.map((name) => grain.columns[name]);
    const groups = new Map();
    const whole = { at: {}, sums: Object.fromEntries(sums.map(({ name }) => [name, 0])) };
    for (const row of left) {
      let key = 0;
      for (const place of places) key = key * (place.values.length + 1) + place.codes[row] + 1;
      let group = groups.get(key);
      if (!group) {
        group = { at: Object.fromEntries(dimensions.map((name, index) => [name, valueAt(places[index], row)])),
          sums: Object.fromEntries(sums.map(({ name }) => [name, 0])) };
        groups.set(key, group);
      }
      for (const { name, parts, allowed } of sums) {
        if (!allowed.every(([codes, yes]) => yes[codes[row]])) continue;
        for (const [numbers, factor] of parts) {
          const value = numbers[row];
          for (const sum of [group.sums, whole.sums]) {
            sum[name] = value === null || sum[name] === null ? null : sum[name] + value * factor;
          }
        }
      }
    }
    const total = finish(question, grain, whole, whole);
    if (!dimensions.length) return { rows: [total], total: null };
    const rows = addUp(question, [...groups.values()].filter((group) => isRunning(question) || Object.values(group.sums).some((sum) => sum !== 0)))
      .map((group) => finish(question, grain, group, whole))
      .sort(sorter(question));
    return { rows: question.limit ? rows.slice(0, question.limit) : rows, total, of: rows.length };
  }

  // --- parts --------------------------------------------------------------------------------------------------------
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  const shownColumns = (question) => Object.entries(question.columns).filter(([, column]) => !column.hidden);

  // place(row): the address of the loans behind a row, or null.
  function table(question, { rows, total, of }, name, place = () => null) {
    const columns = shownColumns(question);
    const isWide = columns.length > 3;
    const first = isWide && matchMedia("(max-width: 700px)").matches ? BLOCKS_AT_FIRST : ROWS_AT_FIRST;
    const right = (column) => numeric(column.format) ? "right" : "";
    const head = make("tr", {}, ...columns.map(([, column]) =>
      make("th", { scope: "col", className: right(column), textContent: labelOf(column) })));
    const line = (row) => make("tr", {}, ...columns.map(([key, column], index) => {
      const cell = make("td", { className: right(column) });
      cell.dataset.label = labelOf(column);
      const address = index === 0 ? place(row) : null;
      if (column.format === "status") cell.append(make("span", { className: `status ${row[key]}`, textContent: words(row[key]) }));
      else if (address) cell.append(make("a", { href: address, title: "The loans behind this row", textContent: writeCell(row[key], column.format) }));
      else cell.textContent = writeCell(row[key], column.format);
      return cell;
    }));
    const body = make("tbody", {}, ...rows.slice(0, first).map(line));
    const parts = [make("thead", {}, head), body];
    if (total && rows.length > 1) {
      parts.push(make("tfoot", {}, make("tr", {}, ...columns.map(([key, column], index) => {
        const cell = make("td", { className: right(column), textContent: index === 0
          ? (of > rows.length ? `All ${integer.format(of)}` : "Total") : key in total ? writeCell(total[key], column.format) : "" });
        cell.dataset.label = labelOf(column);
        return cell;
      }))));
    }
    const scroll = make("div", { className: `scroll${isWide ? " wide" : ""}`, tabIndex: 0 }, make("table", {}, ...parts));
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `${name}, table`);
    const hint = make("p", { className: "hint", textContent: "More columns to the right →", hidden: true });
    const look = () => { hint.hidden = scroll.scrollLeft + scroll.clientWidth >= scroll.scrollWidth - 2; };
    scroll.addEventListener("scroll", look);
    new ResizeObserver(look).observe(scroll);
    const whole = make("div", { className: "whole" }, hint, scroll);
    if (rows.length > first) {
      const more = make("button", { type: "button", className: "more", textContent: `Show all ${integer.format(rows.length)} rows` });
      const all = () => { body.append(...rows.slice(first).map(line)); more.remove(); };
      more.addEventListener("click", all);
      whole.append(more);
    }
    return whole;
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

  // The denominator beside a rate.
  function ofHowMany(question, row) {
    const pair = question.columns[question.y[0]].percent;
    return pair && row ? ` · ${pair.map((name) => writeShort(row[name], question.columns[name].format)).join(" of ")}` : "";
  }

  // How many pixels the longest of some texts takes.
  const pen = document.createElement("canvas").getContext("2d");
  function widest(texts, { fontSize, fontFamily }) {
    pen.font = `${fontSize}px ${fontFamily}`;
    return Math.ceil(Math.max(0, ...texts.map((each) => pen.measureText(each).width)));
  }

  // Of what is added up: where nothing came, up to the last place where something did, it stays as it was.
  function carried(values) {
    const last = values.findLastIndex((value) => value !== null);
    let before = null;
    return values.map((value, index) => (before = value ?? (index < last ? before : null)));
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
    let at = [...new Set(rows.map((row) => row[question.x]))].sort(question.chart === "line" ? compare : () => 0);
    // Of what is added up there are rows only where something came: the places between them keep their width.
    if (isRunning(question) && at.length && at.every(Number.isInteger)) at = Array.from({ length: at.at(-1) - at[0] + 1 }, (_, index) => at[0] + index);
    return [...new Set(rows.map((row) => row[question.series]))].map((value, index) => ({
      name: words(value), format: question.columns[y].format, colour: colourOf(question, value, index), at,
      values: (isRunning(question) ? carried : (values) => values)(at.map((place) => rows.find((row) => row[question.x] === place && row[question.series] === value)?.[y] ?? (question.chart === "line" ? null : 0))),
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
    const horizontal = question.chart === "row";
    const categories = series[0].at.map((value) => write(value, xColumn.format));
    const category = {
      type: "category", data: categories, axisTick: { show: false }, axisLine: { lineStyle: { color: line } },
      axisLabel: { ...font, hideOverlap: true, ...(horizontal ? {} : { alignMinLabel: "left", alignMaxLabel: "right" }) },
      boundaryGap: question.chart !== "line", inverse: horizontal,
    };
    const value = {
      type: "value", splitLine: { lineStyle: { color: line } }, splitNumber: narrow ? 3 : 5,
      axisLabel: { ...font, hideOverlap: true, formatter: (number) => writeShort(number, series[0].format) },
    };
    const legend = series.length > 1;
    // A horizontal bar has its value at its end; the longest one must leave room for it. Where names, bars and values do
    // not fit beside each other, both texts are shorter.
    const atTheEnd = (one, index, isShort) =>
      writeShort(one.values[index], one.format) + (isShort ? "" : ofHowMany(question, rows[index]));
    const roomFor = (isShort) =>
      widest(series.flatMap((one) => one.values.map((_, index) => atTheEnd(one, index, isShort))), font) + 14;
    const tight = narrow || (horizontal && widest(categories, font) + roomFor(false) > 0.7 * width);
    const room = horizontal ? roomFor(tight) : 16;
    return {
      ...base,
      tooltip: { ...base.tooltip, trigger: "axis", axisPointer: { type: question.chart === "line" ? "line" : "shadow" },
        formatter: (items) => `${escape(items[0].axisValue)}<br>` + items.map((item) =>
          `${item.marker}${escape(item.seriesName)} <b>${escape(write(item.value, series[item.seriesIndex].format))}</b>`).join("<br>") },
      legend: legend ? { top: 0, left: 0, icon: "roundRect", itemWidth: 12, itemHeight: 8, itemGap: 16,
        textStyle: { ...font, color: text, fontSize: 13 } } : undefined,
      grid: { left: 6, right: room, top: legend ? (narrow && series.length > 3 ? 58 : 36) : 12, bottom: 4, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
      xAxis: horizontal ? { ...value, axisLabel: { show: false }, splitLine: { show: false } } : category,
      yAxis: horizontal ? { ...category, axisLabel: { ...font, color: text, interval: 0, ...(tight ? { width: Math.max(125, Math.round(0.36 * width)), overflow: "break", fontSize: 10, lineHeight: 11 } : {}) } } : value,
      series: series.map((one, index) => ({
        name: one.name, data: one.values, color: one.colour,
        ...(question.chart === "line"
          ? { type: "line", symbol: "circle", symbolSize: 5, showSymbol: one.values.length < 25, lineStyle: { width: 2.5 },
              areaStyle: index === 0 ? { opacity: 0.08 } : undefined }
          : { type: "bar", stack: question.stacked ? "all" : undefined, barMaxWidth: horizontal ? 20 : 56,
              itemStyle: { borderRadius: question.stacked ? 0 : horizontal ? [0, 4, 4, 0] : [4, 4, 0, 0] },
              label: horizontal ? { ...font, show: true, position: "right", color: text,
                formatter: (item) => atTheEnd(one, item.dataIndex, tight) } : undefined }),
      })),
    };
  }

  const drawn = new Map();

  // What is shown beside a number: the other columns of its question, such as the two that a rate divides.
  function beside(question, row) {
    return shownColumns(question).filter(([key]) => key !== question.y[0])
      .map(([key, column]) => `${column.label}: ${write(row[key], column.format)}`).join(" · ");
  }

  function draw(card, question, result, place) {
    const { rows } = result;
    const show = card.querySelector(".show");
    const name = card.querySelector("h3").textContent;
    drawn.get(card)?.chart?.dispose();
    drawn.delete(card);
    // A table that was opened stays open when a filter changes.
    const open = show.querySelector("details")?.open ?? false;
    show.replaceChildren();
    card.shown = rows;
    if (question.chart === "number") {
      const key = question.y[0], format = question.columns[key].format, value = rows[0]?.[key] ?? null;
      const missing = value === null;
      const time = format === "datetime" && !missing;
      show.append(make("div", { className: "big", textContent:
        missing ? "–" : time ? day.format(new Date(value)) : format === "money" ? `${data.currency} ${headline.format(value)}` : write(value, format) }));
      show.append(make("div", { className: "exact", textContent:
        missing ? "" : time ? `${clock.format(new Date(value))} UTC · ${age(value)}` : format === "money" ? write(value, format) : "" }));
      const others = rows[0] ? beside(question, rows[0]) : "";
      if (others) show.append(make("div", { className: "beside", textContent: others }));
      card.dataset.value = value;
      return;
    }
    if (result.missing) {
      show.append(make("p", { className: "empty", textContent:
        `This book has more combinations than a page holds: no ${result.missing.join(", ")} here. Metabase shows it.` }));
      return;
    }
    if (!rows.length) {
      show.append(make("p", { className: "empty", textContent: "Nothing to show yet." }));
      return;
    }
    if (question.chart === "table") {
      if (result.held) {
        const all = result.held.complete ? "" : `The page holds the ${integer.format(result.held.size)} that owe most; Metabase and make export have all. `;
        show.append(make("p", { className: "count", textContent: `${all}${integer.format(rows.length)} found.` }));
      }
      show.append(table(question, result, name, place));
      return;
    }
    const picture = make("div", { className: "chart" });
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", summary(question, rows, name));
    show.append(picture, make("details", { open }, make("summary", { textContent: "Figures as a table" }), table(question, result, name, place)));
    const chart = echarts.init(picture, null, { renderer: "svg" });
    const redraw = () => { chart.resize(); chart.setOption(options(question, rows, picture.clientWidth), true); };
    redraw();
    chart.on("click", (item) => {
      const row = rowBehind(question, rows, item);
      const address = row && place(row);
      if (address) location.hash = address;
    });
    picture.classList.toggle("leads", Boolean(place(rows[0])));
    drawn.set(card, { chart, redraw });
  }

  // The row of a bar, a slice or a point that was clicked.
  function rowBehind(question, rows, item) {
    const x = question.columns[question.x].format;
    return rows.find((row) => write(row[question.x], x) === item.name && (!question.series || words(row[question.series]) === item.seriesName));
  }

  // --- dashboards ---------------------------------------------------------------------------------------------------
  // As the page's maker writes the choices: a list of pairs by name.
  const keyOf = (chosen) => JSON.stringify(Object.entries(chosen).map(([name, values]) => [name, values[0]]).sort());

  // What is chosen on all dashboards, by filter. A dashboard looks at the filters that it has.
  let chosen = {};
  let unknown = [];
  const sections = [...document.querySelectorAll("section.dashboard")];
  const filtersOf = (section) => data.boards[section.id]?.filters ?? [];

  function said(name) {
    const { label, type } = data.filters[name];
    if (type !== "months") return `${label}: ${chosen[name].map(words).join(", ")}`;
    const [first, last] = chosen[name].map((value) => value && write(value, "month"));
    return `${label}: ${first && last ? (first === last ? first : `${first} to ${last}`) : first ? `from ${first}` : `to ${last}`}`;
  }

  function addressOf(board, choice) {
    const query = new URLSearchParams();
    for (const name of data.boards[board]?.filters ?? []) {
      const values = choice[name];
      if (!values) continue;
      if (data.filters[name].type === "months") query.set(name, values.map((value) => (value ?? "").slice(0, 7)).join("~"));
      // The code of a branch is enough, and stays when it is renamed.
      else query.set(name, values.map((value) => value.match(/ \(([^()]+)\)$/)?.[1] ?? value).join("|"));
    }
    const text = query.toString();
    return `#${board}${text ? `?${text}` : ""}`;
  }

  function readAddress() {
    const [board, query] = location.hash.slice(1).split("?");
    chosen = {};
    unknown = [];
    for (const [name, value] of new URLSearchParams(query ?? "")) {
      const filter = data.filters[name];
      if (!filter) { unknown.push(name); continue; }
      const find = (wanted) => filter.values.find((each) => each === wanted) ?? filter.values.find((each) => each.endsWith(` (${wanted})`));
      if (filter.type === "months") {
        const edges = value.split("~");
        const pair = [edges[0], edges[edges.length - 1]].map((edge) => /^\d{4}-\d\d$/.test(edge) ? `${edge}-01` : null);
        if (pair.some(Boolean)) chosen[name] = pair; else unknown.push(`${filter.label} ${value}`);
        continue;
      }
      const found = value.split("|").map((wanted) => [wanted, find(wanted)]);
      unknown.push(...found.filter(([, each]) => each === undefined).map(([wanted]) => `${filter.label} ${wanted}`));
      const values = found.map(([, each]) => each).filter((each) => each !== undefined);
      if (values.length) chosen[name] = values;
    }
    return sections.find((section) => section.id === board) ?? sections[0];
  }

  // The controls say what is chosen; a choice of several values has an option of its own.
  function setControls(section) {
    for (const select of section.querySelectorAll("[data-filter]")) {
      const name = select.dataset.filter;
      const values = chosen[name];
      for (const option of select.querySelectorAll("option[data-several]")) option.remove();
      if (!values) select.value = "";
      else if (select.dataset.edge) select.value = values[Number(select.dataset.edge)] ?? "";
      else {
        if (values.length > 1) {
          const several = make("option", { value: values.join("|"), textContent: values.map(words).join(", ") });
          several.dataset.several = "1";
          select.append(several);
        }
        select.value = values.join("|");
      }
    }
    const note = section.querySelector(".unknown");
    if (note) {
      note.hidden = !unknown.length;
      note.textContent = `Not known here, and not applied: ${unknown.join(", ")}.`;
    }
  }

  function choose(select) {
    const name = select.dataset.filter;
    if (select.dataset.edge) {
      const pair = [...(chosen[name] ?? [null, null])];
      pair[Number(select.dataset.edge)] = select.value || null;
      // From a later month to an earlier one: the other edge follows.
      if (pair[0] && pair[1] && pair[0] > pair[1]) pair[1 - Number(select.dataset.edge)] = select.value;
      chosen[name] = pair;
      if (!pair.some(Boolean)) delete chosen[name];
    } else if (select.value) chosen[name] = select.value.split("|");
    else delete chosen[name];
    unknown = [];
    const section = select.closest("section");
    history.replaceState(null, "", addressOf(section.id, chosen));
    setControls(section);
    setLinks();
    drawDashboard(section);
  }

  // The other dashboards keep what is chosen here and they know.
  function setLinks() {
    for (const link of document.querySelectorAll("header nav a[data-board]")) link.href = addressOf(link.dataset.board, chosen);
  }

  // The address of the loans behind a row: what is chosen, the row's dimensions, and what its figure counts.
  function loansBehind(question, here) {
    const board = question.view && data.grains[question.view].leads_to;
    if (!board) return () => null;
    const taken = data.boards[board].filters;
    const filterOf = (column) => taken.find((name) => data.filters[name].column === column);
    const known = (name, value) => data.filters[name].values.includes(String(value));
    const first = question.columns[question.y[0] ?? ""];
    const counted = first?.percent ? question.columns[first.percent[0]] : first;
    return (row) => {
      const choice = Object.fromEntries(Object.entries(here).filter(([name]) => taken.includes(name)));
      for (const [column, values] of [...Object.entries(question.where), ...Object.entries(counted?.where ?? {})]) {
        const name = filterOf(column);
        if (name) choice[name] = values.map(String);
      }
      let narrowed = false;
      for (const column of dimensionsOf(question)) {
        const name = filterOf(column);
        if (!name || row[column] === null || !known(name, row[column])) continue;
        choice[name] = [String(row[column])];
        narrowed = true;
      }
      return narrowed ? addressOf(board, choice) : null;
    };
  }

  function cardState(section, card) {
    const question = data.questions[card.dataset.question];
    const mine = filtersOf(section).filter((name) => chosen[name]);
    const acting = mine.filter((name) => takes(question, name));
    return { question, here: Object.fromEntries(acting.map((name) => [name, chosen[name]])), acting,
      // The time of the data is that of every choice.
      idle: question.columns[question.y[0]]?.format === "datetime" ? [] : mine.filter((name) => !acting.includes(name)), all: Object.fromEntries(mine.map((name) => [name, chosen[name]])) };
  }

  function drawDashboard(section) {
    for (const card of section.querySelectorAll("[data-question]")) {
      const { question, here, acting, idle, all } = cardState(section, card);
      const key = JSON.stringify(all);
      if (card.dataset.drawn === key) continue;
      card.dataset.drawn = key;
      draw(card, question, answer(question, here), loansBehind(question, all));
      const note = card.querySelector(".chosen");
      note.hidden = !acting.length;
      note.textContent = acting.map(said).join(" · ");
      const other = card.querySelector(".unfiltered");
      other.hidden = !idle.length;
      other.textContent = `Not filtered by ${idle.map((name) => data.filters[name].label.toLowerCase()).join(", ")}`;
    }
  }

  // --- files --------------------------------------------------------------------------------------------------------
  function sheetOf(section, card) {
    const { question, here } = cardState(section, card);
    const columns = shownColumns(question);
    const { rows } = answer(question, here);
    return { name: card.querySelector("h3").textContent, columns: columns.map(([, column]) => column),
      rows: rows.map((row) => columns.map(([key]) => row[key] ?? null)) };
  }

  // What the figures are of, for whoever finds the file later.
  function about(section) {
    const mine = filtersOf(section).filter((name) => chosen[name]);
    const lines = [["Dashboard", section.querySelector("h2").textContent], ["Data as of", data.data_as_of ? write(data.data_as_of, "datetime") : "–"],
      ["Filters", mine.map(said).join(" · ") || "none"], ["Currency", data.currency], ["Address", addressOf(section.id, chosen)]];
    for (const card of section.querySelectorAll("[data-question]")) {
      const { idle } = cardState(section, card);
      if (idle.length) lines.push([card.querySelector("h3").textContent, `not filtered by ${idle.map((name) => data.filters[name].label).join(", ")}`]);
    }
    return { name: "About", columns: [{ label: "What" }, { label: "Value" }], rows: lines };
  }

  function save(blob, name) {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function exportFile(button) {
    const section = button.closest("section"), card = button.closest("article");
    const stamp = (data.data_as_of ?? "").slice(0, 10);
    const name = [section.id, card?.dataset.question, stamp].filter(Boolean).join("-");
    const cards = card ? [card] : [...section.querySelectorAll("[data-question]")];
    const sheets = cards.map((each) => sheetOf(section, each));
    if (button.dataset.export === "xlsx") save(tables.xlsx([...sheets, about(section)]), `${name}.xlsx`);
    else if (card) save(new Blob([tables.csv(sheets[0])], { type: "text/csv" }), `${name}.csv`);
    else {
      const files = [...cards.map((each, index) => [`${each.dataset.question}.csv`, tables.csv(sheets[index])]), ["about.csv", tables.csv(about(section))]];
      save(tables.zip(files), `${name}.zip`);
    }
    button.closest("details")?.removeAttribute("open");
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
    draw(section.querySelector("#runs-history"), { chart: "table", columns }, { rows: data.runs }, () => null);
    const { run_id, seconds, status } = columns;
    draw(section.querySelector("#runs-duration"), {
      chart: "bar", x: "run_id", y: ["seconds"], series: "status", stacked: true,
      columns: { run_id: { ...run_id, format: "text" }, seconds, status: { ...status, format: "text" } },
      colours: { success: "good", failed: "bad", running: "warning" },
    }, { rows: data.runs.filter((run) => run.seconds !== null).reverse() }, () => null);
  }

  function drawSection(section) {
    if (section.id === "runs") drawRuns(section);
    else drawDashboard(section);
  }

  function open() {
    const wanted = readAddress();
    setControls(wanted);
    setLinks();
    for (const section of sections) section.hidden = section !== wanted;
    for (const link of document.querySelectorAll("header nav a")) {
      if (link.hash.split("?")[0] === `#${wanted.id}`) link.setAttribute("aria-current", "page");
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
    for (const option of select.options) {
      if (option.value) option.textContent = select.dataset.edge ? write(option.value, "month") : words(option.textContent);
    }
    select.addEventListener("change", () => choose(select));
  }
  for (const button of document.querySelectorAll("[data-export]")) button.addEventListener("click", () => exportFile(button));
  for (const button of document.querySelectorAll("[data-print]")) button.addEventListener("click", () => print());
  addEventListener("hashchange", open);
  // One menu at a time, and none when a person looks elsewhere.
  addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
  });
  // Paper is white.
  let screenTheme = "";
  addEventListener("beforeprint", () => {
    screenTheme = document.documentElement.dataset.theme ?? "";
    document.documentElement.dataset.theme = "light";
    redrawVisible();
  });
  addEventListener("afterprint", () => {
    if (screenTheme) document.documentElement.dataset.theme = screenTheme;
    else delete document.documentElement.dataset.theme;
    redrawVisible();
  });
  let pending;
  addEventListener("resize", () => { clearTimeout(pending); pending = setTimeout(redrawVisible, 100); });
  document.getElementById("generated").textContent = write(data.generated_at, "datetime");
  freshness();
  setInterval(freshness, MINUTE);
  open();
})();
