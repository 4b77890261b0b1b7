// Bytes: of each name, and over time.
function startSizes() {
  const host = header("sizes", "Sizes and sharing", "Equal policies are stored once. So are equal tensors of 256 KiB and more in policies of 4 MiB and more. The pale part of a bar shows how many more bytes the versions would take without this.");
  const rows = names.map((name) => {
    const whole = name.versions.reduce((sum, version) => sum + version.whole, 0);
    const added = name.versions.reduce((sum, version) => sum + version.added, 0);
    return { name, whole, added };
  }).filter((row) => row.whole > 0).sort((a, b) => b.whole - a.whole || a.name.index - b.name.index);
  if (!rows.length) { host.append(el("p", { class: "card empty", text: "The sizes are not known." })); return; }
  const most = rows[0].whole;
  const table = longTable({ class: "cards" }, ["Name", "Stored and shared", "Stored", "Without sharing", "Saved"].map((text, at) => el("th", { scope: "col", text, class: at > 1 ? "num" : null })),
    ({ name, whole, added }) => el("tr", null, [
      el("th", { scope: "row" }, [el("span", { class: "name-cell" }, [dot(name), bdi(name.name)])]),
      el("td", { "data-label": "" }, [el("div", { class: "stack", "aria-hidden": "true", style: { "--name": name.colour, width: "100%" } }, [
        el("i", { style: { width: `${(added / most) * 100}%` } }), el("i", { style: { width: `${((whole - added) / most) * 100}%` } }),
      ])]),
      el("td", { class: "num", "data-label": "Stored", text: bytes(added) }),
      el("td", { class: "num", "data-label": "Without sharing", text: bytes(whole) }),
      el("td", { class: "num", "data-label": "Saved", text: percent((whole - added) / whole) }),
    ]), 12);
  table.redraw(rows);
  let stored = 0;
  let alone = 0;
  const growth = byTime.map((version) => { stored += version.added; alone += version.whole; return { x: version.time, stored, alone }; })
    .filter((point, at, all) => at === all.length - 1 || all[at + 1].x !== point.x);
  if (growth.length < 2) { host.append(el("div", { class: "card" }, [table.element])); return; }
  const chartHost = el("div");
  const figure = el("figure", { class: "card" }, [
    el("figcaption", null, [
      el("h3", { text: "Growth" }),
      el("p", { class: "legend" }, [
        el("span", null, [el("span", { class: "dot", style: { "--name": "var(--c0)" } }), "stored"]),
        el("span", null, [el("span", { class: "dot", style: { "--name": "var(--c7)" } }), "without sharing"]),
      ]),
    ]),
    chartHost,
    lazyDetails("As a table", () => {
      const list = longTable(null, ["Until", "Stored", "Without sharing"].map((text, at) => el("th", { scope: "col", text, class: at ? "num" : null })),
        (point) => el("tr", null, [el("th", { scope: "row", text: date(point.x) }), el("td", { class: "num", text: bytes(point.stored) }), el("td", { class: "num", text: bytes(point.alone) })]), 50);
      list.redraw([...growth].reverse());
      return list.element;
    }),
  ]);
  host.append(el("div", { class: "split" }, [el("div", { class: "card" }, [table.element]), figure]));
  lineChart(chartHost, {
    label: `Bytes over time: ${bytes(DATA.stored)} stored, ${bytes(DATA.stored + DATA.saved)} without sharing`,
    time: true, zero: true, show: bytes, tick: (amount) => (amount === 0 ? "0" : bytes(amount).replace(" bytes", " B").replace(/\.0+ /, " ")),
  }, [
    { title: "without sharing", colour: "var(--c7)", dash: [5, 4], points: growth.map((point) => ({ x: point.x, y: point.alone })) },
    { title: "stored", colour: "var(--c0)", fill: true, points: growth.map((point) => ({ x: point.x, y: point.stored })) },
  ]);
}
