/* One listener for the page's keys; parts register what they do. Typing in a field is never a command. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const works = (QS.keyWorks = QS.keyWorks || new Map());
  const ups = (QS.keyUps = QS.keyUps || new Map());

  // The work says whether it did anything; if so the browser's own meaning of the key is dropped.
  QS.onKey = (key, work) => works.set(key, [...(works.get(key) || []), work]);
  QS.onKeyUp = (key, work) => ups.set(key, [...(ups.get(key) || []), work]);

  const nameOf = (event) =>
    `${event.ctrlKey || event.metaKey ? "ctrl+" : ""}${event.shiftKey && event.key.length === 1 && /[a-z]/i.test(event.key) ? "shift+" : ""}${event.key.length === 1 ? event.key.toLowerCase() : event.key}`;

  // Page commands live in ordinary buttons; a key presses the button of that id.
  const BUTTONS = [
    ["ctrl+z", ["qs-undo", "undo"]],
    ["ctrl+shift+z", ["qs-redo", "redo"]],
    ["ctrl+y", ["qs-redo", "redo"]],
    ["ctrl+Enter", ["qs-generate", "generate"]],
  ];
  const press = (ids) => {
    for (const id of ids) {
      const found = document.getElementById(id),
        button = found && (found.matches("button") ? found : found.querySelector("button"));
      if (button && !button.disabled) {
        button.click();
        return true;
      }
    }
    return false;
  };

  if (!QS.keysStarted) {
    QS.keysStarted = true;
    document.addEventListener("keydown", (event) => {
      const name = nameOf(event),
        page = BUTTONS.find(([key]) => key === name);
      if (page && (name === "ctrl+Enter" || !QS.isTyping(event.target) || event.target.matches?.("select")) && press(page[1])) {
        event.preventDefault();
        return;
      }
      if (QS.isTyping(event.target) || event.altKey || event.defaultPrevented) return;
      if (event.target.closest?.("[role=radiogroup], [role=tablist], input") && event.key.startsWith("Arrow")) return;
      if (name !== "?" && document.querySelector("dialog[open]")) return;
      let done = false;
      for (const work of works.get(name) || []) done = work(event) || done;
      if (done) event.preventDefault();
    });
    document.addEventListener("keyup", (event) => {
      for (const work of ups.get(event.key.toLowerCase()) || []) work(event);
    });
  }
})();
