/* What the page's own buttons do in the browser: theme, address, saving a recipe. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});

  // The address carries model, recipe and settings, so that a link reopens the view; the history is not grown.
  QS.pushAddress = (text) => {
    if (!text) return;
    const url = new URL(window.location.href);
    for (const [key, value] of Object.entries(JSON.parse(text)))
      if (value === null) url.searchParams.delete(key);
      else url.searchParams.set(key, String(value));
    window.history.replaceState(window.history.state, "", url);
  };

  QS.saveFile = (text) => {
    if (!text) return;
    const { name, content } = JSON.parse(text);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const KEY = "quantscape-theme";
  const stored = () => {
    try {
      return window.localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };
  QS.toggleTheme = () => {
    const dark = document.body.classList.toggle("dark");
    try {
      window.localStorage.setItem(KEY, dark ? "dark" : "light");
    } catch {
      /* private windows forget */
    }
  };
  // A choice made here outlives the visit; without one the system's theme holds, as Gradio has it.
  QS.restoreTheme = () => {
    if (stored()) document.body.classList.toggle("dark", stored() === "dark");
  };
})();
