// The small box beside the pointer. It repeats what the element's label or value says.
const tip = byId("tip");

function showTip(x, y, title, rows, quiet) {
  tip.replaceChildren(
    el("strong", null, [bdi(title)]),
    ...rows.map(([key, text]) => el("div", { class: "row" }, [bdi(key), bdi(text)])),
    ...quiet.filter(Boolean).map((text) => el("div", { class: "quiet" }, [bdi(text.length > 160 ? `${text.slice(0, 160)}…` : text)])),
  );
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth - 8 ? x - box.width - 16 : x + 16;
  const top = y + 16 + box.height > innerHeight - 8 ? y - box.height - 12 : y + 16;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, top)}px`;
}

const hideTip = () => { tip.hidden = true; };
addEventListener("scroll", hideTip, { passive: true, capture: true });

function versionTip(x, y, version, rows) {
  showTip(x, y, version.ref, rows, [
    version.tags.length ? `tags: ${version.tags.join(", ")}` : "",
    `${date(version.time)} · ${version.author}`,
    version.message,
  ]);
}
