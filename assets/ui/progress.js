/* Where long work stands: words, a bar, the time left, and a button that cancels it. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  /* A node with `show(progress or null)`: {text, step, of, left, worded: the text says how far, cancelling}. */
  QS.progressBar = (oncancel) => {
    const text = el("span"),
      left = el("span", { class: "qs-left" }),
      bar = el("i");
    const stop = () => {
      cancel.disabled = true;
      oncancel();
    };
    const cancel = el("button", { type: "button", class: "qs-textbutton", text: "Cancel", onclick: stop });
    const track = el("div", { class: "qs-progress-track", role: "progressbar", "aria-valuemin": 0 }, bar);
    const node = el(
      "div",
      { class: "qs-progress", role: "status", "aria-live": "off", hidden: true },
      el("div", { class: "qs-progress-line" }, text, left, cancel),
      track,
    );
    node.show = (progress) => {
      node.hidden = !progress;
      cancel.disabled = Boolean(progress && progress.cancelling);
      if (!progress) return;
      const known = progress.of > 0,
        words = progress.text || "Working";
      text.textContent = known && !progress.worded ? `${words} ${progress.step}/${progress.of}` : words;
      left.textContent = progress.left || "";
      bar.style.width = known ? `${(100 * progress.step) / progress.of}%` : "";
      track.classList.toggle("unknown", !known);
      if (known) {
        track.setAttribute("aria-valuemax", progress.of);
        track.setAttribute("aria-valuenow", progress.step);
      }
    };
    return node;
  };
})();
