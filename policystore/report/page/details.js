// Everything about one version, in a dialog. The address of the page names the version.
const dialog = byId("details");

function copyLine(text) {
  const button = el("button", { type: "button", text: "Copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch (refused) {
      getSelection().selectAllChildren(button.previousSibling);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return el("div", { class: "copy" }, [el("code", { text }), button]);
}

const pairsList = (rows, kind) => el("dl", { class: kind ? `pairs ${kind}` : "pairs" }, rows.flatMap(([key, content]) => {
  const cells = [el("dt", null, [bdi(key)]), el("dd", null, Array.isArray(content) ? content : [bdi(content)])];
  return kind ? [el("div", null, cells)] : cells;
}));

const withCommas = (items) => items.flatMap((item, at) => (at ? [", ", item] : [item]));
const part = (title, ...content) => el("div", null, [el("h3", { text: title, style: { "margin-bottom": "6px" } }), ...content]);

function fillDetails(version) {
  const before = version.name.versions[version.name.versions.indexOf(version) - 1];
  const after = version.name.versions[version.name.versions.indexOf(version) + 1];
  const related = pairs.filter((pair) => pair.before === version || pair.after === version);
  const parents = version.parents.map((parent) => (typeof parent === "number" ? refButton(versions[parent]) : el("span", { class: "mono", text: `${parent} (not on this page)` })));
  const facts = [
    ["Pushed", `${date(version.time)} by ${version.author}`],
    ...(version.tags.length ? [["Tags", version.tags.map((tag) => tagMark(tag))]] : []),
    ["Size", version.whole ? `${bytes(version.whole)}, ${version.added ? `${bytes(version.added)} of it new` : "all of it shared with earlier versions"}` : "not known"],
    ...(parents.length ? [["Parents", withCommas(parents)]] : []),
    ...(version.children.length ? [["Parent of", withCommas(version.children.slice(0, 30).map((child) => refButton(child)))]] : []),
    ...(version.nonfinite.length ? [["NaN or infinite", version.nonfinite.join(", ")]] : []),
    ["Digest", [el("span", { class: "mono text", text: `blake3:${version.digest}` })]],
  ];
  const metrics = [...version.metrics].map(([key, amount]) => [version.noted.has(key) ? `${key} (annotation)` : key, value(amount)]);
  dialog.replaceChildren(
    el("div", { class: "title" }, [
      el("h2", { id: "details-h" }, [dot(version.name), " ", bdi(version.ref)]),
      el("div", { class: "choice" }, [
        el("button", { type: "button", text: "‹", "aria-label": "The version before", id: "details-before", disabled: !before, on: { click: () => openDetails(before) } }),
        el("button", { type: "button", text: "›", "aria-label": "The version after", id: "details-after", disabled: !after, on: { click: () => openDetails(after) } }),
        el("button", { type: "button", text: "Close", id: "details-close", on: { click: () => dialog.close() } }),
      ]),
    ]),
    el("div", { class: "body" }, [
      version.message ? el("p", { class: "text" }, [bdi(version.message)]) : null,
      pairsList(facts),
      copyLine(`store.pull("${version.ref}")`),
      metrics.length || version.texts.length ? part("Metrics", pairsList([...metrics, ...version.texts], "values")) : null,
      version.notes.length ? part("Annotations", el("ul", { class: "notes" }, version.notes.map((note) => el("li", null, [
        note.text ? el("p", { class: "text" }, [bdi(note.text)]) : null,
        noteValues(note) ? el("p", null, [bdi(noteValues(note))]) : null,
        el("p", { class: "soft" }, [bdi(`${note.author}, ${date(note.time)}`)]),
      ])))) : null,
      playsPart(version),
      version.source.length ? part("Source", pairsList(version.source)) : null,
      related.length ? part("Differences", el("div", { class: "card" }, related.map((pair) => pairElement(pair, related.length === 1)))) : null,
    ]),
  );
}

let opener = null;
function openDetails(version) {
  hideTip();
  const again = dialog.open && dialog.contains(document.activeElement) ? document.activeElement.id : "";
  if (!dialog.open) opener = document.activeElement;
  fillDetails(version);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  const same = again && byId(again);
  (same && !same.disabled ? same : byId("details-close")).focus();
  history.replaceState(null, "", `#${encodeURIComponent(version.ref)}`);
}

function startDetails() {
  dialog.addEventListener("close", () => {
    history.replaceState(null, "", "#");
    if (opener && opener.isConnected && opener.focus) opener.focus();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const button = { ArrowLeft: "details-before", ArrowRight: "details-after" }[event.key];
    if (button && !byId(button).disabled) { event.preventDefault(); byId(button).click(); }
  });
  const follow = () => {
    let ref = "";
    try { ref = decodeURIComponent(location.hash.slice(1)); } catch (malformed) { return; }
    if (byRef.has(ref)) openDetails(byRef.get(ref));
  };
  addEventListener("hashchange", follow);
  follow();
}
