/* Small helpers every part uses: elements, icons, numbers as text. Names from files only ever become textContent. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const SVG = "http://www.w3.org/2000/svg";

  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key === "text") node.textContent = value;
      else if (key === "class") node.setAttribute("class", value);
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key === "dataset") Object.assign(node.dataset, value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    for (const child of children || []) if (child) node.append(child);
    return node;
  }

  QS.el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  QS.svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  const ICONS = {
    fit: "M3 6V3h3M10 3h3v3M13 10v3h-3M6 13H3v-3",
    plus: "M8 3.5v9M3.5 8h9",
    minus: "M3.5 8h9",
    search: "M7 2.8a4.2 4.2 0 1 0 0 8.4 4.2 4.2 0 0 0 0-8.4M10.2 10.2 13.4 13.4",
    table: "M2.5 3h11v10h-11zM2.5 6.4h11M2.5 9.7h11M6.4 3v10",
    help: "M5.9 6.1a2.1 2.1 0 1 1 3 1.9c-.7.3-.9.7-.9 1.4M8 11.6v.4",
    lock: "M4.5 7.2h7v5.3h-7zM6 7.2V5.6a2 2 0 0 1 4 0v1.6",
    select: "M2.5 3.2h11L9.4 8.3v4.4L6.6 11V8.3z",
    swap: "M3 5.5h9M9.5 3 12 5.5 9.5 8M13 10.5H4M6.5 8 4 10.5 6.5 13",
    play: "M5 3.5v9l7.5-4.5z",
    pause: "M5 3.5v9M11 3.5v9",
    left: "M10 3 5 8l5 5",
    right: "M6 3l5 5-5 5",
    down: "M3 6l5 5 5-5",
    download: "M8 2.5v7M5 7l3 3 3-3M3 13h10",
    close: "M4 4l8 8M12 4l-8 8",
  };
  QS.icon = (name) =>
    QS.svg("svg", { class: "qs-icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, QS.svg("path", { d: ICONS[name] }));
  QS.button = (name, label, onclick, more) =>
    QS.el(
      "button",
      { type: "button", class: "qs-iconbutton", title: label, "aria-label": label, onclick, ...more },
      QS.icon(name),
    );

  QS.segmented = (label, options, chosen, onchange) => {
    const group = QS.el("div", { class: "qs-segmented", role: "radiogroup", "aria-label": label });
    const buttons = options.map(([value, text, title]) =>
      QS.el("button", {
        type: "button",
        role: "radio",
        title,
        text,
        dataset: { value },
        onclick: () => {
          group.choose(value);
          onchange(value);
        },
      }),
    );
    group.choose = (value) =>
      buttons.forEach((b) => {
        const on = b.dataset.value === String(value);
        b.setAttribute("aria-checked", on);
        b.tabIndex = on ? 0 : -1;
      });
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const at = buttons.findIndex((b) => b.getAttribute("aria-checked") === "true");
      const next = buttons[(at + step + buttons.length) % buttons.length];
      next.click();
      next.focus();
    });
    group.append(...buttons);
    group.choose(chosen);
    return group;
  };

  // Numbers as text, the same digits everywhere.
  QS.grouped = (count) => count.toLocaleString("en-US");
  QS.megabytes = (bytes) =>
    bytes >= 1e9
      ? `${(bytes / 1e9).toFixed(2)} GB`
      : bytes >= 1e5
        ? `${(bytes / 1e6).toFixed(bytes >= 1e8 ? 1 : 2)} MB`
        : `${(bytes / 1e3).toFixed(1)} kB`;
  QS.number = (value) => {
    if (value === 0) return "0";
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1000) return String(Number(value.toPrecision(3)));
    if (size >= 1000 && size < 1e5) return value.toFixed(0);
    return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
  };

  QS.heldText = (held) => (held.mixed ? held.mean.toFixed(held.mean >= 9.95 ? 0 : 1) : String(held.mean));

  const NO_TEXT = ["range", "radio", "checkbox", "button", "submit", "color", "file"].map((t) => `:not([type=${t}])`).join("");
  QS.isTyping = (target) =>
    Boolean(target && target.closest && target.closest(`input${NO_TEXT}, textarea, select, [contenteditable=true]`));
  QS.clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // Whether an element of the page is on screen at all (a tab that is not open is not).
  QS.seen = (id) => Boolean(document.getElementById(id)?.offsetParent);

  // One frame-aligned call for many requests.
  QS.framed = (work) => {
    let waiting = 0;
    const ask = () => {
      if (!waiting)
        waiting = requestAnimationFrame(() => {
          waiting = 0;
          work();
        });
    };
    ask.now = () => {
      if (waiting) cancelAnimationFrame(waiting);
      waiting = 0;
      work();
    };
    return ask;
  };

  // A popover that closes on Escape and on a press outside.
  QS.popover = (anchor, panel) => {
    panel.hidden = true;
    const close = () => {
      if (panel.hidden) return;
      panel.hidden = true;
      anchor.setAttribute("aria-expanded", "false");
    };
    anchor.setAttribute("aria-haspopup", "true");
    anchor.setAttribute("aria-expanded", "false");
    anchor.addEventListener("click", () => {
      panel.hidden = !panel.hidden;
      anchor.setAttribute("aria-expanded", String(!panel.hidden));
      if (panel.hidden) return;
      panel.dispatchEvent(new CustomEvent("open"));
      panel.style.transform = "";
      const box = panel.getBoundingClientRect(),
        over = Math.max(8 - box.left, 0) || Math.min(document.documentElement.clientWidth - 8 - box.right, 0);
      if (over) panel.style.transform = `translateX(${over}px)`;
    });
    document.addEventListener("pointerdown", (event) => {
      if (!panel.contains(event.target) && !anchor.contains(event.target)) close();
    });
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
        anchor.focus();
      }
    });
    return close;
  };
})();
