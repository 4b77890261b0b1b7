// Start: the theme, the sections, and the links to them.
const THEMES = [["auto", "Theme: auto"], ["light", "Theme: light"], ["dark", "Theme: dark"]];

function startTheme() {
  const button = byId("theme");
  let at = 0;
  try { at = Math.max(0, THEMES.findIndex(([key]) => key === localStorage.getItem("policystore-theme"))); } catch (refused) { at = 0; } // a file may have no storage
  const set = () => {
    const [key, text] = THEMES[at];
    if (key === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.dataset.theme = key;
    button.textContent = text;
  };
  button.addEventListener("click", () => {
    at = (at + 1) % THEMES.length;
    set();
    redrawCharts();
    try { localStorage.setItem("policystore-theme", THEMES[at][0]); } catch (refused) { hideTip(); } // the theme lasts for this visit
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
  set();
}

function startContents() {
  const links = [...document.querySelectorAll("main > section")].filter((section) => !section.hidden && section.querySelector("h2"))
    .map((section) => el("a", { href: `#${section.id}`, text: section.querySelector("h2").textContent }));
  byId("toc").replaceChildren(...links);
}

startTheme();
startTop();
startProblems();
startFilter();
startNames();
startLeagues();
startMetrics();
startLineage();
startVersions();
startNotes();
startTags();
startSizes();
startDifferences();
startContents();
applyFilter();
startDetails();
document.documentElement.dataset.ready = String(Math.round(performance.now()));
