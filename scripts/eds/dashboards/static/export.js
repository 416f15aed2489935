"use strict";
// Tables as files, made in the page: CSV, Excel workbooks, and zip archives of several files. Nothing is sent anywhere.
//
// A sheet is {name, columns: [{label, format}], rows: [[value, …]]}.
const tables = (() => {
  const utf8 = new TextEncoder();

  // --- CSV (RFC 4180) ---
  const isNumber = (format) => ["money", "percent", "change", "integer", "seconds", "calendar_month"].includes(format);

  function field(value, format) {
    if (value === null || value === undefined) return "";
    let text = format === "month" || format === "date" ? String(value).slice(0, 10) : String(value);
    // A spreadsheet would run what begins like a formula; a number may begin with a minus.
    if (!isNumber(format) && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  const heading = ({ label, format }) => format === "percent" || format === "change" ? `${label} (%)` : label;

  function csv(sheet) {
    const lines = [sheet.columns.map((column) => field(heading(column), "text"))]
      .concat(sheet.rows.map((row) => row.map((value, index) => field(value, sheet.columns[index].format))));
    // The mark at the beginning makes Excel read UTF-8.
    return utf8.encode("\ufeff" + lines.map((line) => line.join(",")).join("\r\n") + "\r\n");
  }

  // --- zip, without compression (APPNOTE 6.3.3, 4.3) ---
  const CRC = Uint32Array.from({ length: 256 }, (_, number) => {
    for (let bit = 0; bit < 8; bit++) number = number & 1 ? (number >>> 1) ^ 0xedb88320 : number >>> 1;
    return number;
  });

  function crc32(bytes) {
    let crc = 0xffffffff;
    for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
    return (crc ^ 0xffffffff) >>> 0;
  }

  function record(fields) {
    const bytes = new Uint8Array(fields.reduce((sum, [size]) => sum + size, 0));
    const view = new DataView(bytes.buffer);
    let at = 0;
    for (const [size, value] of fields) {
      if (size === 2) view.setUint16(at, value, true);
      else view.setUint32(at, value, true);
      at += size;
    }
    return bytes;
  }

  function zip(files, now = new Date()) {
    const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
    const date = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
    const parts = [], directory = [];
    let offset = 0;
    for (const [name, bytes] of files) {
      const path = utf8.encode(name);
      // Version 2.0, names in UTF-8, stored as they are.
      const common = [[2, 20], [2, 0x0800], [2, 0], [2, time], [2, date], [4, crc32(bytes)], [4, bytes.length], [4, bytes.length], [2, path.length], [2, 0]];
      const local = record([[4, 0x04034b50], ...common]);
      directory.push(record([[4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), path);
      parts.push(local, path, bytes);
      offset += local.length + path.length + bytes.length;
    }
    const size = directory.reduce((sum, part) => sum + part.length, 0);
    const end = record([[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, offset], [2, 0]]);
    return new Blob([...parts, ...directory, end]);
  }

  // --- Excel workbooks (ECMA-376) ---
  const STYLES = { text: 0, heading: 1, money: 2, percent: 3, change: 3, seconds: 3, integer: 4, calendar_month: 4, month: 5, date: 6, datetime: 7 };
  const FORMATS = ["#,##0.00", "0.00", "#,##0", "mmm yyyy", "yyyy-mm-dd", "yyyy-mm-dd hh:mm"];
  const NAMESPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
  const RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
  const PACKAGE = "http://schemas.openxmlformats.org/package/2006";
  const XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n';

  // What XML cannot hold is left out.
  const escape = (text) => String(text).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "")
    .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

  const letters = (index) => (index >= 26 ? letters(Math.floor(index / 26) - 1) : "") + String.fromCharCode(65 + index % 26);

  // Excel counts days from 1899-12-30, and knows none before 1900-03-01 for certain.
  const serial = (value) => Date.parse(String(value).length === 10 ? `${value}T00:00:00Z` : value) / 86400000 + 25569;

  function cell(place, value, format) {
    if (value === null || value === undefined) return "";
    const style = STYLES[format] ?? 0;
    if (isNumber(format)) return `<c r="${place}" s="${style}"><v>${value}</v></c>`;
    if (["month", "date", "datetime"].includes(format) && serial(value) >= 61) {
      return `<c r="${place}" s="${style}"><v>${serial(value)}</v></c>`;
    }
    const text = `<is><t xml:space="preserve">${escape(value)}</t></is>`;
    return `<c r="${place}" s="${format === "heading" ? 1 : 0}" t="inlineStr">${text}</c>`;
  }

  function worksheet(sheet) {
    const line = (values, number) =>
      `<row r="${number}">${values.map(([value, format], index) => cell(letters(index) + number, value, format)).join("")}</row>`;
    const widths = sheet.columns.map((column, index) => {
      const longest = Math.max(heading(column).length, ...sheet.rows.slice(0, 200).map((row) => String(row[index] ?? "").length));
      return `<col min="${index + 1}" max="${index + 1}" width="${Math.min(48, longest + 3)}" customWidth="1"/>`;
    });
    return `${XML}<worksheet xmlns="${NAMESPACE}"><sheetViews><sheetView workbookViewId="0"><pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/></sheetView></sheetViews>` +
      `<cols>${widths.join("")}</cols><sheetData>` +
      line(sheet.columns.map((column) => [heading(column), "heading"]), 1) +
      sheet.rows.map((row, index) => line(row.map((value, place) => [value, sheet.columns[place].format]), index + 2)).join("") +
      "</sheetData></worksheet>";
  }

  // Excel refuses more than 31 characters, some characters, and the same name twice.
  function sheetNames(sheets) {
    const taken = new Set();
    return sheets.map(({ name }) => {
      const clean = name.replace(/[\\/?*[\]:]/g, " ").trim() || "Sheet";
      let found = clean.slice(0, 31), number = 2;
      while (taken.has(found.toLowerCase())) found = `${clean.slice(0, 27)} ${number++}`;
      taken.add(found.toLowerCase());
      return found;
    });
  }

  function xlsx(sheets) {
    const names = sheetNames(sheets);
    const numbers = sheets.map((_, index) => index + 1);
    const type = "application/vnd.openxmlformats-officedocument.spreadsheetml";
    const formats = FORMATS.map((code, index) => `<numFmt numFmtId="${164 + index}" formatCode="${escape(code)}"/>`).join("");
    const styles = FORMATS.map((_, index) => `<xf numFmtId="${164 + index}" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/>`).join("");
    return zip([
      ["[Content_Types].xml", `${XML}<Types xmlns="${PACKAGE}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml" ContentType="${type}.sheet.main+xml"/><Override PartName="/xl/styles.xml" ContentType="${type}.styles+xml"/>${numbers.map((number) => `<Override PartName="/xl/worksheets/sheet${number}.xml" ContentType="${type}.worksheet+xml"/>`).join("")}</Types>`],
      ["_rels/.rels", `${XML}<Relationships xmlns="${PACKAGE}/relationships"><Relationship Id="rId1" Type="${RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>`],
      ["xl/workbook.xml", `${XML}<workbook xmlns="${NAMESPACE}" xmlns:r="${RELATIONS}"><sheets>${names.map((name, index) => `<sheet name="${escape(name)}" sheetId="${index + 1}" r:id="rId${index + 1}"/>`).join("")}</sheets></workbook>`],
      ["xl/_rels/workbook.xml.rels", `${XML}<Relationships xmlns="${PACKAGE}/relationships">${numbers.map((number) => `<Relationship Id="rId${number}" Type="${RELATIONS}/worksheet" Target="worksheets/sheet${number}.xml"/>`).join("")}<Relationship Id="rId${numbers.length + 1}" Type="${RELATIONS}/styles" Target="styles.xml"/></Relationships>`],
      ["xl/styles.xml", `${XML}<styleSheet xmlns="${NAMESPACE}"><numFmts count="${FORMATS.length}">${formats}</numFmts><fonts count="2"><font><sz val="11"/><name val="Calibri"/></font><font><b/><sz val="11"/><name val="Calibri"/></font></fonts><fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill></fills><borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs><cellXfs count="${FORMATS.length + 2}"><xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/><xf numFmtId="0" fontId="1" fillId="0" borderId="0" xfId="0" applyFont="1"/>${styles}</cellXfs></styleSheet>`],
      ...sheets.map((sheet, index) => [`xl/worksheets/sheet${index + 1}.xml`, worksheet(sheet)]),
    ].map(([name, text]) => [name, utf8.encode(text)]));
  }

  return { csv, xlsx, zip, sheetNames };
})();
