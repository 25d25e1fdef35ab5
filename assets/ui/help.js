/* The `?` panel: every key and gesture. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;
  const SECTIONS = [
    [
      "Graph",
      [
        ["Drag a card up or down", "change its bits; the whole selection moves along"],
        ["2 3 4 5 6 8", "set bits"],
        ["0", "full precision"],
        ["+ / −", "one step up or down"],
        ["Click, Shift or Ctrl click", "select, add or remove"],
        ["Shift drag", "select by box"],
        ["Double click, Enter", "open a block; on a stage's name, fold it"],
        ["p", "protect from edits"],
        ["← → ↑ ↓", "walk along the flow and between rows"],
        ["Space", "select the focused card"],
        ["A bits, in the mixer", "a second row of sliders: bits of the inputs"],
        ["Esc", "clear, or take back a drag"],
      ],
    ],
    [
      "View",
      [
        ["Wheel, pinch", "zoom"],
        ["Drag the background", "pan"],
        ["f", "fit"],
        ["/", "search by regular expression; Enter selects the matches"],
        ["t", "table instead of graph"],
      ],
    ],
    [
      "Pictures",
      [
        ["Hold b", "show the other picture"],
        ["1 … 4 on the picture", "slider, side by side, blink, difference"],
        ["[ ]", "previous, next picture"],
        ["Wheel, drag", "zoom and pan both pictures"],
        ["Click or drag the difference", "choose a region"],
      ],
    ],
    [
      "Page",
      [
        ["Ctrl Z, Ctrl Shift Z", "undo, redo"],
        ["Ctrl Enter", "generate"],
        ["?", "this panel"],
      ],
    ],
  ];
  let dialog = null;

  function build() {
    const close = QS.button("close", "Close (Esc)", () => dialog.close());
    const sections = SECTIONS.map(([title, rows]) =>
      el(
        "section",
        {},
        el("h3", { text: title }),
        el("dl", {}, ...rows.flatMap(([key, meaning]) => [el("dt", { text: key }), el("dd", { text: meaning })])),
      ),
    );
    dialog = el(
      "dialog",
      { class: "qs-root qs-help", "aria-label": "Keys and gestures" },
      el("header", {}, el("h2", { text: "Keys and gestures" }), close),
      el("div", { class: "qs-help-grid" }, ...sections),
    );
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    // Inside Gradio's container the theme's tokens apply.
    (document.querySelector(".gradio-container") || document.body).append(dialog);
  }

  QS.showHelp = () => {
    if (!dialog || !dialog.isConnected) build();
    if (dialog.open) dialog.close();
    else dialog.showModal();
  };
  QS.onKey("?", () => {
    QS.showHelp();
    return true;
  });
})();
